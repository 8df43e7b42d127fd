//! The figures of the page: an answers file comes in, and totals, lanes, kinds and rows come out.
//!
//! The first reading counts everything. The second one picks the rows that the counts ask for.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use super::answer::Answer;
use super::columns::Mode;
use super::lanes::{LaneId, Lanes, redact, redact_text};
use super::latency::{Histogram, Latencies};
use super::reader::AnswersFile;
use super::timeline::Timeline;
use super::{ReportError, Totals, text};

/// The slowest rows that are shown.
pub(crate) const SLOWEST: usize = 20;
/// The rows that are shown of each kind of failure and lane.
pub(crate) const FIRST_ROWS: usize = 10;
/// The pairs of kind and lane whose first rows are shown.
pub(crate) const MAX_GROUPS: usize = 60;
/// Rows with one final URL that make an ending suspicious.
pub(crate) const MIN_ENDING: u64 = 5;
/// The suspicious endings that are kept.
const MAX_ENDINGS: usize = 50_000;
/// Marks of the close view.
pub(crate) const MAX_MARKS: usize = 2_000;
/// Lanes of the close view.
pub(crate) const MAX_LANES: usize = 200;
/// Kinds of failures. Those after them are counted as one.
const MAX_KINDS: usize = 64;
const OTHER_KINDS: &str = "other";

/// The number of a kind of failure in [`Figures::kinds`].
pub(crate) type KindId = usize;

/// One host, or the rows without a URL.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) rows: u64,
    pub(crate) ok: u64,
    /// Rows that ended with status code 429.
    pub(crate) too_many: u64,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) latencies: Latencies,
}

/// A row that is listed, with its URL and error redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedRow {
    pub(crate) row: u64,
    pub(crate) ok: bool,
    pub(crate) code: String,
    pub(crate) url: String,
    pub(crate) attempts: u64,
    pub(crate) elapsed_ms: Option<u64>,
    pub(crate) kind: String,
    pub(crate) error: String,
}

/// The failures of one kind in one lane.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) kind: KindId,
    pub(crate) lane: LaneId,
    pub(crate) count: u64,
    /// At most [`FIRST_ROWS`], in the order of the file.
    pub(crate) first: Vec<ListedRow>,
}

/// Rows that were redirected to one URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) url: String,
    pub(crate) rows: u64,
    pub(crate) ok: u64,
    /// The first rows.
    pub(crate) first: Vec<u64>,
}

/// Rows of a stretch of time, each in a lane in which no other row runs at its time.
#[derive(Debug, Default)]
pub(crate) struct CloseView {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) marks: Vec<Mark>,
    pub(crate) lanes: usize,
    /// Rows of this time for which there was no room.
    pub(crate) left_out: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) ok: bool,
    pub(crate) lane: usize,
}

/// Everything that the page shows of an answers file.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) mode: Mode,
    pub(crate) totals: Totals,
    /// Requests or starts of the command, the first ones included.
    pub(crate) attempts: u64,
    /// Rows with more than one attempt.
    pub(crate) retried: u64,
    pub(crate) bytes: u64,
    pub(crate) queued_ms: u64,
    pub(crate) backoff_ms: u64,
    pub(crate) elapsed_ms: u64,
    pub(crate) timeline: Timeline,
    pub(crate) latencies: Latencies,
    pub(crate) histogram: Histogram,
    pub(crate) lanes: Lanes,
    /// By lane.
    pub(crate) hosts: Vec<Host>,
    pub(crate) kinds: Vec<String>,
    pub(crate) failures: HashMap<(KindId, LaneId), u64>,
    /// The largest groups of failures, the largest first.
    pub(crate) groups: Vec<Group>,
    /// The largest first.
    pub(crate) endings: Vec<Ending>,
    /// The slowest first.
    pub(crate) slowest: Vec<ListedRow>,
    pub(crate) close: CloseView,
}

impl Figures {
    pub(crate) fn read(file: &AnswersFile) -> Result<Self, ReportError> {
        let mut figures = Self::new(file.columns.mode);
        let mut endings = EndingFilter::new();
        figures.totals.torn = file.visit(|answer| {
            figures.count(answer, &mut endings);
            Ok(())
        })?;
        figures.pick_groups();
        let mut details = Details::new(&figures, endings);
        let mut lanes = std::mem::replace(&mut figures.lanes, Lanes::new());
        let mut rows = 0;
        let torn = file.visit(|answer| {
            rows += 1;
            details.pick(answer, &mut lanes, &mut figures);
            Ok(())
        })?;
        if rows != figures.totals.rows || torn != figures.totals.torn {
            return Err(file.changed());
        }
        figures.lanes = lanes;
        figures.endings = details.endings.finish();
        figures.close = details.close.finish();
        Ok(figures)
    }

