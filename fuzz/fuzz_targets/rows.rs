//! Any bytes as a CSV file: each record comes once, in the order of its lines, as a row or as an
//! error that names its line; a fatal error is the last; and nothing panics.
#![no_main]

#[path = "../../tests/corpora/rows.rs"]
mod rows;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rows::check(data));
