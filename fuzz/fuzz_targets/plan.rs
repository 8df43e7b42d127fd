//! Any bytes as the plan of a simulated run: nothing that is injected, at whatever step, loses a job or
//! makes a wait without end.
#![no_main]

#[path = "../../tests/corpora/plan.rs"]
mod plan;
#[path = "../../tests/simulation/scenario.rs"]
mod scenario;

libfuzzer_sys::fuzz_target!(|data: &[u8]| plan::check(data));
