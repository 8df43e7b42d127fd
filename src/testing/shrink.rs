//! Shrinks the plan of a failed run: leaves out injections, half of them at first, then fewer and
//! fewer, as long as the run fails without them (A. Zeller and R. Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002).

use std::future::Future;

use super::plan::Plan;
use super::run::{self, Run};
use super::sim::Sim;

/// How many runs `shrink` makes at most.
const MAX_RUNS: usize = 1000;

/// Returns the plan and its run, which fails.
pub(super) fn shrink<F, Fut>(seed: u64, failed: Run, max_steps: u64, scenario: &F) -> (Plan, Run)
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut best = failed;
    let mut runs = 0;
    let mut size = best.injected.injections().len().div_ceil(2);
    while size > 0 && runs < MAX_RUNS {
        let before = best.injected.injections().len();
        // From the last to the first: leaving out an injection changes only what comes after it.
        let mut end = before;
        while end > 0 && runs < MAX_RUNS {
            let injections = best.injected.injections();
            let start = end.saturating_sub(size);
            let plan = Plan::new(
                injections[..start]
                    .iter()
                    .chain(&injections[end..])
                    .copied(),
            );
            runs += 1;
            let ended = run::run(seed, &plan, max_steps, scenario);
            if ended.failed.is_some() {
                best = ended;
            }
            end = start.min(best.injected.injections().len());
        }
        // The same size again if an injection was left out, since others may now be left out too.
        if size > 1 || best.injected.injections().len() == before {
            size /= 2;
        }
        size = size.min(best.injected.injections().len());
    }
    // The trace that is returned belongs to exactly the plan that is returned.
    let plan = best.injected.clone();
    let again = run::run(seed, &plan, max_steps, scenario);
    if again.failed.is_some() {
        (plan, again)
    } else {
        (plan, best)
    }
}
