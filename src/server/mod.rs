//! Listeners, worker threads, the change to other parts, and the drain.
//!
//! Each worker is a thread with a runtime of its own; all accept from the same sockets, so a connection, its requests and their
//! upstream connections stay on one core. Refresh tasks and the operator's listener live on the runtime of [`Running::start`].

mod accept;
mod bind;
#[cfg(feature = "otlp")]
mod exporting;
mod handed;
mod listening;
mod orders;
mod tokens;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

pub use accept::{Newest, Places, STALL, Serve};
pub use bind::bind;
#[cfg(feature = "otlp")]
use exporting::Exporting;
pub use handed::HandedError;
pub use listening::Bound;
use tokens::Refreshing;
use worker::Opened;

use crate::app::{App, Parts, Place, Plan};
use crate::config::Listen;
use crate::proxy::{Route, Routes, Tunnels};

/// After an exchange: what the last saves may take.
const SAVES_MAX: Duration = Duration::from_secs(60);
/// Until a listener that is gone has been closed by every worker.
const CLOSING_MAX: Duration = Duration::from_secs(1);

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
    #[cfg(feature = "otlp")]
    exporting: Exporting,
}

/// A listener at work.
struct Listener {
    /// With the port that it really has.
    listen: Listen,
    routes: Arc<ArcSwap<Routes>>,
    /// Cancelled when it takes no more requests.
    drain: CancellationToken,
    /// One for each worker that accepts there.
    loops: TaskTracker,
}

