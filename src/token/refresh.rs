//! The refresh task: one for each token, from start to drain.
//!
//! It alone runs exchanges, one at a time, and publishes what comes of them. Nothing that a request does can cancel one;
//! when the broker stops, the task ends after the exchange that is in flight.

mod durable;
mod lead;
mod lease;
mod login;
mod logout;
mod manage;
mod orders;
mod rotate;
mod row;
mod shared;
mod show;
mod unattended;
mod work;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio_util::sync::CancellationToken;

use lease::Begin;
pub use login::Code;
pub use logout::LoggedOut;
use logout::Revocation;
pub use rotate::{Rotating, Slots};
use shared::Peers;
use work::{busy, own_task, unsaved, unwritable};

use super::Token;
use super::cache::{Slot, Snapshot, Wishes};
use super::keeper::Keeper;
use super::kept::{Kept, KeptAccess, next_epoch};
use super::refusals::Credential;
use super::schedule::{Lives, Next, Policy, Schedule};
use super::source::{Exchange, With};
use crate::clock::Clock;
use crate::oauth::file::Op;
use crate::oauth::template::Template;
use crate::oauth::{Outcome, TokenError};
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;

/// The clocks and the secret files are looked at again at least this often: the machine may have slept.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often a record that others write too is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tries to save, half a second apart, before the task ends.
const LAST_SAVES: u32 = 4;

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
    /// `None`: nothing outlives the process.
    pub keeper: Option<Keeper>,
    /// `None`: there is no client secret to rotate.
    pub rotating: Option<Rotating>,
}

/// What a refresh task leaves: another one of the same account goes on from it.
pub struct Ended {
    pub account: String,
    pub keeper: Option<Keeper>,
    pub kept: Kept,
    /// Does the store have it all?
    pub saved: bool,
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
    /// What the last exchange was made with, or the next one would be.
    with: With,
    /// The token in use, for the store, and what it was obtained with and for.
    access: Option<KeptAccess>,
    purpose: String,
    /// A person gave up what there was, and nothing came since.
    given_up: bool,
    /// The epoch of the last time that a person gave up what there was.
    cleared: u64,
    epoch: u64,
    /// Set while the store does not have what is here.
    unsaved: Option<durable::Unsaved>,
    revocations: Vec<Revocation>,
    peers: Peers,
}

impl<E: Exchange> Refresher<E> {
    /// Goes on from what was kept, if there is anything; `saved` if the store has that already.
    pub fn new(exchange: E, task: Task, kept: Option<Kept>, saved: bool) -> Self {
        let before = task.slot.snapshot();
        let mut this = Self {
            schedule: Schedule::new(task.policy),
            stamp: exchange.stamp(),
            with: exchange.with(),
            exchange: Arc::new(exchange),
            // The slot may have been another task's: its numbers go on.
            snapshot: Snapshot { generation: before.generation, finished: before.finished, ..Snapshot::default() },
            pending: Wishes::default(),
            access: None,
            purpose: String::new(),
            given_up: false,
            cleared: 0,
            epoch: 0,
            unsaved: (!saved && kept.is_some()).then(durable::Unsaved::default),
            revocations: Vec::new(),
            peers: Peers::default(),
            task,
        };
        if let Some(kept) = kept {
            this.restore(kept);
        }
        this.show_if_nobody_logged_in();
        this
    }

    /// Of the token.
    pub fn name(&self) -> &str {
        &self.task.name
    }

