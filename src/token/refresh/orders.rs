//! What begins a rotation of the client secret, and what else a person asks about the client's secrets at the vendor.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::{error, info};

use super::Refresher;
use super::manage::entry;
use super::rotate::Rotating;
use crate::clock::rfc3339;
use crate::expiry::days_left;
use crate::oauth::Class;
use crate::oauth::inputs::Given;
use crate::rotation::{
    Asks, Begin, Entry, Event, Failure, Held, InUse, Policy, Problem, Record, Rotation, State, Style, in_use,
    may_delete,
};
use crate::secret::{Secret, file};
use crate::token::secrets::{Asked, KeptSecrets, Order, Reply, Verb, Work};
use crate::token::source::Exchange;

/// A file that could not be written is tried again after so many seconds.
const WRITE_AGAIN: i64 = 60;

impl<E: Exchange> Refresher<E> {
    pub(super) async fn carry_out(&mut self, rotating: &Rotating, work: &mut Work, order: Order) {
        let Order { verb, mut asked, reply } = order;
        let given = asked.admin_token.take().map(|token| Secret::new(token.to_string()));
        let before = work.admin.clone();
        work.admin = given.or(work.admin.take());
        if verb != Verb::List {
            work.said = None;
        }
        let done = match verb {
            Verb::Rotate | Verb::Import | Verb::Delete if !self.leads(rotating, work).await => {
                work.admin.clone_from(&before);
                let why = work.said.clone().unwrap_or_else(|| "another replica is at work on it".to_owned());
                Err(format!("{why}; ask again in two minutes"))
            }
            Verb::List => self.list_secrets(rotating, work).await.map(|listed| json!({ "secrets": listed })),
            Verb::Delete => self.delete_secret(rotating, work, &asked).await,
            Verb::Rotate | Verb::Import => self.begin_rotation(rotating, work, verb, asked).await,
        };
        if matches!(verb, Verb::List | Verb::Delete) {
            work.admin = before;
        }
        self.show_rotation(rotating, work, None);
        // Whoever asked may be gone.
        let _ = reply.send(done);
    }

