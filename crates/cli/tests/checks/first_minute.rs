//! What a user meets first: the demonstration, and the messages of a first try.

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Brigade;
use crate::scene::{Scene, urls};

#[test]
fn the_demonstration_runs_once_in_a_directory() {
    let directory = TempDir::new().unwrap();
    let inside = directory.path();
    let run = Brigade::new(inside, "demo").run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let paths: Vec<&str> = run.stdout.lines().collect();
    let [answers, report] = paths[..] else {
        panic!("two paths in {:?}", run.stdout);
    };
    assert!(answers.ends_with("answers.csv") && report.ends_with("report.html"));
    let answers = std::fs::read(inside.join(answers)).unwrap();
    let page = std::fs::read_to_string(inside.join(report)).unwrap();
    assert!(page.contains("default-src 'none'") && !page.contains("<script"));
    let again = Brigade::new(inside, "demo").run();
    assert_eq!(again.code, Some(2));
    again.assert_says(&["answers.csv", "--dir"]);
    assert_eq!(std::fs::read(inside.join("answers.csv")).unwrap(), answers);
    // The report is a function of the answers.
    let made = Brigade::new(inside, "report").arg("answers.csv").run();
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stdout.contains("<html"));
}

#[test]
fn a_column_that_is_not_there_lists_those_that_are() {
    let scene = Scene::new(0);
    scene.write("in.csv", "link,title\nhttp://h/,x\n");
    for options in ["", "--column urls"] {
        let run = scene.fast().words(options).run();
        assert_eq!(run.code, Some(2));
        run.assert_says(&["link", "title", "rows=0 bad=0 ok=0 failed=0 not_started=0"]);
        assert!(!scene.file("out.csv").exists(), "{options}");
    }
    // The only column needs no name.
    scene.write("in.csv", format!("link\n{}\n", scene.server.url("/ok")));
    scene.fast().run().assert(0, [1, 0, 1, 0, 0]);
}

#[test]
fn the_price_is_told_before_it_is_paid() {
    let scene = Scene::new(0);
    scene.paths((0..50_000).map(|row| format!("/ok?row={row}")));
    let mut running = Brigade::fetch(scene.path()).start();
    running.wait_for_message("50000 rows, 1 host: at 5/s this takes 2 h 47 min; ");
    running.wait_until("a request", || !scene.server.seen().is_empty());
    running.signal(Signal::INT);
    let run = running.wait();
    assert_eq!((run.code, run.counts().rows), (Some(130), 50_000));
    run.assert_says(&["--per-host-rate 50/s if you may"]);
}

#[test]
fn a_column_of_the_input_that_the_answers_need_is_refused_before_a_request() {
    let scene = Scene::new(0);
    let table = format!("url,ok\n{},x\n", scene.server.url("/ok"));
    scene.write("in.csv", table);
    let run = scene.fast().run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["\"ok\"", "--prefix fetch_"]);
    assert!(scene.server.seen().is_empty() && !scene.file("out.csv").exists());
    let run = scene.fast().words("--extract=ok=/x --prefix fetch_").run();
    assert_eq!(run.code, Some(2));
}

#[test]
fn no_file_of_a_run_is_two_of_them() {
    let scene = Scene::new(0);
    scene.paths(["/ok"]);
    let text = scene.read("in.csv");
    for options in [
        "--failures in.csv",
        "--rejects in.csv",
        "--rejects x.csv --failures x.csv",
        "--failures out.csv",
        "--report in.csv",
        "--report out.csv",
        "--trace in.csv",
        "--trace out.csv",
    ] {
        let _ = std::fs::remove_file(scene.file("out.csv"));
        let run = scene.fast().words(options).run();
        assert_eq!(run.code, Some(2), "{options}: {}", run.stderr);
        assert_eq!(scene.read("in.csv"), text, "{options}");
    }
    let run = Brigade::new(scene.path(), "fetch")
        .words("in.csv -o in.csv")
        .run();
    assert_eq!(run.code, Some(2));
    let run = Brigade::new(scene.path(), "fetch")
        .words("in.csv -o in.csv --resume")
        .run();
    assert_eq!(run.code, Some(2));
    assert_eq!(scene.read("in.csv"), text);
}

#[test]
fn answers_go_to_stdout_without_an_output() {
    let scene = Scene::new(0);
    let table = urls([scene.server.url("/ok"), scene.server.url("/status/404")]);
    let run = Brigade::new(scene.path(), "fetch")
        .words("- --per-host-rate none --ordered")
        .stdin(table)
        .run();
    run.assert(1, [2, 0, 1, 1, 0]);
    assert_eq!(run.stdout.lines().count(), 3);
}

#[test]
fn there_is_nothing_to_go_on_with_where_answers_go_to_stdout() {
    let scene = Scene::new(0);
    scene.paths(["/ok"]);
    let run = Brigade::new(scene.path(), "fetch")
        .words("in.csv --resume")
        .run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["--output"]);
    assert!(scene.server.seen().is_empty());
}
