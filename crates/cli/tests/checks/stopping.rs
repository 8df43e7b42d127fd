//! Runs that end before their input: by signals, by `--deadline` and by `--max-failures`.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Ended, Running};
use crate::scaled;
use crate::scene::{Scene, host};

/// Sends a signal, and waits until the run has said that it ends.
fn stopped(running: &mut Running, signal: Signal) {
    running.signal(signal);
    running.wait_for_message("cuts it short");
}

#[track_caller]
fn assert_stopped(run: &Ended, code: i32, rows: u64) {
    let counts = run.counts();
    assert_eq!(
        (run.code, counts.rows),
        (Some(code), rows),
        "{}",
        run.stderr
    );
    assert!(counts.not_started > 0, "{}", run.stderr);
}

#[test]
fn ctrl_c_starts_no_request_and_finishes_what_runs() {
    const WORKERS: usize = 20;
    let rows = 200;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let scene = Scene::new(5);
        let server = &scene.server;
        scene.input((0..rows).map(|row| {
            let path = format!("/slow?bytes=100&ms={}&row={row}", scaled(25, 100));
            server.url_at(host(row % 5), &path)
        }));
        let mut running = scene.fast().args(["-j", &WORKERS.to_string()]).start();
        running.wait_until("requests", || server.seen().len() >= WORKERS);
        stopped(&mut running, signal);
        let told = scene.clock();
        let run = running.wait();
        assert_stopped(&run, code, rows as u64);
        let seen = server.seen();
        let answers = scene.answers();
        assert_eq!(answers.rows.len(), seen.len(), "each request has an answer");
        assert_eq!(answers.tally("ok").get("true"), Some(&seen.len()));
        assert!(answers.column("bytes").iter().all(|bytes| *bytes == "100"));
        // A request that was sent before may come a little later.
        let late = told + Duration::from_secs(1);
        assert!(
            seen.iter().all(|one| one.at < late),
            "a request after the signal"
        );
        let run = scene
            .fast()
            .words("--resume -j 200 --per-host-workers 200")
            .run();
        run.assert(0, [rows as u64, 0, rows as u64, 0, 0]);
        assert_eq!(server.seen().len(), rows);
    }
}

#[test]
fn a_second_signal_cuts_short_what_runs() {
    let scene = Scene::new(0);
    let mut paths = vec!["/ok".to_owned(), "/slow?bytes=100000&ms=100".to_owned()];
    paths.extend((0..40).map(|row| format!("/hang?row={row}")));
    scene.paths(paths);
    for option in ["", "--ordered"] {
        let mut running = scene
            .fast()
            .words("-j 10 --per-host-workers 20 --timeout 1h --connect-timeout 1h")
            .words(option)
            .start();
        let before = scene.server.seen().len();
        running.wait_until("requests", || scene.server.seen().len() >= before + 11);
        stopped(&mut running, Signal::INT);
        running.signal(Signal::INT);
        let run = running.wait();
        assert_stopped(&run, 130, 42);
        run.assert(130, [42, 0, 1, 10, 31]);
        let answers = scene.answers();
        let expected = [("", 1), ("interrupted", 10)];
        assert_eq!(
            answers.tally("error_kind").into_iter().collect::<Vec<_>>(),
            expected
        );
        if option == "--ordered" {
            let rows = answers.numbers();
            assert!(rows.is_sorted(), "{rows:?}");
        }
        std::fs::remove_file(scene.file("out.csv")).unwrap();
    }
}

#[test]
fn a_deadline_cuts_short_what_runs() {
    let scene = Scene::new(0);
    let mut paths = vec!["/ok".to_owned()];
    paths.extend((0..30).map(|row| format!("/hang?row={row}")));
    scene.paths(paths);
    let run = scene
        .fast()
        .words("-j 4 --deadline 1s --timeout 1h --retries 9")
        .run();
    assert_eq!(run.code, Some(1));
    let counts = run.counts();
    assert_eq!(
        (counts.rows, counts.ok + counts.failed + counts.not_started),
        (31, 31)
    );
    run.assert_says(&["--deadline"]);
    let tally = scene.answers();
    let tally = tally.tally("error_kind");
    assert!(
        tally.keys().all(|kind| ["", "deadline"].contains(kind)),
        "{tally:?}"
    );
    let answered = scene.answers().rows.len();
    assert!(
        answered >= scene.server.seen().len(),
        "each request has an answer"
    );
}

