//! The steps of a rotation of the client secret, made by the task of one token between its exchanges: the machine of
//! `rotation` says which, this does it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::{LOOK_AGAIN, Refresher, own_task};
use crate::config;
use crate::oauth::file::{Grant, Op};
use crate::oauth::{Class, Outcome, TokenError};
use crate::rotation::{Action, Event, Failure, Held, Problem, Rotation, State, Which, plan};
use crate::token::cache::Slot;
use crate::token::keeper::{News, Unsaved};
use crate::token::kept::next_epoch;
use crate::token::secrets::{KeptSecrets, Progress, Secrets, Work};
use crate::token::source::{Configured, Exchange};

/// Where a server that is asked too often does not say for how long.
pub(super) const BUSY: Duration = Duration::from_secs(60);
/// An administrator's token that was given by hand is not kept over a longer pause.
pub(super) const ADMIN_KEPT: Duration = Duration::from_secs(300);
/// So often is a record tried that a shared store has forgotten.
const SAVES_MAX: u32 = 3;

/// What a token's task needs to rotate the client secret.
#[derive(Clone)]
pub struct Rotating {
    pub secrets: Arc<Secrets>,
    pub config: Arc<config::Token>,
    /// Of all tokens: one of them may be the administrator's.
    pub slots: Arc<Slots>,
}

/// The places of all tokens, by their names.
#[derive(Default)]
pub struct Slots(Mutex<BTreeMap<String, Arc<Slot>>>);

impl Slots {
    pub fn set(&self, token: &str, slot: &Arc<Slot>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), Arc::clone(slot));
    }

    /// Forgets those that are no longer configured.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keep(name));
    }

    pub fn get(&self, token: &str) -> Option<Arc<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

impl<E: Exchange> Refresher<E> {
    /// Does what a person asked for, or makes one step; how long to wait at most until the next.
    pub(super) async fn rotate(&mut self) -> Duration {
        let Some(rotating) = self.task.rotating.clone() else { return LOOK_AGAIN };
        let Some(mut work) = rotating.secrets.steps(&self.task.name) else { return LOOK_AGAIN };
        self.follow_secrets(&rotating, &mut work).await;
        let boot = self.task.clock.now().boot;
        if work.step_at > boot && !rotating.secrets.is_asked() {
            // It is looked at the record all the time; a step is made when it is time.
            return work.step_at - boot;
        }
        if let Some(order) = rotating.secrets.next_order() {
            self.carry_out(&rotating, &mut work, order).await;
            work.step_at = Duration::ZERO;
            return Duration::ZERO;
        }
        self.write_secret(&rotating, &mut work).await;
        self.plan_rotation(&rotating, &mut work).await;
        let wait = self.step(&rotating, &mut work).await;
        let under_way = work.machine.as_ref().is_some_and(|machine| machine.record().state != State::Stable);
        if !under_way || work.parked.is_some() {
            work.release().await;
        }
        self.show_rotation(&rotating, &mut work, Some(wait));
        if self.is_shared() {
            work.step_at = self.task.clock.now().boot + wait;
        }
        wait
    }

