//! The sections of the page: figures come in, and the markup of one section comes out, or nothing
//! where there is nothing to show.

pub(crate) mod rows;
pub(crate) mod runs;
pub(crate) mod time;

use maud::{Markup, html};

use super::text;

/// Rows of a table that are shown without a frame that scrolls upright.
const MAX_LOW: usize = 25;

/// A chart with its name, its summary and the table of its numbers.
///
/// The name labels the figure; the summary is read once, as a part of the caption.
struct Figure<'a> {
    id: &'a str,
    name: &'a str,
    summary: String,
    chart: Markup,
    table: Table<'a>,
}

/// A table in a frame that scrolls, whose first column stays.
struct Table<'a> {
    caption: &'a str,
    head: &'a [Head],
    rows: Vec<Vec<Cell>>,
}

/// The heading of a column.
enum Head {
    Text(&'static str),
    /// Above numbers.
    Number(&'static str),
}

/// A cell of a table. The first one of a row is its heading.
enum Cell {
    /// A host or another name that may be long.
    Name(String),
    /// A number, aligned to the right.
    Number(String),
    /// A number of failures.
    Failures(u64),
    /// Text of the file, which may be long or run from right to left.
    Text(String),
    /// A short text.
    Word(String),
}

impl Figure<'_> {
    fn render(self) -> Markup {
        html! {
            figure aria-labelledby=(self.id) {
                figcaption {
                    h3 id=(self.id) { (self.name) }
                    p { (self.summary) }
                }
                (self.chart)
                details {
                    summary { "Table: " (self.table.caption) }
                    (self.table.render())
                }
            }
        }
    }
}

impl Table<'_> {
    fn render(self) -> Markup {
        let class = if self.rows.len() > MAX_LOW {
            "scroll tall"
        } else {
            "scroll"
        };
        html! {
            div class=(class) tabindex="0" role="region" aria-label=(self.caption) {
                table {
                    thead {
                        tr {
                            @for head in self.head {
                                @match head {
                                    Head::Text(name) => th scope="col" { (name) },
                                    Head::Number(name) => th scope="col" class="n" { (name) },
                                }
                            }
                        }
                    }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                @for (at, cell) in row.iter().enumerate() { (cell.render(at == 0)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Cell {
    fn count(number: u64) -> Self {
        Self::Number(text::count(number))
    }

    fn ms(ms: Option<u64>) -> Self {
        Self::Number(ms.map_or_else(|| "–".to_owned(), text::count))
    }

    fn render(&self, is_first: bool) -> Markup {
        html! {
            @match self {
                Self::Name(name) => th scope="row" class="host" { bdi { (name) } },
                Self::Number(number) if is_first => th scope="row" class="n" { (number) },
                Self::Number(number) => td class="n" { (number) },
                Self::Failures(0) => td class="n zero" { "0" },
                Self::Failures(number) => td class="n failed" { (text::count(*number)) },
                Self::Text(text) => td class="text" { bdi { (text) } },
                Self::Word(word) if is_first => th scope="row" class="word" { bdi { (word) } },
                Self::Word(word) => td class="word" { bdi { (word) } },
            }
        }
    }
}
