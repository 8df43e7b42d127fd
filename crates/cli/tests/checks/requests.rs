//! What is requested for a row, and what is written of the answer.

use std::fs;

use brigade_demo_server::{Options, Server};
use sha2::{Digest, Sha256};

use crate::scene::{Scene, host};

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn values_of_a_template_are_encoded_and_values_of_json_are_columns() {
    let scene = Scene::new(0);
    scene.write("in.csv", "id,city\n1,Berlin\n2,\"a&b=c/d?é #\"\n3,\n");
    let template = scene.server.url("/json?lat=52.5&name={city}&id={id}");
    let run = scene
        .fast()
        .args(["--url-template", &template])
        .args([
            "--extract",
            "lat=/results/0/lat",
            "--extract",
            "name=/results/0/name",
        ])
        .args(["--extract", "none=/results/7"])
        .run();
    run.assert(0, [3, 0, 3, 0, 0]);
    let answers = scene.answers();
    assert_eq!(answers.cell(1, "lat"), "52.5");
    assert_eq!(answers.cell(2, "name"), "a&b=c/d?é #");
    assert_eq!(answers.cell(2, "none"), "");
    assert_eq!(answers.columns[..4], ["id", "city", "row", "ok"]);
    let paths: Vec<String> = scene
        .server
        .seen()
        .into_iter()
        .map(|one| one.path)
        .collect();
    assert!(paths.contains(&"/json?lat=52.5&name=a%26b%3Dc%2Fd%3F%C3%A9%20%23&id=2".to_owned()));
}

#[test]
fn the_columns_have_the_order_of_the_contract() {
    let scene = Scene::new(0);
    scene.paths(["/ok?bytes=20"]);
    let run = scene
        .fast()
        .words("--include-body --save-bodies bodies --prefix fetch_")
        .run();
    assert_eq!(run.code, Some(0));
    let text = scene.read("out.csv");
    let header = text.lines().next().unwrap();
    assert_eq!(
        header.replace("fetch_", ""),
        "url,row,ok,status_code,final_url,redirects,content_type,bytes,attempts,queued_ms,\
         backoff_ms,elapsed_ms,finished_at,error_kind,error,path,sha256,body"
    );
    assert_eq!(header.matches("fetch_").count(), 17);
}

#[test]
fn bodies_are_kept_in_the_table_and_in_files() {
    let scene = Scene::new(0);
    scene.paths([
        "/title?text=%22quoted%22%0Aline&bytes=300",
        "/gzip",
        "/status/404",
        "/redirect/2?bytes=77",
        "/ok?bytes=0",
    ]);
    let run = scene
        .fast()
        .words("--include-body --save-bodies bodies")
        .run();
    run.assert(1, [5, 0, 4, 1, 0]);
    let answers = scene.answers();
    for row in [1, 2, 4, 5] {
        let path = answers.cell(row, "path");
        let bytes = fs::read(scene.file(path)).unwrap();
        assert_eq!(path, format!("bodies/00/00/{row:06}.html"));
        assert_eq!(answers.cell(row, "sha256"), sha256(&bytes));
        assert_eq!(answers.cell(row, "body").as_bytes(), bytes);
        assert_eq!(answers.cell(row, "bytes"), bytes.len().to_string());
    }
    assert!(answers.cell(2, "body").starts_with("<!doctype html>"));
    assert_eq!(
        (answers.cell(3, "path"), answers.cell(3, "status_code")),
        ("", "404")
    );
    assert!(answers.cell(4, "final_url").contains("/redirect/0"));
    assert_eq!(answers.cell(4, "redirects"), "2");
    let saved = fs::read_dir(scene.file("bodies/00/00")).unwrap().count();
    assert_eq!(saved, 4, "nothing but whole bodies");
}

#[test]
fn names_of_bodies_stay_in_their_directory() {
    let scene = Scene::new(0);
    let mut text = "url,name\n".to_owned();
    for name in ["a/b.html", "../evil.html", "/tmp/evil.html", ""] {
        text.push_str(&format!("{},{name}\n", scene.server.url("/ok?bytes=9")));
    }
    scene.write("in.csv", text);
    let run = scene
        .fast()
        .words("--save-bodies bodies --name-column name")
        .run();
    run.assert(1, [4, 0, 1, 3, 0]);
    assert_eq!(scene.server.seen().len(), 1);
    assert_eq!(fs::read(scene.file("bodies/a/b.html")).unwrap().len(), 9);
    assert!(!scene.file("evil.html").exists());
}

