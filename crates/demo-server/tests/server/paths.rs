//! What each path does.
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use crate::client::{Client, get, server};

#[test]
fn ok_is_a_page_of_the_asked_length_with_its_path_as_title() {
    let server = server();
    let mut client = Client::connect(&server);
    let answer = client.get("/ok");
    assert_eq!((answer.status, answer.body.len()), (200, 1024));
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let answer = client.get("/ok?bytes=300000&x=<");
    assert_eq!(answer.body.len(), 300_000);
    assert!(
        answer
            .text()
            .contains("<title>/ok?bytes=300000&amp;x=&lt;</title>")
    );
    assert_eq!(client.get("/ok?bytes=0").text(), "");
    // All of them on one connection.
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_chunked_body_is_the_same_as_one_with_a_length() {
    let server = server();
    let mut client = Client::connect(&server);
    for bytes in [0, 1, 1024, 300_000] {
        let answer = client.get(&format!("/ok?bytes={bytes}&chunked=1"));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.body.len(), bytes);
    }
}

#[test]
fn json_has_the_values_of_the_query() {
    let server = server();
    let answer = get(&server, "/json?lat=52.5&name=K%C3%B6ln+%22x%22&none=null");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.text(),
        "{\"results\":[{\"lat\":52.5,\"name\":\"Köln \\\"x\\\"\",\"none\":null}]}\n"
    );
}

#[test]
fn a_status_is_sent_the_first_times_and_then_200() {
    let server = server();
    let mut client = Client::connect(&server);
    let mut statuses = |path: &str| [0; 4].map(|_| client.get(path).status);
    assert_eq!(statuses("/status/503"), [503; 4]);
    assert_eq!(statuses("/status/503?times=2"), [503, 503, 200, 200]);
    assert_eq!(statuses("/status/404?times=2"), [404, 404, 200, 200]);
    // Another query is another path.
    assert_eq!(statuses("/status/503?times=2&row=1"), [503, 503, 200, 200]);
    // Without a body, the next answer follows at once.
    assert_eq!(statuses("/status/204"), [204; 4]);
    assert_eq!(statuses("/status/304"), [304; 4]);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let server = server();
    let mut client = Client::connect(&server);
    let answer = client.get("/status/429?times=1&retry_after=2");
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(
        client
            .get("/status/429?times=1&retry_after=2")
            .header("retry-after"),
        None
    );
    let answer = client.get("/status/429?retry_after=100&date=1");
    let date = |name: &str| httpdate::parse_http_date(answer.header(name).unwrap()).unwrap();
    let seconds = date("retry-after")
        .duration_since(date("date"))
        .unwrap()
        .as_secs();
    assert!((100..=101).contains(&seconds), "{seconds}");
}

#[test]
fn a_host_that_asks_faster_than_its_limit_gets_429_and_another_does_not() {
    let server = server();
    let mut client = Client::connect(&server);
    // No token comes back within the hour.
    let path = "/limit?per_second=0.0001&burst=3";
    let statuses = [0; 5].map(|_| client.get(path).status);
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(client.get(path).header("retry-after"), Some("1"));
    client.write(format!(
        "GET {path} HTTP/1.1\r\nHost: other.example\r\n\r\n"
    ));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn ratelimit_headers_have_the_asked_values() {
    let answer = get(&server(), "/ratelimit?remaining=0&reset=2");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("ratelimit-remaining"), Some("0"));
    assert_eq!(answer.header("ratelimit-reset"), Some("2"));
}

#[test]
fn a_delay_is_not_cut_short() {
    let server = server();
    let start = Instant::now();
    assert_eq!(get(&server, "/delay/120").status, 200);
    assert!(start.elapsed() >= Duration::from_millis(120));
    let seen = &server.seen()[0];
    assert!(seen.ended.unwrap() - seen.at >= Duration::from_millis(120));
}

