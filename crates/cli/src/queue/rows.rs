//! The rows of a queue as work of the pool: payloads come in, jobs go out.
//!
//! A payload brings its header. Each distinct header has a [`Work`] of its own, which is made when
//! the first job with it comes; most queues have one. A redirect is followed within its job: one
//! delivery has one outcome.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use brigade::csv::{ByteRecord, Header, Reader, Row, Writer};

use super::payload::Payload;
use crate::answers::collected::JOB_ID;
use crate::frame::stop::Stop;
use crate::frame::work::{Answer, Columns, Failure, Lane, Next, Numbered, RowError, Work};

/// How many headers are known at once. Those of a queue with more are made again.
const MAX_HEADERS: usize = 64;

/// Makes the work of a header, and the names of the columns that are added.
pub(super) type Make<W> = dyn Fn(&Header) -> Result<(W, Vec<String>), Stop>;

/// The work of all headers.
pub(super) struct Rows<W> {
    make: Box<Make<W>>,
    columns: Columns,
    /// The name of the queue, in messages.
    queue: String,
    known: RefCell<HashMap<Vec<String>, Rc<Known<W>>>>,
    /// Distinguishes the lanes of rows that have an answer already.
    answered: Cell<u64>,
}

/// What is known of a header.
struct Known<W> {
    header: Header,
    /// All columns of the result.
    names: Rc<[String]>,
    /// The work, or why there is none.
    work: Result<Rc<W>, String>,
}

/// A job of the pool.
pub(super) enum Job<W: Work> {
    Ready {
        work: Rc<W>,
        job: W::Job,
    },
    /// The row has its answer without being run.
    Answered {
        answer: Answer,
        lane: Lane,
    },
}

/// A payload that was decoded.
pub(super) struct Taken<W: Work> {
    pub(super) row: Numbered,
    pub(super) job: Job<W>,
    /// All columns of the result.
    pub(super) names: Rc<[String]>,
    /// Why its header cannot be used with these options.
    pub(super) unfit: Option<String>,
}

impl<W: Work> Clone for Job<W> {
    fn clone(&self) -> Self {
        match self {
            Self::Ready { work, job } => Self::Ready {
                work: Rc::clone(work),
                job: job.clone(),
            },
            Self::Answered { answer, lane } => Self::Answered {
                answer: answer.clone(),
                lane: Lane::clone(lane),
            },
        }
    }
}

impl<W: Work> Rows<W> {
    pub(super) fn new(
        queue: String,
        columns: Columns,
        make: impl Fn(&Header) -> Result<(W, Vec<String>), Stop> + 'static,
    ) -> Self {
        Self {
            make: Box::new(make),
            columns,
            queue,
            known: RefCell::default(),
            answered: Cell::new(0),
        }
    }

    /// Decodes a payload.
    ///
    /// # Errors
    ///
    /// If it is no row: the job of another producer.
    pub(super) fn take(&self, id: &str, payload: &[u8]) -> Result<Taken<W>, String> {
        let Payload { row, header, cells } = Payload::decode(payload)?;
        let known = self.known(header)?;
        // The line in the file is not known; a header and rows of one line have this one.
        let line = row.saturating_add(1);
        let record = ByteRecord::from(cells);
        let row = Row::new(&known.header, line, row, record).map_err(|bad| bad.to_string())?;
        let row = Numbered {
            number: row.record_number(),
            row: Arc::new(row),
            job_id: Some(id.into()),
        };
        let job = self.job_of(&known, &row).unwrap_or_else(|answer| {
            self.answered.set(self.answered.get() + 1);
            // A lane of its own, so that it waits for no host.
            let lane = format!("answered {}", self.answered.get()).into();
            Job::Answered { answer, lane }
        });
        Ok(Taken {
            row,
            job,
            names: Rc::clone(&known.names),
            unfit: known.work.as_ref().err().cloned(),
        })
    }