    async fn step(&mut self, rotating: &Rotating, work: &mut Work) -> Duration {
        let now = self.task.clock.now().wall;
        let Some(machine) = self.machine(rotating, work) else { return LOOK_AGAIN };
        let rests = machine.record().state == State::Stable;
        if !rests && self.look(rotating, work).await.1 {
            let why = "another client secret was configured meanwhile, and is in use: the rotation stands still";
            let problem =
                Problem { why: why.to_owned(), what_to_do: "rotate again, from that one".to_owned(), asks: None };
            work.parked = Some(problem);
            return LOOK_AGAIN;
        }
        let Some(machine) = self.machine(rotating, work) else { return LOOK_AGAIN };
        rotating.secrets.report(machine, now);
        let action = machine.next(now);
        let left = match &action {
            Action::Wait(until) => Duration::try_from(until.duration_since(now)).unwrap_or_default(),
            _ => Duration::ZERO,
        };
        if let Some(wait) = self.leaves_it(rotating, work, &action, left).await {
            return wait;
        }
        if !matches!(action, Action::Done) {
            work.parked = None;
        }
        let event = match &action {
            Action::Done => {
                work.admin = None;
                return LOOK_AGAIN;
            }
            Action::Park(problem) => {
                (work.parked, work.admin) = (Some(problem.clone()), None);
                return LOOK_AGAIN;
            }
            Action::Wait(_) => {
                if left > ADMIN_KEPT {
                    work.admin = None;
                    work.release().await;
                }
                return left.clamp(Duration::from_millis(100), LOOK_AGAIN);
            }
            Action::Save => self.save_rotation(rotating, work).await,
            Action::Swap => {
                work.written = false;
                Event::Swapped
            }
            Action::Verify(which) => self.verify(work, *which).await,
            call => self.call(rotating, work, call).await,
        };
        if let (Event::Failed(failure), call) = (&event, &action) {
            info!(
                token = self.task.name,
                ?failure,
                step = name(call),
                said = work.said,
                "a step of the rotation failed"
            );
        }
        let made = matches!(event, Event::Created { .. });
        let now = self.task.clock.now().wall;
        if let Some(machine) = &mut work.machine {
            machine.on(event, now);
        }
        if made && work.machine.as_mut().is_some_and(|machine| machine.next(now) == Action::Save) {
            // Before anything else, also where the broker is about to end: the vendor shows it once.
            let saved = self.save_rotation(rotating, work).await;
            if let Some(machine) = &mut work.machine {
                machine.on(saved, now);
            }
        }
        Duration::ZERO
    }

    /// Reads what is configured, and whether that wins over what is here. Security: what may panic, such as a parser, runs in a
    /// task of its own.
    pub(super) async fn look(&self, rotating: &Rotating, work: &mut Work) -> (Result<Configured, TokenError>, bool) {
        let exchange = Arc::clone(&self.exchange);
        let configured = own_task(Outcome::NotSent, async move { exchange.configured().await }).await;
        if let Ok(configured) = &configured {
            work.seen = Some(configured.seed);
        }
        (configured, rotating.secrets.is_overruled(work))
    }

    /// Makes the record durable, and what it says is used from then on.
    async fn save_rotation(&mut self, rotating: &Rotating, work: &mut Work) -> Event {
        let (Some(machine), Some(kept), Some(keeper)) = (&work.machine, work.kept.clone(), &mut work.keeper) else {
            return Event::SaveFailed;
        };
        let (before, now) = (kept.epoch, self.task.clock.now().wall);
        let mut kept = KeptSecrets { record: machine.record().clone(), epoch: next_epoch(before, now), ..kept };
        kept.supersedes();
        let mut saved = keeper.save(&kept).await;
        for _ in 0..SAVES_MAX {
            let Err(Unsaved::Stale(news)) = &saved else { break };
            if matches!(&**news, News::Theirs(theirs) if theirs.epoch > before) {
                // Another has gone on from what this step was made from.
                break;
            }
            // The store has forgotten what is here.
            saved = keeper.save(&kept).await;
        }
        match saved {
            Ok(()) => {
                rotating.secrets.keep(kept.clone());
                work.kept = Some(kept);
                Event::Saved
            }
            Err(Unsaved::Stale(news)) => {
                warn!(token = self.task.name, "another replica went on with the rotation");
                work.machine = None;
                rotating.secrets.hear(work, *news);
                Event::SaveFailed
            }
            Err(Unsaved::Failed(error)) => {
                error!(token = self.task.name, %error, "the record of the rotation could not be saved");
                work.said = Some(error);
                let begun = rotating.secrets.has_begun();
                if !begun && matches!(kept.record.state, State::Planned | State::Created) {
                    // Nobody was asked for anything yet.
                    let why = "the store cannot be written, so nothing was begun";
                    work.forgo(rotating.secrets.durable(), why, "mend the store, then do it again");
                }
                Event::SaveFailed
            }
        }
    }

