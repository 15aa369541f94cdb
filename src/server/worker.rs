//! One worker thread: a runtime of its own that accepts on every listener.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error};

use super::accept;
use super::{Bound, Places, Serve, StartError, Tasks};
use crate::app::App;
use crate::config::Limits;
use crate::proxy::{Context, Inspector, Route, Routes};
use crate::telemetry::inspected::Exchanges;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;

/// How often a worker closes connections that idle too long.
const REAP_EVERY: Duration = Duration::from_secs(10);

/// What one worker thread runs.
pub(super) struct Worker {
    pub index: usize,
    /// Closed when there will be no more. As many as there are listeners.
    pub listeners: UnboundedReceiver<Opened>,
    /// Of all listeners.
    pub routes: Arc<ArcSwap<Vec<Arc<Route>>>>,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    /// `None`: nobody looks.
    pub exchanges: Option<Arc<Exchanges>>,
    pub permits: Arc<Semaphore>,
    pub tasks: Tasks,
    /// A drain has to wait until the last loop has begun.
    pub starting: TaskTrackerToken,
}

/// A listener to accept on.
pub(super) struct Opened {
    pub bound: Bound,
    pub routes: Arc<ArcSwap<Routes>>,
    /// Cancelled when this listener takes no more requests.
    pub drain: CancellationToken,
    /// Dropped when this worker accepts there no more.
    pub running: TaskTrackerToken,
}

impl Worker {
    pub fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return error!(%error, "a worker cannot start"),
        };
        runtime.block_on(self.serve());
        // Idle upstream connections have nothing to lose.
        runtime.shutdown_background();
    }

    async fn serve(mut self) {
        let mut reap = tokio::time::interval(REAP_EVERY);
        reap.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = reap.tick() => tokio::task::coop::unconstrained(async { self.reap() }).await,
                Some(opened) = self.listeners.recv() => self.open(opened),
                () = self.tasks.drain.cancelled() => break,
            }
        }
        // What came in meanwhile has the kernel's connections to serve.
        while let Ok(opened) = self.listeners.try_recv() {
            self.open(opened);
        }
        let Self { tasks, starting, index, .. } = self;
        drop(starting);
        tasks.connections.wait().await;
        tasks.tunnels.tasks.wait().await;
        debug!(worker = index, "drained");
    }

    fn reap(&self) {
        self.routes.load().iter().for_each(|route| route.upstream.reap(self.index));
    }

    fn open(&self, Opened { bound, routes, drain, running }: Opened) {
        let answers = Context {
            routes: Arc::clone(&routes),
            worker: self.index,
            tunnels: self.tasks.tunnels.clone(),
            metrics: Arc::clone(&self.metrics),
            tracer: self.tracer.clone(),
            inspector: self.exchanges.as_ref().map(|kept| Inspector::new(kept, &bound.listen)),
        };
        let serve = Serve {
            answers,
            limits: self.limits.clone(),
            stall: Duration::ZERO,
            routes: Some(routes),
            places: Places::Shared(Arc::clone(&self.permits)),
            metrics: Some(Arc::clone(&self.metrics)),
            connections: self.tasks.connections.clone(),
            drain,
        };
        self.tasks.connections.spawn(async move {
            serve.accept(bound).await;
            drop(running);
        });
    }
}

/// Starts the worker threads.
pub(super) fn start_all(
    app: &App,
    limits: &Limits,
    tasks: &Tasks,
    routes: &Arc<ArcSwap<Vec<Arc<Route>>>>,
) -> Result<Vec<UnboundedSender<Opened>>, StartError> {
    let places = accept::places(limits);
    app.metrics.connections_max.set(i64::try_from(places).unwrap_or(i64::MAX));
    let permits = Arc::new(Semaphore::new(places));
    let start = |index| {
        let (sender, listeners) = unbounded_channel();
        let worker = Worker {
            index,
            listeners,
            routes: Arc::clone(routes),
            limits: limits.clone(),
            metrics: Arc::clone(&app.metrics),
            tracer: app.tracer.clone(),
            exchanges: app.exchanges.clone(),
            permits: Arc::clone(&permits),
            tasks: tasks.clone(),
            starting: tasks.connections.token(),
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        thread.spawn(move || worker.run()).map_err(StartError::Thread)?;
        Ok(sender)
    };
    (0..limits.threads).map(start).collect()
}
