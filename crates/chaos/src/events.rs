//! What is done to the workers and the broker, and how often it was.

use std::fmt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use crate::proxy::Proxy;
use crate::queue::{Kind, LEASE};

/// How often each thing was done.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) cuts: u64,
    pub(crate) restarts: u64,
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kills={} stops={} cuts={} restarts={}",
            self.kills, self.stops, self.cuts, self.restarts
        )
    }
}

impl Events {
    /// Does something to one of the workers, or to their connections.
    pub(crate) fn strike(&mut self, rng: &mut Rng, workers: &[u32], proxy: Option<&Proxy>) {
        let Some(worker) = rng.choice(workers).and_then(|id| Pid::from_raw(*id as i32)) else {
            return;
        };
        // Each kind once at first, however short the run is.
        let kind = match self.kills + self.stops + self.cuts {
            0 => 0,
            1 => 2,
            2 => 3,
            _ => rng.u32(..10),
        };
        match (kind, proxy) {
            (0..2, _) => {
                if kill_process(worker, Signal::STOP).is_ok() {
                    self.stops += 1;
                    // Longer than its lease: it goes on with deliveries that are over.
                    thread::spawn(move || {
                        thread::sleep(LEASE * 2);
                        let _ = kill_process(worker, Signal::CONT);
                    });
                }
            }
            (2, Some(proxy)) => self.cuts += u64::from(proxy.cut() > 0),
            _ => self.kills += u64::from(kill_process(worker, Signal::KILL).is_ok()),
        }
    }

    /// Whether there is a program that restarts the broker.
    pub(crate) fn can_restart() -> bool {
        std::env::var_os("BRIGADE_AMQP_NODE").is_some()
    }

    /// Fails if something was never done: then the run has shown nothing of it.
    pub(crate) fn check(&self, kind: Kind) -> Result<(), String> {
        let is_restarted = self.restarts > 0 || !Self::can_restart();
        let is_amqp = kind == Kind::Amqp;
        if self.kills == 0 || self.stops == 0 || is_amqp && (self.cuts == 0 || !is_restarted) {
            return Err(format!("too few jobs for all kinds of faults: {self}"));
        }
        Ok(())
    }

    /// Kills the broker and starts it again, if there is a program that can.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        let Ok(node) = std::env::var("BRIGADE_AMQP_NODE") else {
            return Ok(());
        };
        for step in ["--kill", "--start"] {
            let status = Command::new(&node).arg(step).status();
            if !status.as_ref().is_ok_and(|status| status.success()) {
                return Err(format!("{node} {step}: {status:?}"));
            }
            thread::sleep(Duration::from_millis(500));
        }
        self.restarts += 1;
        Ok(())
    }
}
