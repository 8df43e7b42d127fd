//! What scheduling costs: time a job, compared with jobs without a schedule and with a peer, growth from ten
//! thousand to a million queued jobs, and the memory of delayed ones.

use brigade::JobHandle;

use crate::contender::Contender::{self, *};
use crate::count::{Run, live_bytes};
use crate::report::hold;
use crate::runtime::Load;
use crate::work::Ready;

const JOBS: u64 = 200_000;
/// The peer takes so long that fewer have to do.
const PEER_JOBS: u64 = 20_000;
const FEW: u64 = 10_000;
const MANY: u64 = 1_000_000;
/// As near to a power of two as a million is, and so is its half: tables that double are as full in
/// both.
const DELAYED: u64 = 250_000;
const WORKERS: usize = 10;

/// Measures, prints, and says whether every bound holds.
pub(crate) fn measure(rounds: u32) -> Result<bool, String> {
    let contenders: [(Contender, u64); 5] = [
        (Brigade, JOBS),
        (BrigadePolicies, JOBS),
        (Cronoq, PEER_JOBS),
        (BrigadeBacklog, FEW),
        (BrigadeBacklog, MANY),
    ];
    let mut times = contenders.map(|_| Vec::new());
    for _ in 0..rounds {
        // In turn, so that all see the same machine.
        for (&(contender, jobs), times) in contenders.iter().zip(&mut times) {
            // A short run takes the average of as many as a long one has jobs in.
            let repeats = (JOBS / jobs).max(1);
            let load = Load {
                jobs,
                at_once: WORKERS,
                threads: 1,
            };
            let wall: u64 = (0..repeats)
                .map(|_| contender.run(Ready, load).wall_ns)
                .sum();
            times.push(wall as f64 / (repeats * jobs) as f64);
        }
    }
    println!(
        "{:<24} {:>10} {:>12} {:>12}",
        "one thread", "jobs", "min ns/job", "median"
    );
    let least = std::array::from_fn::<f64, 5, _>(|at| {
        let (contender, jobs) = contenders[at];
        times[at].sort_by(f64::total_cmp);
        let (min, median) = (times[at][0], times[at][times[at].len() / 2]);
        println!(
            "{:<24} {jobs:>10} {min:>12.1} {median:>12.1}",
            contender.name()
        );
        min
    });
    let [straight, scheduled, peer, few, many] = least;
    println!(
        "policies beside none: {:.1} x; beside cronoq: {:.2} x",
        scheduled / straight,
        scheduled / peer
    );
    // Of a heap of a million, an operation looks at the logarithm of it: 20 levels, where ten
    // thousand have 13.3.
    let logarithm = (MANY as f64).log2() / (FEW as f64).log2();
    let bounds = [
        hold("a job with every policy on", scheduled / 1000.0, 1.0, "us"),
        hold(
            "a job of a million queued, beside one of ten thousand",
            many / few,
            1.25 * logarithm,
            "x",
        ),
        hold(
            "memory of a delayed job, beyond its input",
            delayed_bytes()?,
            200.0,
            "bytes",
        ),
    ];
    Ok(bounds.iter().all(|is_held| *is_held))
}

/// Heap bytes of a delayed job whose input is 8 bytes, beyond its handle.
fn delayed_bytes() -> Result<f64, String> {
    let held = |jobs| {
        live_bytes(Run {
            contender: Brigade,
            workload: "held",
            jobs,
            at_once: WORKERS,
        })
    };
    let bytes = (held(DELAYED)? as f64 - held(DELAYED / 2)? as f64) / (DELAYED / 2) as f64;
    Ok(bytes - size_of::<u64>() as f64 - size_of::<JobHandle<u64, u64, ()>>() as f64)
}
