//! Clients that break the rules get an answer or the end of their connection, and all others are
//! served as before.
use std::io::Write;

use crate::client::{Client, get, server};
use crate::paths::wait_until;

#[test]
fn an_unparsable_head_gets_400_and_the_end_of_the_connection() {
    let server = server();
    for head in [
        "\u{0}\u{1}\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ] {
        let mut client = Client::connect(&server);
        client.write(head);
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{head:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(get(&server, "/ok").status, 200);
}

#[test]
fn a_head_of_more_than_64_kib_gets_431_even_while_it_is_sent() {
    let server = server();
    let mut client = Client::connect(&server);
    client.write("GET / HTTP/1.1\r\n");
    for _ in 0..1024 {
        client.write(format!("A: {}\r\n", "x".repeat(1024 - 5)));
    }
    assert_eq!(client.answer().status, 431);
    let mut client = Client::connect(&server);
    client.write(format!(
        "GET /ok HTTP/1.1\r\nA: {}\r\n\r\n",
        "x".repeat(64_000)
    ));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn more_than_a_hundred_headers_get_431() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/ok", &"A: b\r\n".repeat(99));
    assert_eq!(client.answer().status, 200);
    client.send("GET", "/ok", &"A: b\r\n".repeat(100));
    assert_eq!(client.answer().status, 431);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_a_head() {
    let server = server();
    let mut client = Client::connect(&server);
    client.stream.get_ref().set_nodelay(true).unwrap();
    for byte in b"\r\nGET /title?text=x HTTP/1.1\r\nA: b\r\n\r\n" {
        client.write([*byte]);
    }
    assert!(client.answer().text().contains("<title>x</title>"));
}

#[test]
fn requests_that_are_sent_ahead_are_answered_in_their_order() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/delay/200", "");
    wait_until("the request", || server.requests("/delay/200") == 1);
    // These come while the first one waits.
    for path in ["/title?text=2", "/slow?bytes=3&ms=1", "/title?text=4"] {
        client.send("GET", path, "");
    }
    assert_eq!(client.answer().body.len(), 1024);
    assert!(client.answer().text().contains(">2<"));
    assert_eq!(client.answer().text(), "...");
    assert!(client.answer().text().contains(">4<"));
}

#[test]
fn bodies_of_requests_are_read_and_left() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("POST", "/title?text=1", "Content-Length: 200000\r\n");
    client.write(vec![b'x'; 200_000]);
    client.send("POST", "/title?text=2", "Transfer-Encoding: chunked\r\n");
    client.write("5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n");
    client.send("POST", "/title?text=3", "Transfer-Encoding: chunked\r\n");
    client.write("0\r\n\r\n");
    client.send("GET", "/title?text=4", "");
    for text in [">1<", ">2<", ">3<", ">4<"] {
        assert!(client.answer().text().contains(text), "{text}");
    }
    client.send("POST", "/ok", "Transfer-Encoding: chunked\r\n");
    client.write("nonsense\r\n");
    assert_eq!(client.answer().status, 400);
}

#[test]
fn a_client_that_expects_100_gets_it_before_it_sends_its_body() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send(
        "POST",
        "/ok",
        "Expect: 100-continue\r\nContent-Length: 3\r\n",
    );
    assert_eq!(client.head().status, 100);
    client.write("abc");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn connections_end_as_the_request_asks() {
    let server = server();
    let mut client = Client::connect(&server);
    client.send("GET", "/ok", "Connection: close\r\n");
    assert_eq!(client.answer().header("connection"), Some("close"));
    assert_eq!(client.rest().unwrap(), b"");
    let mut client = Client::connect(&server);
    client.write("GET /ok?chunked=1&bytes=50 HTTP/1.0\r\n\r\n");
    assert_eq!(client.head().header("transfer-encoding"), None);
    assert_eq!(client.rest().unwrap().len(), 50);
    let mut client = Client::connect(&server);
    client.write("GET /ok HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/ok").status, 200);
}

#[test]
fn clients_that_leave_in_the_midst_of_anything_leave_the_server_whole() {
    let server = server();
    for bytes in [
        "",
        "GET /o",
        "GET /ok?bytes=100000000 HTTP/1.1\r\n\r\n",
        "GET /endless HTTP/1.1\r\n\r\n",
        "GET /slow HTTP/1.1\r\n\r\n",
        "POST /ok HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc",
    ] {
        let mut client = Client::connect(&server);
        client.write(bytes);
        // Some leave with unread bytes, which makes their end a reset.
        let _ = client.stream.get_mut().flush();
    }
    assert_eq!(get(&server, "/ok").status, 200);
}

#[test]
fn hundreds_of_connections_are_served_at_once() {
    let server = server();
    let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(&server)).collect();
    for client in &mut clients {
        client.send("GET", "/delay/50", "");
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(server.connections(), 300);
}
