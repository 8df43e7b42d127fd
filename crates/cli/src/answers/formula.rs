//! Cells that a spreadsheet would take for a formula.

/// Whether a spreadsheet may run `cell`: it starts with `=`, `+`, `-`, `@` or a control character
/// that spreadsheets skip, and is not a plain number.
pub(super) fn is_formula(cell: &[u8]) -> bool {
    match cell {
        [b'+' | b'-', number @ ..] => !is_number(number),
        [b'=' | b'@' | b'\t' | b'\r' | b'\n', ..] => true,
        _ => false,
    }
}

/// Whether `written` is what `--spreadsheet` makes of `cell`.
pub(super) fn is_escaped(written: &[u8], cell: &[u8]) -> bool {
    is_formula(cell) && written.strip_prefix(b"'") == Some(cell)
}

/// A number without a sign, as programs write them: `1`, `12.5`, `1e-7`.
fn is_number(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
        && str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::{is_escaped, is_formula};

    #[test]
    fn cells_that_could_run_are_formulas_and_plain_numbers_are_not() {
        for cell in [
            "=1",
            "+a",
            "-1+cmd|' /C calc'!A0",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "-",
            "-1e",
            "+.5",
            "\n=",
        ] {
            assert!(is_formula(cell.as_bytes()), "{cell:?}");
        }
        for cell in [
            "", "a=1", "-1", "+49", "-12.5", "-1e-7", "'=1", " =1", "1-2",
        ] {
            assert!(!is_formula(cell.as_bytes()), "{cell:?}");
        }
    }

    #[test]
    fn an_escaped_cell_is_told_from_a_changed_one() {
        assert!(is_escaped(b"'=1", b"=1"));
        assert!(!is_escaped(b"'=2", b"=1"));
        assert!(!is_escaped(b"'a", b"a"));
        assert!(!is_escaped(b"=1", b"=1"));
    }
}
