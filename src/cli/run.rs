//! `run`: the proxy, from a checked configuration to a clean exit.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::ending::{cut, drain, uninterrupted};
use super::shown::shown;
use super::{CONFIG, Cli, complain, watched};
use crate::admin::key::{self, KeyFile};
use crate::admin::{self, Admin, Live, Order};
use crate::app::{App, AppError, Plan};
use crate::clock::Clock;
use crate::config::{Config, Listen, Store};
use crate::expiry;
use crate::reload::Reload;
use crate::secret::Secret;
use crate::server::{self, Bound, Running, Serve, StartError};
use crate::signal::{Asked, Asks, Signals};
use crate::systemd;

/// What operators asked for and is not yet begun.
const ORDERS_MAX: usize = 16;

/// A configuration that was checked, with its file and text.
pub(super) type Loaded = (PathBuf, Zeroizing<String>, Config);

pub(super) fn main(cli: &Cli) -> ExitCode {
    // Before anything is started that would inherit them.
    if let Err(problem) = systemd::take() {
        complain(&problem);
        return ExitCode::FAILURE;
    }
    match load(cli) {
        Ok(loaded) => until_stopped(loaded, |_, _, _| {}),
        Err(code) => code,
    }
}

/// The configuration of a broker that is about to start. From here on there is a log.
pub(super) fn load(cli: &Cli) -> Result<Loaded, ExitCode> {
    let (file, text, config, report) = cli.load()?;
    cli.start_logging();
    let (tokens, routes) = (config.tokens.len(), config.routes.len());
    info!(version = env!("CARGO_PKG_VERSION"), config = %file.display(), tokens, routes, "starting");
    for warning in &report.warnings {
        warn!("{}", report.line(warning));
    }
    Ok((file, text, config))
}

/// Runs the broker until a signal. `ready` is called once everything listens.
pub(super) fn until_stopped(loaded: Loaded, ready: impl FnOnce(&Running, &Listen, &Arc<Admin>)) -> ExitCode {
    on_a_runtime(async {
        match Signals::new() {
            Ok(mut signals) => serve(loaded, &mut signals, ready).await,
            Err(error) => failed(&format!("cannot listen for signals: {error}"), ExitCode::FAILURE),
        }
    })
}

pub(super) fn on_a_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(work);
    // What is left is cut: nothing here may hold up the exit.
    runtime.shutdown_background();
    code
}

/// Everything that listens, and what the operator needs to reach it.
struct Started {
    running: Running,
    admin: Bound,
    probes: Option<Bound>,
    admin_key: Option<Secret>,
    /// Removed when the broker ends.
    _key_file: Option<KeyFile>,
}

/// Everything that is read and bound before anything runs: it can be given up.
struct Prepared {
    app: App,
    plan: Plan,
    admin: Bound,
    probes: Option<Bound>,
    given: Option<Secret>,
    store: Option<Store>,
}

async fn prepare(config: Config) -> Result<Prepared, ExitCode> {
    let (admin_config, store) = (config.admin.clone(), config.store.clone());
    let refused = |error: AppError| {
        let code = if matches!(error, AppError::Store(_)) { ExitCode::FAILURE } else { ExitCode::from(CONFIG) };
        failed(&error.to_string(), code)
    };
    let app = App::open(&config, Clock::system()).await.map_err(refused)?;
    let plan = app.plan(config, None, &BTreeSet::new()).await.map_err(refused)?;
    let bind = |key: &str, listen: &Listen| {
        server::bind(listen, false).map_err(|error| {
            let fix = way_out(&error);
            let text = format!("admin.{key}: cannot listen on {listen} for the operator: {error}; {fix}");
            failed(&text, ExitCode::FAILURE)
        })
    };
    let admin = bind("listen", &admin_config.listen)?;
    let probes = admin_config.probes.as_ref().map(|probes| bind("probes", probes)).transpose()?;
    let given = match &admin_config.key {
        Some(source) => Some(source.read().await),
        None => None,
    };
    let given = given.transpose().map_err(|e| failed(&format!("admin.key: {e}"), ExitCode::from(CONFIG)))?;
    Ok(Prepared { app, plan, admin, probes, given, store })
}

