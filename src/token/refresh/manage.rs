//! What is asked of the vendor about the client's secrets, as somebody who may manage them.

use std::sync::Arc;
use std::time::Duration;

use super::rotate::{BUSY, Rotating};
use super::{Refresher, own_task};
use crate::oauth::expiry::text_moment;
use crate::oauth::inputs::Given;
use crate::oauth::manage::Item;
use crate::oauth::{Class, Outcome, TokenError};
use crate::rotation::{Action, Entry, Event, Failure, Held, Rotation};
use crate::secret::Secret;
use crate::token::kept::KeptAccess;
use crate::token::secrets::Work;
use crate::token::source::{Exchange, Unmanaged};

/// How long another token is waited for whose access token may manage secrets.
const ADMIN_WAIT: Duration = Duration::from_secs(30);

/// Why nobody may be asked: no token of an administrator, or none that is good.
struct NoAccess(String);

impl<E: Exchange> Refresher<E> {
    /// Asks the vendor, as an administrator.
    pub(super) async fn call(&mut self, rotating: &Rotating, work: &mut Work, action: &Action) -> Event {
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
        let record = work.machine.as_ref().map(Rotation::record);
        let secret = record.and_then(|record| record.new.as_ref()).map(Held::secret);
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
        for again in [true, false] {
            let admin = rotating.config.rotate.admin.as_deref().filter(|_| work.admin.is_none());
            let access = match self.access(rotating, work).await {
                Ok(access) => access,
                Err(NoAccess(why)) => {
                    work.said = Some(why);
                    return Err(Failure::AdminExpired);
                }
            };
            let Unmanaged { error, status } = match self.asked(what, access, values.clone()).await {
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
            if unauthorized {
                // The next one may be better.
                work.admin = None;
            }
            work.said = Some(error.to_string());
            return Err(failure(&error, unauthorized));
        }
        Err(Failure::AdminExpired)
    }

    /// Security: what may panic, such as a parser, runs in a task of its own.
    async fn asked(
        &self,
        what: &str,
        access: Secret,
        values: Vec<(&'static str, Given)>,
    ) -> Result<Vec<Item>, Unmanaged> {
        let (exchange, what) = (Arc::clone(&self.exchange), what.to_owned());
        own_task(Outcome::Lost, async move { Ok(exchange.manage(&what, &access, values).await) }).await?
    }

    /// The access token of somebody who may manage secrets: given by hand, another token's, this token's own.
    async fn access(&self, rotating: &Rotating, work: &Work) -> Result<Secret, NoAccess> {
        if let Some(given) = &work.admin {
            return Ok(given.clone());
        }
        let Some(admin) = &rotating.config.rotate.admin else {
            let own = self.access.as_ref().filter(|_| self.snapshot.usable(self.task.clock.now()));
            let why = "the token has no access token of its own now";
            return own.map(KeptAccess::secret).ok_or_else(|| NoAccess(why.to_owned()));
        };
        let none = || NoAccess(format!("rotate.admin: there is no token {admin}"));
        let slot = rotating.slots.get(admin).ok_or_else(none)?;
        slot.token_within(ADMIN_WAIT).await.map(|token| token.secret().clone()).map_err(|_| {
            let why = slot.snapshot().error.as_ref().map(ToString::to_string);
            NoAccess(format!("token {admin}: {}", why.unwrap_or_else(|| "there is no access token".to_owned())))
        })
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