    fn job_of(&self, known: &Known<W>, row: &Numbered) -> Result<Job<W>, Answer> {
        let unfit = |message: &String| Answer {
            before: vec![Vec::new(); self.columns.before.len()],
            after: vec![Vec::new(); self.columns.after.len()],
            error: Some(RowError {
                kind: "no_column",
                message: message.clone(),
            }),
        };
        let work = Rc::clone(known.work.as_ref().map_err(unfit)?);
        let job = work.job(row)?;
        Ok(Job::Ready { work, job })
    }

    fn known(&self, names: Vec<String>) -> Result<Rc<Known<W>>, String> {
        if let Some(known) = self.known.borrow().get(&names) {
            return Ok(Rc::clone(known));
        }
        let header = header(&self.queue, &names)?;
        let (work, added) = match (self.make)(&header) {
            Ok((work, added)) => (Ok(Rc::new(work)), added),
            Err(stop) => {
                let message = stop.to_string();
                // The header has no line of a file.
                let message = message
                    .replace(&format!("{}:1: ", self.queue), "")
                    .replace(&format!("{}: ", self.queue), "")
                    .replace(&self.queue, "the job");
                (Err(message), self.free_names(&names))
            }
        };
        let known = Rc::new(Known {
            header,
            names: [names.clone(), added].concat().into(),
            work,
        });
        let mut all = self.known.borrow_mut();
        if all.len() >= MAX_HEADERS {
            all.clear();
        }
        all.insert(names, Rc::clone(&known));
        Ok(known)
    }

    /// Names of the added columns that the input does not have.
    fn free_names(&self, inputs: &[String]) -> Vec<String> {
        let mut prefix = String::new();
        loop {
            let name = |name: String| format!("{prefix}{name}");
            let names: Vec<String> = self.columns.names().into_iter().map(&name).collect();
            let job_id = name(JOB_ID.to_owned());
            if !names
                .iter()
                .chain([&job_id])
                .any(|name| inputs.contains(name))
            {
                return names;
            }
            prefix.push_str("brigade_");
        }
    }
}

/// The header of a table with these columns.
fn header(queue: &str, names: &[String]) -> Result<Header, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("its header: {error}");
    let mut writer = Writer::new(Vec::new());
    let text = writer
        .write_row(names)
        .and_then(|()| writer.finish())
        .map_err(|error| unusable(&error))?;
    let rows = Reader::new()
        .max_record_bytes(text.len() + 1)
        .from_reader(queue, &text[..])
        .map_err(|error| unusable(&error))?;
    if !rows.header().iter().eq(names.iter().map(String::as_str)) {
        return Err(unusable(&"these are no names of columns"));
    }
    Ok(rows.header().clone())
}

impl<W: Work> Work for Rows<W> {
    type Job = Job<W>;

    fn columns(&self) -> Columns {
        self.columns.clone()
    }

    fn lane(&self, row: &Row) -> Lane {
        let names = row.header().iter().map(str::to_owned).collect();
        match self.known(names) {
            Ok(known) => known
                .work
                .as_ref()
                .map_or_else(|_| "".into(), |work| work.lane(row)),
            Err(_) => "".into(),
        }
    }

    fn job(&self, row: &Numbered) -> Result<Job<W>, Answer> {
        let names = row.row.header().iter().map(str::to_owned).collect();
        match self.known(names) {
            Ok(known) => self.job_of(&known, row),
            Err(_) => Err(Answer::default()),
        }
    }

    fn lane_of(&self, job: &Job<W>) -> Lane {
        match job {
            Job::Ready { work, job } => work.lane_of(job),
            Job::Answered { lane, .. } => Lane::clone(lane),
        }
    }