/// Tokens are obtained from here on, so it is seen through.
async fn start(Prepared { app, plan, admin, probes, given, store }: Prepared) -> Result<Started, ExitCode> {
    let running = Running::start(app, plan).await.map_err(|error| failed(&said(&error), ExitCode::FAILURE))?;
    // Only now: a broker that cannot start must not take the key of one that runs.
    let made = if given.is_none() { make_key(&admin, store.as_ref())? } else { None };
    let (admin_key, key_file) = made.map_or((given, None), |(key, file)| (Some(key), Some(file)));
    Ok(Started { running, admin, probes, admin_key, _key_file: key_file })
}

/// Runs the broker until it is asked to stop.
pub(super) async fn serve(
    (file, text, config): Loaded,
    asks: &mut impl Asks,
    ready: impl FnOnce(&Running, &Listen, &Arc<Admin>),
) -> ExitCode {
    let prepared = tokio::select! {
        prepared = prepare(config) => prepared,
        stop = asks.stop() => {
            info!(?stop, "stopped before everything was started");
            return ExitCode::SUCCESS;
        }
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let hurry = CancellationToken::new();
    let started = uninterrupted(start(prepared), &CancellationToken::new(), &hurry, asks).await;
    let Started { mut running, admin: bound, probes, admin_key, _key_file } = match started {
        Ok((Ok(started), None)) => started,
        Ok((Ok(started), Some(stop))) => return drain(started.running, stop, hurry, asks).await,
        Ok((Err(code), _)) => return code,
        Err(signal) => return cut(signal),
    };
    if let Some(store) = running.app.stores.as_ref().and_then(|stores| stores.files.as_ref()) {
        // Whoever finds the store taken learns by whom, and where to ask.
        if let Err(error) = store.sign(&format!("admin {}, pid {}", bound.listen, std::process::id())) {
            warn!(%error, "commands such as `reload` will not find this broker: its address could not be written");
        }
    }
    let mut reload = Reload::new(file, text, running.app.started_at);
    let (orders, mut ordered) = mpsc::channel(ORDERS_MAX);
    let admin = Arc::new(admin(&running, &reload, admin_key, &bound, orders));
    let operator = bound.listen.clone();
    info!(listen = %bound.listen, "the operator's listener");
    let mut known = listening(&running, &[]);
    operate(&admin, &running, bound);
    probes.into_iter().for_each(|bound| watched::probes(&admin, &running.parts.config.limits, bound));
    tell(&admin);
    ready(&running, &operator, &admin);
    watched::ready(&running, &reload);

    let stopper = running.stopper();
    let stop = loop {
        let work = tokio::select! {
            asked = asks.next() => match asked {
                Asked::Stop(stop) => break stop,
                Asked::Reload => Work::Order(Order::Reload(None)),
            },
            Some(order) = ordered.recv() => Work::Order(order),
            () = reload.changed(&running.parts.config) => Work::Files,
        };
        match uninterrupted(Box::pin(carry_out(work, &mut reload, &mut running)), &stopper, &hurry, asks).await {
            Ok(((), None)) => {}
            Ok(((), Some(stop))) => break stop,
            Err(signal) => return cut(signal),
        }
        admin.shown.store(Arc::new(shown(&running, &reload)));
        known = listening(&running, &known);
    };
    // Whoever asks for something now is told so.
    drop(ordered);
    drain(running, stop, hurry, asks).await
}

/// Says where there is a listener that was not there before.
fn listening(running: &Running, before: &[(String, Listen)]) -> Vec<(String, Listen)> {
    let addresses = running.addresses();
    for (route, listen) in addresses.iter().filter(|address| !before.contains(address)) {
        info!(route, %listen, "listening");
    }
    addresses
}

/// An error of the start, with the routes whose listener it is about.
fn said(error: &StartError) -> String {
    match error {
        StartError::Listen { routes, source, .. } => format!("route.{routes}.listen: {error}; {}", way_out(source)),
        StartError::Handed(_) | StartError::Thread(_) => error.to_string(),
    }
}

/// What to do where nothing can listen.
fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port; 127.0.0.1:0 is one that is free",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on, or a directory that the broker may write to",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose 127.0.0.1",
        io::ErrorKind::AlreadyExists => "make room there, or choose another path",
        _ => "choose another place to listen",
    }
}

