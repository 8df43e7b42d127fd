//! Rates, numbers at once and pauses, as the server saw them.

use std::time::Duration;

use crate::scaled;
use crate::scene::{Scene, host};

const SLACK: Duration = Duration::from_secs(2);

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_file_sorted_by_host_runs_at_the_sum_of_the_limits() {
    let (hosts, rows) = (scaled(8, 100), scaled(8, 100));
    let scene = Scene::new(hosts);
    let server = &scene.server;
    scene.input((0..hosts).flat_map(|index| {
        (0..rows).map(move |row| server.url_at(host(index), &format!("/ok?bytes=100&row={row}")))
    }));
    let from = scene.clock();
    let start = std::time::Instant::now();
    let all = (hosts * rows) as u64;
    let run = crate::process::Brigade::fetch(scene.path()).run();
    let took = start.elapsed();
    run.assert(0, [all, 0, all, 0, 0]);
    let mut last_of_first = Duration::ZERO;
    let mut first_of_last = Duration::MAX;
    for index in 0..hosts {
        let seen = scene.seen_at(host(index));
        assert_eq!(seen.len(), rows);
        Scene::assert_rate(&seen, from, millis(200), SLACK);
        if index == 0 {
            last_of_first = seen.last().unwrap().at;
        }
        if index == hosts - 1 {
            first_of_last = seen[0].at;
        }
    }
    assert!(
        first_of_last < last_of_first,
        "the last host had to wait for the first one"
    );
    if crate::is_whole() {
        let ideal = millis(200) * u32::try_from(rows).unwrap();
        assert!(took < ideal * 6 / 5, "{took:?}, where {ideal:?} is ideal");
    }
}

#[test]
fn retry_after_pauses_one_host_and_no_other() {
    let (hosts, seconds) = (4, scaled(3, 10));
    let rows = scaled(20, 100);
    let scene = Scene::new(hosts);
    let server = &scene.server;
    let asked = format!("/status/429?retry_after={seconds}&times=1");
    let mut urls = vec![server.url_at(host(0), &asked)];
    urls.extend((1..5).map(|row| server.url_at(host(0), &format!("/ok?row={row}"))));
    for index in 1..hosts {
        urls.extend((0..rows).map(|row| server.url_at(host(index), &format!("/ok?row={row}"))));
    }
    scene.input(&urls);
    let run = crate::process::Brigade::fetch(scene.path())
        .words("--per-host-rate 10/s --per-host-workers 1 --progress plain")
        .words("--progress-interval 100ms")
        .run();
    let all = urls.len() as u64;
    run.assert(0, [all, 0, all, 0, 0]);

    let paused = scene.seen_at(host(0));
    let refused = paused.iter().position(|one| one.path == asked).unwrap();
    let until = paused[refused].at + Duration::from_secs(seconds);
    let next = &paused[refused + 1];
    assert!(next.at >= until, "{:?} is before {until:?}", next.at);
    assert_eq!(server.requests(&asked), 2);
    let meanwhile = server
        .seen()
        .into_iter()
        .filter(|one| one.address != host(0) && one.at > paused[refused].at && one.at < next.at);
    // More than could be on their way.
    let meanwhile = meanwhile.count();
    assert!(meanwhile >= 4 * (hosts - 1), "{meanwhile} of other hosts");

    let answers = scene.answers();
    assert_eq!(
        answers.tally("status_code").into_iter().collect::<Vec<_>>(),
        [("200", urls.len())]
    );
    let lane = format!("Retry-After (http://{}:{}", host(0), server.port());
    run.assert_says(&[&lane]);
    let sidecar = scene.read("out.csv.run.json");
    assert!(sidecar.contains("\"Retry-After\""), "{sidecar}");
}

#[test]
fn a_retry_after_in_the_answer_of_an_accepted_row_pauses_too() {
    let scene = Scene::new(1);
    let server = &scene.server;
    let first = "/ratelimit?remaining=0&reset=2";
    let urls = [first, "/ok?row=2", "/ok?row=3"];
    scene.input(urls.map(|path| server.url_at(host(0), path)));
    let run = scene.fast().words("--per-host-workers 1").run();
    run.assert(0, [3, 0, 3, 0, 0]);
    let seen = scene.seen_at(host(0));
    assert_eq!(seen[0].path, first);
    assert!(seen[1].at >= seen[0].at + Duration::from_secs(2));
}

#[test]
fn a_longer_retry_after_than_is_allowed_fails_the_row_at_once() {
    let scene = Scene::new(0);
    scene.paths(["/status/503?retry_after=86400"]);
    let run = scene.fast().words("--max-retry-after 2s").run();
    run.assert(1, [1, 0, 0, 1, 0]);
    assert_eq!(scene.server.seen().len(), 1);
    assert_eq!(scene.answers().column("error_kind"), ["retry_after"]);
}

#[test]
fn the_total_rate_holds_over_all_hosts() {
    let scene = Scene::new(5);
    let server = &scene.server;
    scene.input((0..20).map(|row| server.url_at(host(row % 5), &format!("/ok?row={row}"))));
    let from = scene.clock();
    let run = scene.fast().words("--rate 600/min").run();
    run.assert(0, [20, 0, 20, 0, 0]);
    Scene::assert_rate(&server.seen(), from, millis(100), SLACK);
}

