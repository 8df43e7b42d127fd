//! The options of a connection, and the checks of what they are given.

use std::time::Duration;

use brigade::broker::BrokerError;
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::AmqpBroker;
use crate::topology::Names;

/// Options of an [`AmqpBroker`].
///
/// # Defaults
///
/// | option | default |
/// |---|---|
/// | [`delivery_limit`](Self::delivery_limit) | 100 |
/// | [`consumer_timeout`](Self::consumer_timeout) | the server's: 30 minutes, unless it is configured otherwise |
/// | [`results`](Self::results) | on |
/// | [`prefetch`](Self::prefetch) | follows what `fetch` asks for |
/// | [`uncounted_release`](Self::uncounted_release) | on |
/// | [`passive`](Self::passive) | off |
/// | [`priority`](Self::priority) | off |
/// | [`heartbeat`](Self::heartbeat) | 20 seconds |
/// | [`timeout`](Self::timeout) | 10 seconds |
/// | [`reconnect`](Self::reconnect) | 100 milliseconds, growing to 5 seconds |
/// | [`name`](Self::name) | `brigade` |
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use brigade_amqp::AmqpOptions;
///
/// # async fn connect() -> Result<(), brigade::broker::BrokerError> {
/// let broker = AmqpOptions::new()
///     .delivery_limit(20)
///     .consumer_timeout(Duration::from_secs(3 * 60 * 60))
///     .connect("amqp://user:password@rabbit.example/%2f", "thumbnails")
///     .await?;
/// # drop(broker);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `connect` is called"]
pub struct AmqpOptions {
    pub(crate) delivery_limit: u32,
    pub(crate) consumer_timeout: Option<Duration>,
    pub(crate) results: bool,
    pub(crate) prefetch: Option<u16>,
    pub(crate) uncounted_release: bool,
    pub(crate) passive: bool,
    pub(crate) priority: bool,
    pub(crate) heartbeat: Duration,
    pub(crate) timeout: Duration,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
    pub(crate) name: String,
}

impl Default for AmqpOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl AmqpOptions {
    /// The delivery limit without [`delivery_limit`](Self::delivery_limit).
    pub const DELIVERY_LIMIT: u32 = 100;
    /// The interval of heartbeats without [`heartbeat`](Self::heartbeat).
    pub const HEARTBEAT: Duration = Duration::from_secs(20);
    /// The time for an answer of the server without [`timeout`](Self::timeout).
    pub const TIMEOUT: Duration = Duration::from_secs(10);
    /// The first pause before a reconnection without [`reconnect`](Self::reconnect).
    pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
    /// The longest pause before a reconnection without [`reconnect`](Self::reconnect).
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

    /// Makes the default options.
    pub fn new() -> Self {
        Self {
            delivery_limit: Self::DELIVERY_LIMIT,
            consumer_timeout: None,
            results: true,
            prefetch: None,
            uncounted_release: true,
            passive: false,
            priority: false,
            heartbeat: Self::HEARTBEAT,
            timeout: Self::TIMEOUT,
            first_pause: Self::FIRST_PAUSE,
            longest_pause: Self::LONGEST_PAUSE,
            name: "brigade".into(),
        }
    }

    /// Sets the `x-delivery-limit` of the queue: the server dead-letters a message that has been
    /// returned more often. So a message is delivered `limit + 1` times at most.
    ///
    /// It is the backstop for jobs that end their process: set it greater than the number of
    /// deliveries after which the application itself gives a job up. A message that is published again
    /// counts from 0: after each retry with a time, and after each
    /// [release](brigade::broker::Nack::Release) with [`uncounted_release`](Self::uncounted_release),
    /// the limit starts anew. Without `uncounted_release`, servers before 4.3 count releases here.
    ///
    /// # Panics
    ///
    /// If `limit` is 0 or greater than `i32::MAX`.
    #[track_caller]
    pub const fn delivery_limit(mut self, limit: u32) -> Self {
        assert!(
            limit >= 1 && limit <= i32::MAX as u32,
            "delivery_limit must be from 1 to 2147483647"
        );
        self.delivery_limit = limit;
        self
    }

    /// Sets the `x-consumer-timeout` of the queue, in whole milliseconds: the server takes all
    /// deliveries back from a consumer that has not settled one for so long. Choose it greater than
    /// the longest job takes, retries within the pool included.
    ///
    /// Servers before 3.11.15 ignore it: set `consumer_timeout` in their configuration.
    ///
    /// # Panics
    ///
    /// If `timeout` is shorter than a minute, which is how often servers look.
    #[track_caller]
    pub const fn consumer_timeout(mut self, timeout: Duration) -> Self {
        assert!(
            timeout.as_secs() >= 60,
            "consumer_timeout must be at least one minute"
        );
        self.consumer_timeout = Some(timeout);
        self
    }

    /// Sets whether results are published to the queue `NAME.results`. If not, there is no such
    /// queue, and a result that is given to `ack` is dropped.
    pub const fn results(mut self, results: bool) -> Self {
        self.results = results;
        self
    }

    /// Fixes the prefetch of the consumer: so many of its deliveries at most are unsettled, those
    /// included that no `fetch` has returned yet. A handle that has room and does not fetch for 100
    /// milliseconds cancels its consumer; what it holds does not count towards the next.
    ///
    /// Without it, the prefetch follows what `fetch` asks for, and the consumer starts again whenever
    /// unsettled deliveries and `max` exceed it. That happens once for a caller whose sum of both is
    /// constant, and in each call for one that fetches one by one and settles later: such a caller
    /// sets it. A `fetch` beyond it returns nothing until a delivery is settled.
    ///
    /// # Panics
    ///
    /// If `prefetch` is 0, which means unlimited in AMQP.
    #[track_caller]
    pub const fn prefetch(mut self, prefetch: u16) -> Self {
        assert!(prefetch >= 1, "prefetch must be at least 1, got 0");
        self.prefetch = Some(prefetch);
        self
    }

