//! The answers file: written in whole records, and read again to resume.
