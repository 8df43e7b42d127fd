//! Serves until it is killed, for benchmarks and for trying things by hand:
//!
//! ```text
//! cargo run -p brigade-demo-server --example serve -- 127.0.0.1:8080
//! ```
//!
//! More addresses may follow the first: `127.0.0.2 127.0.0.3`. `--record` keeps the requests, so
//! that `/seen` can list them. `--tls FILE` listens for TLS too, and writes the certificate of the
//! authority to the file.
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::{env, fs, thread};

use brigade_demo_server::{Options, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options {
        record: false,
        ..Options::default()
    };
    let mut ca_file = None;
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--record" {
            options.record = true;
        } else if argument == "--tls" {
            options.tls = true;
            ca_file = Some(arguments.next().ok_or("`--tls` needs a file")?);
        } else if let Ok(socket) = argument.parse::<SocketAddrV4>() {
            options.port = socket.port();
            options.addresses.push(*socket.ip());
        } else {
            let address: Ipv4Addr = argument
                .parse()
                .map_err(|error| format!("{argument}: {error}"))?;
            options.addresses.push(address);
        }
    }
    let server = Server::start(options)?;
    println!("{}", server.url("/"));
    if let Some(file) = ca_file {
        fs::write(&file, server.ca_pem())?;
        println!("{}", server.https_url("/"));
    }
    loop {
        thread::park();
    }
}
