//! A row of exchanges: the one that is due, and what follows on it at once.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Refresher, own_task, unsaved};
use crate::oauth::file::Op;
use crate::oauth::{Outcome, TokenError};
use crate::token::cache::Wishes;
use crate::token::refusals::Credential;
use crate::token::schedule::Then;
use crate::token::source::Exchange;

impl<E: Exchange> Refresher<E> {
    /// One exchange with what follows on it directly, between two snapshots.
    pub(super) async fn exchange(&mut self, cut: &CancellationToken) {
        let wishes = std::mem::take(&mut self.pending);
        self.with = self.exchange.with();
        self.snapshot.exchanging = true;
        self.task.slot.publish(self.snapshot.clone());
        self.peers.overtaken = false;
        let failure = self.attempts(cut).await;
        if failure.is_some() && self.peers.overtaken {
            // Nothing was sent: whoever asked waits on.
            self.pending = Wishes { suspect: false, ..wishes };
            return self.show(self.snapshot.error.clone());
        }
        if failure.is_some() {
            self.save(failure.as_ref()).await;
        }
        if std::mem::take(&mut self.peers.overtaken) {
            self.snapshot.finished += 1;
            return self.show(self.snapshot.error.clone());
        }
        self.publish(failure);
    }

    /// An exchange, the repetition of a lost answer, the login after a refused renewal: at most four in a row. `None` is a
    /// success.
    async fn attempts(&mut self, cut: &CancellationToken) -> Option<TokenError> {
        let exchange = Arc::clone(&self.exchange);
        let seed = own_task(Outcome::NotSent, async move { exchange.seed().await }).await;
        let configured = seed.as_ref().ok().and_then(Option::as_ref);
        let mut op = self.schedule.start(self.task.clock.now(), configured);
        if self.peers.alone {
            // A refresh token is the others' too.
            op = Op::Acquire;
        }
        if op == Op::Renew && self.schedule.refresh_token().is_none() {
            let error = seed.err().unwrap_or_else(|| self.nothing_to_renew());
            // Nothing was sent: no refresh token is to blame.
            self.schedule.failed(Op::Acquire, Credential::none(), &error, self.task.clock.now(), &mut self.task.rng);
            return Some(error);
        }
        let mut before = None;
        loop {
            let now = self.task.clock.now();
            if let Some(error) = self.schedule.over_budget(now, self.snapshot.usable(now)) {
                return before.or(Some(error));
            }
            let Err((error, credential)) = self.once(op, None, None).await else { return None };
            if self.peers.overtaken {
                // It is begun anew, from what the others know.
                return Some(error);
            }
            match self.schedule.failed(op, credential, &error, self.task.clock.now(), &mut self.task.rng) {
                Then::Now(next) if !cut.is_cancelled() => {
                    info!(token = self.task.name, %error, "trying again at once");
                    (op, before) = (next, Some(error));
                }
                // What bars it for good says more than what was last said about it.
                Then::Now(_) | Then::Later => return Some(self.schedule.barred(&credential).cloned().unwrap_or(error)),
            }
        }
    }

    /// Before anything is sent: nobody else does, and whoever goes on after a crash will know of it.
    pub(super) async fn reserve(&mut self, op: Op) -> Result<(), TokenError> {
        self.holds().await?;
        if !self.schedule.begins(op, self.task.clock.now()) {
            return Ok(());
        }
        let (error, heard, adopted) = (self.snapshot.error.clone(), self.peers.heard, self.peers.adopted);
        let saved = self.save(error.as_deref()).await;
        let needed = self.is_shared() && !self.peers.alone;
        if heard == self.peers.heard && (saved || !needed) {
            // The process may have stood still meanwhile.
            let held = self.holds().await;
            if held.is_err() {
                self.schedule.answered(self.task.clock.now(), false);
            }
            return held;
        }
        // Others would not know of it, or have done it already.
        if adopted == self.peers.adopted {
            self.schedule.answered(self.task.clock.now(), false);
        }
        self.peers.overtaken = true;
        Err(unsaved())
    }
}
