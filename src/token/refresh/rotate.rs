//! The steps of a rotation of the client secret, made by the task of one token between its exchanges: the machine of
//! `rotation` says which, this does it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::{LOOK_AGAIN, Refresher};
use crate::config;
use crate::oauth::expiry::text_moment;
use crate::oauth::file::{Grant, Op};
use crate::oauth::inputs::Given;
use crate::oauth::manage::Item;
use crate::oauth::{Class, Outcome, TokenError};
use crate::rotation::{Action, Entry, Event, Failure, State, Which};
use crate::secret::Secret;
use crate::token::cache::Slot;
use crate::token::secrets::{Progress, Secrets, Work};
use crate::token::source::{Exchange, Unmanaged};

/// How long another token is waited for whose access token may manage secrets.
const ADMIN_WAIT: Duration = Duration::from_secs(30);
/// Where a server that is asked too often does not say for how long.
const BUSY: Duration = Duration::from_secs(60);

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

/// Why nobody may be asked: no token of an administrator, or none that is good.
pub(super) struct NoAccess(pub String);

impl<E: Exchange> Refresher<E> {
    /// Does what a person asked for, or makes one step; how long to wait at most until the next.
    pub(super) async fn rotate(&mut self) -> Duration {
        let Some(rotating) = self.task.rotating.clone() else { return LOOK_AGAIN };
        let Some(mut work) = rotating.secrets.steps(&self.task.name) else { return LOOK_AGAIN };
        if let Some(order) = rotating.secrets.next_order() {
            self.carry_out(&rotating, &mut work, order).await;
            return Duration::ZERO;
        }
        self.write_secret(&rotating, &mut work).await;
        self.plan_rotation(&rotating, &mut work).await;
        let wait = self.step(&rotating, &mut work).await;
        self.show_rotation(&rotating, &mut work, Some(wait));
        wait
    }

