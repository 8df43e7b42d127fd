//! Any bytes as the plan of a simulated run: no injection, at any step, loses a job or
//! makes a wait without end.

use brigade::testing::{Plan, replay};

use crate::scenario::{Allowed, scenario};

pub(crate) fn check(data: &[u8]) {
    let Some((seed, plan)) = data.split_first_chunk::<2>() else {
        return;
    };
    let plan = Plan::from_bytes(plan);
    let run = replay(u16::from_le_bytes(*seed).into(), &plan, |sim| {
        scenario(
            sim,
            Allowed {
                fixed_rate: false,
                fixed_order: false,
            },
        )
    });
    if let Some(failed) = run.failed {
        panic!(
            "{}seed {}, plan [{plan}]: {failed}",
            run.trace,
            u16::from_le_bytes(*seed)
        );
    }
}