    /// Sets whether a [released](brigade::broker::Nack::Release) delivery is published again, with its
    /// old count, and its original acknowledged then. The server's own count, which
    /// [`delivery_limit`](Self::delivery_limit) is compared with, starts again at 0. If the process or
    /// the connection is lost in between, the job is in the queue twice.
    ///
    /// Without it, the delivery is returned to its queue. That is cheaper, cannot duplicate the job, and
    /// keeps its place near the head; but servers before 4.3 count it as a delivery that was lost, so
    /// switch it off for later ones only.
    pub const fn uncounted_release(mut self, uncounted: bool) -> Self {
        self.uncounted_release = uncounted;
        self
    }

    /// Sets whether the queues are only checked for existence, not declared: for queues that an
    /// operator has made, with arguments or policies of their own.
    ///
    /// Delay queues are then not even checked. A delay whose queue is missing is a permanent error
    /// that names it.
    pub const fn passive(mut self, passive: bool) -> Self {
        self.passive = passive;
        self
    }

    /// States that the server is RabbitMQ 4.0 or later, where quorum queues have two priorities:
    /// jobs of priority 0 are normal, all others are high. Servers before 4.0 ignore priorities.
    ///
    /// This sets what [`Capabilities::priority`](brigade::broker::Capabilities::priority) says;
    /// priorities are sent in any case.
    pub const fn priority(mut self, priority: bool) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the interval of heartbeats, in whole seconds. A connection without any traffic for two
    /// intervals is lost, for both sides.
    ///
    /// # Panics
    ///
    /// If `interval` is not from one second to 65,535 seconds.
    #[track_caller]
    pub const fn heartbeat(mut self, interval: Duration) -> Self {
        assert!(
            interval.as_secs() >= 1 && interval.as_secs() <= u16::MAX as u64,
            "heartbeat must be from 1 to 65535 seconds"
        );
        self.heartbeat = interval;
        self
    }

    /// Sets how long a call waits for an answer of the server, such as the confirms of a batch, and
    /// for a connection. A server that blocks publishers, because memory or disk run out, answers
    /// nothing.
    ///
    /// # Panics
    ///
    /// If `timeout` is 0.
    #[track_caller]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "timeout must not be 0");
        self.timeout = timeout;
        self
    }

    /// Sets the pauses between attempts to connect again: the first, and the longest. Each is twice
    /// the one before.
    pub const fn reconnect(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }

    /// Sets the name of the connection, for the operator of the server.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Connects to a server, `amqp://user:password@host:port/vhost`, and declares the queue and those
    /// that belong to it.
    ///
    /// The virtual host is percent-encoded: that of the default installation, `/`, is `%2f`.
    /// `amqps://` needs the feature `tls`.
    ///
    /// # Errors
    ///
    /// A [permanent](BrokerError::is_permanent) one if the URL or the name of the queue (1 to 200
    /// bytes) is not valid, if the server refuses user or virtual host, or if one of the queues exists
    /// with other arguments. Another if there is no connection after one attempt.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was opened; the queues may have been declared.
    pub async fn connect(self, url: &str, queue: &str) -> Result<AmqpBroker, BrokerError> {
        let uri = self.uri(url)?;
        let names = Names::new(queue)?;
        AmqpBroker::open(self, uri, names).await
    }

    fn uri(&self, url: &str) -> Result<AMQPUri, BrokerError> {
        let mut uri: AMQPUri = url.parse().map_err(|error: String| {
            BrokerError::permanent(format!("the URL of the server is not valid: {error}"))
        })?;
        if uri.scheme == AMQPScheme::AMQPS && !TLS {
            return Err(BrokerError::permanent(
                "amqps needs brigade-amqp with its feature `tls`",
            ));
        }
        // Heartbeats of the URL win: they are an option of the one connection.
        let interval = u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(interval);
        Ok(uri)
    }
}

const TLS: bool = cfg!(feature = "tls");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_table() {
        let options = AmqpOptions::default();
        assert_eq!(options.delivery_limit, 100);
        assert_eq!(options.consumer_timeout, None);
        assert!(options.results);
        assert_eq!(options.prefetch, None);
        assert!(options.uncounted_release);
        assert!(!options.passive);
        assert!(!options.priority);
        assert_eq!(options.heartbeat, Duration::from_secs(20));
        assert_eq!(options.timeout, Duration::from_secs(10));
        assert_eq!(options.first_pause, Duration::from_millis(100));
        assert_eq!(options.longest_pause, Duration::from_secs(5));
        assert_eq!(options.name, "brigade");
    }

    #[test]
    fn urls_that_are_none_are_refused_for_good() {
        for url in ["", "localhost", "http://localhost", "amqp://[", "amqp:x"] {
            let error = AmqpOptions::new().uri(url).unwrap_err();
            assert!(error.is_permanent(), "{url}: {error}");
        }
        assert_eq!(AmqpOptions::new().uri("amqps://host").is_ok(), TLS);
    }

    #[test]
    fn heartbeats_of_the_url_win() {
        let options = AmqpOptions::new().heartbeat(Duration::from_secs(7));
        let heartbeat = |url| options.uri(url).unwrap().query.heartbeat;
        assert_eq!(heartbeat("amqp://host"), Some(7));
        assert_eq!(heartbeat("amqp://host?heartbeat=3"), Some(3));
    }
}
