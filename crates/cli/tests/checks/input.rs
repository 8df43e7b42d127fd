//! Inputs at the edge, closed outputs, and memory.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::Brigade;
use crate::scaled;
use crate::scene::{Scene, host};

#[test]
fn an_empty_file_has_no_header_and_a_header_has_no_rows() {
    let scene = Scene::new(0);
    scene.write("in.csv", "");
    let run = scene.fast().run();
    run.assert(2, [0, 0, 0, 0, 0]);
    run.assert_says(&["in.csv"]);
    for header in ["url\n", "url", "\u{feff}url\r\n", "\n\nurl\n\n"] {
        scene.write("in.csv", header);
        let _ = std::fs::remove_file(scene.file("out.csv"));
        scene.fast().run().assert(0, [0, 0, 0, 0, 0]);
        assert_eq!(scene.read("out.csv").lines().count(), 1, "{header:?}");
        let run = scene.fast().words("--ordered --resume").run();
        run.assert(0, [0, 0, 0, 0, 0]);
    }
    let run = Brigade::new(scene.path(), "fetch")
        .words("-")
        .stdin("")
        .run();
    run.assert(2, [0, 0, 0, 0, 0]);
    let run = Brigade::new(scene.path(), "fetch")
        .words("-")
        .stdin("url\n")
        .run();
    run.assert(0, [0, 0, 0, 0, 0]);
    let run = Brigade::new(scene.path(), "fetch")
        .words("missing.csv")
        .run();
    run.assert(2, [0, 0, 0, 0, 0]);
    run.assert_says(&["missing.csv"]);
}

#[test]
fn rows_that_are_all_bad_or_have_no_url_are_counted_and_requested_by_none() {
    let scene = Scene::new(0);
    for options in ["", "--ordered", "--spread=false"] {
        scene.write("in.csv", "url,x\na\nb,c,d\n\"e\"\n");
        scene.write("out.csv", "");
        let run = scene
            .fast()
            .words("--rejects rejects.csv")
            .words(options)
            .run();
        run.assert(1, [3, 3, 0, 0, 0]);
        assert_eq!(scene.read("rejects.csv").lines().count(), 4);
        scene.write("in.csv", "url,x\n,1\n ,2\nhttp://,3\nfoo,4\n");
        scene.write("out.csv", "");
        let run = scene.fast().words("--retries 9").words(options).run();
        run.assert(1, [4, 0, 0, 4, 0]);
        assert_eq!(scene.answers().column("error_kind"), ["bad_url"; 4]);
    }
    scene.write("in.csv", "url,x\na\nb,c,d\n\"e\"\n");
    scene.write("out.csv", "");
    let run = scene.fast().words("--on-bad-row stop").run();
    assert_eq!((run.code, run.counts().rows), (Some(1), 3));
    assert!(scene.server.seen().is_empty());
}

#[test]
fn a_file_that_is_broken_is_refused_before_the_first_request() {
    let scene = Scene::new(0);
    let url = scene.server.url("/ok");
    for text in [
        format!("url\n{url}\n\"{url}\n{url}\n").into_bytes(),
        format!("url,url\n{url},x\n").into_bytes(),
        b"\xff\xfeu\0r\0l\0\n\0".to_vec(),
        b"\xc3\x28url\nx\n".to_vec(),
    ] {
        scene.write("in.csv", &text);
        let run = scene.fast().run();
        assert_eq!(
            run.code,
            Some(2),
            "{}: {}",
            String::from_utf8_lossy(&text),
            run.stderr
        );
        run.assert_says(&["in.csv:"]);
    }
    assert!(scene.server.seen().is_empty());
    // A pipe is read as it comes: what was read before the fault is done.
    let run = Brigade::new(scene.path(), "fetch")
        .words("- --per-host-rate none")
        .stdin(format!("url\n{url}\n\"{url}\n"))
        .run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["line 3", "ok=1"]);
}

