//! A broker with something beside it that needs its tokens, and decides when it ends: a command, a person at a terminal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::complain;
use super::run::{self, Loaded};
use crate::admin::{Admin, TokenView};
use crate::clock::Now;
use crate::config::{Listen, Route};
use crate::signal::{Came, Passed, Stop, Told};
use crate::token::cache::{Snapshot, State};

/// How long tokens are waited for.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two looks at them.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Told to the broker and not yet heard.
const TOLD_MAX: usize = 16;

/// A broker that listens.
pub(super) struct Up {
    /// Of each route, ports filled in.
    pub addresses: Vec<(String, Listen)>,
    pub operator: Listen,
    pub admin: Arc<Admin>,
}

/// Comes once the broker listens; never if it cannot start.
pub(super) type Started = oneshot::Receiver<Up>;

/// Runs the broker as `run` does, and `guest` beside it. The signals are the guest's. When it ends, the broker drains; then the
/// exit status is the guest's. If the broker cannot start, it is the broker's.
pub(super) fn run(loaded: Loaded, guest: impl AsyncFnOnce(Started, &mut Passed) -> (ExitCode, Stop)) -> ExitCode {
    run::on_a_runtime(async {
        let mut signals = match Passed::new() {
            Ok(signals) => signals,
            Err(error) => {
                complain(&format!("cannot listen for signals: {error}"));
                return ExitCode::FAILURE;
            }
        };
        let (tell, told) = mpsc::channel(TOLD_MAX);
        let (up, started) = oneshot::channel();
        let mut own = None;
        let beside = async {
            let (code, stop) = guest(started, &mut signals).await;
            own = Some(code);
            signals.ended();
            let mut stop = stop;
            loop {
                // The broker is there as long as this is.
                let _ = tell.send(stop).await;
                stop = Stop::Signal(signals.end().await.name);
            }
        };
        let mut told = Told(told);
        let serve = run::serve(loaded, &mut told, |running, operator, admin| {
            let (addresses, operator) = (running.addresses(), operator.clone());
            let _ = up.send(Up { addresses, operator, admin: Arc::clone(admin) });
        });
        let served = tokio::select! {
            served = Box::pin(serve) => served,
            never = Box::pin(beside) => never,
        };
        own.unwrap_or(served)
    })
}

/// Why the guest cannot begin.
pub(super) enum Not {
    /// A signal came first.
    Came(Came),
    /// In words, a line a token.
    Ready(String),
}

impl Up {
    /// The broker, once it listens.
    pub(super) async fn wait(started: Started, signals: &mut Passed) -> Result<Self, Not> {
        tokio::select! {
            up = started => match up {
                Ok(up) => Ok(up),
                // It said why, and ends; this is dropped with it.
                Err(_) => std::future::pending().await,
            },
            came = signals.end() => Err(Not::Came(came)),
        }
    }

    /// Waits until the tokens that `concerns` are usable; those that are obtained on demand count as soon as `/readyz` has it.
    /// Ends at once where a person has to act first.
    pub(super) async fn ready(&self, concerns: impl Fn(&TokenView) -> bool, signals: &mut Passed) -> Result<(), Not> {
        let deadline = (self.admin.now)().boot + READY_MAX;
        loop {
            let now = (self.admin.now)();
            let shown = self.admin.shown.load_full();
            let waits: Vec<_> = shown.tokens.iter().filter(|token| concerns(token) && !token.ready(now)).collect();
            if waits.is_empty() {
                return Ok(());
            }
            if waits.iter().any(|token| is_vain(&token.slot.snapshot(), now, deadline)) {
                let lines: Vec<_> = waits.iter().map(|token| said(token, now)).collect();
                let limit = READY_MAX.as_secs();
                let late = if now.boot >= deadline { format!(" within {limit} s") } else { String::new() };
                return Err(Not::Ready(format!("there is no token{late}\n{}", lines.join("\n"))));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                came = signals.end() => return Err(Not::Came(came)),
            }
        }
    }

    /// Where requests for that route go: its first TCP listener, else its Unix socket.
    pub(super) fn url(&self, route: &Route) -> Option<String> {
        let all = self.addresses.iter().filter(|(name, _)| *name == route.name).map(|(_, listen)| listen);
        let free = all.clone().find(|listen| listen.port().is_some());
        let fixed = route.listen.iter().find(|listen| listen.port().is_some_and(|port| port != 0));
        let first = route.listen.iter().find_map(Listen::port);
        let tcp = if first == Some(0) { free } else { fixed };
        match tcp.or_else(|| all.clone().next())? {
            Listen::Unix(path) => Some(format!("unix:{}", path.display())),
            Listen::Tcp(address) => {
                let host = host(route, address);
                Some(format!("{}://{host}:{}{}", route.scheme(), address.port(), route.path))
            }
        }
    }
}

/// A name that the listener answers to.
fn host(route: &Route, address: &SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let ip = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let known = route.accept_hosts.contains(&ip);
    let named = route.host.as_ref().or_else(|| route.accept_hosts.first().filter(|_| !known));
    named.cloned().unwrap_or(ip)
}

/// Is there nothing to wait for? A person has to act first, or the next exchange is known to come too late.
fn is_vain(snapshot: &Snapshot, now: Now, deadline: Duration) -> bool {
    let after = |moment| snapshot.not_before.is_some_and(|start| start > moment);
    let stuck = matches!(snapshot.state(now), State::Rejected | State::NeedsLogin);
    now.boot >= deadline || !snapshot.exchanging && (after(deadline) || stuck && after(now.boot))
}

fn said(token: &TokenView, now: Now) -> String {
    let snapshot = token.slot.snapshot();
    let error = snapshot.error.as_ref().map(ToString::to_string);
    let error = error.unwrap_or_else(|| "no answer of its token server yet".to_owned());
    format!("token {}: {}: {error}", token.config.name, snapshot.state(now).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{Class, TokenError};

    #[test]
    fn the_wait_for_a_token_ends_after_a_minute_or_where_nothing_comes_before() {
        let at = |seconds| Now { wall: jiff::Timestamp::UNIX_EPOCH, boot: Duration::from_secs(seconds) };
        let vain = |class: Option<Class>, exchanging, not_before: Option<u64>, now| {
            let error = class.map(|class| Arc::new(TokenError::new(class, "x", "y")));
            let not_before = not_before.map(Duration::from_secs);
            is_vain(&Snapshot { error, exchanging, not_before, ..Snapshot::default() }, at(now), READY_MAX)
        };
        for class in [None, Some(Class::Transient), Some(Class::ClientRejected), Some(Class::GrantRejected)] {
            assert!(vain(class, false, None, 60) && vain(class, true, None, 60), "{class:?}");
            assert!(!vain(class, true, Some(70), 59), "an exchange is under way");
            assert!(!vain(class, false, None, 59), "one is about to begin");
            assert!(vain(class, false, Some(61), 1), "the next comes too late");
        }
        assert!(!vain(Some(Class::Transient), false, Some(30), 1));
        assert!(!vain(Some(Class::ClientRejected), false, Some(30), 30), "it is tried again now");
        assert!(vain(Some(Class::ClientRejected), false, Some(30), 1));
        assert!(vain(Some(Class::GrantRejected), false, Some(30), 1));
    }
}
