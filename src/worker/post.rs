//! Where a worker gets its jobs, and where it notes what became of them: at its desk, while it has
//! one; else in the books.

use std::sync::Arc;

use crate::engine::Engine;
use crate::observe::JobId;
use crate::queue::desk::{Desk, Papers, Runner};
use crate::queue::injector::{Closed, Taken};
use crate::reply::{Entry, Lot, Outbox, Ticket};
use crate::results::stream::{Stream, Success};
use crate::sync::MutexGuard;

/// A worker at work. It [closes](Self::close) its desk before it waits or lets others have the
/// thread.
pub(super) struct Post<In, T, E> {
    engine: Arc<Engine<In, T, E>>,
    desk: Option<Arc<Desk<Lot<In, T, E>>>>,
    /// Of the jobs that came into the hand last.
    stream: Option<Arc<Stream<In, T, E>>>,
    /// Whether there was something in the hand when it was looked at last.
    has_hand: bool,
    /// Whether others may look for something there.
    is_holder: bool,
}

/// What a worker finds when it looks into its hand.
pub(super) enum Step<In> {
    /// This one has started.
    Job(Fresh<In>),
    /// Nothing.
    Empty,
    /// The desk is to be closed. Nothing was noted.
    Called,
}

/// A job out of the hand, whose start is noted.
pub(super) struct Fresh<In> {
    pub(super) id: JobId,
    pub(super) index: usize,
    pub(super) input: In,
}

impl<In, T, E> Post<In, T, E> {
    pub(super) const fn new(engine: Arc<Engine<In, T, E>>) -> Self {
        Self {
            engine,
            desk: None,
            stream: None,
            has_hand: false,
            is_holder: false,
        }
    }

    /// Of the jobs in the hand, if there are any.
    #[inline]
    pub(super) fn hand(&self) -> Option<&Arc<Stream<In, T, E>>> {
        if self.has_hand {
            self.stream.as_ref()
        } else {
            None
        }
    }

    /// Takes a desk, where there may be one.
    pub(super) fn open(&mut self) {
        if self.desk.is_none() {
            self.desk = self.engine.open_desk();
        }
    }

    /// Whether it has one.
    pub(super) const fn is_open(&self) -> bool {
        self.desk.is_some()
    }

    /// Takes a job, or jobs into the hand, in which there are none.
    pub(super) fn take(&mut self) -> Result<Taken<Entry<In, T, E>>, Closed> {
        let taken = match self.engine.injector.take(self.desk.as_ref())? {
            Taken::WantsDesk => {
                self.open();
                if self.desk.is_none() {
                    return self.take_one();
                }
                self.engine.injector.take(self.desk.as_ref())?
            }
            taken => taken,
        };
        if matches!(taken, Taken::Hand) {
            self.is_holder = true;
            self.look_whose_they_are();
        }
        Ok(taken)
    }

