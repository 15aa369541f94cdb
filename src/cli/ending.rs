//! How a running broker ends: at which signal, and what is waited for.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::server::Running;
use crate::signal::{Asks, Stop};
use crate::systemd;

/// The first signal begins the drain, the second ends at once. Where the drain began without one, the first that comes ends all
/// waiting for requests, and only for them: an exchange in flight is finished and saved. `hurry` says that it has come.
pub(super) async fn drain(running: Running, stop: Stop, hurry: CancellationToken, asks: &mut impl Asks) -> ExitCode {
    if let Stop::Signal(signal) = stop {
        info!(signal, "draining; a second signal ends at once");
        systemd::stopping(&format!("draining after {signal}"));
    }
    let drain = running.drain(hurry.clone());
    tokio::pin!(drain);
    loop {
        tokio::select! {
            clean = &mut drain => {
                info!(clean, "stopped");
                return if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            again = asks.stop() => if let Err(signal) = further(stop, again, &hurry) {
                return cut(signal);
            }
        }
    }
}

/// One more, after the first. An error ends at once.
fn further(first: Stop, again: Stop, hurry: &CancellationToken) -> Result<(), &'static str> {
    match again {
        Stop::Signal(signal) if hurry.is_cancelled() || first != Stop::Done => return Err(signal),
        Stop::Signal(signal) => {
            info!(signal, "requests in flight are cut; a second signal ends at once");
            hurry.cancel();
        }
        Stop::Done => {}
    }
    Ok(())
}

/// Sees it through. A signal to stop meanwhile has no more requests taken, and is handed back; a second one is an error.
pub(super) async fn uninterrupted<T>(
    work: impl Future<Output = T>,
    stopper: &CancellationToken,
    hurry: &CancellationToken,
    asks: &mut impl Asks,
) -> Result<(T, Option<Stop>), &'static str> {
    tokio::pin!(work);
    let mut first = None;
    loop {
        let stop = tokio::select! {
            done = &mut work => return Ok((done, first)),
            stop = asks.stop() => stop,
        };
        stopper.cancel();
        match first {
            Some(first) => further(first, stop, hurry)?,
            None => first = Some(stop),
        }
    }
}

pub(super) fn cut(signal: &str) -> ExitCode {
    warn!(signal, "ended without waiting");
    ExitCode::FAILURE
}
