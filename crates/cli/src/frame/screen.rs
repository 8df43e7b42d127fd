//! Progress and messages on stderr: a bar on a terminal, otherwise a line now and then.

use std::collections::VecDeque;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::account::Account;
use super::lanes::{Cause, Waiting};
use crate::options::ProgressKind;

/// How often the bar is drawn anew.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Over which time the rate is taken.
const WINDOW: Duration = Duration::from_secs(5);

/// What is shown at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) account: &'a Account,
    pub(crate) running: usize,
    /// Rows that run or wait.
    pub(crate) in_work: u64,
    /// What jobs wait for while they run.
    pub(crate) busy: &'static str,
    pub(crate) causes: &'a [Waiting],
    /// How many of the rows came from a queue again.
    pub(crate) redelivered: u64,
}

pub(crate) struct Screen {
    kind: Kind,
    started: Instant,
    /// Between two lines where there is no bar.
    plain_interval: Duration,
    next_plain: Instant,
    /// Times, and how many rows of this run had answers then.
    history: VecDeque<(Instant, u64)>,
}

enum Kind {
    Bar(ProgressBar),
    Plain,
    None,
}

impl Screen {
    pub(crate) fn new(kind: ProgressKind, plain_interval: Duration, now: Instant) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let kind = match kind {
            ProgressKind::Bar => Kind::Bar(bar()),
            ProgressKind::Auto if is_terminal => Kind::Bar(bar()),
            ProgressKind::Auto | ProgressKind::Plain => Kind::Plain,
            ProgressKind::None => Kind::None,
        };
        Self {
            kind,
            started: now,
            plain_interval,
            next_plain: now + plain_interval,
            history: VecDeque::from([(now, 0)]),
        }
    }

    /// Writes a line above the bar. Where stderr is closed, it is lost.
    pub(crate) fn message(&self, message: impl fmt::Display) {
        let write = || drop(writeln!(std::io::stderr(), "{message}"));
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(write),
            Kind::Plain | Kind::None => write(),
        }
    }

    /// Shows the state of the run, if it is time to.
    pub(crate) fn show(&mut self, snapshot: &Snapshot<'_>, now: Instant) {
        let answered = snapshot.account.answered_now;
        self.history.push_back((now, answered));
        while self.history.len() > 2
            && self
                .history
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.history.pop_front();
        }
        let is_due = now >= self.next_plain;
        match &self.kind {
            Kind::Bar(bar) => {
                if let Some(total) = snapshot.account.total
                    && bar.length() != Some(total)
                {
                    bar.set_style(style("{bar:40} {percent}% {elapsed}\n{msg}"));
                    bar.set_length(total);
                }
                bar.set_position(snapshot.account.done());
                bar.set_message(self.text(snapshot, now, "\n"));
            }
            Kind::Plain if is_due => self.message(self.text(snapshot, now, "; ")),
            Kind::Plain | Kind::None => {}
        }
        if is_due {
            self.next_plain = now + self.plain_interval;
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }

    /// Rows a second, over the last seconds.
    fn rate(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.history.front(), self.history.back())
        else {
            return 0.0;
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds > 0.0 {
            (after - before) as f64 / seconds
        } else {
            0.0
        }
    }

    fn text(&self, snapshot: &Snapshot<'_>, now: Instant, separator: &str) -> String {
        let account = snapshot.account;
        let rate = self.rate();
        let unread = account
            .total
            .map(|total| total.saturating_sub(account.done() + snapshot.in_work));
        let total = account
            .total
            .map(|total| format!(" of {total}"))
            .unwrap_or_default();
        let mut parts = vec![format!(
            "{}{total} done, {} running, {} waiting{}, {rate:.0}/s{}",
            account.done(),
            snapshot.running,
            snapshot.in_work - (snapshot.running as u64).min(snapshot.in_work),
            unread
                .map(|rows| format!(", {rows} to come"))
                .unwrap_or_default(),
            self.left(account, rate, now),
        )];
        if snapshot.redelivered > 0 {
            parts.push(format!("redelivered: {}", snapshot.redelivered));
        }
        let causes: Vec<String> = snapshot
            .causes
            .iter()
            .filter(|waiting| waiting.cause != Cause::End)
            .map(|waiting| {
                let cause = match waiting.cause {
                    Cause::Busy => snapshot.busy,
                    cause => cause.name(),
                };
                let jobs = waiting.jobs;
                match waiting.detail.as_str() {
                    "" => format!("{jobs} {cause}"),
                    detail => format!("{jobs} {cause} ({detail})"),
                }
            })
            .collect();
        if !causes.is_empty() {
            parts.push(format!("waiting for: {}", causes.join(", ")));
        }
        if account.failed + account.bad > 0 {
            let mut kinds: Vec<String> = account
                .kinds
                .iter()
                .map(|(kind, count)| format!("{kind} {count}"))
                .collect();
            if account.bad > 0 {
                kinds.push(format!("bad rows {}", account.bad));
            }
            let kinds = kinds.join(", ");
            parts.push(format!("failed: {} ({kinds})", account.failed));
        }
        parts.join(separator)
    }

    fn left(&self, account: &Account, rate: f64, now: Instant) -> String {
        let Some(total) = account.total else {
            return String::new();
        };
        let left = total.saturating_sub(account.done());
        if rate <= 0.0 || left == 0 || now.duration_since(self.started) < Duration::from_secs(1) {
            return String::new();
        }
        let seconds = (left as f64 / rate).min(1e9);
        format!(", {} left", span(Duration::from_secs_f64(seconds)))
    }
}

/// A time as people say it: `2 h 47 min`, `3 min 20 s`, `41 s`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3541 => format!("{} min {} s", seconds / 60, seconds % 60),
        3541..172_741 => {
            let minutes = seconds.div_ceil(60);
            format!("{} h {} min", minutes / 60, minutes % 60)
        }
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A bar of which no part is known to be done until there is a total.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style("{elapsed}\n{msg}"));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is right")
        .progress_chars("█▌░")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_line_add_up() {
        let now = Instant::now();
        let mut screen = Screen::new(ProgressKind::None, TICK, now);
        let mut account = Account {
            total: Some(1000),
            bad: 2,
            ok: 90,
            ..Account::default()
        };
        account.answered(Some("timeout"));
        account.answered_now = 50;
        let causes = [Waiting {
            cause: Cause::RetryAfter,
            jobs: 30,
            detail: "http://h:80 41 s".into(),
        }];
        let snapshot = Snapshot {
            account: &account,
            running: 50,
            in_work: 80,
            busy: "server",
            causes: &causes,
            redelivered: 0,
        };
        let later = now + Duration::from_secs(5);
        screen.show(&snapshot, later);
        let text = screen.text(&snapshot, later, "; ");
        assert_eq!(
            text,
            "93 of 1000 done, 50 running, 30 waiting, 827 to come, 10/s, 1 min 31 s left; \
             waiting for: 30 Retry-After (http://h:80 41 s); failed: 1 (timeout 1, bad rows 2)"
        );
        assert_eq!(93 + 50 + 30 + 827, 1000);
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let spans = [1, 59, 61, 3600, 10_000, 200_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(
            spans,
            [
                "1 s",
                "59 s",
                "1 min 1 s",
                "1 h 0 min",
                "2 h 47 min",
                "2 days"
            ]
        );
    }
}
