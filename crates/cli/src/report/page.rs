//! The page: figures come in, and one HTML file without script comes out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::columns::Mode;
use super::figures::Figures;
use super::sections;
use super::sidecar::Sidecar;
use super::{chart, text};

/// The text of the only style element. Its digest is in the page's policy.
const STYLE: &str = include_str!("style.css");

/// What the page shows.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) title: String,
    pub(crate) figures: &'a Figures,
    pub(crate) sidecar: Option<&'a Sidecar>,
    /// Why a sidecar that is there is not used.
    pub(crate) notice: Option<String>,
}

/// A section that has something to show.
struct Section {
    id: &'static str,
    name: &'static str,
    body: Markup,
}

impl Page<'_> {
    pub(crate) fn render(&self) -> String {
        let title = text::cell(&self.title);
        let sections = self.sections();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy());
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="referrer" content="no-referrer";
                    title { (title) " – brigade report" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    div class="page" {
                        header {
                            p class="kicker" { "Report of " (self.figures.mode.command()) }
                            h1 { bdi { (title) } }
                            (self.when())
                            (self.notices())
                        }
                        main {
                            (self.totals())
                            nav aria-label="Sections" {
                                ul {
                                    @for section in &sections {
                                        li { a href={ "#" (section.id) } { (section.name) } }
                                    }
                                }
                            }
                            @for section in &sections {
                                section id=(section.id) aria-labelledby={ (section.id) "-name" } {
                                    h2 id={ (section.id) "-name" } { (section.name) }
                                    (section.body)
                                }
                            }
                        }
                        footer { (self.footer()) }
                    }
                }
            }
        };
        page.into_string()
    }

    fn sections(&self) -> Vec<Section> {
        let figures = self.figures;
        let runs = self.sidecar.map_or(&[][..], |sidecar| &sidecar.runs);
        let all = [
            ("time", "Over time", sections::time::over_time(figures)),
            ("latency", "Time of a row", sections::time::latency(figures)),
            ("causes", "Time by cause", sections::runs::causes(runs)),
            ("hosts", "Hosts", sections::rows::hosts(figures, runs)),
            ("failures", "Failures", sections::rows::failures(figures)),
            (
                "endings",
                "Suspicious endings",
                sections::rows::endings(figures),
            ),
            ("slowest", "Slowest rows", sections::rows::slowest(figures)),
            ("close", "A close view", sections::time::close_view(figures)),
            ("runs", "Runs", sections::runs::runs(runs)),
        ];
        let section = |(id, name, body): (_, _, Option<Markup>)| {
            Some(Section {
                id,
                name,
                body: body?,
            })
        };
        all.into_iter().filter_map(section).collect()
    }

    /// When the rows ran.
    fn when(&self) -> Markup {
        let span = self.figures.timeline.span();
        html! {
            @if let Some((from, to)) = span {
                p class="lead" {
                    (text::time(from)) " to " (text::time(to)) ", " (text::between(from, to))
                }
            }
        }
    }

    fn notices(&self) -> Markup {
        let is_without_sidecar = self.sidecar.is_none() && self.notice.is_none();
        html! {
            @if self.figures.totals.torn {
                p class="notice" {
                    "The last record of the file has no line end and is left out: the run was killed, "
                    "or it still writes."
                }
            }
            @if let Some(notice) = &self.notice {
                p class="notice" { bdi { (text::cell(notice)) } }
            }
            @if is_without_sidecar {
                p class="notice" {
                    "There is no sidecar (a file with " code { ".run.json" } " after the name of the "
                    "answers file), so settings, time by cause and pauses are not known. Their "
                    "sections are left out."
                }
            }
        }
    }

    fn totals(&self) -> Markup {
        let figures = self.figures;
        let totals = figures.totals;
        let share = |part: u64| part as f64 / totals.rows.max(1) as f64;
        html! {
            dl class="totals" {
                (total("Rows", "", "rows", totals.rows, None))
                (total("OK", "ok", "ok", totals.ok, Some(text::percent(totals.ok, totals.rows))))
                (total("Failed", "failed", "failed", totals.failed,
                    Some(text::percent(totals.failed, totals.rows))))
                @if let Some((rate, took)) = self.rate() {
                    div { dt { "Rows a second" } dd { (rate) small { "in " (took) } } }
                }
                (total(self.attempts_name(), "", "attempts", figures.attempts,
                    Some(text::counted(figures.retried, "row", "rows") + " tried again")))
                @if figures.mode == Mode::Fetch {
                    div { dt { "Received" } dd { (text::bytes(figures.bytes)) small { "in bodies" } } }
                }
            }
            @if totals.rows > 0 {
                (chart::bar("large", &[("ok", share(totals.ok)), ("failed", share(totals.failed))]))
            }
            p class="lead" { (self.added_up()) }
        }
    }

    fn attempts_name(&self) -> &'static str {
        match self.figures.mode {
            Mode::Fetch => "Requests",
            Mode::Run => "Starts",
        }
    }

    /// Rows a second and the time that they took, without the times in which nothing ran.
    fn rate(&self) -> Option<(String, String)> {
        let (from, to) = self.figures.timeline.span()?;
        let gaps: i64 = self
            .figures
            .timeline
            .columns()
            .gaps
            .iter()
            .map(|g| g.to - g.from)
            .sum();
        let took = u64::try_from(to - from - gaps)
            .ok()
            .filter(|took| *took > 0)?;
        let rate = self.figures.totals.rows as f64 / took as f64 * 1_000.0;
        Some((text::about(rate), text::duration(took)))
    }

    fn added_up(&self) -> String {
        let figures = self.figures;
        let mut sentence = format!(
            "Added up over all rows, they took {} for their {} and waited {} for limits",
            text::duration(figures.elapsed_ms),
            figures.mode.work(),
            text::duration(figures.queued_ms),
        );
        if figures.mode == Mode::Fetch {
            sentence += &format!(
                " and {} between attempts",
                text::duration(figures.backoff_ms)
            );
        }
        sentence + "."
    }

    fn footer(&self) -> Markup {
        html! {
            "Made by brigade " (env!("CARGO_PKG_VERSION")) " from the answers file alone"
            @if self.sidecar.is_some() { " and its sidecar" }
            ". Rows that are not in the file are not known here. URLs are shown without user names, "
            "queries and fragments. This page loads nothing and runs nothing."
        }
    }
}

fn total(name: &str, class: &str, id: &str, value: u64, note: Option<String>) -> Markup {
    html! {
        div {
            dt { (name) }
            dd class=[(!class.is_empty() && value > 0).then_some(class)] {
                data id={ "total-" (id) } value=(value) { (text::count(value)) }
                @if let Some(note) = note { small { (note) } }
            }
        }
    }
}

/// The page's policy: nothing but the one style.
fn policy() -> String {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_can_stand_in_a_page_as_it_is() {
        // A browser takes the digest after it has replaced these.
        assert!(!STYLE.contains(['\r', '\0', '<']));
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