#[test]
fn rows_that_were_read_from_a_pipe_are_not_lost_when_the_run_is_stopped() {
    let scene = Scene::new(0);
    let server = &scene.server;
    scene.paths((0..100).map(|row| format!("/ok?row={row}")));
    let mut running = Brigade::new(scene.path(), "fetch")
        .words("- -o out.csv --per-host-rate 10/s --failures failures.csv")
        .stdin(scene.read("in.csv"))
        .start();
    running.wait_until("requests", || server.seen().len() >= 5);
    running.signal(Signal::INT);
    let run = running.wait();
    let counts = run.counts();
    assert_eq!((run.code, counts.rows), (Some(130), 100), "{}", run.stderr);
    let failures = scene.read("failures.csv");
    assert_eq!(failures.lines().count() as u64, 1 + counts.not_started);
    // The answers can be gone on with from the same rows.
    let run = Brigade::new(scene.path(), "fetch")
        .words("- -o out.csv --per-host-rate none --resume")
        .stdin(scene.read("in.csv"))
        .run();
    run.assert(0, [100, 0, 100, 0, 0]);
    assert_eq!(server.seen().len(), 100);
}

#[test]
fn a_pipe_of_answers_that_is_closed_ends_the_run_quietly() {
    let scene = Scene::new(0);
    scene.paths((0..2000).map(|row| format!("/ok?row={row}")));
    let mut child = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args([
            "fetch",
            "in.csv",
            "--per-host-rate",
            "none",
            "--rate",
            "100/s",
        ])
        .current_dir(scene.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.starts_with("rows="))
        .collect();
    assert!(
        lines.iter().all(|line| line.contains(" done, ")),
        "{stderr}"
    );
    assert_eq!(ended.status.code(), Some(141));
    assert!(scene.server.seen().len() < 2000);
}

#[test]
fn a_full_disk_stops_the_run_and_says_so() {
    let scene = Scene::new(0);
    scene.paths((0..2000).map(|row| format!("/ok?row={row}")));
    std::os::unix::fs::symlink("/dev/full", scene.file("full")).unwrap();
    let run = Brigade::new(scene.path(), "fetch")
        .words("in.csv -o full --per-host-rate none --rate 100/s")
        .run();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    run.assert_says(&["full: cannot write"]);
    assert!(
        !scene.file("full.run.json").exists(),
        "a device has no sidecar"
    );
    assert!(scene.server.seen().len() < 2000);
    let run = scene
        .fast()
        .words("--rate 100/s --failures /dev/full --accept 404")
        .run();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}

#[test]
fn memory_does_not_grow_with_the_number_of_rows() {
    let mut peaks = Vec::new();
    let sizes = scaled([500, 4000], [10_000, 1_000_000]);
    for rows in sizes {
        let scene = Scene::with(brigade_demo_server::Options {
            addresses: (0..10).map(host).collect(),
            record: false,
            ..Default::default()
        });
        let server = &scene.server;
        scene.input(
            (0..rows).map(|row| {
                server.url_at(host(row * 10 / rows), &format!("/ok?bytes=64&row={row}"))
            }),
        );
        let run = scene.fast().words("-j 200 --per-host-workers 20").run();
        run.assert(0, [rows as u64, 0, rows as u64, 0, 0]);
        peaks.push(run.peak_kib);
    }
    assert!(
        peaks[1] < peaks[0] + 20 * 1024,
        "{peaks:?} KiB for {sizes:?} rows"
    );
}

