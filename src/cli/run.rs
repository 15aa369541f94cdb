//! `run`: the proxy, from a checked configuration to a clean exit.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::{CONFIG, Cli, complain};
use crate::admin::key::{self, KeyFile};
use crate::admin::{self, Admin, RouteView, TokenView};
use crate::app::{App, AppError};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::proxy::Route;
use crate::secret::Secret;
use crate::server::{self, Bound, Running, Serve, StartError};
use crate::signal::Stop;

pub(super) fn main(cli: &Cli) -> ExitCode {
    let (file, config, report) = match cli.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    cli.start_logging();
    let (tokens, routes) = (config.tokens.len(), config.routes.len());
    info!(version = env!("CARGO_PKG_VERSION"), config = %file.display(), tokens, routes, "starting");
    for warning in &report.warnings {
        warn!("{}", report.line(warning));
    }
    until_stopped(config, |_, _| {})
}

/// Runs the broker until a signal. `ready` is called once everything listens.
pub(super) fn until_stopped(config: Config, ready: impl FnOnce(&Running, &Listen)) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(config, ready));
    // What is left is cut: nothing here may hold up the exit.
    runtime.shutdown_background();
    code
}

/// Everything that listens, and what the operator needs to reach it.
struct Started {
    running: Running,
    admin: Bound,
    admin_key: Option<Secret>,
    /// Removed when the broker ends.
    _key_file: Option<KeyFile>,
}

async fn start(config: Config) -> Result<Started, ExitCode> {
    let admin_config = config.admin.clone();
    let app = App::assemble(config, Clock::system()).await;
    let app = app.map_err(|error| {
        let code = if matches!(error, AppError::Store(_)) { ExitCode::FAILURE } else { ExitCode::from(CONFIG) };
        failed(&error.to_string(), code)
    })?;
    let admin = server::bind(&admin_config.listen).map_err(|error| {
        let (listen, fix) = (&admin_config.listen, way_out(&error));
        let text = format!("admin.listen: cannot listen on {listen} for the operator: {error}; {fix}");
        failed(&text, ExitCode::FAILURE)
    })?;
    let given = match &admin_config.key {
        Some(source) => Some(source.read().await),
        None => None,
    };
    let given = given.transpose().map_err(|e| failed(&format!("admin.key: {e}"), ExitCode::from(CONFIG)))?;
    let routes: Vec<_> = app.listeners().into_iter().map(|(listen, routes)| (listen, names(&routes))).collect();
    let running = server::start(app).map_err(|error| failed(&said(&error, &routes), ExitCode::FAILURE))?;
    // Only now: a broker that cannot start must not take the key of one that runs.
    let made = if given.is_none() { make_key(&admin) } else { None };
    let (admin_key, key_file) = made.map_or((given, None), |(key, file)| (Some(key), Some(file)));
    Ok(Started { running, admin, admin_key, _key_file: key_file })
}

async fn serve(config: Config, ready: impl FnOnce(&Running, &Listen)) -> ExitCode {
    let mut stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("cannot listen for signals: {error}"), ExitCode::FAILURE),
    };
    let started = tokio::select! {
        started = start(config) => started,
        signal = stop.asked() => {
            info!(signal, "stopped before everything was started");
            return ExitCode::SUCCESS;
        }
    };
    let Started { running, admin: bound, admin_key, _key_file } = match started {
        Ok(started) => started,
        Err(code) => return code,
    };
    if let Some(store) = &running.app.store {
        // Whoever finds the store taken learns by whom. Nothing else depends on it.
        let _ = store.sign(&format!("admin {}, pid {}", bound.listen, std::process::id()));
    }
    let admin = Arc::new(view(&running, admin_key, &bound));
    let operator = bound.listen.clone();
    info!(listen = %bound.listen, "the operator's listener");
    for (route, listen) in &running.addresses {
        info!(route, %listen, "listening");
    }
    // Security: its own bound; a flood on the routes does not take the probes away.
    let operators = Serve {
        service: admin::service(Arc::clone(&admin)),
        limits: running.app.config.limits.clone(),
        stall: Duration::from_secs(30),
        permits: Some(Arc::new(tokio::sync::Semaphore::new(64))),
        open: None,
        connections: TaskTracker::new(),
        drain: CancellationToken::new(),
    };
    #[expect(clippy::disallowed_methods, reason = "probes are answered until the process ends")]
    tokio::spawn(operators.accept(bound));
    ready(&running, &operator);

    let signal = stop.asked().await;
    info!(signal, "draining; a second signal ends at once");
    admin.draining.store(true, Ordering::Relaxed);
    tokio::select! {
        clean = running.drain() => {
            info!(clean, "stopped");
            if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        signal = stop.asked() => {
            warn!(signal, "ended without waiting");
            ExitCode::FAILURE
        }
    }
}

/// An error of the start, with the routes whose listener it is about.
fn said(error: &StartError, routes: &[(Listen, String)]) -> String {
    let StartError::Listen { listen, source } = error else { return error.to_string() };
    let route = routes.iter().find(|(at, _)| at == listen).map_or("", |(_, names)| names);
    format!("route.{route}.listen: {error}; {}", way_out(source))
}

fn names(routes: &[Arc<Route>]) -> String {
    routes.iter().map(|route| route.config.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What to do where nothing can listen.
fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on, or a directory that the broker may write to",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose 127.0.0.1",
        _ => "choose another place to listen",
    }
}

fn failed(text: &str, code: ExitCode) -> ExitCode {
    error!("{text}");
    code
}

/// A new admin key, in a private file.
fn make_key(admin: &Bound) -> Option<(Secret, KeyFile)> {
    let other = admin.port().map_or_else(|| std::process::id().to_string(), |port| port.to_string());
    let made = key::make().and_then(|key| Ok((key::keep(&key, &key::runtime_directory(), &other)?, key)));
    match made {
        Ok((file, key)) => {
            info!(file = %file.path.display(), "the admin key of this start");
            Some((key, file))
        }
        Err(error) => {
            warn!(%error, "there is no private place for the admin key, so POST requests are refused; set [admin] key");
            None
        }
    }
}

fn view(running: &Running, key: Option<Secret>, bound: &Bound) -> Admin {
    let app = &running.app;
    let listen = |name: &str| {
        running.addresses.iter().filter(|(route, _)| route == name).map(|(_, listen)| listen.clone()).collect()
    };
    let clock = app.clock.clone();
    Admin {
        key,
        port: bound.port(),
        now: Box::new(move || clock.now()),
        started_at: app.started_at,
        tokens: app
            .tokens
            .values()
            .map(|part| TokenView { config: Arc::clone(&part.config), slot: Arc::clone(&part.slot) })
            .collect(),
        routes: app
            .routes
            .values()
            .map(|route| RouteView {
                name: route.config.name.clone(),
                listen: listen(&route.config.name),
                upstream: format!("{}{}", route.config.upstream.origin(), route.config.upstream.base_path),
                token: route.config.token.clone(),
                metrics: Arc::clone(&route.metrics),
            })
            .collect(),
        certificates: app.config.certificates.iter().map(|(name, leaf)| (name.clone(), leaf.not_after)).collect(),
        metrics: Arc::clone(&app.metrics),
        draining: AtomicBool::new(false),
    }
}
