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

/// By the token's name.
#[derive(Default)]
pub(super) struct Refreshing(BTreeMap<String, Running>);

struct Running {
    stop: CancellationToken,
    /// `None` after a panic.
    task: JoinHandle<Option<Ended>>,
}

impl Refreshing {
    /// Must be called on the runtime that the task shall live on.
    pub fn start(&mut self, refresher: Refresher<Source>, metrics: &Arc<Metrics>) {
        let (name, stop, metrics) = (refresher.name().to_owned(), CancellationToken::new(), Arc::clone(metrics));
        let run = refresher.run(stop.clone());
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
        self.0.insert(name, Running { stop, task });
    }

    /// Ends those, each after the exchange that it has in flight.
    pub async fn end(&mut self, names: impl IntoIterator<Item = &String>) -> BTreeMap<String, Ended> {
        let ending = names.into_iter().filter_map(|name| self.0.remove_entry(name)).map(async |(name, running)| {
            running.stop.cancel();
            Some((name, running.task.await.ok().flatten()?))
        });
        join_all(ending).await.into_iter().flatten().collect()
    }

    /// Ends all. True if the store has everything.
    pub async fn end_all(&mut self) -> bool {
        let names: Vec<_> = self.0.keys().cloned().collect();
        let ended = self.end(&names).await;
        ended.len() == names.len() && ended.values().all(|ended| ended.saved)
    }
}
