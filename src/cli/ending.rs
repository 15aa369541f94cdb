//! How a running broker ends: at which signal, and what is waited for.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::server::Running;
use crate::signal::{Asks, Stop};
use crate::systemd;

/// The first signal begins the drain, the second ends at once. Where the drain began without one, the first that comes ends all
/// waiting for requests, and only for them: an exchange in flight is finished and saved.
pub(super) async fn drain(running: Running, stop: Stop, asks: &mut impl Asks) -> ExitCode {
    let hurry = CancellationToken::new();
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
            again = asks.stop() => match again {
                Stop::Signal(signal) if hurry.is_cancelled() || stop != Stop::Done => return cut(signal),
                Stop::Signal(signal) => {
                    info!(signal, "requests in flight are cut; a second signal ends at once");
                    hurry.cancel();
                }
                Stop::Done => {}
            },
        }
    }
}

/// Sees it through. A signal to stop meanwhile has no more requests taken, and is handed back; a second one is an error.
pub(super) async fn uninterrupted(
    work: impl Future<Output = ()>,
    stopper: &CancellationToken,
    asks: &mut impl Asks,
) -> Result<Option<Stop>, &'static str> {
    tokio::pin!(work);
    let mut first = None;
    loop {
        let stop = tokio::select! {
            () = &mut work => return Ok(first),
            stop = asks.stop() => stop,
        };
        stopper.cancel();
        match (first, stop) {
            (Some(Stop::Signal(_)), Stop::Signal(signal)) => return Err(signal),
            (_, stop) => first = Some(stop),
        }
    }
}

pub(super) fn cut(signal: &str) -> ExitCode {
    warn!(signal, "ended without waiting");
    ExitCode::FAILURE
}