#[test]
fn a_status_that_is_not_accepted_is_an_answer() {
    let scene = Scene::new(0);
    scene.paths([
        "/ok",
        "/status/404",
        "/status/304",
        "/status/500",
        "/status/204",
    ]);
    let run = scene.fast().words("--retries 1").run();
    run.assert(1, [5, 0, 2, 3, 0]);
    let answers = scene.answers();
    let cells =
        |row| ["ok", "status_code", "attempts", "error_kind"].map(|name| answers.cell(row, name));
    assert_eq!(cells(1), ["true", "200", "1", ""]);
    assert_eq!(cells(2), ["false", "404", "1", "http_status"]);
    assert_eq!(cells(3), ["false", "304", "1", "http_status"]);
    assert_eq!(cells(4), ["false", "500", "2", "http_status"]);
    let run = scene
        .fast()
        .words("--resume=failed --retries 0 --accept 200..=299,304,404")
        .run();
    run.assert(1, [5, 0, 4, 1, 0]);
    assert_eq!(scene.server.requests("/ok"), 1);
    assert_eq!(scene.server.requests("/status/500"), 3);
}

#[test]
fn get_follows_where_head_is_refused() {
    let scene = Scene::new(0);
    scene.paths(["/head", "/ok?bytes=500"]);
    let run = scene.fast().words("--method head,get -j 1").run();
    run.assert(0, [2, 0, 2, 0, 0]);
    let methods: Vec<String> = scene
        .server
        .seen()
        .into_iter()
        .map(|one| one.method + " " + &one.path)
        .collect();
    let mut sorted = methods.clone();
    sorted.sort();
    assert_eq!(sorted, ["GET /head", "HEAD /head", "HEAD /ok?bytes=500"]);
    assert_eq!(scene.answers().column("redirects"), ["0", "0"]);
}

#[test]
fn credentials_stay_with_their_host() {
    let scene = Scene::new(2);
    let server = &scene.server;
    let away = server.url_at(host(1), "/echo?row=away");
    scene.input([
        server.url_at(host(0), &format!("/redirect?to={away}")),
        server.url_at(host(0), "/redirect/1"),
        server
            .url_at(host(0), &format!("/redirect?to={away}%26user"))
            .replacen("http://", "http://user:pa%2Fss@", 1),
    ]);
    scene.write(
        "headers.txt",
        "Authorization: Bearer h3ader\nX-Plain: from a file\n\n",
    );
    let run = scene
        .fast()
        .args([
            "-H",
            "@headers.txt",
            "-H",
            "Cookie: c00kie",
            "-H",
            "X-Other: yes",
        ])
        .args(["--user-agent", "checks/1", "--contact", "me@example.org"])
        .run();
    run.assert(0, [3, 0, 3, 0, 0]);
    let seen = server.seen();
    assert_eq!(seen.len(), 6);
    for one in &seen {
        let is_home = one.address == host(0);
        for name in ["authorization", "cookie"] {
            assert_eq!(
                one.header(name).is_some(),
                is_home,
                "{name} of {}",
                one.path
            );
        }
        assert_eq!(one.header("x-plain"), Some("from a file"));
        assert_eq!(one.header("x-other"), Some("yes"));
        assert_eq!(one.header("user-agent"), Some("checks/1 (+me@example.org)"));
    }
    scene.write("out.csv", "");
    let run = scene.fast().run();
    run.assert(0, [3, 0, 3, 0, 0]);
    let of_url: Vec<_> = server
        .seen()
        .split_off(6)
        .into_iter()
        .filter(|one| one.header("authorization").is_some())
        .collect();
    assert_eq!(of_url.len(), 1, "{of_url:?}");
    assert_eq!(
        of_url[0].header("authorization"),
        Some("Basic dXNlcjpwYS9zcw==")
    );
    for secret in ["h3ader", "c00kie"] {
        assert!(!scene.read("out.csv.run.json").contains(secret));
    }
}

#[test]
fn a_host_that_is_down_is_given_up() {
    let scene = Scene::new(0);
    let gone = Server::start(Options::default()).unwrap();
    let url = gone.url("/ok");
    gone.stop();
    let mut urls = vec![url; 20];
    urls.push(scene.server.url("/ok"));
    scene.input(urls);
    let run = scene
        .fast()
        .words("--host-failures 3 --retries 0 --per-host-workers 1")
        .run();
    run.assert(1, [21, 0, 1, 20, 0]);
    let answers = scene.answers();
    let tally = answers.tally("error_kind");
    assert_eq!(
        tally.into_iter().collect::<Vec<_>>(),
        [("", 1), ("connect", 3), ("host_down", 17)]
    );
}

#[test]
fn attempts_are_one_and_the_extra_ones() {
    for (retries, options) in [(0, "--retries 0"), (2, ""), (1, "--retries 1")] {
        let scene = Scene::new(0);
        scene.paths([
            "/status/503",
            "/close",
            "/reset",
            "/status/400",
            "/ok?times=0",
        ]);
        let run = scene.fast().words(options).run();
        run.assert(1, [5, 0, 1, 4, 0]);
        let requests = |path| scene.server.requests(path);
        assert_eq!(requests("/status/503"), 1 + retries);
        assert_eq!(requests("/status/400"), 1);
        // curl sends a request again on a new connection if an old one ended before an answer.
        assert!(requests("/close") > retries, "{}", requests("/close"));
        let attempts = scene.answers().cell(1, "attempts").to_owned();
        assert_eq!(attempts, (1 + retries).to_string());
        assert_eq!(scene.answers().cell(2, "error_kind"), "reset");
    }
}

