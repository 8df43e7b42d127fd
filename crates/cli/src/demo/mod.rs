//! `brigade demo`: a server on loopback, a shipped CSV, a fetch, and a report.