#[test]
fn a_deadline_ends_waits_between_attempts() {
    let scene = Scene::new(0);
    scene.paths(["/status/503?retry_after=200", "/status/500", "/ok?row=3"]);
    let run = scene
        .fast()
        .words("--deadline 1s --backoff 1h..1h --per-host-workers 1")
        .run();
    let counts = run.counts();
    assert_eq!((run.code, counts.rows), (Some(1), 3));
    assert!(counts.not_started >= 1, "{}", run.stderr);
}

#[test]
fn a_number_of_failures_ends_the_run() {
    let scene = Scene::new(0);
    scene.paths((0..100).map(|row| format!("/status/404?row={row}")));
    let run = scene.fast().words("-j 1 --max-failures 5").run();
    run.assert(1, [100, 0, 0, 5, 95]);
    run.assert_says(&["--max-failures"]);
    assert_eq!(scene.server.seen().len(), 5);
    // Failures of earlier runs are those of earlier runs.
    let run = scene.fast().words("-j 1 --max-failures 5 --resume").run();
    run.assert(1, [100, 0, 0, 10, 90]);
    let run = scene
        .fast()
        .words("--max-failures 5 -j 4 --resume=failed")
        .run();
    assert_eq!(run.code, Some(1));
    assert!((5..=8).contains(&run.counts().failed), "{}", run.stderr);
    let scene = Scene::new(0);
    scene.paths((0..300).map(|row| {
        let status = if row % 4 == 0 { 404 } else { 200 };
        format!("/status/{status}?row={row}")
    }));
    let run = scene.fast().words("-j 1 --max-failures 10%").run();
    let counts = run.counts();
    assert!(
        counts.failed >= 25 && counts.not_started >= 190,
        "{}",
        run.stderr
    );
    scene.write("out.csv", "");
    scene
        .fast()
        .words("-j 1 --max-failures 30%")
        .run()
        .assert(1, [300, 0, 225, 75, 0]);
}

#[test]
fn the_failures_file_and_the_accepted_answers_are_all_rows() {
    let scene = Scene::new(0);
    let mut urls: Vec<String> = (0..100)
        .map(|row| {
            let path = match row % 4 {
                0 => "/status/404",
                1 => "/redirect/1",
                _ => "/ok",
            };
            scene.server.url(&format!("{path}?row={row}"))
        })
        .collect();
    urls.insert(90, "a,ragged row".to_owned());
    scene.input(&urls);
    for options in [
        "--rate 50/s",
        "--rate 50/s --ordered",
        "--rate 50/s --spread=false",
    ] {
        let before = scene.server.seen().len();
        let mut running = scene
            .fast()
            .words("--failures failures.csv --rejects rejects.csv")
            .words(options)
            .start();
        running.wait_until("requests", || scene.server.seen().len() >= before + 20);
        stopped(&mut running, Signal::INT);
        let run = running.wait();
        assert_eq!(run.code, Some(130));
        let answers = scene.answers();
        let accepted = answers.column("url").into_iter().zip(answers.column("ok"));
        let accepted = accepted
            .filter(|(_, ok)| *ok == "true")
            .map(|(url, _)| url.to_owned());
        let failures = scene.read("failures.csv");
        let left = failures.lines().skip(1).map(str::to_owned);
        let rest: Vec<String> = accepted.chain(left).collect();
        let unique: BTreeSet<&String> = rest.iter().collect();
        assert_eq!(unique.len(), rest.len(), "a row is there twice: {options}");
        if options.contains("spread") {
            // Without a pass, rows that were never read are in no file.
            assert!(rest.len() <= 100);
        } else {
            assert_eq!(rest.len(), 100, "{options}");
            run.assert_says(&["rows=101 bad=1 "]);
            let rejects = scene.read("rejects.csv");
            assert_eq!(rejects.lines().count(), 2, "{rejects}");
        }
        std::fs::remove_file(scene.file("out.csv")).unwrap();
    }
}

