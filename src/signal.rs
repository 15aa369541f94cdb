//! Signals: the first SIGTERM or SIGINT asks to drain, the second ends at once. SIGHUP will reload; until then it must not end
//! the process, which is what it does to one that does not listen.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Listens from the moment it is made.
pub struct Stop {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stop {
    /// Must be made inside a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next request to stop, by name.
    pub async fn asked(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.term.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => warn!("SIGHUP: reloading is not yet there in this version; restart instead"),
            }
        }
    }
}