    fn new(mode: Mode) -> Self {
        Self {
            mode,
            totals: Totals::default(),
            attempts: 0,
            retried: 0,
            bytes: 0,
            queued_ms: 0,
            backoff_ms: 0,
            elapsed_ms: 0,
            timeline: Timeline::new(),
            latencies: Latencies::default(),
            histogram: Histogram::default(),
            lanes: Lanes::new(),
            hosts: Vec::new(),
            kinds: Vec::new(),
            failures: HashMap::new(),
            groups: Vec::new(),
            endings: Vec::new(),
            slowest: Vec::new(),
            close: CloseView::default(),
        }
    }

    /// The first reading of one row.
    fn count(&mut self, answer: &Answer<'_>, endings: &mut EndingFilter) {
        self.totals.rows += 1;
        self.totals.ok += u64::from(answer.ok);
        self.totals.failed += u64::from(!answer.ok);
        self.attempts += answer.attempts;
        self.retried += u64::from(answer.attempts > 1);
        self.bytes += answer.bytes;
        self.queued_ms += answer.queued_ms;
        self.backoff_ms += answer.backoff_ms;
        self.elapsed_ms += answer.elapsed_ms.unwrap_or(0);
        if let Some((from, to)) = answer.interval() {
            self.timeline.record(from, to, answer.ok);
        }
        let lane = self.lanes.lane_of(answer.url);
        self.count_host(lane, answer);
        if let Some(ms) = answer.latency_ms() {
            self.latencies.record(ms);
            self.histogram.record(ms, answer.ok);
            self.keep_slowest(ms, answer);
        }
        if !answer.ok {
            let kind = self.kind_of(answer);
            *self.failures.entry((kind, lane)).or_default() += 1;
        }
        if answer.redirects > 0 {
            endings.count(answer.url);
        }
    }

    fn count_host(&mut self, lane: LaneId, answer: &Answer<'_>) {
        self.hosts.resize_with(self.lanes.len(), Host::default);
        let host = &mut self.hosts[lane as usize];
        host.rows += 1;
        host.ok += u64::from(answer.ok);
        host.too_many += u64::from(answer.code == b"429");
        host.requests += answer.attempts;
        host.bytes += answer.bytes;
        if let Some(ms) = answer.latency_ms() {
            host.latencies.record(ms);
        }
    }

    fn keep_slowest(&mut self, ms: u64, answer: &Answer<'_>) {
        // Of rows that took the same time, the first ones stay.
        let at = self
            .slowest
            .partition_point(|row| row.elapsed_ms >= Some(ms));
        if at < SLOWEST {
            self.slowest.insert(at, ListedRow::of(answer));
            self.slowest.truncate(SLOWEST);
        }
    }

    /// The kind of a failed row. A status code makes a kind of its own.
    fn kind_of(&mut self, answer: &Answer<'_>) -> KindId {
        let name = kind_name(answer);
        if let Some(kind) = self.kinds.iter().position(|kind| *kind == name) {
            return kind;
        }
        if self.kinds.len() < MAX_KINDS - 1 {
            self.kinds.push(name);
            return self.kinds.len() - 1;
        }
        if self.kinds.len() == MAX_KINDS - 1 {
            self.kinds.push(OTHER_KINDS.to_owned());
        }
        MAX_KINDS - 1
    }

    /// Makes groups of the largest counts, without their rows.
    fn pick_groups(&mut self) {
        let mut counts: Vec<_> = self
            .failures
            .iter()
            .map(|(key, count)| (*count, *key))
            .collect();
        counts.sort_unstable_by_key(|(count, key)| (std::cmp::Reverse(*count), *key));
        let group = |(count, (kind, lane))| Group {
            kind,
            lane,
            count,
            first: Vec::new(),
        };
        self.groups = counts.into_iter().take(MAX_GROUPS).map(group).collect();
    }

    /// The failures of one kind in all lanes.
    pub(crate) fn failures_of(&self, kind: KindId) -> u64 {
        let of_kind = self
            .failures
            .iter()
            .filter(|((other, _), _)| *other == kind);
        of_kind.map(|(_, count)| count).sum()
    }

    /// The failures in all lanes and of all kinds that are not among [`Self::groups`].
    pub(crate) fn failures_without_group(&self) -> u64 {
        self.totals.failed - self.groups.iter().map(|group| group.count).sum::<u64>()
    }
}

/// The name of the row's kind of failure, ready to be shown.
fn kind_name(answer: &Answer<'_>) -> String {
    let kind = match answer.kind {
        b"" => "unknown".to_owned(),
        kind => text::cell_bytes(kind),
    };
    match answer.kind {
        b"http_status" => format!("{kind} {}", text::cell_bytes(answer.code)),
        _ => kind,
    }
}

