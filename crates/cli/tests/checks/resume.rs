//! What is left of a run that was killed, and what the next one makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use brigade_demo_server::{Options, Server};
use rustix::process::Signal;

use crate::answers::Table;
use crate::scaled;
use crate::scene::{Scene, host};

/// What the whole records of a file hold.
fn whole_records(bytes: &[u8]) -> Table {
    let text = String::from_utf8_lossy(bytes);
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    Table::parse(&text[..end])
}

fn requests_by_path(server: &Server) -> BTreeMap<String, usize> {
    let mut requests = BTreeMap::new();
    for seen in server.seen() {
        let url = format!("{}{}", seen.address, seen.path);
        *requests.entry(url).or_default() += 1;
    }
    requests
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one() {
    const WORKERS: usize = 8;
    let (hosts, kills) = (4, scaled(3, 10));
    let rows: usize = scaled(300, 5000);
    let rate = scaled(100, 500);
    let scene = Scene::new(hosts);
    let server = &scene.server;
    let paths = [
        "/ok",
        "/json?a=1",
        "/status/404",
        "/redirect/1",
        "/gzip?bytes=9",
    ];
    scene.input((0..rows).map(|row| {
        let path = paths[row % paths.len()];
        let mark = if path.contains('?') { '&' } else { '?' };
        server.url_at(host(row * hosts / rows), &format!("{path}{mark}row={row}"))
    }));
    let run = || {
        scene
            .fast()
            .args(["--rate", &format!("{rate}/s"), "-j", &WORKERS.to_string()])
            .words("--per-host-workers 8 --resume")
    };
    let mut random = u64::from(std::process::id());
    let mut acknowledged = Vec::new();
    let mut seen_before = 0;
    for _ in 0..kills {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let more = 1 + (random >> 33) as usize % (rows / kills);
        let mut running = run().start();
        running.wait_until("requests", || server.seen().len() >= seen_before + more);
        running.kill();
        // What was sent has come.
        thread::sleep(Duration::from_millis(20));
        seen_before = server.seen().len();
        let table = whole_records(&fs::read(scene.file("out.csv")).unwrap_or_default());
        if !table.columns.is_empty() {
            let urls = table.column("url").into_iter().map(str::to_owned);
            acknowledged = urls.collect::<Vec<_>>();
        }
    }
    let end = run().run();
    assert_eq!(end.counts().not_started, 0);
    let answers = scene.answers();
    assert_eq!(answers.rows.len(), rows);

    // What was in the file at a kill was not requested again afterwards: of each path, at most one
    // request for each run in which it was on its way.
    let seen = server.seen();
    let hops = seen
        .iter()
        .filter(|one| one.path.starts_with("/redirect/0"))
        .count();
    let requests = seen.len() - hops;
    let most = rows + kills * (WORKERS + rate);
    assert!(
        requests <= most,
        "{requests} requests of {rows} rows, {most} at most"
    );
    assert!(!acknowledged.is_empty());
    let requested = requests_by_path(server);
    scene.write("first.csv", scene.read("out.csv"));
    fs::remove_file(scene.file("out.csv")).unwrap();

    scene.fast().words("--per-host-workers 50").run();
    assert_eq!(scene.answers().deterministic(), answers.deterministic());
    let again = requests_by_path(server);
    for url in acknowledged {
        let path = url
            .split_once("://")
            .unwrap()
            .1
            .replacen(&format!(":{}", server.port()), "", 1);
        assert_eq!(again[&path], requested[&path] + 1, "{path}");
    }
}

#[test]
fn rows_in_the_file_are_not_requested_again() {
    let scene = Scene::new(0);
    scene.paths((0..200).map(|row| format!("/ok?row={row}")));
    let mut running = scene.fast().words("--rate 100/s").start();
    running.wait_until("answers", || {
        let bytes = fs::read(scene.file("out.csv")).unwrap_or_default();
        bytes.iter().filter(|byte| **byte == b'\n').count() > 40
    });
    running.kill();
    let table = whole_records(&fs::read(scene.file("out.csv")).unwrap());
    let run = scene.fast().words("--resume").run();
    run.assert(0, [200, 0, 200, 0, 0]);
    run.assert_says(&["rows are done already"]);
    for url in table.column("url") {
        let path = &url[url.rfind("/ok").unwrap()..];
        assert_eq!(scene.server.requests(path), 1, "{path}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_in_its_last_records_resumes_right() {
    let scene = Scene::new(0);
    let server = &scene.server;
    let mut text = "id,url,note\n".to_owned();
    for row in 0..6 {
        let url = server.url(&format!("/title?text={row}%0A%22%2C%22&bytes=120"));
        text.push_str(&format!("{row},{url},\"a \"\"quoted\"\"\nnote, {row}\"\n"));
    }
    scene.write("in.csv", text);
    let fetch = || scene.fast().words("--include-body -j 1");
    fetch().run().assert(0, [6, 0, 6, 0, 0]);
    let whole = fs::read(scene.file("out.csv")).unwrap();
    let expected = scene.answers();
    let bodies = |table: &Table| {
        let pairs = table.column("row").into_iter().zip(table.column("body"));
        let mut pairs: Vec<_> = pairs
            .map(|(row, body)| (row.to_owned(), body.to_owned()))
            .collect();
        pairs.sort();
        pairs
    };
    // A byte behind the fourth record, which starts the last two.
    let last_two = {
        let text = String::from_utf8(whole.clone()).unwrap();
        let row = text.find("\n4,").unwrap();
        row + 1
    };
    for cut in (last_two..=whole.len()).step_by(scaled(29, 1)) {
        scene.write("out.csv", &whole[..cut]);
        let before = server.seen().len();
        let run = fetch().words("--resume").run();
        run.assert(0, [6, 0, 6, 0, 0]);
        let table = scene.answers();
        assert_eq!(
            table.deterministic(),
            expected.deterministic(),
            "cut at {cut}"
        );
        assert_eq!(bodies(&table), bodies(&expected), "cut at {cut}");
        let requested = server.seen().len() - before;
        assert!(requested <= 2, "{requested} requests after a cut at {cut}");
    }
}

#[test]
fn an_input_that_has_changed_is_refused_and_the_row_named() {
    let scene = Scene::new(0);
    let server = &scene.server;
    let table = |second: &str| {
        let mut text = "url,note\n".to_owned();
        for (row, note) in ["one", second, "three"].into_iter().enumerate() {
            text.push_str(&format!(
                "{},{note}\n",
                server.url(&format!("/ok?row={row}"))
            ));
        }
        text
    };
    scene.write("in.csv", table("two"));
    scene.fast().run().assert(0, [3, 0, 3, 0, 0]);
    let answers = scene.read("out.csv");
    scene.write("in.csv", table("deux"));
    let run = scene.fast().words("--resume").run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&[
        "row 2", "\"two\"", "\"deux\"", "`note`", "out.csv", "line 3",
    ]);
    // Rows at the end may come, but none may go.
    scene.write(
        "in.csv",
        table("two").lines().take(3).collect::<Vec<_>>().join("\n"),
    );
    let run = scene.fast().words("--resume").run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["row 3", "2 rows"]);
    assert_eq!((scene.read("out.csv"), server.seen().len()), (answers, 3));
    let longer = table("two") + &server.url("/ok?row=3") + ",four\n";
    scene.write("in.csv", longer);
    scene
        .fast()
        .words("--resume")
        .run()
        .assert(0, [4, 0, 4, 0, 0]);
    assert_eq!(server.seen().len(), 4);
    // Other options make other columns.
    let run = scene.fast().words("--resume --include-body").run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["cannot resume", "body"]);
}