#[test]
fn a_slow_body_comes_byte_by_byte_after_its_head() {
    let server = server();
    let mut client = Client::connect(&server);
    let start = Instant::now();
    let answer = client.get("/slow?bytes=10&ms=5");
    assert_eq!(answer.text(), "..........");
    assert!(start.elapsed() >= Duration::from_millis(50));
    // The head of a body that takes a year is there at once.
    client.send("GET", "/slow?bytes=9&ms=3600000000", "");
    assert_eq!(client.head().header("content-length"), Some("9"));
}

#[test]
fn an_endless_body_goes_on_until_the_client_closes_and_others_are_served_meanwhile() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/endless", "");
    assert_eq!(client.head().header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.bytes(3_000_000).len(), 3_000_000);
    assert_eq!(get(&server, "/ok").status, 200);
    assert_eq!(server.seen()[0].ended, None);
    drop(client);
    wait_until("the end of the body", || server.seen()[0].ended.is_some());
}

#[test]
fn a_bomb_unpacks_to_the_asked_size() {
    let answer = get(&server(), "/bomb?mb=30");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert!(answer.body.len() < 100_000, "{} bytes", answer.body.len());
    let mut unpacked = GzDecoder::new(&answer.body[..]);
    assert_eq!(
        std::io::copy(&mut unpacked, &mut std::io::sink()).unwrap(),
        30 << 20
    );
}

#[test]
fn gzip_is_a_packed_page() {
    let answer = get(&server(), "/gzip");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut page = String::new();
    GzDecoder::new(&answer.body[..])
        .read_to_string(&mut page)
        .unwrap();
    assert!(page.contains("<title>/gzip</title>"), "{page}");
}

#[test]
fn redirects_lead_where_their_urls_say() {
    let server = server();
    let mut client = Client::connect(&server);
    let mut hop = |path: &str| {
        let answer = client.get(path);
        (answer.status, answer.header("location").map(str::to_owned))
    };
    let to = |status: u16, location: &str| (status, Some(location.to_owned()));
    assert_eq!(hop("/redirect/2?a=b"), to(302, "/redirect/1?a=b"));
    assert_eq!(hop("/redirect/1?a=b"), to(302, "/redirect/0?a=b"));
    assert_eq!(hop("/redirect/0?a=b"), (200, None));
    assert_eq!(
        hop("/redirect?to=http://h/x?y&code=308"),
        to(308, "http://h/x?y")
    );
    assert_eq!(hop("/redirect?to=/x"), to(302, "/x"));
    assert_eq!(hop("/loop?a"), to(302, "/loop?a"));
    assert_eq!(
        hop("/location?to=%3C/script%3E//h"),
        to(302, "</script>//h")
    );
    assert_eq!(hop("/redirect?to=/x&code=200"), (400, None));
    assert_eq!(hop("/redirect"), (400, None));
}

#[test]
fn close_ends_the_connection_before_a_byte_of_the_answer() {
    let server = server();
    let ended = || {
        let mut client = Client::connect(&server);
        client.send("GET", "/close?times=2", "Connection: close\r\n");
        client.rest().unwrap()
    };
    assert_eq!(ended(), b"");
    assert_eq!(ended(), b"");
    assert!(ended().starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn reset_is_a_reset() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/reset", "");
    assert_eq!(
        client.rest().unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_short_body_is_shorter_than_its_length_claims() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/short", "");
    assert_eq!(client.head().header("content-length"), Some("1000"));
    assert_eq!(client.rest().unwrap().len(), 100);
}

#[test]
fn a_header_flood_has_the_asked_size() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/headers?kb=300&bytes=0", "Connection: close\r\n");
    let bytes = client.rest().unwrap().len();
    assert!((300 * 1024..301 * 1024).contains(&bytes), "{bytes}");
    assert_eq!(get(&server, "/headers?kb=100000000").status, 400);
}

#[test]
fn garbage_is_not_http() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/not-http", "");
    let rest = client.rest().unwrap();
    assert!(!rest.is_empty() && !rest.starts_with(b"HTTP"), "{rest:?}");
}

