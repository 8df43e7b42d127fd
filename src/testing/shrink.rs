//! The shortest plan that still fails: strikes are left out, half of them at first, then fewer and
//! fewer, as long as the run fails without them (A. Zeller and R. Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002).

use std::future::Future;

use super::plan::Plan;
use super::run::{self, Run};
use super::sim::Sim;

/// So many runs are spent on it.
const MAX_RUNS: usize = 1000;

/// Returns the plan and its run, which fails.
pub(super) fn shrink<F, Fut>(seed: u64, failed: Run, max_steps: u64, scenario: &F) -> (Plan, Run)
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut best = failed;
    let mut runs = 0;
    let mut size = best.struck.strikes().len().div_ceil(2);
    while size > 0 && runs < MAX_RUNS {
        let before = best.struck.strikes().len();
        // From the last to the first: what is left out changes only what comes after it.
        let mut end = before;
        while end > 0 && runs < MAX_RUNS {
            let strikes = best.struck.strikes();
            let start = end.saturating_sub(size);
            let plan = Plan::new(strikes[..start].iter().chain(&strikes[end..]).copied());
            runs += 1;
            let ended = run::run(seed, &plan, max_steps, scenario);
            if ended.failed.is_some() {
                best = ended;
            }
            end = start.min(best.struck.strikes().len());
        }
        // Once more where something went, since the rest may go now.
        if size > 1 || best.struck.strikes().len() == before {
            size /= 2;
        }
        size = size.min(best.struck.strikes().len());
    }
    // What is told is a run by the very plan that is told.
    let plan = best.struck.clone();
    let again = run::run(seed, &plan, max_steps, scenario);
    if again.failed.is_some() {
        (plan, again)
    } else {
        (plan, best)
    }
}