#[test]
fn a_second_process_is_refused_while_the_first_goes_on() {
    let scene = Scene::new(0);
    scene.paths((0..4).map(|row| format!("/delay/700?row={row}")));
    let mut first = scene.fast().words("-j 1").start();
    first.wait_until("a request", || !scene.server.seen().is_empty());
    let second = scene.fast().words("--resume").run();
    assert_eq!(second.code, Some(2));
    second.assert_says(&["out.csv: another process"]);
    first.wait().assert(0, [4, 0, 4, 0, 0]);
    assert_eq!(scene.server.seen().len(), 4);
}

#[test]
fn an_occupied_output_is_left_alone_and_an_empty_one_is_used() {
    let scene = Scene::new(0);
    scene.paths(["/ok"]);
    scene.write("out.csv", "precious\n");
    let run = scene.fast().run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["out.csv", "--resume"]);
    assert_eq!(
        (scene.read("out.csv").as_str(), scene.server.seen().len()),
        ("precious\n", 0)
    );
    let run = scene.fast().words("--resume").run();
    assert_eq!(run.code, Some(2));
    assert_eq!(scene.read("out.csv"), "precious\n");
    scene.write("out.csv", "");
    scene.fast().run().assert(0, [1, 0, 1, 0, 0]);
    // A run that is complete has nothing to do.
    scene
        .fast()
        .words("--resume")
        .run()
        .assert(0, [1, 0, 1, 0, 0]);
    assert_eq!(scene.server.seen().len(), 1);
}

