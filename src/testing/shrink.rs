//! The shortest plan that still fails: strikes are left out, half of them at first, then fewer and fewer, as long as the run fails
//! without them (A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).

use std::future::Future;

use super::plan::{Plan, Strike};
use super::run::{self, Run};
use super::sim::Sim;

/// So many runs are spent on it.
const MOST_RUNS: usize = 500;

/// Returns the plan and its run, which fails.
pub(super) fn shrink<F, Fut>(seed: u64, failed: Run, max_steps: u64, scenario: &F) -> (Plan, Run)
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut best = failed;
    let mut runs = 0;
    let mut size = best.struck.strikes().len().div_ceil(2);
    while size > 0 && runs < MOST_RUNS {
        let strikes = best.struck.strikes().to_vec();
        let shorter = (0..strikes.len()).step_by(size).find_map(|start| {
            let without = strikes.iter().enumerate().filter(|(at, _)| !(start..start + size).contains(at));
            let plan = Plan::new(without.map(|(_, strike)| *strike).collect::<Vec<Strike>>());
            runs += 1;
            let ended = run::run(seed, &plan, max_steps, scenario);
            ended.failed.is_some().then_some(ended)
        });
        match shorter {
            Some(shorter) => {
                best = shorter;
                size = size.min(best.struck.strikes().len());
            }
            None => size /= 2,
        }
    }
    // What is told is a run by the very plan that is told.
    let plan = best.struck.clone();
    let again = run::run(seed, &plan, max_steps, scenario);
    if again.failed.is_some() { (plan, again) } else { (plan, best) }
}
