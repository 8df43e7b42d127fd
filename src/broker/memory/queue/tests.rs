//! The queue against a naive model: a list of jobs, each with its place, that is searched from the
//! front for everything.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::super::{DeadLetter, JobId, Nack, NewJob};
use super::{Leased, MemoryCounts, Over, Queue, Token};

#[derive(Debug, Clone)]
enum Operation {
    Enqueue {
        id: u8,
        priority: u8,
        delay: u64,
    },
    Fetch {
        max: usize,
        lease: u64,
        consumer: u64,
    },
    Ack {
        delivery: usize,
        result: Option<u8>,
    },
    Retry {
        delivery: usize,
        after: Option<u64>,
    },
    Release {
        delivery: usize,
    },
    DeadLetter {
        delivery: usize,
    },
    Extend {
        delivery: usize,
        by: u64,
    },
    Close {
        consumer: u64,
    },
    Lose {
        consumer: u64,
    },
    RetryDead,
    TakeResults,
    Pass {
        time: u64,
    },
}

/// Short times, so that some are over; and one that is later than any instant.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0_u64..6, 1 => Just(u64::MAX)]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let delivery = 0_usize..8;
    prop_oneof![
        4 => (0_u8..12, 0_u8..3, prop_oneof![Just(0), time()])
            .prop_map(|(id, priority, delay)| Enqueue { id, priority, delay }),
        4 => (0_usize..4, prop_oneof![1_u64..6, Just(u64::MAX)], 0_u64..3)
            .prop_map(|(max, lease, consumer)| Fetch { max, lease, consumer }),
        2 => (delivery.clone(), any::<Option<u8>>())
            .prop_map(|(delivery, result)| Ack { delivery, result }),
        2 => (delivery.clone(), proptest::option::of(time()))
            .prop_map(|(delivery, after)| Retry { delivery, after }),
        1 => delivery.clone().prop_map(|delivery| Release { delivery }),
        1 => delivery.clone().prop_map(|delivery| DeadLetter { delivery }),
        1 => (delivery, time()).prop_map(|(delivery, by)| Extend { delivery, by }),
        1 => (0_u64..3).prop_map(|consumer| Close { consumer }),
        1 => (0_u64..3).prop_map(|consumer| Lose { consumer }),
        1 => Just(RetryDead),
        1 => Just(TakeResults),
        3 => (0_u64..4).prop_map(|time| Pass { time }),
    ]
}

/// What a receipt's delivery is to the model: the fetch that made it.
type Fence = usize;

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Ready,
    Delayed(Option<Instant>),
    Leased(Fence, u64, Option<Instant>),
    Done(Option<Vec<u8>>),
    Dead(String),
}

#[derive(Debug)]
struct Job {
    id: JobId,
    payload: Vec<u8>,
    priority: u8,
    count: u32,
    lost: u32,
    was_delivered: bool,
    place: Place,
    /// The time of its ack or nack, in operations.
    ended: usize,
}

/// The jobs are in the order of their enqueueing.
#[derive(Debug, Default)]
struct Model {
    jobs: Vec<Job>,
    fences: usize,
    operations: usize,
}

impl Model {
    fn pass(&mut self, now: Instant) {
        for job in &mut self.jobs {
            match job.place {
                Place::Delayed(Some(until)) if until <= now => job.place = Place::Ready,
                Place::Leased(_, _, Some(until)) if until <= now => {
                    job.place = Place::Ready;
                    job.lost += 1;
                }
                _ => {}
            }
        }
    }

    fn held(&mut self, fence: Fence) -> Option<&mut Job> {
        let mut jobs = self.jobs.iter_mut();
        jobs.find(|job| matches!(job.place, Place::Leased(own, ..) if own == fence))
    }

    fn held_by(&mut self, consumer: u64) -> impl Iterator<Item = &mut Job> {
        let jobs = self.jobs.iter_mut();
        jobs.filter(move |job| matches!(job.place, Place::Leased(_, by, _) if by == consumer))
    }

    fn count(&self, is_there: impl Fn(&Place) -> bool) -> usize {
        self.jobs.iter().filter(|job| is_there(&job.place)).count()
    }

