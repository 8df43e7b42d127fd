//! The one place that writes to stdout and stderr: results to the one, messages and the progress
//! bar to the other, and none into the middle of another.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How many lines of one kind are written before they are only counted.
const MOST_LINES: u64 = 20;

/// Stdout and stderr. A clone writes to the same.
#[derive(Clone)]
pub(crate) struct Screen {
    /// Draws only if stderr is a terminal.
    bar: ProgressBar,
    /// Whether results could land in the middle of the bar.
    is_shared: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} rows")
            .expect("the template has only keys that indicatif knows");
        Self {
            bar: ProgressBar::new(0).with_style(style),
            is_shared: io::stdout().is_terminal(),
        }
    }

    /// Writes a line to stdout. A slow reader of stdout blocks this call, and so the results that are
    /// not read yet.
    pub(crate) fn result(&self, line: &str) -> io::Result<()> {
        let write = || io::stdout().write_all(format!("{line}\n").as_bytes());
        if self.is_shared {
            self.bar.suspend(write)
        } else {
            write()
        }
    }

    /// Writes a line to stderr. If that fails, there is nowhere left to say so.
    pub(crate) fn message(&self, line: impl fmt::Display) {
        let _ = self
            .bar
            .suspend(|| io::stderr().write_all(format!("{line}\n").as_bytes()));
    }

    pub(crate) fn row_read(&self) {
        self.bar.inc_length(1);
    }

    pub(crate) fn row_done(&self) {
        self.bar.inc(1);
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Messages of one kind: the first few are written, the others counted.
pub(crate) struct Messages {
    screen: Screen,
    count: u64,
}

impl Messages {
    pub(crate) fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            count: 0,
        }
    }

    pub(crate) fn add(&mut self, line: impl fmt::Display) {
        self.count += 1;
        if self.count <= MOST_LINES {
            self.screen.message(line);
        }
    }

    /// How many were written.
    pub(crate) fn written(&self) -> u64 {
        self.count.min(MOST_LINES)
    }
}
