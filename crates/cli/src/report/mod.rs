//! `brigade report`: one HTML page from an answers file.
