//! The command line of `brigade run`: words with placeholders come in, and for each row the
//! arguments of one process go out.
//!
//! A cell is put into an argument whatever it holds. It is never split, never read for further
//! placeholders, and never seen by a shell.
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{name}` | the cell of the column `name` |
//! | `{}` | the cell of the default column: that of `--column`, or the only one |
//! | `{.}` | the same without its extension |
//! | `{/}` | what follows its last slash |
//! | `{//}` | what precedes its last slash, `.` if it has none |
//! | `{/.}` | what follows its last slash, without its extension |
//! | `{name.}`, `{name/}`, `{name//}`, `{name/.}` | the same of the column `name` |
//! | `{#}` | the number of the row, counted from 1 |
//! | `{{`, `}}` | a brace |
//!
//! A brace that is neither doubled nor closed is a brace. A command without a placeholder gets the
//! default column's cell as its last argument, as with GNU parallel and xargs, unless a column is
//! its standard input.
//!
//! With `--shell`, the words are joined with spaces and run by `sh -c`. Cells reach the script as
//! shell variables, and a placeholder expands the variable within the quotes that surround it. So
//! `{name}`, `"{name}"` and `'{name}'` all give one word with the cell's text, and no cell can
//! become code. A command of the script that evaluates its arguments by itself (`eval`, `ssh`,
//! a program for `awk`) is beyond that.

use std::{
    error::Error,
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use brigade::csv::{Column, CsvError, Header, Row};

use super::shell::{self, Context, Quotes};

/// At most so many names are listed in an error.
const LISTED_NAMES: usize = 20;

/// A command line with placeholders, checked against the header.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    form: Form,
    stdin: Option<Column>,
}

#[derive(Clone, Debug)]
enum Form {
    /// Each word is one argument.
    Words(Vec<Vec<Piece>>),
    /// `sh -c` runs `script`, whose variables are set from the placeholders of `pieces`.
    Shell {
        script: OsString,
        pieces: Vec<(Context, Piece)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Cell(Column, Part),
    RowNumber,
}

/// What of a cell replaces a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    WithoutExtension,
    Basename,
    Dirname,
    Stem,
}

/// The ends of placeholders that ask for a part, the longest first.
const PARTS: [(&str, Part); 4] = [
    ("/.", Part::Stem),
    ("//", Part::Dirname),
    ("/", Part::Basename),
    (".", Part::WithoutExtension),
];

impl Template {
    /// Checks the placeholders of a command line; `default` is the column of `--column`.
    ///
    /// With `shell`, the words are a script.
    pub(crate) fn new(
        words: &[OsString],
        header: &Header,
        default: Option<Column>,
        shell: bool,
    ) -> Result<Self, TemplateError> {
        Self::build(words, header, default, shell, None)
    }

    /// As [`new`](Self::new), for a command that reads the cells of a column from its standard
    /// input: no cell is appended to its arguments.
    pub(crate) fn with_stdin(
        words: &[OsString],
        header: &Header,
        default: Option<Column>,
        shell: bool,
        stdin: Column,
    ) -> Result<Self, TemplateError> {
        Self::build(words, header, default, shell, Some(stdin))
    }

    fn build(
        words: &[OsString],
        header: &Header,
        default: Option<Column>,
        shell: bool,
        stdin: Option<Column>,
    ) -> Result<Self, TemplateError> {
        if words.is_empty() {
            return Err(TemplateError::NoCommand);
        }
        let parser = Parser { header, default };
        let mut words = words
            .iter()
            .map(|word| parser.word(word.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let is_placeholder = |piece: &Piece| !matches!(piece, Piece::Literal(_));
        if stdin.is_none() && !words.iter().flatten().any(is_placeholder) {
            words.push(vec![Piece::Cell(parser.default_column("")?, Part::Whole)]);
        }
        let form = if shell {
            shell_form(words)
        } else {
            Form::Words(words)
        };
        Ok(Self { form, stdin })
    }

    /// The program and its arguments for one row; `number` replaces `{#}`.
    pub(crate) fn argv(&self, row: &Row, number: u64) -> Vec<OsString> {
        match &self.form {
            Form::Words(words) => words
                .iter()
                .map(|pieces| {
                    let mut word = Vec::new();
                    for piece in pieces {
                        piece.append_to(&mut word, row, number);
                    }
                    OsString::from_vec(word)
                })
                .collect(),
            Form::Shell { script, pieces } => {
                let mut argv = vec!["sh".into(), "-c".into(), script.clone(), "sh".into()];
                argv.extend(
                    pieces
                        .iter()
                        .filter(|(_, piece)| !matches!(piece, Piece::Literal(_)))
                        .map(|(_, piece)| OsString::from_vec(piece.text(row, number))),
                );
                argv
            }
        }
    }

    /// What the command reads from its standard input; `None` is no input.
    pub(crate) fn stdin(&self, row: &Row) -> Option<Vec<u8>> {
        self.stdin
            .map(|column| row.field(column).as_bytes().to_vec())
    }

    /// The command line of one row as a person would type it into a shell, for `--dry-run`.
    pub(crate) fn display(&self, row: &Row, number: u64) -> Vec<u8> {
        match &self.form {
            Form::Words(_) => self
                .argv(row, number)
                .iter()
                .map(|word| shell::quote(word.as_bytes()))
                .collect::<Vec<_>>()
                .join(&b' '),
            Form::Shell { pieces, .. } => pieces
                .iter()
                .flat_map(|(context, piece)| {
                    let text = piece.text(row, number);
                    match (piece, context) {
                        (Piece::Literal(_), _) | (_, Context::Comment) => text,
                        (_, Context::Plain) => shell::quote(&text),
                        (_, Context::Single) => shell::escape_in_single(&text),
                        (_, Context::Double) => shell::escape_in_double(&text),
                    }
                })
                .collect(),
        }
    }
}

/// Joins the words to a script, in which each placeholder expands a variable of its own.
///
/// The variables are set from the positional parameters before the first command, because
/// functions and `set` of the script change those.
fn shell_form(words: Vec<Vec<Piece>>) -> Form {
    let separator = || vec![Piece::Literal(b" ".to_vec())];
    let joined = words.into_iter().enumerate().flat_map(|(index, word)| {
        if index == 0 {
            word
        } else {
            [separator(), word].concat()
        }
    });

    let mut quotes = Quotes::new();
    let mut variables = 0_u64;
    let mut assignments = String::new();
    let mut script = Vec::new();
    let mut pieces = Vec::new();
    for piece in joined {
        let context = quotes.context();
        if let Piece::Literal(text) = &piece {
            quotes.read(text);
            script.extend_from_slice(text);
        } else {
            quotes.skip_cell();
            variables += 1;
            assignments.push_str(&format!("_brigade{variables}=${{{variables}}};"));
            let expansion = match context {
                Context::Plain => format!("\"${{_brigade{variables}}}\""),
                Context::Single => format!("'\"${{_brigade{variables}}}\"'"),
                Context::Double | Context::Comment => format!("${{_brigade{variables}}}"),
            };
            script.extend_from_slice(expansion.as_bytes());
        }
        pieces.push((context, piece));
    }
    if variables > 0 {
        assignments.push_str(&format!("shift {variables};"));
    }
    let script = OsString::from_vec([assignments.into_bytes(), script].concat());
    Form::Shell { script, pieces }
}

impl Piece {
    fn text(&self, row: &Row, number: u64) -> Vec<u8> {
        let mut text = Vec::new();
        self.append_to(&mut text, row, number);
        text
    }

    fn append_to(&self, word: &mut Vec<u8>, row: &Row, number: u64) {
        match self {
            Self::Literal(text) => word.extend_from_slice(text),
            Self::Cell(column, part) => {
                word.extend_from_slice(part.of(row.field(*column)).as_bytes());
            }
            Self::RowNumber => word.extend_from_slice(number.to_string().as_bytes()),
        }
    }
}

impl Part {
    fn of(self, cell: &str) -> &str {
        match self {
            Self::Whole => cell,
            Self::WithoutExtension => without_extension(cell),
            Self::Basename => basename(cell),
            Self::Dirname => match cell.rfind('/') {
                None => ".",
                Some(0) => "/",
                Some(index) => &cell[..index],
            },
            Self::Stem => without_extension(basename(cell)),
        }
    }
}

fn basename(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The path up to the last dot of its last component. A dot that begins the component is part of
/// the name.
fn without_extension(path: &str) -> &str {
    match basename(path).rfind('.') {
        None | Some(0) => path,
        Some(index) => &path[..path.len() - basename(path).len() + index],
    }
}

/// Turns words into pieces.
struct Parser<'a> {
    header: &'a Header,
    default: Option<Column>,
}

impl Parser<'_> {
    fn word(&self, word: &[u8]) -> Result<Vec<Piece>, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = word;
        while let Some((&first, tail)) = rest.split_first() {
            if (first == b'{' || first == b'}') && tail.first() == Some(&first) {
                literal.push(first);
                rest = &tail[1..];
                continue;
            }
            let end = tail.iter().position(|&byte| byte == b'}');
            if let (b'{', Some(end)) = (first, end) {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(self.placeholder(&tail[..end])?);
                rest = &tail[end + 1..];
                continue;
            }
            literal.push(first);
            rest = tail;
        }
        // An empty word is an empty argument.
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(pieces)
    }

    fn placeholder(&self, name: &[u8]) -> Result<Piece, TemplateError> {
        let name = String::from_utf8_lossy(name);
        if name == "#" {
            return Ok(Piece::RowNumber);
        }
        if name.is_empty() || PARTS.iter().any(|(end, _)| name == *end) {
            let part = PARTS.iter().find(|(end, _)| name == *end);
            let column = self.default_column(&name)?;
            return Ok(Piece::Cell(
                column,
                part.map_or(Part::Whole, |(_, part)| *part),
            ));
        }
        let error = match self.header.column(&name) {
            Ok(column) => return Ok(Piece::Cell(column, Part::Whole)),
            Err(error) => error,
        };
        let with_part = PARTS.iter().find_map(|(end, part)| {
            let column = self.header.column(name.strip_suffix(end)?).ok()?;
            Some(Piece::Cell(column, *part))
        });
        with_part.ok_or_else(|| TemplateError::UnknownColumn {
            placeholder: format!("{{{name}}}"),
            source: error,
        })
    }

    /// The column of `--column`, or the only one; `name` is what asked for it, without braces.
    fn default_column(&self, name: &str) -> Result<Column, TemplateError> {
        if let Some(column) = self.default {
            return Ok(column);
        }
        match (self.header.column_count(), self.header.get(0)) {
            (1, Some(only)) => {
                self.header
                    .column(only)
                    .map_err(|source| TemplateError::UnknownColumn {
                        placeholder: format!("{{{name}}}"),
                        source,
                    })
            }
            (count, _) => Err(TemplateError::NoDefaultColumn {
                file: self.header.file().to_owned(),
                placeholder: format!("{{{name}}}"),
                count,
                first: self
                    .header
                    .iter()
                    .take(LISTED_NAMES)
                    .map(str::to_owned)
                    .collect(),
            }),
        }
    }
}

/// Why a command line cannot be used.
#[derive(Debug)]
pub(crate) enum TemplateError {
    /// Nothing follows `--`.
    NoCommand,
    /// A placeholder names a column that the file does not have.
    UnknownColumn {
        placeholder: String,
        source: CsvError,
    },
    /// A placeholder, or a command without one, asks for the default column of a file that has
    /// several.
    NoDefaultColumn {
        file: String,
        placeholder: String,
        count: usize,
        first: Vec<String>,
    },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => f.write_str("no command: write it after `--`"),
            Self::UnknownColumn {
                placeholder,
                source,
            } => write!(
                f,
                "placeholder {placeholder}: {source}; a literal brace is written {{{{ or }}}}"
            ),
            Self::NoDefaultColumn {
                file,
                placeholder,
                count,
                first,
            } => {
                write!(
                    f,
                    "{placeholder} needs `--column`: {file} has {count} columns ("
                )?;
                for (index, name) in first.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{name:?}")?;
                }
                f.write_str(if *count > first.len() { ", …)" } else { ")" })
            }
        }
    }
}

