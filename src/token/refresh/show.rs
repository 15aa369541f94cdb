//! What a refresh task publishes, and says of it in the log.

use std::sync::Arc;

use tracing::{info, warn};

use super::Refresher;
use crate::clock::rfc3339;
use crate::oauth::TokenError;
use crate::oauth::file::Op;
use crate::token::Token;
use crate::token::cache::Snapshot;
use crate::token::source::Exchange;

impl<E: Exchange> Refresher<E> {
    pub(super) fn keep(&mut self, op: Op, token: Token, same: bool, warning: Option<&str>) {
        let expires_at = token.expires.map(|expires| rfc3339(expires.wall));
        let (name, fingerprint) = (&self.task.name, token.fingerprint);
        info!(token = name, %fingerprint, expires_at, same, by = ?op, "token obtained");
        if let Some(warning) = warning {
            warn!(token = name, %fingerprint, warning, "an odd answer");
        }
        self.snapshot.generation += u64::from(!same);
        self.snapshot.token = Some(Arc::new(token));
    }

    /// A person asks, before the task runs: what had to be mended elsewhere may be. A server that asked for time gets it, and what
    /// was refused is not sent again.
    pub fn reconsider(&mut self) {
        self.schedule.files_changed();
        self.show(self.snapshot.error.clone());
    }

    pub(super) fn publish(&mut self, failure: Option<TokenError>) {
        if let Some(error) = &failure {
            let usable = self.snapshot.usable(self.task.clock.now());
            let attempts = self.schedule.failures();
            let (token, class) = (&self.task.name, error.class.as_str());
            warn!(token, class, attempts, old_token_serves = usable, %error, "no new token");
        }
        self.snapshot.finished += 1;
        self.show(failure.map(Arc::new));
    }

    pub(super) fn show(&mut self, error: Option<Arc<TokenError>>) {
        self.snapshot = Snapshot {
            token: self.snapshot.token.clone(),
            generation: self.snapshot.generation,
            exchanging: false,
            finished: self.snapshot.finished,
            error,
            not_before: self.schedule.not_before(self.task.clock.now()),
            secrets: self.schedule.secrets(),
            barred: self.schedule.is_barred(),
            retired: false,
            suspects_from: self.schedule.suspects_from(self.task.clock.now()),
            refreshes_at: self.schedule.due().map(|due| due.wall),
            refresh_expires_at: self.schedule.refresh_expires_at(),
            refresh_ends: self.schedule.refresh_ends(),
            attempts: self.schedule.failures(),
        };
        self.task.slot.publish(self.snapshot.clone());
    }
}