    fn counts(&self) -> MemoryCounts {
        MemoryCounts {
            ready: self.count(|place| *place == Place::Ready),
            delayed: self.count(|place| matches!(place, Place::Delayed(_))),
            leased: self.count(|place| matches!(place, Place::Leased(..))),
            done: self.count(|place| matches!(place, Place::Done(_))),
            dead: self.count(|place| matches!(place, Place::Dead(_))),
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let times = self.jobs.iter().map(|job| match job.place {
            Place::Delayed(until) | Place::Leased(_, _, until) => until,
            _ => None,
        });
        times.flatten().min()
    }

    /// The jobs that have ended, in this order.
    fn ended(&self) -> Vec<&Job> {
        let mut jobs: Vec<&Job> = self.jobs.iter().collect();
        jobs.sort_by_key(|job| job.ended);
        jobs
    }

    fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        let jobs = self.ended().into_iter();
        jobs.filter_map(|job| match &job.place {
            Place::Done(Some(result)) => Some((job.id.clone(), result.clone())),
            _ => None,
        })
        .collect()
    }

    fn dead_letters(&self) -> Vec<DeadLetter> {
        let jobs = self.ended().into_iter();
        jobs.filter_map(|job| match &job.place {
            Place::Dead(reason) => Some(DeadLetter::new(
                job.id.clone(),
                job.payload.clone(),
                reason.clone(),
            )),
            _ => None,
        })
        .collect()
    }

    fn enqueue(&mut self, now: Instant, job: NewJob) {
        if self.jobs.iter().any(|known| known.id == job.id) {
            return;
        }
        self.jobs.push(Job {
            id: job.id,
            payload: job.payload,
            priority: job.priority,
            count: 0,
            lost: 0,
            was_delivered: false,
            place: place_after(now, job.delay),
            ended: 0,
        });
    }

    /// The jobs, their counts and whether they are redelivered; and the fence of each.
    fn fetch(
        &mut self,
        now: Instant,
        max: usize,
        lease: Duration,
        consumer: u64,
    ) -> Vec<(Fence, JobId, Vec<u8>, (u32, u32), bool)> {
        let mut fetched = Vec::new();
        while fetched.len() < max {
            let ready = self.jobs.iter().filter(|job| job.place == Place::Ready);
            let Some(priority) = ready.map(|job| job.priority).max() else {
                break;
            };
            self.fences += 1;
            let mut jobs = self.jobs.iter_mut();
            let job = jobs
                .find(|job| job.place == Place::Ready && job.priority == priority)
                .unwrap();
            job.count += 1;
            job.place = Place::Leased(self.fences, consumer, now.checked_add(lease));
            let was_delivered = std::mem::replace(&mut job.was_delivered, true);
            let (id, payload) = (job.id.clone(), job.payload.clone());
            fetched.push((
                self.fences,
                id,
                payload,
                (job.count, job.lost),
                was_delivered,
            ));
        }
        fetched
    }

    /// Changes the job of a delivery, if that is not over.
    fn settle(&mut self, fence: Fence, change: impl FnOnce(&mut Job)) -> Result<(), Over> {
        let operations = self.operations;
        let job = self.held(fence).ok_or(Over)?;
        job.ended = operations;
        change(job);
        Ok(())
    }

    fn retry_dead(&mut self) -> usize {
        let mut dead: Vec<Job> = self
            .jobs
            .extract_if(.., |job| matches!(job.place, Place::Dead(_)))
            .collect();
        dead.sort_by_key(|job| job.ended);
        let count = dead.len();
        self.jobs.extend(dead.into_iter().map(|job| Job {
            place: Place::Ready,
            count: 0,
            lost: 0,
            ..job
        }));
        count
    }
}

fn place_after(now: Instant, delay: Duration) -> Place {
    if delay.is_zero() {
        Place::Ready
    } else {
        Place::Delayed(now.checked_add(delay))
    }
}

fn seconds(time: u64) -> Duration {
    match time {
        u64::MAX => Duration::MAX,
        time => Duration::from_secs(time),
    }
}