#[test]
fn queued_rows_cost_a_few_bytes_each() {
    // A million rows of one host with a slow rate: they are counted, and none but a few are held.
    let rows: usize = scaled(50_000, 1_000_000);
    let mut peaks = Vec::new();
    for rows in [1000, rows] {
        let scene = Scene::new(0);
        scene.paths((0..rows).map(|row| format!("/ok?row={row}")));
        let mut running = Brigade::fetch(scene.path())
            .words("--per-host-rate 20/s")
            .start();
        running.wait_until("requests", || scene.server.seen().len() >= 5);
        running.signal(Signal::INT);
        let run = running.wait();
        assert_eq!((run.code, run.counts().rows), (Some(130), rows as u64));
        peaks.push(run.peak_kib);
    }
    let more = (peaks[1] - peaks[0].min(peaks[1])) * 1024;
    assert!(more < 40 * rows as u64 + (8 << 20), "{peaks:?} KiB");
}

#[test]
fn a_window_of_one_row_is_enough() {
    let scene = Scene::new(3);
    let server = &scene.server;
    scene
        .input((0..30).map(|row| server.url_at(host(row / 10), &format!("/redirect/1?row={row}"))));
    for options in ["", "--ordered", "--spread=false"] {
        for file in ["in.csv", "-"] {
            scene.write("out.csv", "");
            let run = Brigade::new(scene.path(), "fetch")
                .args([file, "-o", "out.csv"])
                .words("--per-host-rate none --lookahead 1 -j 1")
                .words(options)
                .stdin(scene.read("in.csv"))
                .run();
            run.assert(0, [30, 0, 30, 0, 0]);
        }
    }
}

#[test]
fn an_input_that_changes_while_it_is_read_is_noticed_and_what_was_done_is_kept() {
    let scene = Scene::new(0);
    scene.paths((0..40).map(|row| format!("/ok?row={row}")));
    let before = scene.read("in.csv");
    let mut running = scene.fast().words("--rate 20/s").start();
    running.wait_until("requests", || scene.server.seen().len() >= 5);
    let url = scene.server.url("/ok?row=40");
    scene.write("in.csv", format!("{before}{url}\n"));
    let run = running.wait();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    run.assert_says(&["in.csv", "changed"]);
    assert_eq!(scene.answers().rows.len() as u64, run.counts().ok);
    let run = scene.fast().words("--resume").run();
    run.assert(0, [41, 0, 41, 0, 0]);
    assert_eq!(scene.server.seen().len(), 41);
}

#[test]
fn cells_come_back_as_they_were() {
    let scene = Scene::new(0);
    let cells = "\"a,b\",\"x \"\"y\"\"\",\" lead\",\"two\r\nlines\",é,'";
    let url = scene.server.url("/ok");
    for delimiter in [",", ";", "\\t"] {
        let character = if delimiter == "\\t" { "\t" } else { delimiter };
        let text = format!("\u{feff}url,c1,c2,c3,c4,c5,c6\r\n{url},{cells}\r\n");
        let text = text.replace("a,b", "a|b").replace(',', character);
        scene.write("in.csv", text.replace("a|b", &format!("a{character}b")));
        scene.write("out.csv", "");
        // The table of the harness has commas.
        let run = Brigade::new(scene.path(), "fetch")
            .words("in.csv --output=out.csv --per-host-rate none")
            .args([
                "--delimiter",
                delimiter,
                "--failures",
                "failures.csv",
                "--accept",
                "404",
            ])
            .start();
        let run = run.wait_unchecked();
        run.assert(1, [1, 0, 0, 1, 0]);
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(character.as_bytes()[0])
            .from_path(scene.file("out.csv"))
            .unwrap();
        let record = reader.records().next().unwrap().unwrap();
        let first = format!("a{character}b");
        let expected = [&url, &first, "x \"y\"", " lead", "two\r\nlines", "é", "'"];
        assert_eq!(record.iter().take(7).collect::<Vec<_>>(), expected);
        // Failed rows are the input of the next run.
        let run = Brigade::new(scene.path(), "fetch")
            .words("failures.csv --output=again.csv --per-host-rate none")
            .args(["--delimiter", delimiter])
            .start();
        run.wait_unchecked().assert(0, [1, 0, 1, 0, 0]);
        std::fs::remove_file(scene.file("again.csv")).unwrap();
    }
}