    async fn step(&mut self, rotating: &Rotating, work: &mut Work) -> Duration {
        let now = self.task.clock.now().wall;
        let overruled = work.kept.as_ref().is_none_or(|kept| rotating.secrets.is_overruled(kept));
        let Some(machine) = self.machine(rotating, work).filter(|_| !overruled) else { return LOOK_AGAIN };
        rotating.secrets.report(machine, now);
        let action = machine.next(now);
        work.parked = None;
        let event = match &action {
            Action::Done => return LOOK_AGAIN,
            Action::Park(problem) => match Self::choose(work, problem) {
                Some(chosen) => Event::Chosen(chosen),
                None => {
                    work.parked = Some(problem.clone());
                    return LOOK_AGAIN;
                }
            },
            Action::Wait(until) => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
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
        if let Some(machine) = &mut work.machine {
            machine.on(event, self.task.clock.now().wall);
        }
        Duration::ZERO
    }

    /// Makes the record durable, and what it says is used from then on.
    async fn save_rotation(&mut self, rotating: &Rotating, work: &mut Work) -> Event {
        let (Some(machine), Some(kept), Some(keeper)) = (&work.machine, &mut work.kept, &mut work.keeper) else {
            return Event::SaveFailed;
        };
        kept.record = machine.record().clone();
        match keeper.save(kept).await {
            Ok(()) => {
                rotating.secrets.keep(kept.clone());
                Event::Saved
            }
            Err(error) => {
                error!(token = self.task.name, %error, "the record of the rotation could not be saved");
                work.said = Some(error);
                Event::SaveFailed
            }
        }
    }

    /// A real exchange with one of the two secrets, over a new connection as each. What comes of it is used.
    async fn verify(&mut self, work: &mut Work, which: Which) -> Event {
        let Some(record) = work.machine.as_ref().map(|machine| machine.record()) else { return Event::Refused };
        let held = if which == Which::New { record.new.as_ref() } else { Some(&record.old) };
        let Some(secret) = held.map(|held| held.secret()) else { return Event::Refused };
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
        let error = match self.once(op, None, Some(secret)).await {
            Ok(()) => {
                self.publish(None);
                work.said = None;
                return Event::Accepted;
            }
            Err((error, _)) => error,
        };
        work.said = Some(error.to_string());
        match (error.class, error.outcome) {
            (Class::SecretExpired | Class::ClientRejected, Outcome::Refused) => Event::Refused,
            (Class::RateLimited, _) => Event::Failed(Failure::Busy(error.retry_after.unwrap_or(BUSY))),
            (_, Outcome::NotSent) => Event::Failed(Failure::NotSent),
            _ => Event::Failed(Failure::Lost),
        }
    }

    /// Asks the vendor, as an administrator.
    async fn call(&mut self, rotating: &Rotating, work: &mut Work, action: &Action) -> Event {
        let config = &rotating.config;
        let text = |text: &str| Given::text(text);
        let (what, values) = match action {
            Action::List => ("secrets.list", Vec::new()),
            Action::Create { tag, expires } => {
                let ends = text(&expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                let values =
                    vec![("name", text(tag)), ("lifetime", text(&config.rotate.lifetime.0)), ("expires_at", ends)];
                ("secrets.create", values)
            }
            Action::Delete { id } => ("secrets.delete", vec![("secret_id", text(id))]),
            Action::Replace => match self.replacement(rotating, work).await {
                Ok(values) => ("secrets.replace", values),
                Err(failure) => return Event::Failed(failure),
            },
            _ => return Event::Failed(Failure::NotSent),
        };
        let items = match self.manage(rotating, work, what, values).await {
            Ok(items) => items,
            Err(failure) => return Event::Failed(failure),
        };
        match action {
            Action::List => Event::Listed(items.iter().filter_map(entry).collect()),
            Action::Create { .. } => match items.first().and_then(created) {
                Some((id, secret)) => Event::Created { id, secret },
                None => {
                    work.said = Some("the answer to the creation holds no secret".to_owned());
                    Event::Failed(Failure::Lost)
                }
            },
            Action::Delete { .. } => Event::Deleted,
            _ => Event::Replaced,
        }
    }

    /// What takes the place of the old one, and where: a client application has one secret, and an id of its own.
    async fn replacement(
        &mut self,
        rotating: &Rotating,
        work: &mut Work,
    ) -> Result<Vec<(&'static str, Given)>, Failure> {
        let record = work.machine.as_ref().map(|machine| machine.record());
        let secret = record.and_then(|record| record.new.as_ref()).map(|new| new.secret());
        let id = match record.and_then(|record| record.old.id.clone()) {
            Some(id) => id,
            None => self.application(rotating, work).await?,
        };
        let values = [Some(("secret_id", Given::text(id))), secret.map(|secret| ("new_secret", Given::Secret(secret)))];
        Ok(values.into_iter().flatten().collect())
    }

    /// The vendor's id of this client among its client applications.
    async fn application(&mut self, rotating: &Rotating, work: &mut Work) -> Result<String, Failure> {
        let items = self.manage(rotating, work, "clients.list", Vec::new()).await?;
        let own = rotating.config.client_id.as_deref();
        let ours = |item: &&Item| item.get("client_id").and_then(|id| id.as_str()) == own;
        let id = items.iter().find(ours).and_then(|item| word(item, "id"));
        id.ok_or_else(|| {
            Failure::Refused("this client is not among the vendor's applications: --current ID".to_owned())
        })
    }

    /// One request, with an administrator's token; another one where that one is over.
    pub(super) async fn manage(
        &mut self,
        rotating: &Rotating,
        work: &mut Work,
        what: &str,
        values: Vec<(&'static str, Given)>,
    ) -> Result<Vec<Item>, Failure> {
        let admin = rotating.config.rotate.admin.as_deref().filter(|_| work.admin.is_none());
        for again in [true, false] {
            let access = match self.access(rotating, work).await {
                Ok(access) => access,
                Err(NoAccess(why)) => {
                    work.said = Some(why);
                    return Err(Failure::AdminExpired);
                }
            };
            let Unmanaged { error, status } = match self.exchange.manage(what, &access, values.clone()).await {
                Ok(items) => {
                    work.said = None;
                    return Ok(items);
                }
                Err(unmanaged) => unmanaged,
            };
            let unauthorized = status.is_some_and(|status| status.as_u16() == 401);
            if let Some(slot) = admin.and_then(|admin| rotating.slots.get(admin)).filter(|_| again && unauthorized) {
                // It may have ended before its time.
                slot.refresh(ADMIN_WAIT).await;
                continue;
            }
            work.said = Some(error.to_string());
            return Err(failure(&error, unauthorized));
        }
        Err(Failure::AdminExpired)
    }

    /// The access token of somebody who may manage secrets: given by hand, another token's, this token's own.
    async fn access(&self, rotating: &Rotating, work: &Work) -> Result<Secret, NoAccess> {
        if let Some(given) = &work.admin {
            return Ok(given.clone());
        }
        let Some(admin) = &rotating.config.rotate.admin else {
            let own = self.access.as_ref().filter(|_| self.snapshot.usable(self.task.clock.now()));
            let why = "the token has no access token of its own now; give an administrator's: --admin-token-stdin";
            return own.map(|own| own.secret()).ok_or_else(|| NoAccess(why.to_owned()));
        };
        let none = || NoAccess(format!("rotate.admin: there is no token {admin}"));
        let slot = rotating.slots.get(admin).ok_or_else(none)?;
        slot.token_within(ADMIN_WAIT).await.map(|token| token.secret().clone()).map_err(|_| {
            let why = slot.snapshot().error.as_ref().map(ToString::to_string);
            NoAccess(format!("token {admin}: {}", why.unwrap_or_else(|| "there is no access token".to_owned())))
        })
    }

    /// For the operator, and in the log once.
    pub(super) fn show_rotation(&mut self, rotating: &Rotating, work: &mut Work, wait: Option<Duration>) {
        let Some(machine) = &work.machine else { return };
        let (record, now) = (machine.record(), self.task.clock.now().wall);
        let mut progress = Progress { said: work.said.clone(), ..Progress::of(record) };
        if let Some(problem) = &work.parked {
            (progress.problem, progress.fix) = (Some(problem.why.clone()), Some(problem.what_to_do.clone()));
        }
        let since = if let State::Swapped { since } = record.state { Some(since) } else { None };
        progress.old_goes_at = since.and_then(|since| {
            let goes = Timestamp::from_second(since).ok()?.checked_add(rotating.config.rotate.grace);
            goes.ok()
        });
        progress.rotated = rotating.secrets.expires().is_some();
        progress.next_at = wait.filter(|wait| !wait.is_zero()).and_then(|wait| now.checked_add(wait).ok());
        rotating.secrets.show(&progress);
        let Progress { state, problem, fix, said, in_use, .. } = progress;
        let told = format!("{state} {problem:?}");
        if work.told.as_ref() != Some(&told) {
            let name = &self.task.name;
            match (problem, fix) {
                (Some(why), Some(fix)) => warn!(token = name, state, said, "rotation: {why}; {fix}"),
                _ => info!(token = name, state, in_use, "rotation"),
            }
            work.told = Some(told);
        }
    }
}

fn failure(error: &TokenError, unauthorized: bool) -> Failure {
    match (error.class, error.outcome) {
        _ if unauthorized => Failure::AdminExpired,
        (Class::RateLimited, _) => Failure::Busy(error.retry_after.unwrap_or(BUSY)),
        (_, Outcome::NotSent) => Failure::NotSent,
        (_, Outcome::Refused) => Failure::Refused(error.to_string()),
        // An error of the server says nothing of what it did.
        (_, Outcome::Lost | Outcome::NotJudged | Outcome::Unclear) => Failure::Lost,
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

/// Text, or a number as text.
fn word(item: &Item, key: &str) -> Option<String> {
    match item.get(key)? {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn created(item: &Item) -> Option<(Option<String>, Secret)> {
    let secret = item.get("secret")?.as_str().filter(|secret| !secret.is_empty())?;
    Some((word(item, "id"), Secret::new(secret.to_owned())))
}

/// One line of the vendor's list; `None` without an id.
pub(super) fn entry(item: &Item) -> Option<Entry> {
    let time = |key| item.get(key).and_then(text_moment);
    Some(Entry {
        id: word(item, "id")?,
        tag: word(item, "name"),
        hint: word(item, "hint"),
        started: time("starts"),
        expires: time("expires"),
        deleted: item.get("deleted").is_some_and(|deleted| deleted == true || deleted == "true"),
    })
}