    /// A machine that goes on from what is durable, with the configuration of now.
    pub(super) fn machine<'w>(&mut self, rotating: &Rotating, work: &'w mut Work) -> Option<&'w mut Rotation> {
        let kept = work.kept.as_ref()?;
        let same = work.config.as_ref().is_some_and(|config| Arc::ptr_eq(config, &rotating.config));
        if work.machine.is_none() || !same {
            let policy = policy(rotating, &kept.instance);
            work.machine = Some(Rotation::resume(policy, kept.record.clone(), self.task.rng.fork()));
            work.config = Some(Arc::clone(&rotating.config));
        }
        work.machine.as_mut()
    }

    /// Begins a rotation, or goes on with the one that waits for a person.
    pub(super) async fn begin_rotation(
        &mut self,
        rotating: &Rotating,
        work: &mut Work,
        verb: Verb,
        asked: Asked,
    ) -> Reply {
        let config = &rotating.config;
        if work.keeper.is_none() {
            let fix = "set [store] kind = \"file\", with path and key";
            return Err(format!("a rotated secret would be lost at a restart: the store is in memory; {fix}"));
        }
        self.settle_seed(rotating, work).await?;
        let choices = [(Asks::Current, asked.current), (Asks::Room, asked.remove), (Asks::Ours, asked.ours)];
        let choices: Vec<_> = choices.into_iter().filter_map(|(asks, id)| Some((asks, id?))).collect();
        let now = self.task.clock.now().wall;
        work.parked = None;
        let dead = self.is_dead();
        let Some(machine) = self.machine(rotating, work) else { return Err("nothing is known of it".to_owned()) };
        let record = machine.record();
        let brought = asked.secret.map(|secret| Secret::new(secret.to_string()));
        if verb == Verb::Import && brought.as_ref() == Some(&record.serving().secret()) {
            return Err("this is the secret in use already".to_owned());
        }
        let imports = record.style == Style::Import && matches!(record.state, State::Created | State::Verifying { .. });
        if verb == Verb::Import && imports {
            // The one before it was a mistake: nothing is at the vendor because of it.
            let back = record.replaced_by(&record.old.secret(), None);
            work.kept.iter_mut().for_each(|kept| kept.record = back.clone());
            work.machine = None;
        }
        let Some(machine) = self.machine(rotating, work) else { return Err("nothing is known of it".to_owned()) };
        let record = machine.record();
        if record.state != State::Stable {
            if verb == Verb::Import {
                let fix = "let it end, or mend what it waits for and rotate again";
                return Err(format!("a rotation is under way ({}); {fix}", rotating.secrets.progress().state));
            }
            if dead {
                // It takes note of that.
                machine.begin(Begin::Create, true);
            }
            let chosen = choices.iter().filter(|(asks, id)| machine.choose(*asks, id.clone())).count();
            if chosen < choices.len() {
                return Err("that cannot be chosen now: see what the rotation waits for, and the list".to_owned());
            }
            if chosen == 0 {
                machine.on(Event::Resume, now);
            }
            return Ok(json!({ "resumed": true }));
        }
        let begin = match (verb, brought) {
            (Verb::Import, Some(secret)) => {
                let mut held = Held::new(&secret, asked.id);
                held.expires = asked.expires.map(Timestamp::as_second);
                Begin::Import(held)
            }
            (Verb::Import, None) => return Err("there is no secret to import".to_owned()),
            _ if config.dialect.secrets.contains_key("create") => Begin::Create,
            _ if config.dialect.secrets.contains_key("replace") => {
                Begin::Replace(Secret::random().map_err(|error| error.to_string())?)
            }
            _ => {
                let (dialect, name) = (&config.dialect.name, &self.task.name);
                let fix = format!("make one at the vendor, and give it to: tokenbroker secret import {name}");
                return Err(format!("the dialect {dialect} has no request for another secret; {fix}"));
            }
        };
        machine.begin(begin, dead);
        for (asks, id) in choices {
            machine.choose(asks, id);
        }
        (work.said, work.told) = (None, None);
        info!(token = self.task.name, ?verb, emergency = dead, "a rotation of the client secret begins");
        Ok(json!({ "begun": true }))
    }

    /// Makes the record about what is configured now, if it is not.
    async fn settle_seed(&mut self, rotating: &Rotating, work: &mut Work) -> Result<(), String> {
        let (configured, overruled) = self.look(rotating, work).await;
        let configured = configured.map_err(|error| error.to_string())?;
        let id = rotating.config.rotate.current.clone();
        let (instance, mut record) = match &work.kept {
            None => (format!("{:08x}", fastrand::u32(..)), Record::new(Held::new(&configured.secret, id))),
            Some(kept) if overruled => (kept.instance.clone(), kept.record.replaced_by(&configured.secret, id)),
            Some(_) => return Ok(()),
        };
        let end = rotating.config.secret_expires.first().map(|end| end.as_second());
        record.old.expires = record.old.expires.or(end);
        let superseded = vec![configured.seed];
        let configured = configured.each;
        let kept = KeptSecrets { superseded, configured, instance, record, retry_at: None, epoch: 0 };
        (work.kept, work.machine) = (Some(kept), None);
        rotating.secrets.is_overruled(work);
        Ok(())
    }

    /// Does the token server call the secret in use expired?
    pub(super) fn is_dead(&self) -> bool {
        self.snapshot.error.as_ref().is_some_and(|error| error.class == Class::SecretExpired)
    }

    /// The vendor's list, and the record that tells what of it is ours.
    pub(super) async fn entries(
        &mut self,
        rotating: &Rotating,
        work: &mut Work,
    ) -> Result<(Record, Vec<Entry>), String> {
        let items = self.manage(rotating, work, "secrets.list", Vec::new()).await;
        let items = items.map_err(|failure| self.failed_because(work, &failure))?;
        let entries: Vec<_> = items.iter().filter_map(entry).collect();
        let (configured, overruled) = self.look(rotating, work).await;
        let configured = configured.map_err(|error| error.to_string())?;
        let kept = work.kept.as_ref().filter(|_| !overruled);
        let id = rotating.config.rotate.current.clone();
        let record = kept.map_or_else(|| Record::new(Held::new(&configured.secret, id)), |kept| kept.record.clone());
        Ok((record, entries))
    }

    fn failed_because(&self, work: &Work, failure: &Failure) -> String {
        let said = work.said.clone().unwrap_or_else(|| "the vendor did not do it".to_owned());
        let name = &self.task.name;
        match failure {
            Failure::AdminExpired => {
                let said = said.trim_end_matches('.');
                format!("{said}; give an administrator's token: --admin-token-stdin, or rotate.admin of {name}")
            }
            _ => said,
        }
    }

    async fn list_secrets(&mut self, rotating: &Rotating, work: &mut Work) -> Result<Vec<Value>, String> {
        let (record, entries) = self.entries(rotating, work).await?;
        let now = self.task.clock.now().wall;
        let used = in_use(&record, &policy(rotating, ""), &entries, now);
        let shown = entries.iter().zip(used).map(|(one, used)| {
            json!({
                "id": one.id,
                "name": one.tag,
                "hint": one.hint,
                "starts_at": one.started.map(rfc3339),
                "expires_at": one.expires.map(rfc3339),
                "days_left": one.expires.map(|end| days_left(now, end)),
                "deleted": one.deleted,
                "in_use": match used {
                    InUse::Yes => Some(true),
                    InUse::No => Some(false),
                    InUse::Unknown => None,
                },
            })
        });
        Ok(shown.collect())
    }

    async fn delete_secret(&mut self, rotating: &Rotating, work: &mut Work, asked: &Asked) -> Reply {
        let id = asked.id.as_deref().ok_or("which one? Give its id")?;
        let (record, entries) = self.entries(rotating, work).await?;
        may_delete(&record, &policy(rotating, ""), &entries, id, self.task.clock.now().wall)
            .map_err(|Problem { why, what_to_do, .. }| format!("{why}; {what_to_do}"))?;
        let values = vec![("secret_id", Given::text(id))];
        let done = self.manage(rotating, work, "secrets.delete", values).await;
        done.map_err(|failure| self.failed_because(work, &failure))?;
        Ok(json!({ "deleted": id }))
    }

    /// Writes the secret in use where the operator wants it, if it is not there.
    pub(super) async fn write_secret(&mut self, rotating: &Rotating, work: &mut Work) {
        let Some(path) = rotating.config.rotate.write.clone().filter(|_| work.kept.is_some() && !work.written) else {
            return;
        };
        let now = self.task.clock.now().wall.as_second();
        if work.write_at.is_some_and(|at| at > now) {
            return;
        }
        // Security: the operator may have put another one there, which nobody else has.
        let (Ok(_), overruled) = self.look(rotating, work).await else {
            work.write_at = Some(now + WRITE_AGAIN);
            return;
        };
        let Some(kept) = work.kept.clone().filter(|_| !overruled) else { return };
        let secret = kept.record.serving().secret();
        // What was never rotated is where the operator has it.
        let own = !kept.is_rotated();
        let shown = path.display().to_string();
        let is_source = rotating.config.client_secrets.iter().any(|source| source.path().as_ref() == Some(&path));
        let write = move || {
            let held = file::read(&path).ok();
            if is_source && held.as_ref().is_some_and(|held| kept.is_overruled(&held.digest())) {
                return Err(std::io::Error::other("it holds another secret that somebody has put there"));
            }
            if held.as_ref() == Some(&secret) || (own && !path.exists()) {
                Ok(false)
            } else {
                file::replace(&path, &secret).map(|()| true)
            }
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(written)) => {
                work.written = true;
                if written {
                    info!(token = self.task.name, file = shown, "the client secret in use was written there");
                }
            }
            Ok(Err(error)) => {
                work.write_at = Some(now + WRITE_AGAIN);
                error!(token = self.task.name, file = shown, %error, "the client secret could not be written there");
            }
            Err(_) => work.write_at = Some(now + WRITE_AGAIN),
        }
    }
}

pub(super) fn policy(rotating: &Rotating, instance: &str) -> Policy {
    let rotate = &rotating.config.rotate;
    Policy {
        instance: instance.to_owned(),
        current: rotate.current.clone(),
        slots: rotate.slots,
        lifetime: rotate.lifetime.1,
        grace: rotate.grace,
        times: rotate.times,
        every: rotate.every,
        settle: rotate.settle,
    }
}
