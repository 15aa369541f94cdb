//! `exec`: a command beside a broker that is ready. The broker is the same as with `run`, and drains after the command's end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;

use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};
use tracing::{debug, info, warn};

use super::beside::{self, Not, Up};
use super::harden::Before;
use super::{CONFIG, Cli, complain, run};
use crate::config::{Config, Route, Token};
use crate::oauth::file::{Grant, Rotation};
use crate::secret::source::FOR_THE_BROKER;
use crate::signal::{Passed, Stop};

/// What shells say of a command that is there and cannot be run, and of one that is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// And what they add to the number of the signal that ended one.
const SIGNALLED: i32 = 128;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Serve only this route, with its token
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// The command and its arguments. ROUTE_URL is set to where each route listens: its name in capitals, with _ for -
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn main(cli: &Cli, args: &Args, before: Before) -> ExitCode {
    let mut loaded = match run::load(cli) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let config = &mut loaded.2;
    let wanted = match Wanted::of(config, args.route.as_deref()) {
        Ok(wanted) => wanted,
        Err((text, code)) => {
            complain(&text);
            return code;
        }
    };
    config.narrow(args.route.as_deref());
    for token in config.tokens.values().filter(|token| is_used_up(config, token)) {
        let fix = "set [store] kind = \"file\", with path and key, to keep what it is exchanged for";
        warn!(
            token = token.name,
            "this run may use up the configured refresh token, and the next one needs another; {fix}"
        );
    }
    beside::run(loaded, async |started, signals| {
        let begun = async {
            let up = Up::wait(started, signals).await?;
            up.ready(|token| wanted.tokens.contains(&token.config.name), signals).await?;
            Ok(up)
        };
        match Box::pin(begun).await {
            Ok(up) => (ExitCode::from(command(args, &wanted.variables(&up), before, signals).await), Stop::Done),
            Err(Not::Came(came)) => {
                info!(signal = came.name, "ended before the command was started");
                (ExitCode::from(code(SIGNALLED + came.signal.as_raw())), Stop::Signal(came.name))
            }
            Err(Not::Ready(text)) => {
                complain(&format!("the command was not started: {text}"));
                (ExitCode::FAILURE, Stop::Done)
            }
        }
    })
}

/// Is the configured refresh token of no use after this run?
pub(super) fn is_used_up(config: &Config, token: &Token) -> bool {
    let rotates = token.dialect.answer.rotation != Rotation::Never;
    config.store.is_none() && token.grant == Grant::RefreshToken && rotates
}

/// What the command is told of, and waits for.
struct Wanted {
    /// By variable.
    routes: BTreeMap<String, Arc<Route>>,
    tokens: BTreeSet<String>,
}

impl Wanted {
    fn of(config: &Config, only: Option<&str>) -> Result<Self, (String, ExitCode)> {
        if let Some(name) = only.filter(|name| !config.routes.contains_key(*name)) {
            let known: Vec<_> = config.routes.keys().map(String::as_str).collect();
            let text = format!("there is no route {name}; there are: {}", known.join(", "));
            return Err((text, ExitCode::FAILURE));
        }
        let mut routes: BTreeMap<String, Arc<Route>> = BTreeMap::new();
        let mut twice = Vec::new();
        for route in config.routes.values().filter(|route| only.is_none_or(|only| only == route.name)) {
            let variable = variable(&route.name);
            match routes.get(&variable) {
                Some(other) => twice.push(format!(
                    "the routes {} and {} would both be {variable}: rename one of them, or choose one with --route",
                    other.name, route.name
                )),
                None => drop(routes.insert(variable, Arc::clone(route))),
            }
        }
        if !twice.is_empty() {
            return Err((twice.join("\n"), ExitCode::from(CONFIG)));
        }
        let required = config.tokens.values().filter(|token| token.required).map(|token| token.name.clone());
        let tokens = match only.and_then(|only| config.routes.get(only)) {
            Some(route) => route.token.iter().cloned().collect(),
            None => required.collect(),
        };
        Ok(Self { routes, tokens })
    }

    fn variables(&self, up: &Up) -> Vec<(String, String)> {
        self.routes.iter().filter_map(|(name, route)| Some((name.clone(), up.url(route)?))).collect()
    }
}

/// `my-api` as `MY_API_URL`.
fn variable(route: &str) -> String {
    format!("{}_URL", route.to_ascii_uppercase().replace('-', "_"))
}

/// Runs it to its end; its exit status, as a shell has it. Signals go to it, but for those of the terminal, which it has got.
async fn command(args: &Args, variables: &[(String, String)], before: Before, signals: &mut Passed) -> u8 {
    let Some((program, arguments)) = args.command.split_first() else { return NOT_FOUND };
    let mut command = Command::new(program);
    for name in FOR_THE_BROKER {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child = match before.spawn(|| command.spawn()) {
        Ok(child) => child,
        Err(error) => {
            let (code, fix) = not_run(&error);
            complain(&format!("cannot run {}: {error}; {fix}", program.display()));
            return code;
        }
    };
    loop {
        tokio::select! {
            ended = child.wait() => match ended {
                Ok(status) => return code(number(status)),
                Err(error) => {
                    complain(&format!("cannot wait for {}: {error}", program.display()));
                    return 1;
                }
            },
            came = signals.next() => {
                if !came.to_all {
                    debug!(signal = came.name, "passed on to the command");
                    pass(&child, came.signal);
                }
            }
        }
    }
}

fn pass(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        warn!(%error, "a signal could not be passed on to the command");
    }
}

fn not_run(error: &io::Error) -> (u8, &'static str) {
    match error.kind() {
        ErrorKind::NotFound => {
            (NOT_FOUND, "check its name, and that PATH leads to it, and to what its first line names")
        }
        ErrorKind::PermissionDenied => (NOT_EXECUTABLE, "it has to be a file with permission to execute (chmod +x)"),
        _ => (NOT_EXECUTABLE, "it has to be a program, or a script that names one in its first line (#!)"),
    }
}

fn number(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(1)
}

fn code(number: i32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}
