//! Servers and files that mean harm: what they send ends, and what is secret stays so.

use std::fs;

use crate::process::Ended;
use crate::scene::{Scene, host};

/// A flood of headers has curl's code of a connection that was reset.
const FLOOD: &str = "reset";

/// All outputs but those that hold raw rows.
fn outputs(scene: &Scene, run: &Ended) -> Vec<(&'static str, String)> {
    let mut outputs = vec![
        ("stdout", run.stdout.clone()),
        ("stderr", run.stderr.clone()),
    ];
    for name in ["out.csv.run.json", "report.html", "trace.json"] {
        outputs.push((name, scene.read(name)));
    }
    outputs
}

#[test]
fn a_hostile_server_costs_little_memory_and_each_row_gets_its_answer() {
    let scene = Scene::new(0);
    let paths = [
        ("/endless", "body_too_large"),
        ("/bomb?mb=300", "body_too_large"),
        ("/loop", "too_many_redirects"),
        ("/headers?kb=20000", FLOOD),
        ("/short", "reset"),
        ("/close", "reset"),
        ("/reset", "reset"),
        ("/not-http", "protocol"),
        ("/location?to=http%3A%2F%2F%5B", "bad_url"),
        ("/location?to=javascript%3Aalert(1)", "bad_url"),
        ("/location?to=%2Fok%0D%0AX-Injected%3A+1", ""),
        (
            "/title?text=%3C%2Fscript%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
            "",
        ),
    ];
    let repeated = (0..5).flat_map(|_| paths.iter());
    scene.paths(repeated.map(|(path, _)| path));
    let run = scene
        .fast()
        .words("--retries 0 --max-body 1M --per-host-workers 20 --timeout 60s")
        .words("--report report.html --trace trace.json")
        .run();
    let answers = scene.answers();
    for (row, (path, kind)) in (1..).zip((0..5).flat_map(|_| paths.iter())) {
        assert_eq!(
            answers.cell(row, "error_kind"),
            *kind,
            "{path}: {}",
            answers.cell(row, "error")
        );
    }
    run.assert(1, [60, 0, 10, 50, 0]);
    assert!(run.peak_kib < 150 * 1024, "{} KiB", run.peak_kib);
    for (name, text) in outputs(&scene, &run) {
        assert!(!text.contains("<script"), "{name}");
        assert!(!text.contains("alert(1)</"), "{name}");
    }
}

#[test]
fn no_secret_is_in_an_output_that_does_not_hold_raw_rows() {
    const SECRETS: [&str; 9] = [
        "pa/ss", "pa%2Fss", "pa%2fss", "us3r", "t0ken", "h3ader", "c00kie", "fr4gment", "pr0xy",
    ];
    let scene = Scene::new(1);
    let server = &scene.server;
    let port = server.port();
    let away = server.url_at(host(0), "/ok?token=t0ken");
    let urls = [
        format!("http://us3r:pa%2Fss@127.0.0.1:{port}/ok?token=t0ken#fr4gment"),
        format!("http://us3r:pa/ss@127.0.0.1:{port}/ok?token=t0ken"),
        format!("http://us3r:pa%2Fss@127.0.0.1:{port}/status/500?token=t0ken"),
        format!("http://us3r:pa%2fss@127.0.0.1:{port}/close?token=t0ken"),
        format!("http://us3r:pa%2Fss@127.0.0.1:{port}/endless?token=t0ken"),
        format!("http://us3r:pa%2Fss@127.0.0.1:{port}/redirect?to={away}"),
        format!("http://127.0.0.1:{port}/loop?token=t0ken"),
        format!("http://127.0.0.1:{port}/status/429?retry_after=1&times=1&token=t0ken"),
        "http://us3r:pa%2Fss@127.0.0.1:1/?token=t0ken".to_owned(),
        "https://us3r:pa%2Fss@127.0.0.1:1/?token=t0ken".to_owned(),
        "us3r:pa/ss@h/?token=t0ken".to_owned(),
        "http://us3r:pa/ss@[bad/?token=t0ken".to_owned(),
        format!("http://127.0.0.1:{port}/location?to=http%3A%2F%2Fus3r%3Apa%2Fss%40%5B"),
        "a,http://us3r:pa%2Fss@h/?token=t0ken".to_owned(),
    ];
    scene.input(&urls);
    scene.write("headers.txt", "Authorization: Bearer h3ader\n");
    let run = scene
        .fast()
        .words("--retries 1 --max-body 100K --progress plain --progress-interval 1ms")
        .words("--report report.html --trace trace.json --rejects rejects.csv")
        .words("--failures failures.csv -H @headers.txt -H Cookie:c00kie")
        .run();
    let counts = run.counts();
    assert_eq!((counts.rows, counts.bad, counts.not_started), (14, 1, 0));
    for (name, text) in outputs(&scene, &run) {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    assert!(scene.read("rejects.csv").contains("t0ken"));
    assert!(scene.read("failures.csv").contains("pa/ss"));
    let answers = scene.answers();
    for error in answers.column("error") {
        assert!(
            SECRETS.iter().all(|secret| !error.contains(secret)),
            "{error}"
        );
    }
    // A second run shows messages about the rows of the first.
    let text = scene
        .read("in.csv")
        .replace("/ok?token=t0ken", "/ok?token=t0ken2");
    scene.write("in.csv", text);
    let run = scene.fast().words("--resume").run();
    assert_eq!(run.code, Some(2));
    for secret in SECRETS {
        assert!(
            !run.stderr.contains(secret),
            "{secret} is in {}",
            run.stderr
        );
    }
    // A proxy that cannot be used.
    let run = scene
        .fast()
        .words("--resume --proxy http://us3r:pr0xy@[bad/")
        .run();
    assert_eq!(run.code, Some(2));
    for secret in SECRETS {
        assert!(
            !run.stderr.contains(secret),
            "{secret} is in {}",
            run.stderr
        );
    }
}

#[test]
fn formulas_are_written_as_they_are_unless_the_file_is_for_a_spreadsheet() {
    let scene = Scene::new(0);
    let formula = "=cmd|' /C calc'!A0";
    let url = scene.server.url("/title?text=%3D1%2B1&bytes=30");
    scene.write(
        "in.csv",
        format!("url,note\n{url},{formula}\n{url},-5\n{url},@x\n"),
    );
    scene
        .fast()
        .words("--ordered")
        .run()
        .assert(0, [3, 0, 3, 0, 0]);
    assert_eq!(scene.answers().column("note"), [formula, "-5", "@x"]);
    fs::remove_file(scene.file("out.csv")).unwrap();
    let run = scene.fast().words("--spreadsheet --ordered").run();
    run.assert(0, [3, 0, 3, 0, 0]);
    let quoted = format!("'{formula}");
    assert_eq!(
        scene.answers().column("note"),
        [quoted.as_str(), "-5", "'@x"]
    );
    let run = scene.fast().words("--resume").run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["--spreadsheet"]);
    let run = scene.fast().words("--resume --spreadsheet").run();
    assert_eq!(run.code, Some(2));
}
