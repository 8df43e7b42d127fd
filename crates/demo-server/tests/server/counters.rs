//! What the server says that it saw.
use std::net::Ipv4Addr;

use brigade_demo_server::{Options, Server};

use crate::client::{Client, get, server};
use crate::paths::wait_until;

const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

fn server_at_two_addresses() -> Server {
    let options = Options {
        addresses: vec![OTHER],
        ..Options::default()
    };
    Server::start(options).unwrap()
}

#[test]
fn a_request_is_seen_with_all_that_it_said() {
    let server = server_at_two_addresses();
    let mut client = Client::connect_to(&server, OTHER);
    client.send("POST", "/ok?a=b", "X-Y: z\r\n");
    client.answer();
    client.write("GET /ok HTTP/1.1\r\nhost: Some.Example\r\n\r\n");
    client.answer();
    Client::connect(&server).get("/none");
    let seen = server.seen();
    let host = format!("{OTHER}:{}", server.port());
    assert_eq!(seen[0].method, "POST");
    assert_eq!(seen[0].path, "/ok?a=b");
    assert_eq!(seen[0].host, "127.0.0.77");
    assert_eq!(seen[0].address, OTHER);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(seen[0].headers, [header("Host", &host), header("X-Y", "z")]);
    assert_eq!(seen[0].header("x-y"), Some("z"));
    assert_eq!(
        (seen[1].host.as_str(), seen[1].address),
        ("some.example", OTHER)
    );
    assert_eq!(
        (seen[2].host.as_str(), seen[2].address),
        ("127.0.0.1", Ipv4Addr::LOCALHOST)
    );
    assert_eq!([0, 1, 2].map(|at: usize| seen[at].connection), [1, 1, 2]);
    assert!(seen[0].at <= seen[0].ended.unwrap());
    assert!(seen[0].ended.unwrap() <= seen[1].at);
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_request_has_ended_as_soon_as_its_answer_is_there() {
    let server = server();
    let mut client = Client::connect(&server);
    let paths = [
        "/ok",
        "/ok?bytes=200000&chunked=1",
        "/status/204",
        "/slow?bytes=2&ms=0",
        "/x",
    ];
    for round in 0..200 {
        client.get(paths[round % paths.len()]);
        assert!(server.seen()[round].ended.is_some(), "round {round}");
    }
    assert_eq!(server.most_at_once("127.0.0.1"), 1);
}

#[test]
fn a_request_without_a_host_is_counted_at_the_address() {
    let server = server_at_two_addresses();
    let mut client = Client::connect_to(&server, OTHER);
    client.write("GET /ok HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(server.seen()[0].host, "127.0.0.77");
    assert_eq!(server.most_at_once("127.0.0.77"), 1);
}

#[test]
fn the_most_at_once_counts_open_requests_and_not_connections() {
    let server = server();
    let idle: Vec<Client> = (0..5).map(|_| Client::connect(&server)).collect();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(&server)).collect();
    for client in &mut clients {
        client.send("GET", "/hang", "");
    }
    wait_until("three requests", || server.requests("/hang") == 3);
    drop(clients);
    wait_until("their ends", || {
        server.seen().iter().all(|seen| seen.ended.is_some())
    });
    for _ in 0..10 {
        get(&server, "/ok");
    }
    assert_eq!(server.most_at_once("127.0.0.1"), 3);
    assert_eq!(server.most_at_once("127.0.0.2"), 0);
    assert_eq!(server.connections(), 5 + 3 + 10);
    drop(idle);
}

#[test]
fn requests_are_counted_by_path_with_and_without_query() {
    let server = server();
    for path in ["/ok", "/ok?a", "/ok?a", "/okay"] {
        get(&server, path);
    }
    assert_eq!(server.requests("/ok"), 3);
    assert_eq!(server.requests("/ok?a"), 2);
    assert_eq!(server.requests("/okay"), 1);
    assert_eq!(server.requests("/oka"), 0);
}

#[test]
fn without_a_record_the_counters_stay() {
    let options = Options {
        record: false,
        ..Options::default()
    };
    let server = Server::start(options).unwrap();
    assert_eq!(get(&server, "/status/503?times=1").status, 503);
    assert_eq!(get(&server, "/status/503?times=1").status, 200);
    assert_eq!(server.seen(), []);
    assert_eq!(server.dropped(), 2);
    assert_eq!(server.requests("/status/503"), 2);
    assert_eq!(server.most_at_once("127.0.0.1"), 1);
    assert_eq!(get(&server, "/seen").text(), "");
}

#[test]
fn the_list_of_what_was_seen_has_a_line_a_request_and_is_not_in_it() {
    let server = server();
    let mut client = Client::connect(&server);
    for _ in 0..2500 {
        client.get("/status/204");
    }
    let answer = client.get("/seen");
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let mut lines = answer.text().lines();
    assert!(lines.all(|line| line.contains("\"path\":\"/status/204\"") && line.ends_with('}')));
    assert_eq!(answer.text().lines().count(), 2500);
    assert_eq!(server.seen().len(), 2500);
    assert_eq!(server.requests("/seen"), 0);
}
