//! Answers files for the tests: the same ones on each run.

use super::Totals;

const HEADER: [&str; 14] = [
    "row",
    "ok",
    "status_code",
    "final_url",
    "redirects",
    "content_type",
    "bytes",
    "attempts",
    "queued_ms",
    "backoff_ms",
    "elapsed_ms",
    "finished_at",
    "error_kind",
    "error",
];

/// Kinds of failures that had a URL, and those that had none.
const KINDS: [&str; 15] = [
    "dns",
    "connect",
    "tls",
    "timeout",
    "reset",
    "protocol",
    "too_many_redirects",
    "body_too_large",
    "http_status",
    "rate_limited",
    "retry_after",
    "host_down",
    "robots",
    "interrupted",
    "deadline",
];

/// The answers of a run of `brigade fetch`.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// The cells of the tool's columns after `url`, the input's column.
    pub(crate) rows: Vec<Vec<String>>,
}

/// A sequence of numbers that looks random.
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Sample {
    /// `rows` answers of eight hosts and fifty workers; about one in eight failed.
    pub(crate) fn fetch(rows: u64) -> Self {
        let mut numbers = Numbers::new(rows);
        let mut free = [1_767_323_045_000_u64; 50];
        let rows = (0..rows)
            .map(|row| answer(row, &mut free, &mut numbers))
            .collect();
        Self { rows }
    }

    /// Makes row `at` one that was redirected to `url`.
    pub(crate) fn redirected(&mut self, at: usize, url: &str) {
        self.set(at, "final_url", url);
        self.set(at, "redirects", "1");
    }

    pub(crate) fn set(&mut self, at: usize, column: &str, value: &str) {
        let column = HEADER
            .iter()
            .position(|name| *name == column)
            .expect("a column of the tool");
        self.rows[at][column + 1] = value.to_owned();
    }

    pub(crate) fn csv(&self) -> Vec<u8> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = std::iter::once("url").chain(HEADER);
        writer.write_record(header).expect("memory");
        for row in &self.rows {
            writer.write_record(row).expect("memory");
        }
        writer.into_inner().expect("memory")
    }

    pub(crate) fn totals(&self) -> Totals {
        let rows = self.rows.len() as u64;
        let ok = self.rows.iter().filter(|row| row[2] == "true").count() as u64;
        Totals {
            rows,
            ok,
            failed: rows - ok,
            torn: false,
        }
    }
}

fn answer(row: u64, free: &mut [u64], numbers: &mut Numbers) -> Vec<String> {
    let host = numbers.below(8).min(numbers.below(8));
    let url = format!("http://user:secret@host-{host}.test:8080/item/{row}?token=secret");
    let worker = (0..free.len())
        .min_by_key(|worker| free[*worker])
        .expect("workers");
    let slow = if numbers.below(50) == 0 { 4_000 } else { 0 };
    let elapsed = 20 + host * 15 + numbers.below(120) * numbers.below(8) + slow;
    let queued = numbers.below(40);
    let finished = free[worker] + queued + elapsed;
    free[worker] = finished;
    let kind = match numbers.below(60) {
        0..5 => KINDS[numbers.below(15) as usize],
        5..7 if host == 1 => "http_status",
        7 => "bad_url",
        _ => "",
    };
    let has_status = matches!(kind, "" | "http_status" | "rate_limited");
    let status = match kind {
        "" => "200",
        "http_status" => ["404", "500", "503"][numbers.below(3) as usize],
        "rate_limited" => "429",
        _ => "",
    };
    let is_sent = !matches!(kind, "bad_url" | "host_down" | "interrupted" | "robots");
    let attempts = if is_sent {
        1 + numbers.below(10) / 8
    } else {
        0
    };
    let error = if kind.is_empty() {
        String::new()
    } else {
        format!("{kind} at {url}")
    };
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(finished);
    vec![
        url.clone(),
        (row + 1).to_string(),
        kind.is_empty().to_string(),
        status.to_owned(),
        if kind == "bad_url" {
            String::new()
        } else {
            url
        },
        "0".to_owned(),
        if has_status {
            "text/html".to_owned()
        } else {
            String::new()
        },
        if has_status {
            (300 + numbers.below(5_000)).to_string()
        } else {
            String::new()
        },
        attempts.to_string(),
        queued.to_string(),
        ((attempts.saturating_sub(1)) * 1_000).to_string(),
        elapsed.to_string(),
        humantime::format_rfc3339_millis(time).to_string(),
        kind.to_owned(),
        error,
    ]
}
