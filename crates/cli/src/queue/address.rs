//! What names a queue: a path or a URL comes in, an open broker goes out. The password of a URL is
//! in no message.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brigade::broker::BrokerError;
use brigade_amqp::{AmqpBroker, AmqpOptions};
use brigade_sqlite::{Options, SqliteBroker};
use percent_encoding::percent_decode_str;
use smol::Timer;
use url::Url;

use crate::file_id::FileId;
use crate::frame::stop::Stop;
use crate::options::queue::PASSWORD;

/// The name of a queue in RabbitMQ that is given none.
const DEFAULT_NAME: &str = "brigade";

/// How often a queue that cannot be reached is opened, the first time included: for some seconds.
const TRIES: u32 = 7;

/// A queue as it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Sqlite(PathBuf),
    Amqp(Amqp),
}

/// A queue of a server.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Amqp {
    /// Without the name of the queue.
    url: String,
    name: String,
}

/// An open queue.
pub(super) enum Broker {
    Sqlite(SqliteBroker),
    Amqp(AmqpBroker),
}

/// Whether a queue that is missing is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Refuse,
}

impl Address {
    pub(super) fn parse(queue: &Path, name: Option<&str>) -> Result<Self, Stop> {
        let shown = queue.to_string_lossy();
        let start = shown.split('/').next().unwrap_or_default();
        let is_amqp = shown.starts_with("amqp://") || shown.starts_with("amqps://");
        if start.to_ascii_lowercase().starts_with("amqp")
            && start.contains(':')
            && (!is_amqp || queue.to_str().is_none())
        {
            return Err(Stop::Usage(
                "the queue begins as a URL of RabbitMQ does, and is none: write amqp://… or amqps://…, \
                 or ./ before the path of an SQLite file"
                    .to_owned(),
            ));
        }
        let text = queue.to_str().unwrap_or_default();
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("amqp" | "amqps") => Ok(Self::Amqp(Amqp::parse(text, name)?)),
            Some(scheme) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Err(Stop::Usage(format!(
                    "{scheme}://…: a queue is amqp://… or amqps://…, or else the path of an SQLite file"
                )))
            }
            _ if name.is_some() => Err(Stop::Usage(format!(
                "{}: --name is for queues of RabbitMQ; an SQLite file has one queue",
                queue.display()
            ))),
            _ if queue.as_os_str() == "-" || queue.as_os_str().is_empty() => Err(Stop::Usage(
                "a queue is the path of an SQLite file or amqp://…, and comes before all files"
                    .to_owned(),
            )),
            _ => Ok(Self::Sqlite(queue.to_owned())),
        }
    }

    /// Opens the queue; tries again for a few seconds where it cannot be reached.
    pub(super) async fn open(
        &self,
        missing: Missing,
        lease: Option<Duration>,
    ) -> Result<Broker, Stop> {
        for failures in 0.. {
            let error = match self.try_open(missing, lease).await {
                Ok(broker) => return Ok(broker),
                Err(error) => error,
            };
            if error.is_permanent() || failures + 1 >= TRIES {
                return Err(Stop::Usage(self.problem(&error)));
            }
            if failures == 0 {
                warn(format_args!("{}; trying again", self.problem(&error)));
            }
            Timer::after(pause(failures)).await;
        }
        unreachable!("the last try returns")
    }

    /// Whether the path leads to a file that belongs to the queue, or would.
    pub(super) fn has_file(&self, other: &Path) -> bool {
        let Self::Sqlite(path) = self else {
            return false;
        };
        // The others are named after the file that links lead to.
        let path = resolved(path);
        ["", "-wal", "-shm", "-journal"].iter().any(|suffix| {
            let mut own = path.clone().into_os_string();
            own.push(suffix);
            let own = PathBuf::from(own);
            let id = FileId::at(&own);
            (id.is_some() && id == FileId::at(other)) || own == resolved(other)
        })
    }

    async fn try_open(
        &self,
        missing: Missing,
        lease: Option<Duration>,
    ) -> Result<Broker, BrokerError> {
        match self {
            Self::Sqlite(path) => {
                let is_there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
                if missing == Missing::Refuse && !is_there {
                    return Err(BrokerError::permanent(format!(
                        "{0}: there is no queue; `brigade enqueue {0} FILE` makes one",
                        path.display()
                    )));
                }
                let mut options = Options::new().create(missing == Missing::Create);
                if let Some(lease) = lease {
                    options = options.lease(lease);
                }
                Ok(Broker::Sqlite(options.open(path).await?))
            }
            Self::Amqp(Amqp { url, name }) => {
                let options = AmqpOptions::new()
                    .passive(missing == Missing::Refuse)
                    // A job that is given back was not tried, on servers before 4.3 too.
                    .uncounted_release(true);
                Ok(Broker::Amqp(options.connect(url, name).await?))
            }
        }
    }

    /// An error of the broker as a message that names the queue and has no password.
    pub(super) fn problem(&self, error: &BrokerError) -> String {
        let text = error.to_string();
        let text = match text.split_once(": ") {
            Some(("the broker refuses", problem)) => problem,
            Some(("the broker failed", problem)) => problem,
            _ => &text,
        };
        let mut text = self.redacted(text);
        if matches!(self, Self::Amqp(_)) && !error.is_permanent() {
            text.insert_str(0, "the server failed: ");
        }
        match self {
            // What the server says has the names of queues that the user has not named.
            Self::Amqp(_) if text.contains("NOT_FOUND") => {
                format!("{self}: there is no queue; `brigade enqueue QUEUE FILE` makes one")
            }
            // Most of these name the file.
            Self::Sqlite(path) if text.contains(&path.display().to_string()) => text,
            _ => format!("{self}: {text}"),
        }
    }

    /// The text without the password, should a message of the server or of a library have it.
    fn redacted(&self, text: &str) -> String {
        let Self::Amqp(Amqp { url, .. }) = self else {
            return text.to_owned();
        };
        let mut text = text.replace(url.as_str(), &self.to_string());
        let parsed = Url::parse(url).ok();
        if let Some(password) = parsed.as_ref().and_then(Url::password) {
            let decoded = percent_decode_str(password).decode_utf8_lossy();
            for password in [password, &decoded] {
                if !password.is_empty() {
                    text = text.replace(password, "…");
                }
            }
        }
        text
    }
}

