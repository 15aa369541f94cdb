//! Listeners, worker threads, and the drain.
//!
//! Each worker is a thread with a runtime of its own; all of them accept from the same listening sockets, so a connection,
//! its requests and their upstream connections stay on one core. The refresh tasks and the operator's listener live on
//! the runtime that calls [`start`].

mod accept;
mod bind;
mod stream;

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error, warn};

pub use accept::Serve;
pub use bind::{Bound, bind};

use crate::app::App;
use crate::config::{Limits, Listen};
use crate::proxy::{Context, Route, Routes, Tunnels, service};
use crate::telemetry::metrics::Metrics;

/// A running broker.
pub struct Running {
    pub app: Arc<App>,
    /// Where each route really listens, ports filled in.
    pub addresses: Vec<(String, Listen)>,
    tasks: Tasks,
    /// True if the store has what it should.
    refreshers: JoinSet<bool>,
}

/// What a drain waits for, and how it is begun and ended.
#[derive(Clone, Default)]
struct Tasks {
    /// And the loops that accept them: they remove the socket files.
    connections: TaskTracker,
    tunnels: Tunnels,
    /// Cancelled when no more requests are taken.
    drain: CancellationToken,
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
    let tasks = Tasks::default();
    let mut refreshers = JoinSet::new();
    for refresher in std::mem::take(&mut app.refreshers) {
        let (run, metrics) = (refresher.run(tasks.tunnels.stop.clone()), Arc::clone(&app.metrics));
        refreshers.spawn(async move {
            AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
                metrics.panics.inc();
                error!(
                    "a refresh task ended in a panic: this is a fault of the broker; restart it before the token ends"
                );
                false
            })
        });
    }
    let with_secrets = |route: &&Arc<Route>| !route.config.headers.is_empty();
    let routes = app.routes.values().filter(with_secrets).cloned().collect::<Vec<_>>();
    let watch = App::watch_headers(routes, tasks.tunnels.stop.clone());
    refreshers.spawn(async move {
        watch.await;
        true
    });
    let app = Arc::new(app);
    let permits = Arc::new(Semaphore::new(app.config.limits.connections));
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
            tasks: tasks.clone(),
            starting: tasks.connections.token(),
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        thread.spawn(move || worker.run()).map_err(StartError::Thread)?;
    }
    Ok(Running { app, addresses, tasks, refreshers })
}

impl Running {
    /// Stops accepting, lets requests in flight finish for as long as the drain may take, then ends tunnels and refresh
    /// tasks; an exchange in flight is waited for. True if no request and no exchange had to be cut.
    pub async fn drain(mut self) -> bool {
        let limit = self.app.config.limits.drain_timeout;
        let deadline = Instant::now() + limit;
        self.tasks.connections.close();
        self.tasks.tunnels.tasks.close();
        self.tasks.drain.cancel();
        let mut clean = timeout_at(deadline, self.tasks.connections.wait()).await.is_ok();
        if clean {
            // A tunnel that is still open at the deadline has to end some time: that is no failure.
            let _ = timeout_at(deadline, self.tasks.tunnels.tasks.wait()).await;
        } else {
            warn!(limit_ms = limit.as_millis(), "requests were still in flight at the end of the drain, and are cut");
        }
        self.tasks.tunnels.stop.cancel();
        let longest = self.app.config.tokens.values().map(|token| token.exchange_max()).max().unwrap_or_default();
        let exchanges = async {
            let mut saved = true;
            while let Some(ended) = self.refreshers.join_next().await {
                saved &= ended.unwrap_or(false);
            }
            saved
        };
        match tokio::time::timeout(longest + SAVES_MAX, exchanges).await {
            Ok(saved) => clean &= saved,
            Err(_) => {
                error!("a token exchange did not end");
                clean = false;
            }
        }
        clean
    }
}

/// What one worker thread runs.
struct Worker {
    index: usize,
    sockets: Vec<(Bound, Vec<Arc<Route>>)>,
    limits: Limits,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
    tasks: Tasks,
    /// Until the loops run, a drain has to wait all the same.
    starting: TaskTrackerToken,
}

/// After an exchange: what the last saves may take.
const SAVES_MAX: Duration = Duration::from_secs(30);

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
        let routes: Vec<_> = self.sockets.iter().flat_map(|(_, routes)| routes.clone()).collect();
        for (bound, routes) in self.sockets {
            let stall = routes.iter().map(|route| route.config.idle_timeout).max().unwrap_or_default();
            let context = Arc::new(Context {
                routes: Arc::new(Routes::new(routes, bound.port())),
                worker: self.index,
                tunnels: self.tasks.tunnels.clone(),
            });
            let serve = Serve {
                service: service(context, Arc::clone(&self.metrics)),
                limits: self.limits.clone(),
                stall,
                permits: Some(Arc::clone(&self.permits)),
                open: Some(self.metrics.connections.clone()),
                connections: self.tasks.connections.clone(),
                drain: self.tasks.drain.clone(),
            };
            self.tasks.connections.spawn(serve.accept(bound));
        }
        drop(self.starting);
        let mut reap = tokio::time::interval(REAP_EVERY);
        reap.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = reap.tick() => routes.iter().for_each(|route| route.upstream.reap(self.index)),
                () = self.tasks.drain.cancelled() => break,
            }
        }
        self.tasks.connections.wait().await;
        self.tasks.tunnels.tasks.wait().await;
        debug!(worker = self.index, "drained");
    }
}