impl ListedRow {
    fn of(answer: &Answer<'_>) -> Self {
        let code = match answer.signal {
            b"" => text::cell_bytes(answer.code),
            signal => format!("signal {}", text::cell_bytes(signal)),
        };
        // Redacted before it is cut: half a URL may not parse, and could hold a secret.
        let error = redact_text(&String::from_utf8_lossy(answer.error));
        Self {
            row: answer.row,
            ok: answer.ok,
            code,
            url: text::cell(&redact(answer.url)),
            attempts: answer.attempts,
            elapsed_ms: answer.elapsed_ms,
            kind: if answer.ok {
                String::new()
            } else {
                kind_name(answer)
            },
            error: text::cell(&error),
        }
    }
}

/// What the second reading picks.
struct Details {
    groups: HashMap<(KindId, LaneId), usize>,
    endings: Endings,
    close: CloseRows,
}

impl Details {
    fn new(figures: &Figures, filter: EndingFilter) -> Self {
        let groups = figures.groups.iter().enumerate();
        Self {
            groups: groups
                .map(|(at, group)| ((group.kind, group.lane), at))
                .collect(),
            endings: Endings {
                filter,
                found: HashMap::new(),
            },
            close: CloseRows::new(&figures.timeline, figures.totals.rows),
        }
    }

    fn pick(&mut self, answer: &Answer<'_>, lanes: &mut Lanes, figures: &mut Figures) {
        self.close.pick(answer);
        if answer.redirects > 0 {
            self.endings.pick(answer);
        }
        if answer.ok {
            return;
        }
        let key = (figures.kind_of(answer), lanes.lane_of(answer.url));
        let Some(at) = self.groups.get(&key) else {
            return;
        };
        let first = &mut figures.groups[*at].first;
        if first.len() < FIRST_ROWS {
            first.push(ListedRow::of(answer));
        }
    }
}

/// Counters by the hash of a URL: URLs that are rare have a small one for certain.
struct EndingFilter {
    counters: Vec<u8>,
}

impl EndingFilter {
    const COUNTERS: usize = 1 << 22;

    fn new() -> Self {
        Self {
            counters: Vec::new(),
        }
    }

    fn count(&mut self, url: &[u8]) {
        if self.counters.is_empty() {
            self.counters.resize(Self::COUNTERS, 0);
        }
        let counter = &mut self.counters[Self::slot(url)];
        *counter = counter.saturating_add(1);
    }

    fn may_be_suspicious(&self, url: &[u8]) -> bool {
        self.counters
            .get(Self::slot(url))
            .is_some_and(|count| u64::from(*count) >= MIN_ENDING)
    }

    fn slot(url: &[u8]) -> usize {
        let mut hasher = DefaultHasher::new();
        hasher.write(without_query(url));
        usize::try_from(hasher.finish() % (Self::COUNTERS as u64)).expect("a small number")
    }
}

fn without_query(url: &[u8]) -> &[u8] {
    let end = url
        .iter()
        .position(|byte| matches!(byte, b'?' | b'#'))
        .unwrap_or(url.len());
    &url[..end]
}

struct Endings {
    filter: EndingFilter,
    found: HashMap<Vec<u8>, Ending>,
}

impl Endings {
    fn pick(&mut self, answer: &Answer<'_>) {
        if !self.filter.may_be_suspicious(answer.url) {
            return;
        }
        let key = without_query(answer.url);
        if !self.found.contains_key(key) {
            if self.found.len() >= MAX_ENDINGS {
                return;
            }
            let url = text::cell(&redact(answer.url));
            self.found.insert(
                key.to_vec(),
                Ending {
                    url,
                    rows: 0,
                    ok: 0,
                    first: Vec::new(),
                },
            );
        }
        let Some(ending) = self.found.get_mut(key) else {
            return;
        };
        ending.rows += 1;
        ending.ok += u64::from(answer.ok);
        if ending.first.len() < FIRST_ROWS {
            ending.first.push(answer.row);
        }
    }

    fn finish(self) -> Vec<Ending> {
        let is_suspicious = |ending: &Ending| ending.rows >= MIN_ENDING;
        let mut endings: Vec<_> = self.found.into_values().filter(is_suspicious).collect();
        endings.sort_unstable_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.url.cmp(&b.url)));
        endings
    }
}

/// The rows of the close view before they have lanes.
struct CloseRows {
    window: Option<(i64, i64)>,
    rows: Vec<(i64, i64, bool)>,
    left_out: usize,
}

impl CloseRows {
    fn new(timeline: &Timeline, rows: u64) -> Self {
        let max = MAX_MARKS as u64;
        // Rows that are in flight at the end of a stretch are shown, too.
        let window = if rows <= max {
            timeline.span()
        } else {
            timeline.busiest(max - max / 4)
        };
        Self {
            window,
            rows: Vec::new(),
            left_out: 0,
        }
    }

