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
use crate::admin::{self, Admin, RouteView, TokenView, key};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::secret::Secret;
use crate::server::{self, Bound, Running, Serve};
use crate::signal::Stop;

pub(super) fn main(cli: &Cli) -> ExitCode {
    let (config, report) = match cli.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    cli.start_logging();
    for warning in &report.warnings {
        warn!("{}", report.line(warning));
    }
    until_stopped(config, |_| {})
}

/// Runs the broker until a signal. `ready` is called once everything listens.
pub(super) fn until_stopped(config: Config, ready: impl FnOnce(&Running)) -> ExitCode {
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

async fn serve(config: Config, ready: impl FnOnce(&Running)) -> ExitCode {
    let mut stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("cannot listen for signals: {error}"), ExitCode::FAILURE),
    };
    let admin_config = config.admin.clone();
    let app = match App::assemble(config, Clock::system()).await {
        Ok(app) => app,
        Err(error) => return failed(&error.to_string(), ExitCode::from(CONFIG)),
    };
    let bound = match server::bind(&admin_config.listen) {
        Ok(bound) => bound,
        Err(error) => {
            let text =
                format!("cannot listen on {} for the operator: {error}; see [admin] listen", admin_config.listen);
            return failed(&text, ExitCode::FAILURE);
        }
    };
    let admin_key = match admin_key(&admin_config).await {
        Ok(key) => key,
        Err(text) => return failed(&text, ExitCode::from(CONFIG)),
    };
    let running = match server::start(app) {
        Ok(running) => running,
        Err(error) => return failed(&error.to_string(), ExitCode::FAILURE),
    };
    let admin = Arc::new(view(&running, admin_key, &bound));
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
    ready(&running);

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

fn failed(text: &str, code: ExitCode) -> ExitCode {
    error!("{text}");
    code
}

/// The configured key, or a new one in a private file.
async fn admin_key(admin: &config::Admin) -> Result<Option<Secret>, String> {
    if let Some(source) = &admin.key {
        return source.read().await.map(Some).map_err(|e| format!("admin.key: {e}"));
    }
    let directory = key::runtime_directory();
    let made = key::make().and_then(|key| Ok((key::keep(&key, &directory)?, key)));
    Ok(match made {
        Ok((file, key)) => {
            info!(file = %file.display(), "the admin key of this start");
            Some(key)
        }
        Err(error) => {
            no_key(&error);
            None
        }
    })
}

fn no_key(error: &io::Error) {
    warn!(%error, "there is no private place for the admin key, so POST requests are refused; set [admin] key");
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