impl Listener {
    /// Security: a socket is closed to others before, and opened to them after, the routes are in force that say who may.
    fn change(&self, routes: Routes) {
        let others = routes.let_others_in();
        let open = |now: bool| {
            if now && let Err(error) = bind::open_to(&self.listen, others) {
                error!(listen = %self.listen, %error, "cannot change who may connect to the socket");
            }
        };
        open(!others);
        self.routes.store(Arc::new(routes));
        open(others);
    }
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
    #[error(transparent)]
    Handed(#[from] HandedError),
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

impl Running {
    /// Binds every listener, then starts the refresh tasks and the workers.
    pub async fn start(app: App, plan: Plan) -> Result<Self, StartError> {
        let limits = plan.limits().clone();
        let bound = bind_new(&plan, &BTreeMap::new(), limits.threads)?;
        #[cfg(feature = "otlp")]
        let exporting = Exporting::start(&app, plan.admin());
        let (app, tasks) = (Arc::new(app), Tasks::default());
        let routes = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let workers = worker::start_all(&app, &limits, &tasks, &routes)?;
        let mut refreshing = Refreshing::default();
        let parts = Arc::new(change_tokens(&app, &mut refreshing, plan, None).await);
        let mut this = Self {
            app,
            parts,
            listeners: BTreeMap::new(),
            routes,
            workers,
            tasks,
            refreshing,
            #[cfg(feature = "otlp")]
            exporting,
        };
        this.routes.store(Arc::new(this.parts.routes.values().cloned().collect()));
        this.listen(bound);
        Ok(this)
    }

    /// Changes to the parts of the plan: what is the same in both stays as it is, its state, connections and sockets included.
    /// A token that is not is waited for while it has an exchange in flight. Fails before anything has changed.
    pub async fn change(&mut self, plan: Plan) -> Result<(), StartError> {
        let bound = bind_new(&plan, &self.listeners, self.workers.len())?;
        let before = Arc::clone(&self.parts);
        let wanted: BTreeMap<_, _> = plan.listeners().into_iter().collect();
        self.parts = Arc::new(change_tokens(&self.app, &mut self.refreshing, plan, Some(&before)).await);
        let mut ending = Vec::new();
        self.listeners.retain(|place, listener| match wanted.get(place) {
            Some(names) => {
                listener.change(Routes::new(named(&self.parts, names), listener.listen.port()));
                true
            }
            None => {
                listener.drain.cancel();
                listener.loops.close();
                ending.push(listener.loops.clone());
                false
            }
        });
        self.routes.store(Arc::new(self.parts.routes.values().cloned().collect()));
        self.listen(bound);
        for (name, old) in &before.tokens {
            if self.parts.tokens.get(name).is_none_or(|new| !Arc::ptr_eq(&new.slot, &old.slot)) {
                old.slot.retire();
            }
        }
        for (name, old) in &before.routes {
            if self.parts.routes.get(name).is_none_or(|new| !Arc::ptr_eq(new, old)) {
                old.upstream.close();
            }
        }
        // The next change may want to listen there again.
        let _ = tokio::time::timeout(CLOSING_MAX, join_all(ending.iter().map(TaskTracker::wait))).await;
        Ok(())
    }

    /// Has every worker accept there.
    fn listen(&mut self, bound: Vec<New>) {
        for New { place, names, bound } in bound {
            let Some(listen) = bound.first().map(|bound| bound.listen.clone()) else { continue };
            let routes = Arc::new(ArcSwap::from_pointee(Routes::new(named(&self.parts, &names), listen.port())));
            let (drain, loops) = (self.tasks.drain.child_token(), TaskTracker::new());
            for (worker, bound) in self.workers.iter().zip(bound) {
                let (routes, drain, running) = (Arc::clone(&routes), drain.clone(), loops.token());
                // A worker that is gone said why.
                let _ = worker.send(Opened { bound, routes, drain, running });
            }
            self.listeners.insert(place, Listener { listen, routes, drain, loops });
        }
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

    /// Stops accepting, lets requests in flight finish for as long as the drain may take, then ends tunnels and refresh tasks; an
    /// exchange in flight is waited for. After `hurry`, it is the only thing that is. True if no request and no exchange was cut.
    pub async fn drain(mut self, hurry: CancellationToken) -> bool {
        let limit = self.parts.config.limits.drain_timeout;
        let deadline = Instant::now() + limit;
        self.tasks.connections.close();
        self.tasks.tunnels.tasks.close();
        self.tasks.drain.cancel();
        let requests = hurry.run_until_cancelled(timeout_at(deadline, self.tasks.connections.wait()));
        let mut clean = requests.await.is_some_and(|ended| ended.is_ok());
        if clean {
            // A tunnel that is still open at the deadline has to end some time: that is no failure.
            let _ = hurry.run_until_cancelled(timeout_at(deadline, self.tasks.tunnels.tasks.wait())).await;
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
        #[cfg(feature = "otlp")]
        let _ = hurry.run_until_cancelled(self.exporting.end()).await;
        clean
    }
}

/// Ends the tasks of the tokens that are gone or not what they were, each as soon as it can, and starts their successors.
async fn change_tokens(app: &App, refreshing: &mut Refreshing, mut plan: Plan, before: Option<&Parts>) -> Parts {
    let old = |name: &str| before.and_then(|before| before.tokens.get(name));
    let mut tokens: BTreeMap<_, _> = before.map(|before| before.tokens.clone()).unwrap_or_default();
    tokens.retain(|name, _| plan.has(name));
    let mut accounts: BTreeMap<_, _> =
        plan.changed().into_iter().map(|(name, account)| (name, Some(account))).collect();
    let gone = before.iter().flat_map(|before| before.tokens.keys()).filter(|name| !plan.has(name));
    accounts.extend(gone.map(|name| (name.clone(), None)));
    let ending = accounts.into_iter().map(|(name, account)| {
        let running = refreshing.take(&name);
        async move {
            let ended = match running {
                Some(running) => running.end().await,
                None => None,
            };
            (name, account, ended)
        }
    });
    let mut ending: FuturesUnordered<_> = ending.collect::<Vec<_>>().into_iter().collect();
    while let Some((name, account, ended)) = ending.next().await {
        let goes_on = ended.as_ref().is_some_and(|ended| account.as_ref() == Some(&ended.account));
        let left = match ended {
            Some(ended) if goes_on => Some(ended),
            ended => {
                ended.into_iter().for_each(|ended| refreshing.leave(&name, ended));
                account.and_then(|account| refreshing.find(&name, &account))
            }
        };
        if let Some((part, refresher)) = app.token(&mut plan, &name, old(&name).map(AsRef::as_ref), left).await {
            refreshing.start(refresher, &app.metrics);
            tokens.insert(name, Arc::new(part));
        }
    }
    app.parts(plan, before, tokens)
}

/// A listener that is not there yet.
struct New {
    place: Place,
    names: Vec<String>,
    /// One for each worker.
    bound: Vec<Bound>,
}

/// The listeners of the plan that are not there yet.
fn bind_new(plan: &Plan, there: &BTreeMap<Place, Listener>, workers: usize) -> Result<Vec<New>, StartError> {
    let listeners = plan.listeners();
    let routes = listeners.iter().map(|(place, names)| (&place.listen, plan.lets_others_in(names)));
    let operators = plan.operators().map(|(_, listen)| (listen, false));
    handed::check(&routes.chain(operators).collect::<Vec<_>>())?;
    let new = listeners.into_iter().filter(|(place, _)| !there.contains_key(place));
    let bound = new.map(|(place, names)| {
        let first = bind(&place.listen, plan.lets_others_in(&names));
        let all = first.and_then(|first| (0..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>());
        match all {
            Ok(bound) => Ok(New { place, names, bound }),
            Err(source) => Err(StartError::Listen { listen: place.listen, routes: names.join(", "), source }),
        }
    });
    bound.collect()
}

fn named(parts: &Parts, names: &[String]) -> Vec<Arc<Route>> {
    names.iter().filter_map(|name| parts.routes.get(name)).cloned().collect()
}
