//! TLS, by a client that trusts the server's authority.
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use brigade_demo_server::{Options, Server};
use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, ServerName};
use futures_rustls::rustls::crypto::aws_lc_rs;
use futures_rustls::rustls::{ClientConfig, RootCertStore};
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::wait_until;

fn server() -> Server {
    let options = Options {
        tls: true,
        ..Options::default()
    };
    Server::start(options).unwrap()
}

/// Connects as to a host of this name.
async fn connect(
    server: &Server,
    ca_pem: &str,
    name: &'static str,
) -> io::Result<TlsStream<Async<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = server.https_url("");
    let socket: SocketAddr = url.strip_prefix("https://").unwrap().parse().unwrap();
    let stream = Async::<TcpStream>::connect(socket).await?;
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(ServerName::try_from(name).unwrap(), stream)
        .await
}

#[test]
fn a_client_that_trusts_the_authority_is_served() {
    let server = server();
    smol::block_on(async {
        for name in ["localhost", "127.0.0.1"] {
            let mut stream = connect(&server, server.ca_pem(), name).await.unwrap();
            let head =
                format!("GET /title?text=x HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // An end without close_notify would be an error here.
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("<title>x</title>"), "{answer}");
        }
    });
    assert_eq!(server.requests("/title?text=x"), 2);
}

#[test]
fn a_client_that_trusts_another_authority_or_name_is_not_connected() {
    let (server, other) = (self::server(), self::server());
    smol::block_on(async {
        connect(&server, other.ca_pem(), "localhost")
            .await
            .unwrap_err();
        connect(&server, server.ca_pem(), "other.example")
            .await
            .unwrap_err();
        connect(&server, server.ca_pem(), "localhost")
            .await
            .unwrap();
    });
    assert!(server.seen().is_empty());
}

#[test]
fn a_client_that_leaves_with_close_notify_ends_its_hanging_request() {
    let server = server();
    smol::block_on(async {
        let mut stream = connect(&server, server.ca_pem(), "localhost")
            .await
            .unwrap();
        stream
            .write_all(b"GET /hang HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        stream.flush().await.unwrap();
        wait_until("the request", || server.requests("/hang") == 1);
        stream.close().await.unwrap();
    });
    wait_until("the end of the request", || {
        server.seen()[0].ended.is_some()
    });
}
