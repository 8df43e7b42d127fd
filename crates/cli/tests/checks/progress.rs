//! The lines of progress: their numbers add up at each moment, and they say what binds.

use crate::scene::{Scene, host};

/// The numbers of `12 of 60 done, 8 running, 30 waiting, 10 to come, …`.
fn numbers(line: &str) -> Option<[u64; 5]> {
    let (counts, _) = line.split_once("/s")?;
    let before = |word: &str| -> Option<u64> {
        let at = counts.find(word)?;
        counts[..at].trim_end().rsplit(' ').next()?.parse().ok()
    };
    let total = before(" done")?;
    let done = counts.split(' ').next()?.parse().ok()?;
    Some([
        total,
        done,
        before(" running")?,
        before(" waiting")?,
        before(" to come")?,
    ])
}

#[test]
fn each_line_of_progress_adds_up() {
    let scene = Scene::new(3);
    let server = &scene.server;
    let mut rows: Vec<String> = (0..120)
        .map(|row| {
            let path = match row % 6 {
                0 => format!("/status/500?times=1&row={row}"),
                1 => format!("/redirect/2?row={row}"),
                2 => format!("/status/404?row={row}"),
                _ => format!("/delay/30?row={row}"),
            };
            server.url_at(host(row % 3), &path)
        })
        .collect();
    rows.extend(["not a URL".to_owned(), "a,bad row".to_owned()]);
    scene.input(&rows);
    let run = scene
        .fast()
        .words("--per-host-rate 50/s --rate 80/s -j 6 --progress plain")
        .words("--progress-interval 1ms")
        .run();
    run.assert(1, [122, 1, 100, 21, 0]);
    let lines: Vec<[u64; 5]> = run.stderr.lines().filter_map(numbers).collect();
    assert!(lines.len() > 3, "{}", run.stderr);
    for numbers in &lines {
        let [total, done, running, waiting, to_come] = *numbers;
        assert_eq!(total, 122);
        assert_eq!(done + running + waiting + to_come, total, "{numbers:?}");
        assert!(running <= 6, "{numbers:?}");
    }
    assert!(lines.windows(2).all(|pair| pair[0][1] <= pair[1][1]));
    run.assert_says(&["waiting for: ", "failed: ", "http_status"]);
}

#[test]
fn the_failures_of_a_run_are_listed_by_kind_at_its_end() {
    let scene = Scene::new(0);
    scene.paths(["/ok", "/status/404", "/status/500", "/loop", "/not-http"]);
    let run = scene.fast().words("--retries 0").run();
    run.assert(1, [5, 0, 1, 4, 0]);
    run.assert_says(&["http_status 2", "protocol 1", "too_many_redirects 1"]);
}

#[test]
fn what_binds_is_named() {
    let lane_rate = |scene: &Scene| format!("host rate (http://127.0.0.1:{}", scene.server.port());
    let lane_workers =
        |scene: &Scene| format!("host workers (http://127.0.0.1:{} 2/2", scene.server.port());
    let rate = |_: &Scene| "rate (10/s)".to_owned();
    let server = |_: &Scene| "server".to_owned();
    let cases: [(&str, fn(&Scene) -> String); 4] = [
        ("--per-host-rate 10/s", lane_rate),
        ("--per-host-workers 2", lane_workers),
        ("--rate 10/s", rate),
        ("-j 2", server),
    ];
    for (options, expected) in cases {
        let scene = Scene::new(0);
        scene.paths((0..10).map(|row| format!("/delay/120?row={row}")));
        let run = scene
            .fast()
            .words("--progress plain --progress-interval 1ms")
            .words(options)
            .run();
        run.assert(0, [10, 0, 10, 0, 0]);
        run.assert_says(&[&expected(&scene)]);
    }
}
