//! Workers that are left alone, as the measurement runs them.

use std::process::Command;

#[test]
fn each_job_has_its_result_if_no_worker_is_disturbed() {
    let output = Command::new(env!("CARGO_BIN_EXE_brigade-chaos"))
        .args(["scale", "sqlite", "--jobs", "500", "--workers", "2"])
        .output()
        .expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains(" jobs=500 workers=2 "), "{text}{errors}");
}