impl Error for TemplateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::UnknownColumn { source, .. } => Some(source),
            Self::NoCommand | Self::NoDefaultColumn { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, process::Command};

    use brigade::csv::Reader;

    use super::*;

    /// A file with the columns `url` and `other`, and one row.
    fn row(url: &str, other: &str) -> Row {
        let mut writer = brigade::csv::Writer::new(Vec::new());
        writer.write_row(["url", "other"]).unwrap();
        writer.write_row([url, other]).unwrap();
        let file = writer.finish().unwrap();
        let mut rows = Reader::new().from_reader("t.csv", file.as_slice()).unwrap();
        rows.next().unwrap().unwrap()
    }

    fn template(words: &[&str], row: &Row, shell: bool) -> Result<Template, TemplateError> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let default = row.header().column("url").unwrap();
        Template::new(&words, row.header(), Some(default), shell)
    }

    fn argv(words: &[&str], row: &Row) -> Vec<String> {
        let argv = template(words, row, false).unwrap().argv(row, 7);
        argv.into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    fn display(words: &[&str], row: &Row, shell: bool) -> String {
        String::from_utf8(template(words, row, shell).unwrap().display(row, 7)).unwrap()
    }

    /// What a script that is given to `--shell` writes.
    fn shell_output(script: &str, row: &Row) -> String {
        let argv = template(&[script], row, true).unwrap().argv(row, 7);
        output(&argv[0], &argv[1..])
    }

    /// What a program writes that makes no file, as code in a cell would.
    fn output(program: &OsStr, arguments: &[OsString]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory.path());
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{command:?}: {output:?}");
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, 0, "{command:?} ran a cell");
        String::from_utf8(output.stdout).unwrap()
    }

    const NASTY: [&str; 12] = [
        "",
        "-rf",
        "a b",
        "it's",
        "say \"hi\"",
        "two\nlines\n",
        "{other}",
        "{{}}",
        "$(touch owned)`touch owned`$HOME",
        "*",
        "a\\",
        "'; exit 3; '",
    ];

    #[test]
    fn placeholders_stand_for_cells_and_their_parts() {
        let row = row("dir.d/sub/name.tar.gz", "plain");
        for (word, expected) in [
            ("{url}", "dir.d/sub/name.tar.gz"),
            ("{}", "dir.d/sub/name.tar.gz"),
            ("a{other}b{#}c", "aplainb7c"),
            ("{.}", "dir.d/sub/name.tar"),
            ("{/}", "name.tar.gz"),
            ("{//}", "dir.d/sub"),
            ("{/.}", "name.tar"),
            ("{url/.}", "name.tar"),
            ("{other.}{other//}{other/}{other/.}", "plain.plainplain"),
        ] {
            assert_eq!(argv(&["x", word], &row), ["x", expected], "{word}");
        }
    }

    #[test]
    fn a_leading_dot_and_a_dot_of_a_directory_begin_no_extension() {
        assert_eq!(without_extension("a.d/.profile"), "a.d/.profile");
        assert_eq!(without_extension("a.d/name"), "a.d/name");
        assert_eq!(without_extension("a/.b.c"), "a/.b");
        assert_eq!(Part::Dirname.of("/name"), "/");
    }

    #[test]
    fn doubled_and_open_braces_are_braces() {
        let row = row("u", "o");
        for (word, expected) in [
            ("{{url}}", "{url}"),
            ("{{\"a\": {url}}}", "{\"a\": u}"),
            ("{{{url}}}", "{u}"),
            ("{", "{"),
            ("a}b", "a}b"),
            ("", ""),
        ] {
            assert_eq!(argv(&["x", word, "{other}"], &row), ["x", expected, "o"]);
        }
    }

    #[test]
    fn a_cell_is_one_argument_whatever_it_holds() {
        for cell in NASTY {
            let row = row(cell, "secret");
            assert_eq!(argv(&["x", "{}"], &row), ["x", cell]);
            assert_eq!(argv(&["x", "--a={}"], &row), ["x", &format!("--a={cell}")]);
        }
    }

    #[test]
    fn a_command_without_placeholder_gets_the_default_cell_last() {
        let row = row("u v", "o");
        assert_eq!(argv(&["x", "{{}}"], &row), ["x", "{}", "u v"]);
        assert_eq!(shell_output("printf '[%s]'", &row), "[u v]");
    }

    #[test]
    fn a_command_with_a_column_as_input_gets_no_cell_appended() {
        let row = row("u", "o");
        let other = row.header().column("other").unwrap();
        let words = ["wc".into(), "-c".into()];
        let template = Template::with_stdin(&words, row.header(), None, false, other).unwrap();
        assert_eq!(template.argv(&row, 1), ["wc", "-c"]);
        assert_eq!(template.stdin(&row), Some(b"o".to_vec()));
    }

    #[test]
    fn the_only_column_is_the_default() {
        let file = b"name\nA\n".as_slice();
        let mut rows = Reader::new().from_reader("t.csv", file).unwrap();
        let row = rows.next().unwrap().unwrap();
        let words = ["x".into(), "{}".into()];
        let template = Template::new(&words, row.header(), None, false).unwrap();
        assert_eq!(template.argv(&row, 1), ["x", "A"]);
    }

    #[test]
    fn unknown_columns_are_named_and_the_columns_listed() {
        let row = row("u", "o");
        let error = template(&["x", "{id}"], &row, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "placeholder {id}: t.csv:1: no column \"id\": the header has 2 columns \
             (\"url\", \"other\"); a literal brace is written {{ or }}"
        );
    }

    #[test]
    fn a_default_column_is_asked_for_where_there_are_several() {
        let row = row("u", "o");
        for words in [&["x", "{/}"][..], &["x"][..]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let error = Template::new(&words, row.header(), None, false).unwrap_err();
            let message = error.to_string();
            let expected = "needs `--column`: t.csv has 2 columns (\"url\", \"other\")";
            assert!(message.ends_with(expected), "{message}");
        }
        let error = Template::new(&[], row.header(), None, false).unwrap_err();
        assert_eq!(error.to_string(), "no command: write it after `--`");
    }

    #[test]
    fn no_cell_becomes_code_of_a_shell_within_any_quotes() {
        for cell in NASTY {
            let row = row(cell, "other");
            for (script, expected) in [
                ("printf '[%s]' {url} {other}", format!("[{cell}][other]")),
                ("printf '[%s]' a{url}b", format!("[a{cell}b]")),
                ("printf '[%s]' \"a {url} b\"", format!("[a {cell} b]")),
                ("printf '[%s]' 'a {url} b'", format!("[a {cell} b]")),
                (
                    "printf '[%s]' \"$(printf %s {url}; printf .)\"",
                    format!("[{cell}.]"),
                ),
                (
                    "set -- x; f() {{ printf '[%s]' {url}; }}; f y",
                    format!("[{cell}]"),
                ),
                (
                    "printf '[%s]' \"$#\" {#}  # don't\nprintf '[%s]' {url}",
                    format!("[0][7][{cell}]"),
                ),
            ] {
                assert_eq!(shell_output(script, &row), expected, "{script}");
            }
            // Quotes in a here-document are not understood, and still nothing runs.
            let output = shell_output("cat <<END\nit's {url}\nEND\n", &row);
            assert!(output.contains(cell), "{output}");
        }
    }

    #[test]
    fn the_displayed_command_line_means_the_same_to_a_shell() {
        for cell in NASTY {
            let row = row(cell, "o");
            for script in [
                "printf '[%s]' {url} x{url}",
                "printf '[%s]' \"a {url} b\"",
                "printf '[%s]' 'a {url} b'",
            ] {
                let line = display(&[script], &row, true);
                let text = output("sh".as_ref(), &["-c".into(), line.clone().into()]);
                assert_eq!(text, shell_output(script, &row), "{line}");
            }
            let line = display(&["printf", "[%s]", "{}"], &row, false);
            let text = output("sh".as_ref(), &["-c".into(), line.clone().into()]);
            assert_eq!(text, format!("[{cell}]"), "{line}");
        }
        let row = row("a b", "it's");
        assert_eq!(
            display(&["x", "{}", "{other}"], &row, false),
            r"x 'a b' 'it'\''s'"
        );
        assert_eq!(display(&["x \"{}\""], &row, true), "x \"a b\"");
    }

    #[test]
    fn words_that_are_not_utf_8_stay_as_they_are() {
        let row = row("u", "o");
        let word = OsString::from_vec(b"\xff{url}\xfe".to_vec());
        let template = Template::new(&["x".into(), word], row.header(), None, false).unwrap();
        assert_eq!(template.argv(&row, 1)[1].as_bytes(), b"\xffu\xfe");
    }
}
