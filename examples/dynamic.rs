//! Jobs that add jobs: a directory tree is walked to its leaves. The map ends when the last leaf is
//! done, not when the queue is empty for a moment, and the program need not count.
//!
//! `cargo run --example dynamic`

use std::io;
use std::path::{Path, PathBuf};

use brigade::rt::SmolGlobal;
use brigade::{Pool, Submitter};

/// What is found at a path.
enum Found {
    File(u64),
    Directory(Vec<PathBuf>),
}

fn look(path: &Path) -> io::Result<Found> {
    if path.is_dir() {
        let children = path
            .read_dir()?
            .map(|child| child.map(|child| child.path()))
            .collect::<io::Result<_>>()?;
        Ok(Found::Directory(children))
    } else {
        Ok(Found::File(path.metadata()?.len()))
    }
}

/// The handler: answers how many bytes a file has; a directory has none of its own, but adds what
/// is in it.
async fn visit(path: PathBuf, jobs: Submitter<PathBuf, u64, io::Error>) -> io::Result<u64> {
    // The file system blocks, so it is asked on a thread that may wait.
    match smol::unblock(move || look(&path)).await? {
        Found::File(bytes) => Ok(bytes),
        Found::Directory(children) => {
            for child in children {
                jobs.add(child).map_err(io::Error::other)?;
            }
            Ok(0)
        }
    }
}

/// The same with plain recursion, to compare with: how many paths, how many bytes.
fn recurse(path: &Path) -> io::Result<(usize, u64)> {
    match look(path)? {
        Found::File(bytes) => Ok((1, bytes)),
        Found::Directory(children) => children.iter().try_fold((1, 0), |(paths, bytes), child| {
            let below = recurse(child)?;
            Ok((paths + below.0, bytes + below.1))
        }),
    }
}

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let expected = recurse(&root)?;

    let (pool, workers) = Pool::builder().workers(4).build_with_submitter(visit);
    workers.spawn_on(&SmolGlobal);
    let mut bytes = 0;
    let walk = pool
        .map([root])
        .for_each(|completion| bytes += completion.result.expect("the tree can be read"));
    let summary = smol::block_on(walk);

    assert!(summary.is_complete());
    assert_eq!((summary.succeeded, bytes), expected);
    println!("one input became {} jobs", summary.accepted);
    println!("the files below it have {bytes} bytes, as plain recursion says too");
    Ok(())
}
