//! Any bytes as what happens to the schedule: it does what a naive one does, which looks through
//! all its jobs each time.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| brigade::fuzzing::schedule(data));