proptest! {
    #[test]
    fn queue_does_what_a_list_that_is_searched_does(
        operations in proptest::collection::vec(operation(), 1..80),
    ) {
        let mut now = Instant::now();
        let (mut queue, mut model) = (Queue::default(), Model::default());
        // Consumers have numbers of the queue, as in the broker.
        let consumers = [queue.number(), queue.number(), queue.number()];
        // The latest first.
        let mut deliveries: Vec<(Token, Fence)> = Vec::new();
        for operation in operations {
            model.pass(now);
            model.operations += 1;
            let find = |delivery: usize| deliveries.get(delivery).copied();
            match operation {
                Operation::Enqueue { id, priority, delay } => {
                    let job = NewJob::new(id.to_string(), [id, priority])
                        .priority(priority)
                        .delay(seconds(delay));
                    queue.enqueue(now, job.clone());
                    model.enqueue(now, job);
                }
                Operation::Fetch { max, lease, consumer } => {
                    let lease = seconds(lease);
                    let consumer_number = consumers[consumer as usize];
                    let fetched = queue.fetch(now, max, lease, consumer_number);
                    let expected = model.fetch(now, max, lease, consumer);
                    prop_assert_eq!(fetched.len(), expected.len());
                    for (leased, expected) in fetched.into_iter().zip(expected) {
                        let (fence, id, payload, (count, lost), redelivered) = expected;
                        deliveries.insert(0, (leased.token, fence));
                        let expected = Leased {
                            token: leased.token,
                            id,
                            payload: payload.into(),
                            deliveries: count,
                            lost,
                            redelivered,
                        };
                        prop_assert_eq!(leased, expected);
                    }
                }
                Operation::Ack { delivery, result } => {
                    if let Some((token, fence)) = find(delivery) {
                        let result = result.map(|byte| vec![byte]);
                        let acked = queue.ack(token, result.clone());
                        let expected = model.settle(fence, |job| job.place = Place::Done(result));
                        prop_assert_eq!(acked, expected);
                    }
                }
                Operation::Retry { delivery, after } => {
                    if let Some((token, fence)) = find(delivery) {
                        let after = after.map(seconds);
                        let nack = Nack::Retry { after, reason: String::new() };
                        let nacked = queue.nack(now, token, nack);
                        let expected = model.settle(fence, |job| {
                            job.place = place_after(now, after.unwrap_or_default());
                        });
                        prop_assert_eq!(nacked, expected);
                    }
                }
                Operation::Release { delivery } => {
                    if let Some((token, fence)) = find(delivery) {
                        let nacked = queue.nack(now, token, Nack::Release);
                        let expected = model.settle(fence, |job| {
                            job.place = Place::Ready;
                            job.count -= 1;
                        });
                        prop_assert_eq!(nacked, expected);
                    }
                }
                Operation::DeadLetter { delivery } => {
                    if let Some((token, fence)) = find(delivery) {
                        let reason = format!("delivery {fence}");
                        let nack = Nack::DeadLetter { reason: reason.clone() };
                        let nacked = queue.nack(now, token, nack);
                        let expected = model.settle(fence, |job| job.place = Place::Dead(reason));
                        prop_assert_eq!(nacked, expected);
                    }
                }
                Operation::Extend { delivery, by } => {
                    if let Some((token, fence)) = find(delivery) {
                        let extended = queue.extend(now, token, seconds(by));
                        let new = now.checked_add(seconds(by));
                        let expected = model.settle(fence, |job| {
                            if let Place::Leased(_, _, until) = &mut job.place {
                                *until = new;
                            }
                        });
                        prop_assert_eq!(extended, expected);
                    }
                }
                Operation::Close { consumer } => {
                    queue.advance(now);
                    queue.release_all(consumers[consumer as usize]);
                    model.held_by(consumer).for_each(|job| {
                        job.place = Place::Ready;
                        job.count -= 1;
                    });
                }
                Operation::Lose { consumer } => {
                    queue.advance(now);
                    queue.lose_all(consumers[consumer as usize]);
                    for job in model.held_by(consumer) {
                        job.place = Place::Ready;
                        job.lost += 1;
                    }
                }
                Operation::RetryDead => {
                    prop_assert_eq!(queue.retry_dead(), model.retry_dead());
                }
                Operation::TakeResults => {
                    let results: Vec<_> = queue.take_results().into_iter()
                        .filter_map(|(id, result)| Some((id, result?)))
                        .collect();
                    prop_assert_eq!(results, model.results());
                    model.jobs.retain(|job| !matches!(job.place, Place::Done(_)));
                }
                Operation::Pass { time } => now += Duration::from_secs(time),
            }
            queue.advance(now);
            model.pass(now);
            prop_assert_eq!(queue.counts(), model.counts());
            prop_assert_eq!(queue.ready(), model.counts().ready);
            prop_assert_eq!(queue.next_event(), model.next_event());
            prop_assert_eq!(queue.results(), model.results());
            prop_assert_eq!(queue.dead_letters(), model.dead_letters());
            prop_assert_eq!(queue.known.len(), model.jobs.len());
        }
    }
}