#[test]
fn hang_is_open_until_the_client_closes() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/hang", "");
    wait_until("the request", || server.requests("/hang") == 1);
    client
        .stream
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let error = client.rest().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    assert_eq!(server.seen()[0].ended, None);
    drop(client);
    wait_until("the end of the request", || {
        server.seen()[0].ended.is_some()
    });
}

#[test]
fn a_delay_ends_when_the_client_goes_away() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/delay/3600000", "");
    wait_until("the request", || server.requests("/delay/3600000") == 1);
    drop(client);
    wait_until("the end of the request", || {
        server.seen()[0].ended.is_some()
    });
}

#[test]
fn auth_asks_for_authorization() {
    let server = server();
    let mut client = Client::connect(&server);
    let answer = client.get("/auth");
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").is_some());
    client.send("GET", "/auth", "Authorization: Bearer x\r\n");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn echo_answers_with_the_head_of_the_request() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("PUT", "/echo?a", "X-Y: z\r\nContent-Length: 3\r\n");
    client.write("abc");
    let host = format!("127.0.0.1:{}", server.port());
    assert_eq!(
        client.answer().text(),
        format!("PUT /echo?a HTTP/1.1\r\nHost: {host}\r\nX-Y: z\r\nContent-Length: 3\r\n\r\n")
    );
}

#[test]
fn a_title_is_sent_with_its_markup() {
    let answer = get(
        &server(),
        "/title?text=%3C/title%3E%3Cscript%3Ealert(1)%3C/script%3E",
    );
    assert!(
        answer
            .text()
            .contains("<title></title><script>alert(1)</script></title>")
    );
}

#[test]
fn head_requests_get_no_body() {
    let server = server();
    let mut client = Client::connect(&server);
    for path in [
        "/ok",
        "/ok?chunked=1",
        "/slow?bytes=5&ms=1000000",
        "/endless",
        "/seen",
        "/none",
    ] {
        client.send("HEAD", path, "");
        let answer = client.head();
        assert_ne!(answer.status, 405, "{path}");
        // The next line is the next answer's, or this fails.
    }
    client.send("HEAD", "/head", "");
    assert_eq!(client.head().status, 405);
    assert_eq!(client.get("/head").status, 200);
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_unknown_path_is_404_and_a_value_that_is_no_number_400() {
    let server = server();
    let mut client = Client::connect(&server);
    for path in ["/", "/none", "/ok/1", "/status", "*"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    for path in [
        "/ok?bytes=x",
        "/status/x",
        "/status/100",
        "/delay/-1",
        "/ok?times=",
        "/title",
    ] {
        assert_eq!(client.get(path).status, 400, "{path}");
    }
    assert_eq!(
        client.get("/ok?bytes=x").text(),
        "`x` is no value of `bytes`\n"
    );
}

#[test]
fn times_hold_for_any_path() {
    let server = server();
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/auth?times=1").status, 401);
    assert_eq!(client.get("/auth?times=1").status, 200);
    assert_eq!(client.get("/none?times=1").status, 404);
    assert_eq!(client.get("/none?times=1").status, 200);
}

#[test]
fn a_request_as_to_a_proxy_is_answered_by_its_path() {
    let server = server();
    let mut client = Client::connect(&server);
    client.write("GET http://far.example:81/title?text=x HTTP/1.1\r\nHost: far.example:81\r\n\r\n");
    assert!(client.answer().text().contains("<title>x</title>"));
    assert_eq!(server.seen()[0].host, "far.example");
    assert_eq!(server.seen()[0].path, "/title?text=x");
}

/// Waits for what another thread does; the limit is there to end a test that fails.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{what} did not come"
        );
        std::thread::yield_now();
    }
}
