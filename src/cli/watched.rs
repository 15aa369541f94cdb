//! Who watches a running broker from outside: a kubelet by `[admin] probes`, systemd by what it is told.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::count;
use crate::admin::{Admin, Probes};
use crate::config::Limits;
use crate::reload::Reload;
use crate::server::{Bound, Newest, Places, Running, Serve};
use crate::systemd;

/// Connections to `[admin] probes`. Security: of their own, because other machines may hold all of them; a further one takes the
/// place of the oldest.
const PROBES_MAX: usize = 32;
/// And none of them for long: for a head, and for an answer that is not read.
const PROBE_HEAD: Duration = Duration::from_secs(2);
const PROBE_STALL: Duration = Duration::from_secs(5);

/// Answers the probes until the process ends.
pub(super) fn probes(admin: &Arc<Admin>, limits: &Limits, bound: Bound) {
    info!(probes = %bound.listen, "probes and metrics, for whoever asks");
    let probes = Serve {
        answers: Probes(Arc::clone(admin)),
        limits: Limits { head_timeout: limits.head_timeout.min(PROBE_HEAD), ..limits.clone() },
        stall: PROBE_STALL,
        routes: None,
        places: Places::Newest(Newest::new(PROBES_MAX)),
        metrics: None,
        connections: TaskTracker::new(),
        drain: CancellationToken::new(),
    };
    #[expect(clippy::disallowed_methods, reason = "probes are answered until the process ends")]
    tokio::spawn(probes.accept(bound));
}

/// Tells systemd that everything listens, after the start or a reload.
pub(super) fn ready(running: &Running, reload: &Reload) {
    let (tokens, routes) = (running.parts.tokens.len(), running.parts.routes.len());
    let refused = reload.error().map(|error| format!("; the configuration on the disk is not in force: {error}"));
    let refused = refused.unwrap_or_default();
    systemd::ready(&format!("{}, {}{refused}", count(routes, "route"), count(tokens, "token")));
}
