//! Listeners, worker threads, the change to other parts, and the drain.
//!
//! Each worker is a thread with a runtime of its own; all of them accept from the same listening sockets, so a connection,
//! its requests and their upstream connections stay on one core. The refresh tasks and the operator's listener live on
//! the runtime that calls [`Running::start`].

mod accept;
mod bind;
mod stream;
mod tokens;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

pub use accept::Serve;
pub use bind::{Bound, bind};
use tokens::Refreshing;
use worker::{Opened, Worker};

use crate::app::{App, Parts, Place, Plan};
use crate::config::{Limits, Listen};
use crate::proxy::{Route, Routes, Tunnels};
use crate::store::StoreError;
use crate::token::kept::Kept;

/// After an exchange: what the last saves may take.
const SAVES_MAX: Duration = Duration::from_secs(30);

/// A running broker.
pub struct Running {
    pub app: Arc<App>,
    pub parts: Arc<Parts>,
    listeners: BTreeMap<Place, Listener>,
    /// Of all listeners.
    routes: Arc<ArcSwap<Vec<Arc<Route>>>>,
    workers: Vec<UnboundedSender<Opened>>,
    tasks: Tasks,
    refreshing: Refreshing,
}

/// A listener at work.
struct Listener {
    /// With the port that it really has.
    listen: Listen,
    routes: Arc<ArcSwap<Routes>>,
    /// Cancelled when it takes no more requests.
    drain: CancellationToken,
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
    Listen { listen: Listen, routes: String, source: io::Error },
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

impl Running {
    /// Binds every listener, then starts the refresh tasks and the workers.
    pub fn start(app: App, plan: Plan) -> Result<Self, StartError> {
        let bound = bind_new(&plan, &BTreeMap::new())?;
        let (parts, refreshers) = app.build(plan, None, BTreeMap::new());
        let (app, tasks, limits) = (Arc::new(app), Tasks::default(), parts.config.limits.clone());
        let routes = Arc::new(ArcSwap::from_pointee(parts.routes.values().cloned().collect::<Vec<_>>()));
        let workers = workers(&app, &limits, &tasks, &routes)?;
        let (parts, listeners, refreshing) = (Arc::new(parts), BTreeMap::new(), Refreshing::default());
        let mut this = Self { app, parts, listeners, routes, workers, tasks, refreshing };
        for refresher in refreshers {
            this.refreshing.start(refresher, &this.app.metrics);
        }
        this.listen(bound)?;
        Ok(this)
    }

    /// Changes to the parts of the plan: what is the same in both stays as it is, its state, connections and sockets included;
    /// a token that is not is waited for while it has an exchange in flight. Fails before anything has changed.
    pub async fn change(&mut self, plan: Plan) -> Result<(), StartError> {
        let bound = bind_new(&plan, &self.listeners)?;
        let before = Arc::clone(&self.parts);
        let wanted: BTreeMap<_, _> = plan.listeners().into_iter().collect();
        let ended = self.refreshing.end(plan.ends(&before)).await;
        let (parts, refreshers) = self.app.build(plan, Some(&before), ended);
        self.parts = Arc::new(parts);
        for refresher in refreshers {
            self.refreshing.start(refresher, &self.app.metrics);
        }
        self.listeners.retain(|place, listener| match wanted.get(place) {
            Some(names) => {
                let port = listener.listen.port();
                listener.routes.store(Arc::new(Routes::new(named(&self.parts, names), port)));
                true
            }
            None => {
                listener.drain.cancel();
                false
            }
        });
        self.routes.store(Arc::new(self.parts.routes.values().cloned().collect()));
        let opened = self.listen(bound);
        for (name, old) in &before.tokens {
            if self.parts.tokens.get(name).is_none_or(|new| !Arc::ptr_eq(&new.slot, &old.slot)) {
                old.slot.retire();
            }
        }
        opened
    }

