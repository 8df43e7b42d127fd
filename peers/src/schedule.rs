//! What scheduling costs: time a job beside the straight path and beside a peer, growth from ten thousand to a million
//! queued jobs, and the memory of a million delayed ones.

use std::time::{Duration, Instant};

use brigade::Pool;
use stats_alloc::Region;

use crate::workload::Workload;
use crate::{ALLOCATOR, hold};

const JOBS: u64 = 200_000;
/// The peer takes so long that fewer have to do.
const PEER_JOBS: u64 = 20_000;
const FEW: u64 = 10_000;
const MANY: u64 = 1_000_000;

/// Measures, prints, and says whether every bound holds.
pub(crate) fn measure(rounds: u32) -> bool {
    let contenders = [
        (Workload::Straight, JOBS),
        (Workload::Scheduled, JOBS),
        (Workload::Cronoq, PEER_JOBS),
        (Workload::Backlog, FEW),
        (Workload::Backlog, MANY),
    ];
    let mut times = contenders.map(|_| Vec::new());
    for _ in 0..rounds {
        // In turn, so that all see the same machine.
        for ((workload, jobs), times) in contenders.iter().zip(&mut times) {
            // A short run takes the average of as many as a long one has jobs in.
            let repeats = (JOBS / jobs).max(1);
            let start = Instant::now();
            (0..repeats).for_each(|_| workload.run(*jobs));
            times.push(start.elapsed().as_nanos() as f64 / (repeats * jobs) as f64);
        }
    }
    println!("{:<24} {:>10} {:>12} {:>12}", "one thread", "jobs", "min ns/job", "median");
    let least = std::array::from_fn::<f64, 5, _>(|at| {
        let (workload, jobs) = contenders[at];
        times[at].sort_by(f64::total_cmp);
        let (min, median) = (times[at][0], times[at][times[at].len() / 2]);
        println!("{:<24} {jobs:>10} {min:>12.1} {median:>12.1}", format!("{workload:?}"));
        min
    });
    let [straight, scheduled, peer, few, many] = least;
    println!("Scheduled beside Straight: {:.1} x; beside Cronoq: {:.2} x", scheduled / straight, scheduled / peer);
    // Of a heap of a million, an operation looks at the logarithm of it: 20 levels, where ten thousand have 13.3.
    let logarithm = (MANY as f64).log2() / (FEW as f64).log2();
    let bounds = [
        hold("a job with every policy on", scheduled / 1000.0, 1.0, "us"),
        hold("a job of a million queued, beside one of ten thousand", many / few, 1.25 * logarithm, "x"),
        hold("memory of a job of a million delayed, beyond its input", delayed_bytes(), 200.0, "bytes"),
    ];
    bounds.iter().all(|is_held| *is_held)
}

/// Heap bytes of each of a million delayed jobs whose input is 8 bytes.
fn delayed_bytes() -> f64 {
    let capacity = MANY as usize;
    let (pool, _workers) =
        Pool::builder().workers(10).queue_capacity(capacity).build(|n: u64| async move { Ok::<_, ()>(n) });
    let mut handles = Vec::with_capacity(capacity);
    let region = Region::new(ALLOCATOR);
    for n in 0..MANY {
        let job = pool.job(n).delay(Duration::from_secs(3600 + n % 1000));
        handles.push(job.try_submit().expect("there is room"));
    }
    let grown = region.change();
    assert_eq!(pool.stats().delayed, capacity);
    let bytes = grown.bytes_allocated as f64 - grown.bytes_deallocated as f64;
    bytes / MANY as f64 - size_of::<u64>() as f64
}