#[test]
fn retries_are_requests_within_the_limits() {
    let scene = Scene::new(0);
    scene.paths((0..4).map(|row| format!("/status/500?row={row}")));
    let from = scene.clock();
    let run = crate::process::Brigade::fetch(scene.path())
        .words("--per-host-rate 10/s --retries 3 --backoff 1ms..2ms")
        .run();
    run.assert(1, [4, 0, 0, 4, 0]);
    let seen = scene.server.seen();
    assert_eq!(seen.len(), 16);
    Scene::assert_rate(&seen, from, millis(100), SLACK);
    assert_eq!(scene.answers().column("attempts"), ["4"; 4]);
}

#[test]
fn hosts_have_limits_of_their_own_from_a_file_and_from_stdin() {
    for is_stdin in [false, true] {
        let scene = Scene::new(4);
        let server = &scene.server;
        let url = |index, row| server.url_at(host(index), &format!("/delay/50?row={row}"));
        let rows = (0..4).flat_map(|index| (0..6).map(move |row| (index, row)));
        let mut urls: Vec<String> = rows.map(|(index, row)| url(index, row)).collect();
        // A host that only a redirect leads to.
        let moved = (0..4).map(|row| format!("/redirect?to={}", url(3, 100 + row)));
        urls.retain(|url| !url.contains(&host(3).to_string()));
        urls.extend(moved.map(|path| server.url_at(host(0), &path)));
        scene.input(&urls);
        let own = |index: usize, limits: &str| format!("{}={limits}", host(index));
        let mut run = crate::process::Brigade::new(scene.path(), "fetch");
        run = if is_stdin {
            run.arg("-").stdin(scene.read("in.csv"))
        } else {
            run.arg("in.csv")
        };
        let from = scene.clock();
        let run = run
            .words("-o out.csv --per-host-rate 20/s --per-host-workers 3")
            .args(["--host", &own(0, "none,2"), "--host", &own(1, "5/s")])
            .args(["--host", &own(2, "1"), "--host", &own(3, "5/s,1")])
            .run();
        run.assert(0, [22, 0, 22, 0, 0]);
        let most = |index| server.most_at_once(&host(index).to_string());
        assert!(most(0) <= 2 && most(1) <= 3 && most(2) <= 1 && most(3) <= 1);
        Scene::assert_rate(&scene.seen_at(host(1)), from, millis(200), SLACK);
        Scene::assert_rate(&scene.seen_at(host(2)), from, millis(50), SLACK);
        let moved_to = scene.seen_at(host(3));
        assert_eq!(moved_to.len(), 4, "stdin: {is_stdin}");
        Scene::assert_rate(&moved_to, from, millis(200), SLACK);
    }
}

#[test]
fn no_more_run_at_once_than_the_workers() {
    let scene = Scene::new(0);
    scene.paths((0..60).map(|row| format!("/delay/20?row={row}")));
    let run = scene.fast().words("-j 7 --per-host-workers 100").run();
    run.assert(0, [60, 0, 60, 0, 0]);
    let most = scene.server.most_at_once("127.0.0.1");
    assert!(most <= 7, "{most}");
    scene.write("out.csv", "");
    let run = scene.fast().words("--workers 1").run();
    run.assert(0, [60, 0, 60, 0, 0]);
    let mut seen = scene.server.seen().split_off(60);
    seen.sort_by_key(|one| one.at);
    for pair in seen.windows(2) {
        assert!(pair[0].ended.unwrap() <= pair[1].at + millis(1), "{pair:?}");
    }
}

#[test]
fn a_rate_without_a_unit_is_refused() {
    let scene = Scene::new(0);
    scene.paths(["/ok"]);
    for option in ["--rate", "--per-host-rate"] {
        let run = scene.fast().args([option, "5"]).run();
        assert_eq!(run.code, Some(2));
        run.assert_says(&["5/s", option]);
    }
    assert!(scene.server.seen().is_empty());
}

#[test]
fn rows_that_wait_elsewhere_do_not_hold_up_the_others_of_their_host() {
    let away = |scene: &Scene| {
        let away = scene.server.url_at(host(0), "/status/429?retry_after=1000");
        format!("/redirect?to={}", away.replace('?', "%3F"))
    };
    let fails = |_: &Scene| "/status/500?row=".to_owned();
    let cases: [&dyn Fn(&Scene) -> String; 2] = [&fails, &away];
    for first in cases {
        let scene = Scene::new(1);
        let first = first(&scene);
        scene.paths((0..40).map(|row| match row {
            0..20 => format!("{first}%26row={row}"),
            _ => format!("/ok?row={row}"),
        }));
        let mut running = scene
            .fast()
            .words("--backoff 2h..2h --max-retry-after 1h --per-host-workers 2")
            .start();
        // They wait for an hour.
        running.wait_until("the other rows", || {
            let text = std::fs::read_to_string(scene.file("out.csv")).unwrap_or_default();
            text.matches(",true,200,").count() == 20
        });
        running.signal(rustix::process::Signal::INT);
        let run = running.wait();
        assert_eq!((run.code, run.counts().ok), (Some(130), 20));
    }
}