#[test]
fn redirects_that_wait_when_a_run_is_stopped_are_not_started_and_run_again() {
    let scene = Scene::new(0);
    scene.paths((0..4).map(|row| format!("/redirect/6?row={row}")));
    for options in ["", "--ordered"] {
        let before = scene.server.seen().len();
        let mut running = scene
            .fast()
            .words("--per-host-rate 8/s")
            .words(options)
            .start();
        running.wait_until("requests", || scene.server.seen().len() >= before + 6);
        stopped(&mut running, Signal::INT);
        let run = running.wait();
        assert_stopped(&run, 130, 4);
        let run = scene.fast().words("--resume").words(options).run();
        run.assert(0, [4, 0, 4, 0, 0]);
        let answers = scene.answers();
        assert_eq!(
            answers.tally("redirects").into_iter().collect::<Vec<_>>(),
            [("6", 4)]
        );
        std::fs::remove_file(scene.file("out.csv")).unwrap();
    }
}

#[test]
fn stdin_without_an_end_can_be_interrupted() {
    let scene = Scene::new(0);
    let input = format!("url\n{}\n", scene.server.url("/ok"));
    let mut running = crate::process::Brigade::new(scene.path(), "fetch")
        .words("- -o out.csv")
        .stdin_without_end(input)
        .start();
    running.wait_until("an answer", || {
        std::fs::read_to_string(scene.file("out.csv")).is_ok_and(|text| text.lines().count() == 2)
    });
    stopped(&mut running, Signal::INT);
    running.wait().assert(130, [1, 0, 1, 0, 0]);
    // Not even a header.
    let running = crate::process::Brigade::new(scene.path(), "fetch")
        .words("- -o other.csv")
        .stdin_without_end("")
        .start();
    // Signals are caught soon after the start; one that comes sooner ends the process as well.
    std::thread::sleep(Duration::from_millis(500));
    running.signal(Signal::INT);
    let ended = running.wait();
    ended.assert(130, [0, 0, 0, 0, 0]);
}

#[test]
fn rows_are_taken_no_further_ahead_than_the_lookahead_while_the_first_one_runs() {
    let scene = Scene::new(1);
    let server = &scene.server;
    let mut urls = vec![server.url_at(host(0), "/delay/1500")];
    urls.extend((0..200).map(|row| server.url(&format!("/ok?row={row}"))));
    scene.input(&urls);
    let run = scene.fast().words("--ordered --lookahead 10 -j 5").run();
    run.assert(0, [201, 0, 201, 0, 0]);
    let rows = scene.answers().numbers();
    assert_eq!(rows, (1..=201).collect::<Vec<_>>());
    let slow = scene.seen_at(host(0)).remove(0);
    let ended = slow.ended.unwrap();
    let meanwhile = server.seen().iter().filter(|one| one.at < ended).count();
    assert!(
        meanwhile <= 16,
        "{meanwhile} rows were taken while the first one ran"
    );
}

#[test]
fn a_deadline_ends_an_ordered_run_whose_first_row_hangs() {
    let scene = Scene::new(0);
    let mut paths = vec!["/hang".to_owned()];
    paths.extend((0..50).map(|row| format!("/ok?row={row}")));
    scene.paths(paths);
    let run = scene
        .fast()
        .words("--ordered --deadline 2s --timeout 1h --lookahead 20 -j 4")
        .run();
    assert_stopped(&run, 1, 51);
    let answers = scene.answers();
    assert_eq!(answers.cell(1, "error_kind"), "deadline");
    let rows = answers.numbers();
    assert!(rows.is_sorted(), "{rows:?}");
    let run = scene
        .fast()
        .words("--ordered --resume=failed --timeout 100ms --retries 0")
        .run();
    run.assert(1, [51, 0, 50, 1, 0]);
}

#[test]
fn an_ordered_pipe_that_is_stopped_loses_no_row() {
    let scene = Scene::new(0);
    let mut urls: Vec<String> = (0..60)
        .map(|row| scene.server.url(&format!("/ok?row={row}")))
        .collect();
    urls.insert(3, "a,bad row".to_owned());
    scene.input(urls);
    let fetch = |options: &str| {
        crate::process::Brigade::new(scene.path(), "fetch")
            .words("- -o out.csv --per-host-rate none --ordered")
            .words(options)
            .stdin(scene.read("in.csv"))
    };
    let mut running = fetch("--rate 20/s --failures failures.csv").start();
    running.wait_until("requests", || scene.server.seen().len() >= 10);
    stopped(&mut running, Signal::INT);
    let run = running.wait();
    assert_stopped(&run, 130, 61);
    let failures = scene.read("failures.csv");
    assert_eq!(
        failures.lines().count() as u64,
        1 + run.counts().not_started
    );
    fetch("--resume").run().assert(1, [61, 1, 60, 0, 0]);
    assert_eq!(scene.server.seen().len(), 60);
}