#[test]
fn a_network_that_was_gone_leaves_failures_that_run_again() {
    let rows: usize = scaled(120, 20_000);
    let mut scene = Scene::new(0);
    let port = scene.server.port();
    scene.paths((0..rows).map(|row| format!("/ok?row={row}")));
    let fast = || {
        scene
            .fast()
            .args(["--rate", scaled("100/s", "400/s")])
            .words("-j 8 --retries 0")
    };
    let mut running = fast().start();
    running.wait_until("requests", || scene.server.seen().len() >= rows / 6);
    let other = Scene::new(0);
    std::mem::replace(&mut scene.server, other.server).stop();
    let has_failed = |least: usize| {
        let text = fs::read_to_string(scene.file("out.csv")).unwrap_or_default();
        text.matches(",false,").count() >= least
    };
    running.wait_until("failures", || has_failed(10));
    thread::sleep(Duration::from_secs(scaled(0, 30)));
    let again = Server::start(Options {
        port,
        ..Options::default()
    });
    scene.server = again.unwrap();
    let run = running.wait();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.counts().not_started, 0);
    let answers = scene.answers();
    let failed: Vec<String> = (1..=rows as u64)
        .filter(|row| answers.cell(*row, "ok") == "false")
        .map(|row| format!("/ok?row={}", row - 1))
        .collect();
    for (kind, count) in answers.tally("error_kind") {
        assert!(
            ["", "connect", "reset", "timeout"].contains(&kind),
            "{kind}"
        );
        if !kind.is_empty() {
            run.assert_says(&[&format!("{kind} {count}")]);
        }
    }
    let before = scene.server.seen().len();
    let run = scene.fast().words("--resume=failed --retries 0").run();
    run.assert(0, [rows as u64, 0, rows as u64, 0, 0]);
    let mut requested: Vec<String> = scene
        .server
        .seen()
        .into_iter()
        .skip(before)
        .map(|one| one.path)
        .collect();
    let mut expected = failed;
    requested.sort();
    expected.sort();
    assert_eq!(requested, expected);
}

#[test]
fn an_interrupted_run_goes_on_with_the_rest() {
    let scene = Scene::new(0);
    scene.paths((0..60).map(|row| format!("/ok?row={row}")));
    let mut running = scene.fast().words("--rate 20/s --ordered").start();
    running.wait_until("requests", || scene.server.seen().len() >= 10);
    running.signal(Signal::TERM);
    let first = running.wait();
    assert_eq!(first.code, Some(143));
    let counts = first.counts();
    assert!(counts.not_started > 0 && counts.ok >= 10);
    let run = scene.fast().words("--resume --ordered").run();
    run.assert(0, [60, 0, 60, 0, 0]);
    let seen = scene.server.seen();
    assert_eq!(seen.len(), 60);
    let rows = scene.answers().numbers();
    assert_eq!(rows, (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_pipe_with_fewer_rows_than_the_answers_is_refused_at_its_end() {
    let scene = Scene::new(0);
    scene.paths((0..3).map(|row| format!("/ok?row={row}")));
    scene.fast().run().assert(0, [3, 0, 3, 0, 0]);
    let text = scene.read("in.csv");
    let shorter: Vec<&str> = text.lines().take(3).collect();
    let run = crate::process::Brigade::new(scene.path(), "fetch")
        .words("- -o out.csv --resume")
        .stdin(shorter.join("\n"))
        .run();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    run.assert_says(&["row 3", "2 rows"]);
    assert_eq!(scene.server.seen().len(), 3);
}
