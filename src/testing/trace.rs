//! The trace of a run, one line a step; of a long run, only the end. Pure.

use std::collections::VecDeque;
use std::fmt::{self, Write};

/// How many lines are kept.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Trace {
    /// At most [`MOST`].
    lines: VecDeque<String>,
    /// How many lines were removed.
    removed: u64,
}

impl Trace {
    pub(super) fn add(&mut self, line: fmt::Arguments<'_>) {
        if self.lines.len() == MOST {
            self.lines.pop_front();
            self.removed += 1;
        }
        self.lines.push_back(line.to_string());
    }

    /// All lines that are kept, after the number of those that are not.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if self.removed > 0 {
            let _ = writeln!(text, "({} lines before)", self.removed);
        }
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_run_is_kept() {
        let mut trace = Trace::default();
        (0..MOST + 2).for_each(|n| trace.add(format_args!("{n}")));
        let text = trace.text();
        assert_eq!(text.lines().next(), Some("(2 lines before)"));
        assert_eq!(text.lines().nth(1), Some("2"));
        assert_eq!(text.lines().count(), MOST + 1);
    }
}
