//! SIGINT and SIGTERM, as values.

use std::fmt;
use std::io;

use smol::future;
use smol::stream::StreamExt;

/// The signals that end a run.
#[derive(Debug)]
pub(crate) struct Signals(async_signal::Signals);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        const CAUGHT: [async_signal::Signal; 2] =
            [async_signal::Signal::Int, async_signal::Signal::Term];
        async_signal::Signals::new(CAUGHT).map(Self)
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.0.next().await {
            Some(Ok(async_signal::Signal::Term)) => Signal::Terminate,
            Some(Ok(_)) => Signal::Interrupt,
            Some(Err(_)) | None => future::pending().await,
        }
    }
}

impl Signal {
    /// What a shell says of a process that the signal ended: 128 and its number.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "terminated",
        })
    }
}
