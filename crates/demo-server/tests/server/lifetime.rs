//! Start and stop.
use std::net::{Ipv4Addr, TcpStream};

use brigade_demo_server::{Options, Server};

use crate::client::{Client, server};
use crate::paths::wait_until;

#[test]
fn stop_ends_all_connections_and_closes_the_port() {
    let server = server();
    let port = server.port();
    let mut idle = Client::connect(&server);
    let mut hanging = Client::connect(&server);
    hanging.send("GET", "/hang", "");
    let mut endless = Client::connect(&server);
    endless.send("GET", "/endless", "");
    endless.head();
    wait_until("the requests", || {
        server.requests("/hang") == 1 && server.connections() == 3
    });
    server.stop();
    assert_eq!(idle.rest().unwrap(), b"");
    assert_eq!(hanging.rest().unwrap(), b"");
    // What was sent already may still come.
    let _ = endless.rest();
    TcpStream::connect(("127.0.0.1", port)).unwrap_err();
}

#[test]
fn dropping_is_stopping() {
    let server = server();
    let mut client = Client::connect(&server);
    client.get("/ok");
    drop(server);
    assert_eq!(client.rest().unwrap(), b"");
}

#[test]
fn two_servers_do_not_share_their_counts() {
    let (one, two) = (server(), server());
    Client::connect(&one).get("/ok");
    assert_eq!((one.requests("/ok"), two.requests("/ok")), (1, 0));
}

#[test]
fn all_addresses_listen_on_one_port_and_no_other_does() {
    let addresses: Vec<Ipv4Addr> = (2..52).map(|last| Ipv4Addr::new(127, 0, 1, last)).collect();
    let options = Options {
        addresses: addresses.clone(),
        ..Options::default()
    };
    let server = Server::start(options).unwrap();
    for address in &addresses {
        assert_eq!(Client::connect_to(&server, *address).get("/ok").status, 200);
        let url = format!("http://{address}:{}/x", server.port());
        assert_eq!(server.url_at(*address, "/x"), url);
    }
    assert_eq!(
        server.url("/x"),
        format!("http://127.0.0.1:{}/x", server.port())
    );
    TcpStream::connect((Ipv4Addr::new(127, 0, 1, 99), server.port())).unwrap_err();
}

#[test]
fn an_address_that_others_could_reach_is_refused() {
    let options = Options {
        addresses: vec![Ipv4Addr::UNSPECIFIED],
        ..Options::default()
    };
    let error = Server::start(options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "addresses must be of 127.0.0.0/8, got 0.0.0.0"
    );
}

#[test]
fn a_port_that_is_taken_is_named_in_the_error() {
    let server = server();
    let port = server.port();
    let options = Options {
        port,
        ..Options::default()
    };
    let error = Server::start(options).unwrap_err().to_string();
    assert!(error.starts_with(&format!("127.0.0.1:{port}: ")), "{error}");
}

#[test]
#[should_panic(expected = "the option `tls` must be true")]
fn a_url_of_tls_without_tls_is_a_mistake() {
    let _ = server().https_url("/");
}
