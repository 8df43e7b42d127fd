//! Batches of a stream, for handlers that are cheaper per item when they get many.
//!
//! In: items of a stream. Out: lists of them: a full list at once, another when its first item has
//! waited long enough. It never yields an empty list.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::rt::{SyncSleep, Timer};

/// A stream of lists of another stream's items; made by [`Pool::batches`](crate::Pool::batches),
/// which says how.
///
/// A list is yielded when it has `max` items, when `wait` has passed since its first item came, or
/// when the source ends; nothing is yielded while the stream is not polled. No list is empty.
/// Memory is bounded by `max` items.
///
/// # Cancel safety
///
/// Dropping the future of `next` loses nothing; dropping the stream drops the items of a list that
/// is not full yet.
#[must_use = "streams do nothing unless polled"]
pub struct Batches<S: Stream> {
    /// `None` once the source has ended.
    source: Option<Pin<Box<S>>>,
    max: usize,
    wait: Duration,
    timer: Arc<dyn Timer>,
    items: Vec<S::Item>,
    /// Fires when the first item has waited long enough.
    alarm: Option<SyncSleep>,
}

impl<S: Stream> Batches<S> {
    #[track_caller]
    pub(crate) fn new(source: S, max: usize, wait: Duration, timer: Arc<dyn Timer>) -> Self {
        assert!(max > 0, "max must be at least 1, got 0");
        Self {
            source: Some(Box::pin(source)),
            max,
            wait,
            timer,
            items: Vec::new(),
            alarm: None,
        }
    }

    fn take(&mut self) -> Vec<S::Item> {
        self.alarm = None;
        std::mem::take(&mut self.items)
    }
}

// The items are never pinned.
impl<S: Stream> Unpin for Batches<S> {}

impl<S: Stream> Stream for Batches<S> {
    type Item = Vec<S::Item>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some(source) = &mut this.source {
            match source.as_mut().poll_next(cx) {
                Poll::Ready(Some(item)) => {
                    this.items.push(item);
                    if this.items.len() == this.max {
                        return Poll::Ready(Some(this.take()));
                    }
                    if this.alarm.is_none() {
                        let at = this.timer.now().checked_add(this.wait);
                        this.alarm = at.map(|at| SyncSleep::new(this.timer.sleep_until(at)));
                    }
                }
                Poll::Ready(None) => this.source = None,
                Poll::Pending => {
                    let is_due = this
                        .alarm
                        .as_mut()
                        .is_some_and(|alarm| Pin::new(alarm).poll(cx).is_ready());
                    return if is_due {
                        Poll::Ready(Some(this.take()))
                    } else {
                        Poll::Pending
                    };
                }
            }
        }
        let rest = this.take();
        Poll::Ready(Some(rest).filter(|rest| !rest.is_empty()))
    }
}

impl<S: Stream> fmt::Debug for Batches<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("max", &self.max)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}
