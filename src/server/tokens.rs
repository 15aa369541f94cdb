//! The refresh tasks that run, one a token: started, ended, and what they leave.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::telemetry::metrics::Metrics;
use crate::token::refresh::{Ended, Refresher};
use crate::token::source::Source;

/// Of accounts that are no longer configured; the oldest goes first.
const LEFT_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Refreshing {
    /// By the token's name.
    tasks: BTreeMap<String, Running>,
    /// What tasks left that nobody went on from, by the token's name, where no store has it: an account that was mistyped is
    /// put right again, and its refresh token has to be there.
    left: Vec<(String, Ended)>,
    /// Cancelled when the broker ends.
    cut: CancellationToken,
}

/// A task at work.
pub(super) struct Running {
    stop: CancellationToken,
    /// `None` after a panic.
    task: JoinHandle<Option<Ended>>,
}

impl Running {
    /// Ends it, after the exchange that it has in flight and what follows on that at once.
    pub async fn end(self) -> Option<Ended> {
        self.stop.cancel();
        self.task.await.ok().flatten()
    }
}

impl Refreshing {
    /// Must be called on the runtime that the task shall live on.
    pub fn start(&mut self, refresher: Refresher<Source>, metrics: &Arc<Metrics>) {
        let (name, stop, metrics) = (refresher.name().to_owned(), CancellationToken::new(), Arc::clone(metrics));
        let run = refresher.run(stop.clone(), self.cut.clone());
        #[expect(clippy::disallowed_methods, reason = "a reload or the drain waits for it")]
        let task = tokio::spawn(async move {
            let ended = AssertUnwindSafe(run).catch_unwind().await;
            ended
                .map_err(|_| {
                    metrics.panics.inc();
                    let fix = "this is a fault of the broker; restart it before the token ends";
                    error!("a refresh task ended in a panic: {fix}");
                })
                .ok()
        });
        self.tasks.insert(name, Running { stop, task });
    }

    /// To be ended.
    pub fn take(&mut self, token: &str) -> Option<Running> {
        self.tasks.remove(token)
    }

    /// Keeps what nobody goes on from, unless the store has it.
    pub fn leave(&mut self, token: &str, ended: Ended) {
        if ended.keeper.is_some() && ended.saved {
            return;
        }
        if self.left.len() >= LEFT_MAX {
            let (token, _) = self.left.remove(0);
            error!(token, "an account that is no longer configured, and was not saved, is forgotten");
        }
        self.left.push((token.to_owned(), ended));
    }

    /// What was left of that account.
    pub fn find(&mut self, token: &str, account: &str) -> Option<Ended> {
        let at = self.left.iter().position(|(name, ended)| name == token && ended.account == account)?;
        Some(self.left.remove(at).1)
    }

    /// Ends all. True if the store has everything.
    pub async fn end_all(&mut self) -> bool {
        self.cut.cancel();
        let tasks = std::mem::take(&mut self.tasks);
        let count = tasks.len();
        let ended: Vec<_> = join_all(tasks.into_values().map(Running::end)).await.into_iter().flatten().collect();
        let mut saved = ended.len() == count && ended.iter().all(|ended| ended.saved);
        for (_, ended) in &mut self.left {
            if let Some(keeper) = &mut ended.keeper {
                saved &= keeper.save(&ended.kept).await.is_ok();
            }
        }
        saved
    }
}
