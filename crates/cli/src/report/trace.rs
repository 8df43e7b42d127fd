//! The trace: records come in, and events of Chrome's tracing and Perfetto come out, as a JSON
//! array that is written while the file is read.
//!
//! A host is a process, and its threads are lanes in which no two rows overlap.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::answer::Answer;
use super::lanes::{LaneId, Lanes, redact};
use super::reader::AnswersFile;
use super::{ReportError, Totals, text, write_error};

#[derive(Serialize)]
struct Event<'a, A> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: &'a str,
    /// Microseconds since 1970.
    ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<i64>,
    pid: u64,
    tid: u64,
    args: A,
}

#[derive(Serialize)]
struct ProcessName<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct RowArgs<'a> {
    row: u64,
    ok: bool,
    code: &'a str,
    error_kind: &'a str,
    attempts: u64,
    queued_ms: u64,
    backoff_ms: u64,
}

/// The lanes of one host: when each is free again.
#[derive(Debug, Default)]
struct Threads {
    /// Lanes by the time at which their last row ended.
    free_from: BTreeMap<i64, Vec<u64>>,
    count: u64,
}

impl Threads {
    /// A lane whose rows all ended before `from`: the one that was used last, or a new one.
    fn take(&mut self, from: i64, to: i64) -> u64 {
        let free = self.free_from.range_mut(..=from).next_back();
        let (time, lane) = match free {
            Some((time, lanes)) => (Some(*time), lanes.pop()),
            None => (None, None),
        };
        if let Some(time) = time.filter(|time| self.free_from.get(time).is_some_and(Vec::is_empty))
        {
            self.free_from.remove(&time);
        }
        let lane = lane.unwrap_or_else(|| {
            self.count += 1;
            self.count
        });
        self.free_from.entry(to).or_default().push(lane);
        lane
    }
}

/// Process 0 is not shown by some viewers.
const fn pid(host: LaneId) -> u64 {
    host as u64 + 1
}

/// Writes a complete event for each row that has times.
pub(super) fn write(file: &AnswersFile, out: &mut impl Write) -> Result<Totals, ReportError> {
    let mut trace = Trace {
        out,
        lanes: Lanes::new(),
        threads: Vec::new(),
        is_first: true,
    };
    let mut totals = Totals::default();
    totals.torn = file.visit(|answer| {
        totals.rows += 1;
        totals.ok += u64::from(answer.ok);
        totals.failed += u64::from(!answer.ok);
        trace.row(answer).map_err(write_error)
    })?;
    trace.end().map_err(write_error)?;
    Ok(totals)
}

struct Trace<'w, W> {
    out: &'w mut W,
    lanes: Lanes,
    /// By lane of [`Lanes`].
    threads: Vec<Option<Threads>>,
    is_first: bool,
}

impl<W: Write> Trace<'_, W> {
    fn row(&mut self, answer: &Answer<'_>) -> io::Result<()> {
        let Some((from, to)) = answer.interval() else {
            return Ok(());
        };
        let host = self.lanes.lane_of(answer.url);
        let tid = self.threads_of(host)?.take(from, to);
        let name = match answer.url {
            b"" => format!("row {}", answer.row),
            url => text::cell(&redact(url)),
        };
        let args = RowArgs {
            row: answer.row,
            ok: answer.ok,
            code: &text::cell_bytes(answer.code),
            error_kind: &text::cell_bytes(answer.kind),
            attempts: answer.attempts,
            queued_ms: answer.queued_ms,
            backoff_ms: answer.backoff_ms,
        };
        let cat = if answer.ok { "ok" } else { "failed" };
        let (ts, dur) = (
            from.saturating_mul(1_000),
            Some((to - from).saturating_mul(1_000)),
        );
        self.event(&Event {
            name: &name,
            cat,
            ph: "X",
            ts,
            dur,
            pid: pid(host),
            tid,
            args,
        })
    }

    /// The lanes of a host, whose name is written before its first row.
    fn threads_of(&mut self, host: LaneId) -> io::Result<&mut Threads> {
        let at = host as usize;
        if self.threads.len() <= at {
            self.threads.resize_with(at + 1, || None);
        }
        if self.threads[at].is_none() {
            let name = text::cell(self.lanes.name(host));
            let args = ProcessName { name: &name };
            let name = "process_name";
            self.event(&Event {
                name,
                cat: "",
                ph: "M",
                ts: 0,
                dur: None,
                pid: pid(host),
                tid: 0,
                args,
            })?;
        }
        Ok(self.threads[at].get_or_insert_default())
    }

    fn event<A: Serialize>(&mut self, event: &Event<'_, A>) -> io::Result<()> {
        self.out
            .write_all(if self.is_first { b"[\n" } else { b",\n" })?;
        self.is_first = false;
        serde_json::to_writer(&mut *self.out, event).map_err(io::Error::from)
    }

    fn end(self) -> io::Result<()> {
        self.out
            .write_all(if self.is_first { b"[]\n" } else { b"\n]\n" })?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::sample::Sample;
    use super::*;

    fn trace(sample: &Sample) -> (String, Totals) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("answers.csv");
        std::fs::write(&path, sample.csv()).expect("a file in it");
        let file = AnswersFile::open(&path, b',', None).expect("an answers file");
        let mut out = Vec::new();
        let totals = write(&file, &mut out).expect("memory");
        (String::from_utf8(out).expect("JSON"), totals)
    }

    #[test]
    fn rows_of_one_lane_do_not_overlap() {
        // The order of the file is that of the starts here.
        let sample = Sample::fetch(2_000);
        let (text, totals) = trace(&sample);
        assert_eq!(totals, sample.totals());
        let events: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a JSON array");
        let mut lanes: HashMap<(u64, u64), Vec<(i64, i64)>> = HashMap::new();
        let mut names = 0;
        for event in &events {
            let number = |name: &str| event[name].as_i64();
            if event["ph"] == "M" {
                names += 1;
                continue;
            }
            let lane = (
                event["pid"].as_u64().expect("host"),
                event["tid"].as_u64().expect("lane"),
            );
            let from = number("ts").expect("start");
            lanes
                .entry(lane)
                .or_default()
                .push((from, from + number("dur").expect("length")));
        }
        assert_eq!(lanes.values().map(Vec::len).sum::<usize>(), 2_000);
        assert_eq!(names, 9, "eight hosts, and rows without a URL");
        for rows in lanes.values_mut() {
            rows.sort_unstable();
            assert!(rows.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        }
        assert!(lanes.len() < 9 * 50, "{} lanes", lanes.len());
    }

    #[test]
    fn secrets_are_not_in_the_trace() {
        let (text, _) = trace(&Sample::fetch(300));
        assert!(text.contains("http://host-0.test:8080/item/"));
        assert!(!text.contains("secret") && !text.contains("token"));
    }

    #[test]
    fn a_file_without_rows_makes_an_empty_array() {
        assert_eq!(trace(&Sample::fetch(0)).0, "[]\n");
    }
}
