//! Listeners, worker threads, and the drain.
//!
//! Each worker is a thread with a runtime of its own; all of them accept from the same listening sockets, so a connection,
//! its requests and their upstream connections stay on one core. The refresh tasks and the operator's listener live on
//! the runtime that calls [`start`].

mod accept;
mod bind;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

pub use accept::{Serve, serve};
pub use bind::{Bound, bind};

use crate::app::App;
use crate::config::{Limits, Listen};
use crate::proxy::{Context, Route, Routes, service};
use crate::telemetry::metrics::Metrics;

/// A running broker.
pub struct Running {
    pub app: Arc<App>,
    /// Where each route really listens, ports filled in.
    pub addresses: Vec<(String, Listen)>,
    drain: CancellationToken,
    stop: CancellationToken,
    workers: Vec<JoinHandle<()>>,
    refreshers: JoinSet<()>,
}

/// Something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {listen}: {source}")]
    Listen { listen: Listen, source: io::Error },
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// Binds every listener, then starts the refresh tasks and the workers.
pub fn start(mut app: App) -> Result<Running, StartError> {
    let mut sockets = Vec::new();
    let mut addresses = Vec::new();
    for (listen, routes) in app.listeners() {
        let bound = bind(&listen).map_err(|source| StartError::Listen { listen, source })?;
        addresses.extend(routes.iter().map(|route| (route.config.name.clone(), bound.listen.clone())));
        sockets.push((bound, routes));
    }
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut refreshers = JoinSet::new();
    for refresher in std::mem::take(&mut app.refreshers) {
        refreshers.spawn(refresher.run(stop.clone()));
    }
    let app = Arc::new(app);
    let permits = Arc::new(Semaphore::new(app.config.limits.connections));
    let mut workers = Vec::new();
    for index in 0..app.config.limits.threads {
        let worker = Worker {
            index,
            sockets: sockets
                .iter()
                .map(|(bound, routes)| Ok((bound.try_clone()?, routes.clone())))
                .collect::<Result<_, _>>()
                .map_err(StartError::Thread)?,
            limits: app.config.limits.clone(),
            metrics: Arc::clone(&app.metrics),
            permits: Arc::clone(&permits),
            drain: drain.clone(),
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        workers.push(thread.spawn(move || worker.run()).map_err(StartError::Thread)?);
    }
    Ok(Running { app, addresses, drain, stop, workers, refreshers })
}

impl Running {
    /// Stops accepting, lets requests in flight finish for as long as the drain may take, then ends tunnels and refresh
    /// tasks; an exchange in flight is waited for. True if nothing had to be cut.
    pub async fn drain(mut self) -> bool {
        self.drain.cancel();
        let limit = self.app.config.limits.drain_timeout;
        let mut clean = tokio::time::timeout(limit, self.requests_done()).await.is_ok();
        if !clean {
            warn!(
                limit_seconds = limit.as_secs(),
                "requests were still in flight at the end of the drain, and are cut"
            );
        }
        self.stop.cancel();
        let longest = self.app.config.tokens.values().map(|token| token.timeout).max().unwrap_or_default();
        let exchanges = async { while self.refreshers.join_next().await.is_some() {} };
        if tokio::time::timeout(longest + Duration::from_secs(1), exchanges).await.is_err() {
            error!("a token exchange did not end");
            clean = false;
        }
        clean
    }

    /// Workers end by themselves once their last connection has.
    async fn requests_done(&self) {
        while self.workers.iter().any(|worker| !worker.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What one worker thread runs.
struct Worker {
    index: usize,
    sockets: Vec<(Bound, Vec<Arc<Route>>)>,
    limits: Limits,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// How often a worker closes connections that idle too long.
const REAP_EVERY: Duration = Duration::from_secs(10);

impl Worker {
    fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return error!(%error, "a worker cannot start"),
        };
        runtime.block_on(self.serve());
        // Idle upstream connections have nothing to lose.
        runtime.shutdown_background();
    }

    async fn serve(self) {
        let (connections, tunnels) = (TaskTracker::new(), TaskTracker::new());
        let routes: Vec<_> = self.sockets.iter().flat_map(|(_, routes)| routes.clone()).collect();
        let mut loops = JoinSet::new();
        for (bound, routes) in self.sockets {
            let context = Arc::new(Context {
                routes: Arc::new(Routes::new(routes, bound.port())),
                worker: self.index,
                tunnels: tunnels.clone(),
                stop: self.stop.clone(),
            });
            let serve = Serve {
                service: service(context, Arc::clone(&self.metrics)),
                limits: self.limits.clone(),
                permits: Some(Arc::clone(&self.permits)),
                open: Some(self.metrics.connections.clone()),
                connections: connections.clone(),
                drain: self.drain.clone(),
            };
            loops.spawn(serve.accept(bound));
        }
        let mut reap = tokio::time::interval(REAP_EVERY);
        reap.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = reap.tick() => routes.iter().for_each(|route| route.upstream.reap(self.index)),
                () = self.drain.cancelled() => break,
            }
        }
        while loops.join_next().await.is_some() {}
        connections.close();
        connections.wait().await;
        tunnels.close();
        tunnels.wait().await;
        debug!(worker = self.index, "drained");
    }
}
