//! Counts what became of the rows; the counts are the last line of a run.

use std::collections::BTreeMap;
use std::fmt;

/// What became of the rows so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Handed out by the input or done in earlier runs; the bad ones are apart.
    pub(crate) taken: u64,
    pub(crate) bad: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// How many rows failed in this run, by kind.
    pub(crate) kinds: BTreeMap<&'static str, u64>,
    /// How many of `ok` and `failed` are of this run.
    pub(crate) answered_now: u64,
    /// How many bad rows were reported one by one.
    pub(crate) bad_reported: u64,
    /// How many rows the input has, once that is known.
    pub(crate) total: Option<u64>,
}

impl Account {
    /// Rows that have an answer, bad ones included.
    pub(crate) const fn done(&self) -> u64 {
        self.bad + self.ok + self.failed
    }

    /// All rows that are known.
    pub(crate) fn rows(&self) -> u64 {
        self.total.unwrap_or(0).max(self.taken + self.bad)
    }

    pub(crate) fn not_started(&self) -> u64 {
        self.rows() - self.done()
    }

    pub(crate) fn answered(&mut self, kind: Option<&'static str>) {
        self.answered_now += 1;
        match kind {
            None => self.ok += 1,
            Some(kind) => {
                self.failed += 1;
                *self.kinds.entry(kind).or_default() += 1;
            }
        }
    }

    /// How many rows failed in this run, by kind: `connect 3, timeout 1`.
    pub(crate) fn listed(&self) -> Option<String> {
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        (!kinds.is_empty()).then(|| kinds.join(", "))
    }

    /// The exit code of a run that nothing stopped.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::from(self.bad + self.failed + self.not_started() > 0)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rows={} bad={} ok={} failed={} not_started={}",
            self.rows(),
            self.bad,
            self.ok,
            self.failed,
            self.not_started()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_adds_up_whether_the_total_is_known_or_not() {
        let mut account = Account {
            taken: 7,
            bad: 1,
            ..Account::default()
        };
        account.answered(None);
        account.answered(Some("timeout"));
        assert_eq!(
            account.to_string(),
            "rows=8 bad=1 ok=1 failed=1 not_started=5"
        );
        assert_eq!(account.listed().as_deref(), Some("timeout 1"));
        account.total = Some(20);
        assert_eq!(
            account.to_string(),
            "rows=20 bad=1 ok=1 failed=1 not_started=17"
        );
        assert_eq!((account.done(), account.exit_code()), (3, 1));
    }
}
