//! `brigade fetch`: one request for each row, and one for each hop of its redirects.