impl Amqp {
    fn parse(text: &str, name: Option<&str>) -> Result<Self, Stop> {
        // A password that ends at a character of its own would be shown as path or name.
        let behind = text.split_once("://").map_or(text, |(_, behind)| behind);
        if let Some(end) = behind.find(['/', '?', '#'])
            && behind[end..].contains('@')
        {
            return Err(Stop::Usage(
                "the URL of the queue has an @ behind its host: write # as %23, / as %2F and ? as %3F \
                 in user and password, and @ as %40 everywhere else"
                    .to_owned(),
            ));
        }
        let (url, fragment) = match text.split_once('#') {
            Some((url, fragment)) => (url, Some(fragment)),
            None => (text, None),
        };
        let fragment = fragment
            .filter(|fragment| !fragment.is_empty())
            .map(|fragment| {
                percent_decode_str(fragment)
                    .decode_utf8_lossy()
                    .into_owned()
            });
        let name = match (fragment, name) {
            (Some(fragment), Some(name)) if fragment != name => {
                return Err(Stop::Usage(format!(
                    "the queue has two names: #{fragment} of its URL, and --name {name}"
                )));
            }
            (Some(fragment), _) => fragment,
            (None, name) => name.unwrap_or(DEFAULT_NAME).to_owned(),
        };
        Ok(Self {
            url: with_password(url, std::env::var(PASSWORD).ok()),
            name,
        })
    }
}

/// The URL with this password, if it has a user and none.
fn with_password(url: &str, password: Option<String>) -> String {
    let (Ok(mut parsed), Some(password)) = (Url::parse(url), password) else {
        return url.to_owned();
    };
    // `set_password` takes a % for the start of what is encoded already.
    let password = password.replace('%', "%25");
    if parsed.username().is_empty()
        || parsed.password().is_some()
        || parsed.set_password(Some(&password)).is_err()
    {
        return url.to_owned();
    }
    parsed.into()
}