    fn pick(&mut self, answer: &Answer<'_>) {
        let (Some((start, end)), Some((from, to))) = (self.window, answer.interval()) else {
            return;
        };
        if to < start || from > end {
            return;
        }
        if self.rows.len() < MAX_MARKS {
            self.rows.push((from.max(start), to.min(end), answer.ok));
        } else {
            self.left_out += 1;
        }
    }

    fn finish(mut self) -> CloseView {
        let Some((from, to)) = self.window else {
            return CloseView::default();
        };
        self.rows.sort_unstable();
        let mut view = CloseView {
            from,
            to,
            left_out: self.left_out,
            ..CloseView::default()
        };
        let mut free_from: Vec<i64> = Vec::new();
        for (from, to, ok) in self.rows {
            let lane = match free_from.iter().position(|free| *free <= from) {
                Some(lane) => lane,
                None if free_from.len() < MAX_LANES => {
                    free_from.push(i64::MIN);
                    free_from.len() - 1
                }
                None => {
                    view.left_out += 1;
                    continue;
                }
            };
            free_from[lane] = to;
            view.marks.push(Mark { from, to, ok, lane });
        }
        view.lanes = free_from.len();
        view
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;
    use super::*;

    fn figures(sample: &Sample) -> Figures {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("answers.csv");
        std::fs::write(&path, sample.csv()).expect("a file in it");
        let file = AnswersFile::open(&path, b',', None).expect("an answers file");
        Figures::read(&file).expect("readable")
    }

    #[test]
    fn totals_are_those_of_the_file() {
        let sample = Sample::fetch(3_000);
        let figures = figures(&sample);
        assert_eq!(figures.totals, sample.totals());
        assert!(figures.totals.failed > 100);
        let hosts = figures
            .hosts
            .iter()
            .fold((0, 0), |(rows, ok), h| (rows + h.rows, ok + h.ok));
        assert_eq!(hosts, (figures.totals.rows, figures.totals.ok));
        let failures = figures.failures.values().sum::<u64>();
        assert_eq!(failures, figures.totals.failed);
        let columns = figures.timeline.columns();
        let ended: u64 = columns
            .columns
            .iter()
            .map(|column| column.ok + column.failed)
            .sum();
        assert_eq!(ended, figures.totals.rows);
        let histogram: u64 = figures
            .histogram
            .bins()
            .iter()
            .map(|bin| bin.ok + bin.failed)
            .sum();
        assert_eq!(histogram, figures.latencies.total());
    }

    #[test]
    fn groups_hold_the_first_ten_rows_in_the_order_of_the_file() {
        let figures = figures(&Sample::fetch(3_000));
        let group = &figures.groups[0];
        assert!(group.count > 10, "{}", group.count);
        assert_eq!(group.first.len(), FIRST_ROWS);
        assert!(
            group
                .first
                .iter()
                .all(|row| row.kind == figures.kinds[group.kind])
        );
        assert!(
            figures
                .groups
                .windows(2)
                .all(|pair| pair[0].count >= pair[1].count)
        );
        let in_groups: u64 = figures.groups.iter().map(|group| group.count).sum();
        assert_eq!(
            in_groups + figures.failures_without_group(),
            figures.totals.failed
        );
    }

    #[test]
    fn the_slowest_rows_come_first() {
        let sample = Sample::fetch(500);
        let figures = figures(&sample);
        assert_eq!(figures.slowest.len(), SLOWEST);
        assert!(
            figures
                .slowest
                .windows(2)
                .all(|w| w[0].elapsed_ms >= w[1].elapsed_ms)
        );
        assert_eq!(figures.slowest[0].elapsed_ms, Some(figures.latencies.max()));
    }

    #[test]
    fn five_redirects_to_one_url_are_suspicious_and_four_are_not() {
        let mut sample = Sample::fetch(50);
        for row in 0..4 {
            sample.redirected(row, "http://a.test/four");
        }
        for row in 4..9 {
            sample.redirected(row, &format!("http://a.test/login?next={row}"));
        }
        let endings = figures(&sample).endings;
        let [ending] = &endings[..] else {
            panic!("one ending, not {endings:?}")
        };
        assert_eq!(
            (ending.url.as_str(), ending.rows),
            ("http://a.test/login", 5)
        );
        assert_eq!(ending.first.len(), 5);
    }

    #[test]
    fn rows_of_one_lane_of_the_close_view_do_not_overlap() {
        for rows in [1_500, 5_000] {
            let close = figures(&Sample::fetch(rows)).close;
            assert!(close.marks.len() <= MAX_MARKS && close.marks.len() > 500);
            let mut free_from = vec![i64::MIN; close.lanes];
            for mark in &close.marks {
                assert!(free_from[mark.lane] <= mark.from && mark.to >= mark.from);
                free_from[mark.lane] = mark.to;
            }
        }
    }
}
