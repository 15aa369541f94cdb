//! The refresh task: one for each token, from start to drain.
//!
//! It alone runs exchanges, one at a time, and publishes what comes of them. Nothing that a request does can cancel one;
//! when the broker stops, the task ends after the exchange that is in flight.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Token;
use super::cache::{Slot, Snapshot, Wishes};
use super::schedule::{Next, Policy, Schedule, Then};
use super::source::{Exchange, Prepared};
use crate::clock::{Clock, Now, rfc3339};
use crate::oauth::file::Op;
use crate::oauth::response::Answer;
use crate::oauth::template::Template;
use crate::oauth::{Class, TokenError};
use crate::telemetry::metrics::Metrics;

/// The clocks and the secret files are looked at again at least this often: the machine may have slept.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a refresh task needs besides its source.
pub struct Task {
    pub name: String,
    pub policy: Policy,
    /// One for each way that routes write the token.
    pub formats: Vec<Template>,
    pub slot: Arc<Slot>,
    pub clock: Clock,
    pub rng: Rng,
    pub metrics: Arc<Metrics>,
}

/// A refresh task.
pub struct Refresher<E> {
    task: Task,
    exchange: Arc<E>,
    schedule: Schedule,
    snapshot: Snapshot,
    pending: Wishes,
    /// Of the secret files, when they were last looked at.
    stamp: u64,
}

impl<E: Exchange> Refresher<E> {
    pub fn new(exchange: E, task: Task) -> Self {
        Self {
            schedule: Schedule::new(task.policy),
            stamp: exchange.stamp(),
            exchange: Arc::new(exchange),
            snapshot: Snapshot::default(),
            pending: Wishes::default(),
            task,
        }
    }

    /// Runs until `stop`; an exchange in flight is finished first.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.next() {
                Next::Exchange => self.exchange().await,
                Next::Wait(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
                        () = self.task.slot.woken() => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        let now = self.task.clock.now();
        let stamp = self.exchange.stamp();
        if stamp != self.stamp {
            self.stamp = stamp;
            self.schedule.files_changed();
        }
        self.pending.merge(self.task.slot.wishes());
        let next = self.schedule.next(now, self.snapshot.token.as_deref(), self.pending);
        let barred = self.schedule.suspects_from(now);
        if next != Next::Exchange && self.pending.suspect && barred.is_some() {
            self.pending.suspect = false;
            self.snapshot.suspects_from = barred;
            self.task.slot.publish(self.snapshot.clone());
        }
        next
    }

    /// One exchange with what follows on it directly: the repetition of a lost answer, the login after a refused renewal.
    async fn exchange(&mut self) {
        self.pending = Wishes::default();
        self.snapshot.exchanging = true;
        self.task.slot.publish(self.snapshot.clone());
        let started = self.task.clock.now();
        let failure = match self.prepare().await {
            Err(error) => {
                self.schedule.start(started, None);
                self.schedule.failed(Op::Acquire, [0; 32], &error, self.task.clock.now(), &mut self.task.rng);
                Some(error)
            }
            Ok(prepared) => {
                let mut op = self.schedule.start(started, prepared.inputs.refresh_token.as_ref());
                loop {
                    let sent = self.task.clock.now();
                    match self.once(op, prepared.clone()).await {
                        Ok((answer, token)) => {
                            self.succeeded(op, &answer, token, sent);
                            break None;
                        }
                        Err((error, digest)) => {
                            match self.schedule.failed(op, digest, &error, self.task.clock.now(), &mut self.task.rng) {
                                Then::Now(next) => {
                                    info!(token = self.task.name, %error, "trying again at once");
                                    op = next;
                                }
                                Then::Later => break Some(error),
                            }
                        }
                    }
                }
            }
        };
        self.publish(failure);
    }

    /// Security: in a task of its own, so that even a panic in a parser costs one exchange, not the token.
    async fn prepare(&self) -> Result<Prepared, TokenError> {
        let exchange = Arc::clone(&self.exchange);
        own_task(async move { exchange.prepare().await }).await
    }

    async fn once(&self, op: Op, mut prepared: Prepared) -> Result<(Answer, Token), (TokenError, [u8; 32])> {
        if op == Op::Renew {
            prepared.inputs.refresh_token = self.schedule.refresh_token().cloned();
        }
        let digest = prepared.digest(op);
        let refused = |error| (error, digest);
        if (op == Op::Renew && prepared.inputs.refresh_token.is_none()) || !self.schedule.may_send(&digest) {
            let kept = self.snapshot.error.as_deref().cloned();
            return Err(refused(kept.unwrap_or_else(already_refused)));
        }
        let sent = self.task.clock.now();
        let exchange = Arc::clone(&self.exchange);
        let answer = own_task(async move { exchange.exchange(op, &prepared).await }).await;
        let outcome = answer.as_ref().map_or_else(|error| error.class.as_str(), |_| "success");
        self.task.metrics.refreshed(&self.task.name, outcome);
        let answer = answer.map_err(refused)?;
        let token = Token::new(&answer.access_token, &self.task.formats, sent, self.schedule.lifetime(&answer));
        match token {
            Some(token) => Ok((answer, token)),
            None => Err(refused(TokenError::new(
                Class::Transient,
                "the access token cannot stand in the route's header",
                "check the route's `format`",
            ))),
        }
    }

    fn succeeded(&mut self, op: Op, answer: &Answer, token: Token, sent: Now) {
        let same = self.snapshot.token.as_deref().is_some_and(|old| old.is(&token));
        self.schedule.succeeded(answer, sent, self.task.clock.now(), same, &mut self.task.rng);
        let expires_at = token.expires.map(|expires| rfc3339(expires.wall));
        let (name, fingerprint) = (&self.task.name, token.fingerprint);
        info!(token = name, %fingerprint, expires_at, same, by = ?op, "token obtained");
        if let Some(warning) = &answer.warning {
            warn!(token = name, %fingerprint, warning, "using default_lifetime instead");
        }
        self.snapshot.generation += u64::from(!same);
        self.snapshot.token = Some(Arc::new(token));
    }

    fn publish(&mut self, failure: Option<TokenError>) {
        if let Some(error) = &failure {
            let usable = self.snapshot.usable(self.task.clock.now());
            let attempts = self.schedule.failures();
            warn!(token = self.task.name, class = error.class.as_str(), attempts, old_token_serves = usable, %error, "no new token");
        }
        self.snapshot = Snapshot {
            token: self.snapshot.token.clone(),
            generation: self.snapshot.generation,
            exchanging: false,
            finished: self.snapshot.finished + 1,
            error: failure.map(Arc::new),
            not_before: self.schedule.not_before(),
            suspects_from: self.schedule.suspects_from(self.task.clock.now()),
            refreshes_at: self.schedule.due_at(),
            refresh_expires_at: self.schedule.refresh_expires_at(),
            attempts: self.schedule.failures(),
        };
        self.task.slot.publish(self.snapshot.clone());
    }
}

fn already_refused() -> TokenError {
    TokenError::new(
        Class::GrantRejected,
        "the credential was refused before",
        "replace it, or refresh by hand to try it again",
    )
}

#[expect(clippy::disallowed_methods, reason = "the caller waits for the task, so a drain does too")]
async fn own_task<T: Send + 'static>(
    task: impl Future<Output = Result<T, TokenError>> + Send + 'static,
) -> Result<T, TokenError> {
    tokio::spawn(task).await.unwrap_or_else(|_| {
        Err(TokenError::new(
            Class::Unknown,
            "the exchange broke off inside the broker",
            "this is a fault of the broker: report it",
        ))
    })
}
