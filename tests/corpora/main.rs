//! What the fuzzers have found, once more: inputs that reach what no other does, and all that ever
//! broke something. Those for the schedule are run by its unit tests.

mod plan;
mod rows;
#[path = "../simulation/scenario.rs"]
#[expect(
    dead_code,
    reason = "some actions are for simulations of one fault each"
)]
mod scenario;

fn each_of(name: &str, check: impl Fn(&[u8])) {
    let directory = format!("{}/tests/corpora/found/{name}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() > 20, "only {} files", files.len());
    for file in files {
        println!("{}", file.display());
        check(&std::fs::read(file).unwrap());
    }
}

#[test]
fn rows_of_any_bytes_come_once_and_in_order() {
    each_of("rows", rows::check);
}

#[test]
fn no_plan_of_any_bytes_loses_a_job() {
    each_of("plan", plan::check);
}