#[test]
fn a_row_that_is_accepted_after_retries_says_how_many_attempts_it_took() {
    let scene = Scene::new(0);
    scene.paths(["/status/503?times=2", "/status/500?times=1"]);
    let run = scene.fast().run();
    run.assert(0, [2, 0, 2, 0, 0]);
    let answers = scene.answers();
    assert_eq!(
        (answers.cell(1, "attempts"), answers.cell(2, "attempts")),
        ("3", "2")
    );
}

#[test]
fn certificates_are_checked() {
    let scene = Scene::with(Options {
        tls: true,
        ..Options::default()
    });
    scene.write("ca.pem", scene.server.ca_pem());
    scene.input([scene.server.https_url("/ok?bytes=10")]);
    let run = scene.fast().words("--retries 0").run();
    run.assert(1, [1, 0, 0, 1, 0]);
    assert_eq!(scene.answers().column("error_kind"), ["tls"]);
    assert!(scene.server.seen().is_empty());
    for options in ["--cacert ca.pem", "--insecure"] {
        scene.write("out.csv", "");
        let run = scene.fast().words(options).run();
        run.assert(0, [1, 0, 1, 0, 0]);
        assert_eq!(scene.answers().column("bytes"), ["10"]);
    }
    let run = scene.fast().words("--resume --cacert missing.pem").run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["--cacert", "missing.pem"]);
}

#[test]
fn a_time_out_of_an_attempt_is_named_and_tried_again() {
    let scene = Scene::new(0);
    scene.paths(["/hang", "/slow?bytes=100000&ms=50"]);
    let run = scene.fast().words("--timeout 300ms --retries 1").run();
    run.assert(1, [2, 0, 0, 2, 0]);
    assert_eq!(scene.answers().column("error_kind"), ["timeout"; 2]);
    assert_eq!(scene.answers().column("attempts"), ["2"; 2]);
    assert_eq!(scene.server.requests("/hang"), 2);
}

#[test]
fn redirects_have_a_limit_and_none_are_followed_where_it_is_0() {
    let scene = Scene::new(0);
    scene.paths([
        "/redirect/3",
        "/redirect/4",
        "/loop",
        "/location?to=ftp%3A%2F%2Fh%2F",
    ]);
    let run = scene.fast().words("--max-redirects 3").run();
    run.assert(1, [4, 0, 1, 3, 0]);
    let answers = scene.answers();
    let kinds: Vec<&str> = (1..=4).map(|row| answers.cell(row, "error_kind")).collect();
    assert_eq!(
        kinds,
        ["", "too_many_redirects", "too_many_redirects", "bad_url"]
    );
    scene.write("out.csv", "");
    let run = scene.fast().words("--max-redirects 0 --accept 302").run();
    run.assert(0, [4, 0, 4, 0, 0]);
}

#[test]
fn no_row_is_asked_again_where_there_are_no_retries() {
    let scene = Scene::new(0);
    scene.paths([
        "/status/429?retry_after=1",
        "/status/503?retry_after=1",
        "/ok",
    ]);
    let run = scene.fast().words("--retries 0").run();
    run.assert(1, [3, 0, 1, 2, 0]);
    assert_eq!(scene.server.seen().len(), 3);
    let answers = scene.answers();
    assert_eq!(answers.cell(1, "error_kind"), "rate_limited");
    assert_eq!(answers.column("attempts"), ["1"; 3]);
}

#[test]
fn a_directory_of_bodies_that_cannot_be_used_ends_the_run_before_a_request() {
    let scene = Scene::new(0);
    scene.paths(["/ok"]);
    let run = scene.fast().words("--save-bodies in.csv/bodies").run();
    assert_eq!(run.code, Some(2));
    run.assert_says(&["in.csv/bodies"]);
    assert!(scene.server.seen().is_empty());
}

#[test]
fn of_rows_that_name_one_file_the_first_has_it_and_the_others_fail() {
    let scene = Scene::new(0);
    let mut text = "url,name\n".to_owned();
    for path in [
        "/slow?bytes=100&ms=5",
        "/slow?bytes=60&ms=6",
        "/ok?bytes=50",
    ] {
        text.push_str(&format!("{},a.html\n", scene.server.url(path)));
    }
    scene.write("in.csv", text);
    let run = scene
        .fast()
        .words("--save-bodies bodies --name-column name")
        .run();
    run.assert(1, [3, 0, 1, 2, 0]);
    let answers = scene.answers();
    let saved = sha256(&fs::read(scene.file("bodies/a.html")).unwrap());
    assert_eq!(saved, sha256(&[b'.'; 100]));
    assert_eq!(answers.cell(1, "sha256"), saved);
    for row in [2, 3] {
        let error = "another row has the same name for its body";
        assert_eq!(answers.cell(row, "error"), error);
    }
    assert_eq!(fs::read_dir(scene.file("bodies")).unwrap().count(), 1);
}
