//! Signals come in as values, one at a time. They end nothing by themselves any more.

use std::fmt;

use smol::{future, stream::StreamExt};

use crate::stop::Stop;

#[cfg(unix)]
const CAUGHT: &[async_signal::Signal] = &[async_signal::Signal::Int, async_signal::Signal::Term];
#[cfg(not(unix))]
const CAUGHT: &[async_signal::Signal] = &[async_signal::Signal::Int];

/// The signals that ask this process to end.
pub(crate) struct Signals(async_signal::Signals);

/// A signal that asks this process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signals {
    /// Catches them from now on.
    pub(crate) fn new() -> Result<Self, Stop> {
        async_signal::Signals::new(CAUGHT)
            .map(Self)
            .map_err(Stop::NoSignals)
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