    /// Runs until `stop`; an exchange in flight is finished first, with what follows on it at once unless `cut`, when the broker
    /// ends.
    pub async fn run(mut self, stop: CancellationToken, cut: CancellationToken) -> Ended {
        while !stop.is_cancelled() {
            let mut wait = self.follow().await;
            wait = wait.min(self.save_again(false).await).min(self.revoke_again().await);
            match self.next() {
                Next::Exchange => match self.begin().await {
                    Begin::Yes => {
                        self.exchange(&cut).await;
                        self.release().await;
                        continue;
                    }
                    Begin::Done => continue,
                    Begin::Later(later) => wait = wait.min(later),
                },
                Next::Wait(next) => wait = wait.min(next),
            }
            // Nothing may keep it from the token that another obtains.
            if !self.peers.decided || self.snapshot.usable(self.task.clock.now()) {
                wait = wait.min(self.rotate().await);
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.task.slot.woken() => {}
                () = stop.cancelled() => {}
            }
        }
        self.stop_leading().await;
        for _ in 0..LAST_SAVES {
            if self.unsaved.is_none() || !cut.is_cancelled() {
                break;
            }
            self.save_again(true).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.task.slot.give_back(self.pending);
        let kept = Kept { process: Some(self.schedule.process()), ..self.kept(self.snapshot.error.as_deref()) };
        let Self { task: Task { keeper, .. }, with, unsaved, .. } = self;
        Ended { account: with.account, keeper, kept, saved: unsaved.is_none() }
    }

    fn next(&mut self) -> Next {
        let now = self.task.clock.now();
        let stamp = self.exchange.stamp();
        if stamp != self.stamp {
            self.stamp = stamp;
            self.schedule.files_changed();
        }
        self.pending.merge(self.task.slot.wishes());
        if self.peers.decided && !self.pending.forced {
            return Next::Exchange;
        }
        if std::mem::take(&mut self.pending.mended) {
            self.schedule.files_changed();
        }
        let next = self.schedule.next(now, self.snapshot.token.as_deref(), self.pending);
        let barred = self.schedule.suspects_from(now);
        if next != Next::Exchange && self.pending.suspect && barred.is_some() {
            self.pending.suspect = false;
            self.snapshot.suspects_from = barred;
            self.task.slot.publish(self.snapshot.clone());
        }
        next
    }

    /// One exchange, with that client secret in the place of the one in use. Security: what may panic, such as a parser, runs
    /// in a task of its own: it costs one exchange, not the token.
    async fn once(
        &mut self,
        op: Op,
        code: Option<&Code>,
        instead: Option<Secret>,
    ) -> Result<(), (TokenError, Credential)> {
        self.peers.overtaken = false;
        let (exchange, (secret, _)) = (Arc::clone(&self.exchange), self.schedule.secrets());
        let prepared = own_task(Outcome::NotSent, async move { exchange.prepare(op, secret).await }).await;
        let mut prepared = prepared.map_err(|error| (error, Credential::none()))?;
        let rotated = prepared.rotated.then_some(prepared.secrets);
        self.schedule.uses_secret(prepared.secret, rotated);
        let second = rotated.is_some() && prepared.secret > 0 && instead.is_none();
        if instead.is_some() {
            (prepared.inputs.client_secret, prepared.inputs.secret_age) = (instead.clone(), None);
            prepared.proof = instead;
        }
        if op == Op::Renew {
            prepared.inputs.refresh_token = self.schedule.refresh_token().cloned();
        }
        prepared.inputs.values.extend(code.into_iter().flat_map(Code::values));
        let credential = prepared.credential(op);
        let failed = |error| (error, credential);
        if let Some(error) = self.schedule.barred(&credential) {
            return Err(failed(error.clone().of(Outcome::NotSent)));
        }
        self.reserve(op).await.map_err(failed)?;
        let sent = self.task.clock.now();
        let exchange = Arc::clone(&self.exchange);
        // It may have been sent by the time it breaks off.
        let answer = own_task(Outcome::Lost, async move { exchange.exchange(op, &prepared).await }).await;
        let left = answer.as_ref().err().is_none_or(|error| error.outcome != Outcome::NotSent);
        let answered = self.task.clock.now();
        self.schedule.answered(answered, left);
        let refused = match &answer {
            Ok(answer) => answer.access.as_ref().err(),
            Err(error) => Some(error),
        };
        let (outcome, took) =
            (refused.map_or("success", |error| error.class.as_str()), answered.boot.saturating_sub(sent.boot));
        self.task.metrics.refreshed(&self.task.name, outcome, took.as_secs_f64());
        let answer = answer.map_err(failed)?;
        self.schedule.took(&answer, sent, op);
        self.epoch = next_epoch(self.epoch, sent.wall);
        let refresh = answer.refresh_lifetime;
        let access = match answer.access {
            Ok(access) => access,
            Err(error) => {
                // What follows may break off: the refresh token that came has to be durable by then.
                self.save(Some(&error)).await;
                return Err(failed(error));
            }
        };
        let lives = Lives { access: self.schedule.lifetime(access.lifetime), refresh };
        let token = Token::new(&access.token, &self.task.formats, sent, lives.access);
        let token = token.ok_or_else(|| failed(unwritable()))?;
        if let Some(rotating) = self.task.rotating.as_ref().filter(|_| second) {
            rotating.secrets.refused();
        }
        let same = self.snapshot.token.as_deref().is_some_and(|old| old.is(&token));
        self.schedule.succeeded(&credential, lives, sent, self.task.clock.now(), same, &mut self.task.rng);
        self.access = Some(KeptAccess::new(&access.token, sent, token.expires, self.schedule.due()));
        (self.purpose, self.given_up) = (self.with.purpose.clone(), false);
        // Durable before used: the answer may have ended the refresh token before. What others saved before does not count.
        self.peers.overtaken = false;
        self.save(None).await;
        if !self.peers.overtaken {
            self.keep(op, token, same, access.warning.as_deref());
        }
        Ok(())
    }
}
