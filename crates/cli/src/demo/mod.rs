//! `brigade demo`: a server on loopback, a shipped CSV, a fetch, and a report.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use brigade_demo_server::{Options, Server};
use clap::Parser;

use crate::fetch;
use crate::options::{Cli, Command, DemoOptions};

/// The URLs of eight hosts, sorted by host. `PORT` stands for that of the server.
const ROWS: &str = include_str!("../../data/demo.csv");
const HOSTS: u8 = 8;

/// Runs the demonstration, and returns the exit code: 0 if it did what it was to do, although some
/// of its rows fail.
pub(crate) fn run(options: &DemoOptions) -> u8 {
    match demonstrate(&options.dir) {
        Ok(()) => 0,
        Err(message) => {
            let _ = writeln!(io::stderr(), "{message}");
            2
        }
    }
}

fn demonstrate(directory: &Path) -> Result<(), String> {
    let answers = directory.join("answers.csv");
    let report = directory.join("report.html");
    for path in [&answers, &report] {
        if path.exists() {
            return Err(format!(
                "{}: it is there already; choose another directory with --dir",
                path.display()
            ));
        }
    }
    fs::create_dir_all(directory)
        .map_err(|error| format!("{}: cannot create: {error}", directory.display()))?;
    let addresses = (2..2 + HOSTS).map(|host| Ipv4Addr::new(127, 0, 0, host));
    let server = Server::start(Options {
        addresses: addresses.collect(),
        ..Options::default()
    })
    .map_err(|error| format!("cannot start a server on loopback: {error}"))?;
    let input = Input::write(&ROWS.replace("PORT", &server.port().to_string()))?;

    let mut words = ["brigade", "fetch"].map(PathBuf::from).to_vec();
    words.push(input.0.clone());
    let limits = ["--per-host-rate", "12/s", "--backoff", "200ms..1s"];
    words.extend(limits.map(PathBuf::from));
    words.extend(["--output".into(), answers.clone()]);
    words.extend(["--report".into(), report.clone()]);
    let said = format!(
        "brigade fetch urls.csv {} --output {} --report {}",
        limits.join(" "),
        answers.display(),
        report.display()
    );
    let _ = writeln!(
        io::stderr(),
        "{} rows of {HOSTS} hosts, sorted by host, from a server on loopback. Some of them fail.\n\
         $ {said}",
        ROWS.lines().count() - 1
    );
    let Command::Fetch(options) = Cli::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .command
    else {
        return Err("the demonstration is a fetch".to_owned());
    };
    let code = fetch::run(&options);
    drop(server);
    match code {
        // Some rows fail, as they are to.
        1 if report.exists() => {}
        code => return Err(format!("the demonstration ended with exit code {code}")),
    }
    println!("{}\n{}", answers.display(), report.display());
    Ok(())
}

/// The input, for as long as it is needed.
struct Input(PathBuf);

impl Input {
    fn write(text: &str) -> Result<Self, String> {
        let name = format!("brigade-demo-{}.csv", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text)
            .map_err(|error| format!("{}: cannot write: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