/// Without user, password and query.
impl fmt::Display for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Url::parse(&self.url) {
            Ok(url) => {
                write!(
                    f,
                    "{}://{}",
                    url.scheme(),
                    url.host_str().unwrap_or_default()
                )?;
                if let Some(port) = url.port() {
                    write!(f, ":{port}")?;
                }
                write!(f, "{}#{}", url.path(), self.name)
            }
            Err(_) => write!(f, "amqp://…#{}", self.name),
        }
    }
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Amqp(amqp) => amqp.fmt(f),
        }
    }
}

/// The path without links. Its file need not be there.
fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| {
        let directory = path.parent().filter(|parent| *parent != Path::new(""));
        let directory = std::fs::canonicalize(directory.unwrap_or(Path::new(".")));
        match (directory, path.file_name()) {
            (Ok(directory), Some(name)) => directory.join(name),
            _ => path.to_owned(),
        }
    })
}

/// The pause after so many failures before: 0.1 s, 0.2 s, and so on.
pub(super) fn pause(failures: u32) -> Duration {
    Duration::from_millis(100).saturating_mul(2_u32.saturating_pow(failures))
}

/// Writes a line on stderr. Where it is closed, the line is lost.
pub(super) fn warn(message: impl fmt::Display) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{message}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, name: Option<&str>) -> Result<Address, String> {
        Address::parse(Path::new(text), name).map_err(|stop| stop.to_string())
    }

    fn amqp(text: &str, name: Option<&str>) -> (String, String) {
        match parse(text, name) {
            Ok(Address::Amqp(Amqp { url, name })) => (url, name),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_queue_is_a_path_or_a_url_with_a_name() {
        assert_eq!(
            parse("jobs.db", None),
            Ok(Address::Sqlite("jobs.db".into()))
        );
        assert_eq!(parse("a#b", None), Ok(Address::Sqlite("a#b".into())));
        let own = |text: &str, name: &str| (text.to_owned(), name.to_owned());
        assert_eq!(amqp("amqp://h/%2f#a%20b", None), own("amqp://h/%2f", "a b"));
        assert_eq!(amqp("amqps://h", Some("a")), own("amqps://h", "a"));
        assert_eq!(amqp("amqp://h#a", Some("a")), own("amqp://h", "a"));
        assert_eq!(amqp("amqp://h#", None), own("amqp://h", "brigade"));
        for (text, name) in [
            ("amqp://h#a", Some("b")),
            ("http://h", None),
            ("jobs.db", Some("a")),
            ("-", None),
        ] {
            assert!(parse(text, name).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_added_where_there_is_a_user_without() {
        let with = |url: &str| with_password(url, Some("a/b c%41".to_owned()));
        assert_eq!(with("amqp://u@h:1/%2f"), "amqp://u:a%2Fb%20c%2541@h:1/%2f");
        for unchanged in ["amqp://u:p@h/%2f", "amqp://h/%2f", "amqp://u@ho st"] {
            assert_eq!(with(unchanged), unchanged);
        }
        assert_eq!(with_password("amqp://u@h", None), "amqp://u@h");
    }

    #[test]
    fn no_message_has_the_password() {
        let text = "amqp://user:pa%2Fss@host:5673/%2f?auth=x#jobs";
        let queue = parse(text, None).unwrap();
        let shown = "amqp://host:5673/%2f#jobs";
        assert_eq!(
            (queue.to_string(), format!("{queue:?}")),
            (shown.into(), format!("Amqp({shown})"))
        );
        let error = BrokerError::permanent("bad amqp://user:pa%2Fss@host:5673/%2f?auth=x, pa/ss");
        let problem = queue.problem(&error);
        assert_eq!(problem, format!("{shown}: bad {shown}, …"));
        let broken = parse("amqp://user:secret@ho st#jobs", None).unwrap();
        assert_eq!(broken.to_string(), "amqp://…#jobs");
        for text in [
            "amqp://user:12#secret@host/%2f",
            "amqp://user:12/secret@host/%2f#jobs",
            "amqp://user:12?secret@host",
            "amqp+ssl://user:secret@host",
            "amqp:user:secret@host",
            "AMQP:/user:secret@host",
            "AMQPS://user:secret@host",
        ] {
            let refused = parse(text, None).unwrap_err();
            let is_shown = ["secret", "user:", "host/", "12"].map(|part| refused.contains(part));
            assert_eq!(is_shown, [false; 4], "{refused}");
        }
        assert!(parse("./amqp:a", None).is_ok() && parse("amqp.db", None).is_ok());
    }
}