    /// A real exchange with one of the two secrets, over a new connection as each. What comes of it is used.
    async fn verify(&mut self, work: &mut Work, which: Which) -> Event {
        let Some(record) = work.machine.as_ref().map(Rotation::record) else { return Event::Refused };
        let held = if which == Which::New { record.new.as_ref() } else { Some(&record.old) };
        let Some(secret) = held.map(Held::secret) else { return Event::Refused };
        let now = self.task.clock.now();
        if let Some(error) = self.schedule.over_budget(now, true) {
            work.said = Some(error.to_string());
            return Event::Failed(Failure::Busy(error.retry_after.unwrap_or(BUSY)));
        }
        let only_renews = matches!(self.task.policy.grant, Grant::RefreshToken | Grant::AuthorizationCode);
        let op = if only_renews { Op::Renew } else { Op::Acquire };
        if only_renews && self.schedule.refresh_token().is_none() {
            work.said = Some(self.nothing_to_renew().to_string());
            return Event::Failed(Failure::NotSent);
        }
        self.with = self.exchange.with();
        if let Err(error) = self.begin_step().await {
            work.said = Some(error.to_string());
            return Event::Failed(Failure::NotSent);
        }
        let tried = self.once(op, None, Some(secret)).await;
        let (error, credential) = match tried {
            Ok(()) => {
                self.release().await;
                self.peers.decided = false;
                // Whoever waits for an exchange of their own waits on.
                self.show(None);
                work.said = None;
                return Event::Accepted;
            }
            Err(failed) => failed,
        };
        work.said = Some(error.to_string());
        if error.class == Class::GrantRejected && self.schedule.refused(credential, &error) {
            // It is the login that is refused, and it is not tried again and again.
            self.save(Some(&error)).await;
        }
        self.release().await;
        match (error.class, error.outcome) {
            (Class::SecretExpired | Class::ClientRejected, Outcome::Refused) => Event::Refused,
            (Class::RateLimited, _) => Event::Failed(Failure::Busy(error.retry_after.unwrap_or(BUSY))),
            (_, Outcome::NotSent) => Event::Failed(Failure::NotSent),
            _ => Event::Failed(Failure::Lost),
        }
    }

    /// For the operator, and in the log once.
    pub(super) fn show_rotation(&mut self, rotating: &Rotating, work: &mut Work, wait: Option<Duration>) {
        let now = self.task.clock.now().wall;
        let record = work.machine.as_ref().map(Rotation::record);
        let Some(record) = record.or(work.kept.as_ref().map(|kept| &kept.record)) else {
            if let Some(Problem { why, what_to_do, .. }) = &work.parked {
                let (problem, fix, said) = (Some(why.clone()), Some(what_to_do.clone()), work.said.clone());
                rotating.secrets.show(&Progress { problem, fix, said, ..Progress::none() });
            }
            return;
        };
        let mut progress = Progress { said: work.said.clone(), ..Progress::of(record) };
        if let Some(problem) = &work.parked {
            (progress.problem, progress.fix) = (Some(problem.why.clone()), Some(problem.what_to_do.clone()));
        }
        let since = if let State::Swapped { since } = record.state { Some(since) } else { None };
        progress.old_goes_at = since.and_then(|since| {
            let goes = Timestamp::from_second(since).ok()?.checked_add(rotating.config.rotate.grace);
            goes.ok()
        });
        progress.verify_times = rotating.config.rotate.times;
        progress.rotated = rotating.secrets.expires().is_some();
        progress.next_at = wait.filter(|wait| !wait.is_zero()).and_then(|wait| now.checked_add(wait).ok());
        rotating.secrets.show(&progress);
        let Progress { state, problem, fix, said, in_use, .. } = progress;
        let told = format!("{state} {problem:?}");
        if work.told.as_ref() != Some(&told) {
            let end = self.known_end(rotating, work);
            let urgent = end.and_then(|end| plan::urgency(end, now)).is_some();
            let name = &self.task.name;
            match (problem, fix) {
                (Some(why), Some(fix)) if urgent => error!(token = name, state, said, "rotation: {why}; {fix}"),
                (Some(why), Some(fix)) => warn!(token = name, state, said, "rotation: {why}; {fix}"),
                _ => info!(token = name, state, in_use, "rotation"),
            }
            work.told = Some(told);
        }
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Save => "save",
        Action::List => "list",
        Action::Create { .. } => "create",
        Action::Replace => "replace",
        Action::Verify(_) => "verify",
        Action::Swap => "swap",
        Action::Delete { .. } => "delete",
        Action::Wait(_) => "wait",
        Action::Park(_) => "park",
        Action::Done => "done",
    }
}