fn failed(text: &str, code: ExitCode) -> ExitCode {
    error!("{text}");
    code
}

/// A new admin key, in a private file: in the store, or where a process may keep files while it runs.
fn make_key(admin: &Bound, store: Option<&Store>) -> Result<Option<(Secret, KeyFile)>, ExitCode> {
    let other = admin.listen.port().map_or_else(|| std::process::id().to_string(), |port| port.to_string());
    let directory = store.and_then(Store::directory).map_or_else(key::runtime_directory, Path::to_owned);
    let made = Secret::random().and_then(|key| Ok((key::keep(&key, &directory, &other)?, key)));
    match made {
        Ok((file, key)) => {
            info!(file = %file.path.display(), "the admin key of this start");
            Ok(Some((key, file)))
        }
        // Security: a file that others may read is there for no good reason.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(failed(&error.to_string(), ExitCode::FAILURE)),
        Err(error) => {
            warn!(%error, "there is no private place for the admin key, so POST requests are refused; set [admin] key");
            Ok(None)
        }
    }
}

/// What the loop of a running broker has to do.
enum Work {
    Order(Order),
    Files,
}

async fn carry_out(work: Work, reload: &mut Reload, running: &mut Running) {
    // Whoever asked may be gone by the time it is done.
    match work {
        Work::Files => reload.files(running).await,
        Work::Order(Order::Reload(reply)) => {
            systemd::reloading();
            let done = reload.configuration(running).await;
            watched::ready(running, reload);
            let _ = reply.map(|reply| reply.send(done));
        }
        Work::Order(Order::Forget(name, reply)) => {
            let _ = reply.send(running.forget(&name).await.map_err(|e| e.to_string()));
        }
        Work::Order(Order::Login(token, code, reply)) => {
            let _ = reply.send(running.login(&token, &code).await);
        }
        Work::Order(Order::Clients(token, verb, asked, reply)) => {
            let _ = reply.send(running.clients(&token, &verb, &asked).await);
        }
        Work::Order(Order::Logout(token, reply)) => {
            let _ = reply.send(running.logout(&token).await);
        }
    }
}

/// Answers the operator. Security: its own bound; a flood on the routes does not take the probes away.
fn operate(admin: &Arc<Admin>, running: &Running, bound: Bound) {
    let operators = Serve {
        answers: admin::Operator::new(Arc::clone(admin)),
        limits: running.parts.config.limits.clone(),
        stall: server::STALL,
        routes: None,
        places: server::Places::Shared(Arc::new(tokio::sync::Semaphore::new(64))),
        metrics: None,
        connections: TaskTracker::new(),
        drain: CancellationToken::new(),
    };
    #[expect(clippy::disallowed_methods, reason = "probes are answered until the process ends")]
    tokio::spawn(operators.accept(bound));
}

/// Says what ends, as the operator's listener shows it.
fn tell(admin: &Arc<Admin>) {
    let (of, admin) = (Arc::clone(admin), Arc::clone(admin));
    let telling = expiry::tell(move || (of.now)(), move || admin.shown.load().expiring());
    #[expect(clippy::disallowed_methods, reason = "it has nothing to bring to an end")]
    tokio::spawn(telling);
}

fn admin(running: &Running, reload: &Reload, key: Option<Secret>, bound: &Bound, orders: mpsc::Sender<Order>) -> Admin {
    let clock = running.app.clock.clone();
    Admin {
        key,
        port: bound.listen.port(),
        now: Box::new(move || clock.now()),
        started_at: running.app.started_at,
        metrics: Arc::clone(&running.app.metrics),
        stores: running.app.stores.clone(),
        orders,
        shown: ArcSwap::from_pointee(shown(running, reload)),
        exchanges: running.app.exchanges.clone(),
        live: Live::default(),
        draining: running.stopper(),
    }
}