    async fn run(&self, job: Job<W>, attempt: u32) -> Result<Next<Job<W>>, Failure> {
        match job {
            Job::Answered { answer, .. } => Ok(Next::Answer(answer)),
            Job::Ready { work, mut job } => loop {
                match work.run(job, attempt).await? {
                    Next::Answer(answer) => return Ok(Next::Answer(answer)),
                    Next::Hop(next) => job = next,
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use smol::future;

    use super::*;

    /// Answers with the cell of `url`; hops as often as it is long.
    struct Echo(brigade::csv::Column);

    impl Work for Echo {
        type Job = (String, usize);

        fn columns(&self) -> Columns {
            Columns::default()
        }

        fn lane(&self, row: &Row) -> Lane {
            row.field(self.0).into()
        }

        fn job(&self, row: &Numbered) -> Result<Self::Job, Answer> {
            let text = row.row.field(self.0).to_owned();
            Ok((text.clone(), text.len()))
        }

        fn lane_of(&self, job: &Self::Job) -> Lane {
            job.0.as_str().into()
        }

        async fn run(&self, job: Self::Job, _attempt: u32) -> Result<Next<Self::Job>, Failure> {
            Ok(match job {
                (text, 0) => Next::Answer(Answer {
                    after: vec![text.into_bytes()],
                    ..Answer::default()
                }),
                (text, hops) => Next::Hop((text, hops - 1)),
            })
        }
    }

    fn rows(made: Rc<Cell<usize>>) -> Rows<Echo> {
        let columns = Columns::default();
        let names = columns.names();
        Rows::new("jobs.db".to_owned(), columns, move |header| {
            made.set(made.get() + 1);
            Ok((Echo(header.column("url")?), names.clone()))
        })
    }

    fn payload(header: &[&str], cells: &[&str]) -> Vec<u8> {
        let list = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Payload {
            row: 3,
            header: list(header),
            cells: list(cells),
        }
        .encode()
    }

    #[test]
    fn a_redirect_is_followed_within_its_job() {
        let rows = rows(Rc::default());
        let taken = rows
            .take("id", &payload(&["id", "url"], &["1", "abc"]))
            .unwrap();
        assert_eq!((taken.row.number, &*rows.lane_of(&taken.job)), (3, "abc"));
        assert_eq!(
            taken.names[..4],
            ["id", "url", "row", "ok"].map(str::to_owned)
        );
        let Ok(Next::Answer(answer)) = future::block_on(rows.run(taken.job, 1)) else {
            panic!("it has an answer");
        };
        assert_eq!(answer.after, [b"abc".to_vec()]);
    }

    #[test]
    fn each_header_has_one_work() {
        let made = Rc::new(Cell::new(0));
        let rows = rows(Rc::clone(&made));
        for header in [["a", "url"], ["url", "b"], ["a", "url"]] {
            assert!(
                rows.take("id", &payload(&header, &["x", "x"]))
                    .unwrap()
                    .unfit
                    .is_none()
            );
        }
        assert_eq!(made.get(), 2);
        for number in 0..200 {
            let name = number.to_string();
            rows.take("id", &payload(&["url", &name], &["x", "x"]))
                .unwrap();
        }
        assert!(rows.known.borrow().len() <= MAX_HEADERS);
    }

    #[test]
    fn a_header_without_the_column_has_an_answer_that_says_so() {
        let rows = rows(Rc::default());
        let taken = rows.take("id", &payload(&["row"], &["x"])).unwrap();
        let message = r#"no column "url": the header has 1 column ("row")"#;
        assert_eq!(taken.unfit.as_deref(), Some(message));
        assert_eq!(
            taken.names[..3],
            ["row", "brigade_row", "brigade_ok"].map(str::to_owned)
        );
        let Ok(Next::Answer(answer)) = future::block_on(rows.run(taken.job, 1)) else {
            panic!("it has an answer");
        };
        assert!(answer.is_of("no_column"));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let rows = rows(Rc::default());
        for (header, cells) in [
            (&["url", "url"][..], &["x", "y"][..]),
            (&[], &[]),
            (&["url"], &["x", "y"]),
        ] {
            assert!(
                rows.take("id", &payload(header, cells)).is_err(),
                "{header:?}"
            );
        }
    }
}
