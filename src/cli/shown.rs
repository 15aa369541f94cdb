//! What the operator's listener shows of a running broker.

use std::sync::Arc;

use crate::admin::{RouteView, Shown, TokenView};
use crate::app::TokenPart;
use crate::reload::Reload;
use crate::server::Running;

/// Of the parts that are in force.
pub(super) fn shown(running: &Running, reload: &Reload) -> Shown {
    let (parts, addresses) = (&running.parts, running.addresses());
    let listen =
        |name: &str| addresses.iter().filter(|(route, _)| route == name).map(|(_, listen)| listen.clone()).collect();
    let token = |part: &Arc<TokenPart>| TokenView {
        config: Arc::clone(&part.config),
        slot: Arc::clone(&part.slot),
        secrets: Arc::clone(&part.secrets),
    };
    Shown {
        // For commands that may be run elsewhere.
        file: std::path::absolute(&reload.path).unwrap_or_else(|_| reload.path.clone()),
        loaded_at: reload.loaded_at,
        error: reload.error(),
        tokens: parts.tokens.values().map(token).collect(),
        routes: parts
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
        expiring: parts.config.expiring.clone(),
    }
}
