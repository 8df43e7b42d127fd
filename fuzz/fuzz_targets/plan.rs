//! Any bytes as the plan of a simulated run: nothing that strikes, at whatever step, loses a job or makes a wait without end.
#![no_main]

#[path = "../../tests/simulation/scenario.rs"]
mod scenario;

use brigade::testing::{Plan, replay};
use libfuzzer_sys::fuzz_target;

use self::scenario::{Allowed, scenario};

fuzz_target!(|data: &[u8]| {
    let Some((seed, plan)) = data.split_first_chunk::<2>() else { return };
    let plan = Plan::from_bytes(plan);
    let run = replay(u16::from_le_bytes(*seed).into(), &plan, |sim| scenario(sim, Allowed { fixed_rate: false }));
    if let Some(failed) = run.failed {
        panic!("{}seed {}, plan [{plan}]: {failed}", run.trace, u16::from_le_bytes(*seed));
    }
});
