//! `brigade run`: one command for each row.