    /// Forgets what the store has under that name, such as `token.api`, and starts that token anew. The records that there were.
    pub async fn forget(&mut self, record: &str) -> Result<Vec<String>, StoreError> {
        let Some(store) = self.app.store.clone() else { return Ok(Vec::new()) };
        let token =
            record.strip_prefix("token.").map_or("", |rest| rest.split('.').next().unwrap_or_default()).to_owned();
        let mut ended = self.refreshing.end([&token]).await.remove(&token);
        let forgotten = store.forget_all(record);
        if let (Some(ended), Ok(names)) = (&mut ended, &forgotten)
            && ended.keeper.as_ref().is_some_and(|keeper| names.iter().any(|name| name == keeper.record()))
        {
            ended.kept = Kept::default();
        }
        if let Some(part) = self.parts.tokens.get(&token) {
            self.refreshing.start(self.app.again(part, ended), &self.app.metrics);
        }
        forgotten
    }

    /// Has every worker accept there.
    fn listen(&mut self, bound: Vec<(Place, Vec<String>, Bound)>) -> Result<(), StartError> {
        for (place, names, bound) in bound {
            let routes = Arc::new(ArcSwap::from_pointee(Routes::new(named(&self.parts, &names), bound.listen.port())));
            let drain = self.tasks.drain.child_token();
            for worker in &self.workers {
                let (routes, drain) = (Arc::clone(&routes), drain.clone());
                let bound = bound.try_clone().map_err(StartError::Thread)?;
                // A worker that is gone said why.
                let _ = worker.send(Opened { bound, routes, drain });
            }
            self.listeners.insert(place, Listener { listen: bound.listen.clone(), routes, drain });
        }
        Ok(())
    }

    /// Where each route really listens, ports filled in.
    pub fn addresses(&self) -> Vec<(String, Listen)> {
        let of =
            |listener: &Listener| listener.routes.load().names().map(|name| (name, listener.listen.clone())).collect();
        let mut all: Vec<_> = self.listeners.values().flat_map(|listener| -> Vec<_> { of(listener) }).collect();
        all.sort();
        all
    }

    /// Begins the drain: no more requests are taken.
    pub fn stopper(&self) -> CancellationToken {
        self.tasks.drain.clone()
    }

    /// Stops accepting, lets requests in flight finish for as long as the drain may take, then ends tunnels and refresh
    /// tasks; an exchange in flight is waited for. True if no request and no exchange had to be cut.
    pub async fn drain(mut self) -> bool {
        let limit = self.parts.config.limits.drain_timeout;
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
        let longest = self.parts.config.tokens.values().map(|token| token.exchange_max()).max().unwrap_or_default();
        match tokio::time::timeout(longest + SAVES_MAX, self.refreshing.end_all()).await {
            Ok(saved) => clean &= saved,
            Err(_) => {
                error!("a token exchange did not end");
                clean = false;
            }
        }
        clean
    }
}

/// The listeners of the plan that are not there yet.
fn bind_new(plan: &Plan, there: &BTreeMap<Place, Listener>) -> Result<Vec<(Place, Vec<String>, Bound)>, StartError> {
    let new = plan.listeners().into_iter().filter(|(place, _)| !there.contains_key(place));
    let bound = new.map(|(place, names)| match bind(&place.listen) {
        Ok(bound) => Ok((place, names, bound)),
        Err(source) => Err(StartError::Listen { listen: place.listen, routes: names.join(", "), source }),
    });
    bound.collect()
}

fn named(parts: &Parts, names: &[String]) -> Vec<Arc<Route>> {
    names.iter().filter_map(|name| parts.routes.get(name)).cloned().collect()
}

/// Starts the worker threads.
fn workers(
    app: &App,
    limits: &Limits,
    tasks: &Tasks,
    routes: &Arc<ArcSwap<Vec<Arc<Route>>>>,
) -> Result<Vec<UnboundedSender<Opened>>, StartError> {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let start = |index| {
        let (sender, listeners) = unbounded_channel();
        let worker = Worker {
            index,
            listeners,
            routes: Arc::clone(routes),
            limits: limits.clone(),
            metrics: Arc::clone(&app.metrics),
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
