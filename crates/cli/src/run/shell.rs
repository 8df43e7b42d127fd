//! POSIX shell syntax: quotes a word, and follows which quotes a script is inside of.

/// The word as a shell reads it back: unchanged if no character of it is special, in single quotes
/// otherwise.
pub(super) fn quote(word: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+:,./-".contains(byte);
    if !word.is_empty() && word.iter().all(is_plain) {
        return word.to_vec();
    }
    let mut quoted = vec![b'\''];
    quoted.extend(escape_in_single(word));
    quoted.push(b'\'');
    quoted
}

/// The text as it is written between single quotes.
pub(super) fn escape_in_single(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'\'' => escaped.extend_from_slice(br"'\''"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// The text as it is written between double quotes.
pub(super) fn escape_in_double(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if b"\"$`\\".contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// What surrounds a position in a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// No quotes: at the top, in parentheses, in a command substitution.
    Plain,
    Single,
    Double,
    Comment,
}

/// Follows the quotes of a script from its start.
///
/// Here-documents and `case` patterns inside `$(…)` are not understood: [`Quotes::context`] is then
/// wrong. That costs a cell its quotes or adds some, and never makes code of a cell, because cells
/// are passed as variables.
#[derive(Debug)]
pub(super) struct Quotes {
    /// The open constructs, the innermost last; never empty.
    open: Vec<Open>,
    /// The last byte was a backslash that escapes the next one.
    escaped: bool,
    /// The last byte.
    last: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Script,
    Parenthesis,
    Backquote,
    Single,
    Double,
    Comment,
}

impl Quotes {
    pub(super) fn new() -> Self {
        Self {
            open: vec![Open::Script],
            escaped: false,
            last: b'\n',
        }
    }

    pub(super) fn context(&self) -> Context {
        match self.innermost() {
            Open::Script | Open::Parenthesis | Open::Backquote => Context::Plain,
            Open::Single => Context::Single,
            Open::Double => Context::Double,
            Open::Comment => Context::Comment,
        }
    }

    /// Goes on behind `text`.
    pub(super) fn read(&mut self, text: &[u8]) {
        for &byte in text {
            if self.escaped {
                self.escaped = false;
            } else {
                self.step(byte);
            }
            self.last = byte;
        }
    }

    /// Goes on behind a cell, which changes no quotes.
    pub(super) fn skip_cell(&mut self) {
        self.escaped = false;
        self.last = b'x';
    }

    fn step(&mut self, byte: u8) {
        let innermost = self.innermost();
        let is_closed = match innermost {
            Open::Script => false,
            Open::Parenthesis => byte == b')',
            Open::Backquote => byte == b'`',
            Open::Single => byte == b'\'',
            Open::Double => byte == b'"',
            Open::Comment => byte == b'\n',
        };
        if is_closed {
            self.open.pop();
            return;
        }
        match innermost {
            Open::Single | Open::Comment => {}
            Open::Double => match byte {
                b'\\' => self.escaped = true,
                b'`' => self.open.push(Open::Backquote),
                b'(' if self.last == b'$' => self.open.push(Open::Parenthesis),
                _ => {}
            },
            Open::Script | Open::Parenthesis | Open::Backquote => match byte {
                b'\\' => self.escaped = true,
                b'\'' => self.open.push(Open::Single),
                b'"' => self.open.push(Open::Double),
                b'`' => self.open.push(Open::Backquote),
                b'(' => self.open.push(Open::Parenthesis),
                b'#' if b" \t\n;&|(".contains(&self.last) => self.open.push(Open::Comment),
                _ => {}
            },
        }
    }

    fn innermost(&self) -> Open {
        self.open.last().copied().unwrap_or(Open::Script)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context_behind(script: &str) -> Context {
        let mut quotes = Quotes::new();
        quotes.read(script.as_bytes());
        quotes.context()
    }

    #[test]
    fn words_without_special_characters_are_not_quoted() {
        assert_eq!(quote(b"a/b-c_d.txt"), b"a/b-c_d.txt");
    }

    #[test]
    fn special_words_are_put_in_single_quotes() {
        assert_eq!(quote(b""), b"''");
        assert_eq!(quote(b"a b"), b"'a b'");
        assert_eq!(quote(b"it's"), br"'it'\''s'");
        assert_eq!(quote(b"A=b"), b"'A=b'");
        assert_eq!(quote("ä\n".as_bytes()), "'ä\n'".as_bytes());
    }

    #[test]
    fn quotes_are_followed_through_nesting_and_escapes() {
        for (script, expected) in [
            ("echo ", Context::Plain),
            ("echo '", Context::Single),
            ("echo 'a'", Context::Plain),
            ("echo \"", Context::Double),
            ("echo \"it's ", Context::Double),
            ("echo '\"", Context::Single),
            (r"echo \'", Context::Plain),
            (r#"echo "\""#, Context::Double),
            (r"echo '\'", Context::Plain),
            ("echo \"$(cat ", Context::Plain),
            ("echo \"$(cat \"", Context::Double),
            ("echo \"$(cat x) ", Context::Double),
            ("echo \"`cat ", Context::Plain),
            ("echo \"`cat x` ", Context::Double),
            ("echo \"(", Context::Double),
            ("(cd /; echo) ", Context::Plain),
            ("case x in a) ", Context::Plain),
            ("echo # don't", Context::Comment),
            ("echo # don't\n", Context::Plain),
            ("echo a#'", Context::Single),
        ] {
            assert_eq!(context_behind(script), expected, "{script}");
        }
    }
}
