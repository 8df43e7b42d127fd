//! An HTTP server on loopback that does what its URLs say.
#![forbid(unsafe_code)]
