//! The server, as clients see it that read and write bytes.
mod client;
mod counters;
mod hostility;
mod lifetime;
mod paths;
mod tls;
