//! `brigade run`: counts, signals and resuming are those of `fetch`.

use rustix::process::Signal;

use crate::process::Brigade;
use crate::scene::Scene;

fn run(scene: &Scene) -> Brigade {
    Brigade::new(scene.path(), "run").args(["in.csv", "-o", "out.csv"])
}

#[test]
fn cells_reach_a_command_as_they_are() {
    let scene = Scene::new(0);
    scene.write(
        "in.csv",
        "id,text\n1,$(touch evil)\n2,; touch evil\n3,\"a \"\"b\"\"\nc\"\n4,-n\n",
    );
    let ended = run(&scene)
        .args(["--", "printf", "%s|", "{text}", "{id}"])
        .run();
    ended.assert(0, [4, 0, 4, 0, 0]);
    let answers = scene.answers();
    assert_eq!(answers.cell(1, "stdout"), "$(touch evil)|1|");
    assert_eq!(answers.cell(2, "stdout"), "; touch evil|2|");
    assert_eq!(answers.cell(3, "stdout"), "a \"b\"\nc|3|");
    assert_eq!(answers.cell(4, "stdout"), "-n|4|");
    assert!(!scene.file("evil").exists());
}

#[test]
fn commands_that_fail_are_counted_and_run_again() {
    let scene = Scene::new(0);
    scene.write("in.csv", "code\n0\n3\n0\n7\n");
    let command = ["--", "sh", "-c", "echo {code} >> log; exit {code}"];
    let ended = run(&scene).args(["-j", "1"]).args(command).run();
    ended.assert(1, [4, 0, 2, 2, 0]);
    assert_eq!(scene.answers().cell(2, "exit_code"), "3");
    let ended = run(&scene).args(["--resume=failed"]).args(command).run();
    ended.assert(1, [4, 0, 2, 2, 0]);
    let mut log: Vec<String> = scene.read("log").lines().map(str::to_owned).collect();
    log.sort();
    assert_eq!(log, ["0", "0", "3", "3", "7", "7"]);
    let ended = run(&scene)
        .args(["--resume", "--", "touch", "started{code}"])
        .run();
    ended.assert(1, [4, 0, 2, 2, 0]);
    assert!(scene.path().read_dir().unwrap().all(|file| {
        let name = file.unwrap().file_name();
        !name.to_string_lossy().starts_with("started")
    }));
}

#[test]
fn ctrl_c_finishes_the_commands_that_run_and_the_next_run_does_the_rest() {
    let scene = Scene::new(0);
    let rows: String = (0..30).map(|row| format!("{row}\n")).collect();
    scene.write("in.csv", format!("row_id\n{rows}"));
    let command = ["--", "sh", "-c", "sleep 0.2; echo {row_id} >> log"];
    let mut running = run(&scene).args(["-j", "3"]).args(command).start();
    running.wait_until("commands", || {
        std::fs::read_to_string(scene.file("log")).is_ok_and(|log| log.lines().count() >= 4)
    });
    running.signal(Signal::INT);
    let ended = running.wait();
    let counts = ended.counts();
    assert_eq!((ended.code, counts.rows, counts.failed), (Some(130), 30, 0));
    assert_eq!(scene.read("log").lines().count() as u64, counts.ok);
    assert!(counts.not_started > 0);
    let ended = run(&scene)
        .args(["-j", "10", "--resume"])
        .args(command)
        .run();
    ended.assert(0, [30, 0, 30, 0, 0]);
    assert_eq!(scene.read("log").lines().count(), 30);
}

#[test]
fn a_second_ctrl_c_ends_the_commands_and_what_they_started() {
    let scene = Scene::new(0);
    scene.write("in.csv", "n\n1\n2\n3\n");
    let script = "echo $$ >> started; sleep 1000 & sleep 1000; echo {n} >> log";
    let mut running = run(&scene)
        .args(["-j", "2", "--", "sh", "-c", script])
        .start();
    running.wait_until("commands", || {
        std::fs::read_to_string(scene.file("started")).is_ok_and(|log| log.lines().count() == 2)
    });
    running.signal(Signal::INT);
    running.wait_for_message("cuts it short");
    running.signal(Signal::INT);
    running.wait().assert(130, [3, 0, 0, 2, 1]);
    assert!(!scene.file("log").exists());
}