    /// The hand has been filled; somebody may have been faster and taken that away.
    fn look_whose_they_are(&mut self) {
        let Some(desk) = &self.desk else { return };
        let (stream, is_known) = {
            let papers = desk.papers();
            let stream = papers.hand.as_ref().map(|hand| &hand.stream);
            let is_known = stream
                .zip(self.stream.as_ref())
                .is_some_and(|(stream, known)| Arc::ptr_eq(stream, known));
            (
                if is_known {
                    None
                } else {
                    stream.map(Arc::clone)
                },
                is_known,
            )
        };
        if !is_known {
            self.stream = stream;
        }
        self.has_hand = self.stream.is_some();
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.cancelled().is_some())
        {
            // The canceller has called the desk, unless it looked for running jobs before that was
            // open.
            self.has_hand = false;
            self.engine.sweep();
        }
    }

    /// Takes one job.
    pub(super) fn take_one(&self) -> Result<Taken<Entry<In, T, E>>, Closed> {
        Ok(self
            .engine
            .injector
            .try_pop()?
            .map_or(Taken::Nothing, Taken::One))
    }

    /// Notes that the job of the slot has succeeded, where it has, and starts the next of the hand
    /// there.
    #[inline(always)]
    pub(super) fn step(&mut self, slot: usize, has_succeeded: bool) -> Step<In> {
        let Some(mut papers) = self.papers() else {
            return Step::Called;
        };
        let Papers { hand, journal, .. } = &mut *papers;
        let next = hand
            .as_mut()
            .and_then(|hand| Some((hand.take_input()?, hand.stream.identity())));
        let Some(((id, index, input), stream)) = next else {
            if has_succeeded {
                journal.succeed(slot);
            }
            drop(papers);
            self.has_hand = false;
            return Step::Empty;
        };
        let runner = Runner {
            id,
            index,
            stream: Some(stream),
        };
        if has_succeeded {
            journal.follow(slot, runner);
        } else {
            journal.start(slot, runner);
        }
        self.engine.signals[slot].clear();
        self.lay_down(papers);
        Step::Job(Fresh { id, index, input })
    }

    /// Gives a job of the hand, which has not waited, its outcome; starts the next one in its slot,
    /// if there is one that may.
    #[inline(always)]
    pub(super) fn succeed(
        &mut self,
        slot: usize,
        success: Success<T>,
        ticket: &mut Ticket<In, T, E>,
        outbox: &mut Outbox<In, T, E>,
        may_go_on: bool,
    ) -> Option<Fresh<In>> {
        if let Some(stream) = &self.stream {
            outbox.expect_success(stream);
        }
        let step = if may_go_on {
            self.step(slot, true)
        } else if self.note_success(slot) {
            Step::Empty
        } else {
            Step::Called
        };
        let next = match step {
            Step::Job(next) => Some(next),
            Step::Empty => None,
            Step::Called => {
                let Success { id, index, value } = success;
                self.adopt(id, index, ticket);
                ticket.settle(Ok(value), outbox);
                self.close();
                return None;
            }
        };
        outbox.succeed(success);
        next
    }

    /// Makes a job of the hand the ticket's, which sees to its outcome from here on.
    pub(super) fn adopt(&self, id: JobId, index: usize, ticket: &mut Ticket<In, T, E>) {
        if let Some(stream) = &self.stream {
            ticket.adopt(stream, id, index);
        }
    }

    /// Notes that a job from outside has started in the slot; says whether it could be noted here.
    pub(super) fn note_start(&self, slot: usize, runner: Runner) -> bool {
        let Some(mut papers) = self.papers() else {
            return false;
        };
        papers.journal.start(slot, runner);
        self.engine.signals[slot].clear();
        self.lay_down(papers);
        true
    }

    /// Notes that the job of the slot has succeeded; says whether it could be noted here.
    pub(super) fn note_success(&self, slot: usize) -> bool {
        let Some(mut papers) = self.papers() else {
            return false;
        };
        papers.journal.succeed(slot);
        self.lay_down(papers);
        true
    }

    /// What lies on the desk, unless there is none or it was called.
    #[inline(always)]
    fn papers(&self) -> Option<MutexGuard<'_, Papers<Lot<In, T, E>>>> {
        self.desk
            .as_ref()
            .map(|desk| desk.papers())
            .filter(|papers| !papers.is_called())
    }

    /// Something was written down.
    #[inline(always)]
    fn lay_down(&self, papers: MutexGuard<'_, Papers<Lot<In, T, E>>>) {
        let is_long = papers.journal.is_long();
        drop(papers);
        if is_long {
            self.engine.enter_journals();
        }
    }

    /// Gives back what has not started, and enters everything in the books.
    #[inline]
    pub(super) fn close(&mut self) {
        if let Some(desk) = self.desk.take() {
            self.close_now(desk);
        }
    }

    fn close_now(&mut self, desk: Arc<Desk<Lot<In, T, E>>>) {
        self.has_hand = false;
        if std::mem::take(&mut self.is_holder) {
            self.engine.injector.give_back(&desk);
        }
        self.stream = None;
        self.engine.close_desk(desk);
    }
}

impl<In, T, E> Drop for Post<In, T, E> {
    fn drop(&mut self) {
        self.close();
    }
}
