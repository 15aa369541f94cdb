//! The promises, each a function that looks at what has happened. What no lock can promise is excused by name, and counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokenbroker::oauth::file::{Grant, Op};
use tokenbroker::token::cache::Slot;

use super::idp::Call;
use super::store::any;
use super::world::{Inner, Replica, Who, World};

/// A refresh token is sent once: a second time only if nobody could know what came of the first.
const ONCE: &str = "no two exchanges with one refresh token";
/// Whoever knows a newer refresh token does not send an older one.
const NEWEST: &str = "nobody sends a refresh token that he knows to be replaced";
/// A refresh token is sent under its record's lease.
const LEASED: &str = "a refresh token is sent under the lease";
/// The newest refresh token is always in somebody's hands.
const KEPT: &str = "no credential is lost";
/// What an application is given is good.
const GOOD: &str = "no token after its end, or for another purpose";
/// An application is given a token whenever there is one.
const SERVED: &str = "served whenever a valid token exists";
/// In no window more requests than the budget has.
const BUDGET: &str = "the budget is kept";
/// Replicas share what one of them obtains.
const ONE: &str = "where nothing goes wrong, one exchange serves all, and nothing is excused";
/// When all is well, everybody serves.
const CALM: &str = "all replicas serve once the faults are over";

/// So long is waited after what may pass by itself.
const BACKOFF: Duration = Duration::from_secs(61);
/// A token is counted to go from hand to hand so often.
const HANDS: u32 = 8;
/// No pause is longer, but for one that waits for a person.
const PAUSE: Duration = Duration::from_secs(601);
/// Everybody serves by then, or by so much after the pause in which nobody can.
pub const AFTER: Duration = Duration::from_secs(30);
/// A replica that reaches the store has what the store has after so long: a look every half second, and its way.
const FOLLOWS: Duration = Duration::from_secs(4);
/// A token that ends so soon may be taken for ended: how long its record was on its way counts as its age, from hand to hand.
const ENDS: Duration = Duration::from_secs(3);

impl Inner {
    /// An exchange is about to be sent.
    pub fn sends(&mut self, who: Who, op: Op, token: Option<&str>, (began, now): (Duration, Duration)) -> usize {
        let granted = self.replicas[who.replica].granted;
        let token = token.filter(|_| op == Op::Renew).map(str::to_owned);
        self.event(now, format_args!("{who} sends {}", token.as_deref().unwrap_or("a login")));
        if let Some(token) = &token {
            self.is_newest(who, token, now);
            self.is_leased(who, token, now);
        }
        let (arrived, made, told, gave_up) = (None, None, None, None);
        self.idp.calls.push(Call { by: who, began, sent: now, arrived, made, told, gave_up, granted });
        self.idp.calls.len() - 1
    }

    fn is_newest(&mut self, who: Who, token: &str, now: Duration) {
        // A person who asks for it has the configured one tried once more, where the newest is refused.
        if self.idp.refresh.get(token).is_some_and(|issued| self.idp.families[issued.family].dead) {
            return;
        }
        let knows = &self.replicas[who.replica].knows;
        let better = self.idp.after(token).find(|next| knows.contains_key(*next)).cloned();
        if let Some(better) = better {
            self.breaks(now, NEWEST, format!("{who} sends {token}, and knows {better}"));
        }
    }

    fn is_leased(&mut self, who: Who, token: &str, now: Duration) {
        if self.records.broken_lock {
            return;
        }
        let Some(entry) = self.records.token() else { return self.excuse("the store lost everything") };
        if entry.owner.is_some_and(|(_, owner)| owner == who) {
            return;
        }
        let owner = entry.owner.map_or_else(|| "nobody".to_owned(), |(_, owner)| owner.to_string());
        let Some(granted) = self.replicas[who.replica].granted else {
            return self.breaks(now, LEASED, format!("{who} sends {token} and never had the lease: it is {owner}'s"));
        };
        let since = |then: Option<Duration>| then.is_some_and(|then| then >= granted);
        match () {
            () if self.records.forgot(granted, now) => self.excuse("the store forgot a lease"),
            () if self.records.jumped(granted) => self.excuse("the clock of the store was set"),
            () if since(self.replicas[who.replica].stood) => self.excuse("the holder stood still"),
            () => self.breaks(now, LEASED, format!("{who} sends {token}, the lease is {owner}'s")),
        }
    }

    pub fn excuse(&mut self, what: &'static str) {
        *self.excuses.entry(what).or_default() += 1;
    }

    /// A refresh token was used by one call and comes again by another, outside of the leeway.
    pub fn twice(&mut self, token: &str, first: usize, second: usize, now: Duration) {
        let (one, two) = (self.idp.calls[first].clone(), self.idp.calls[second].clone());
        match self.why_twice(token, &one, &two, now) {
            Ok(excuse) => self.excuse(excuse),
            Err(why) => {
                let how = format!("{token}: by {} at {:?}, and by {} at {now:?}: {why}", one.by, one.arrived, two.by);
                self.breaks(now, ONCE, how);
            }
        }
    }

    fn why_twice(&self, token: &str, one: &Call, two: &Call, now: Duration) -> Result<&'static str, String> {
        let late = |call: &Call, arrived: Duration| arrived > call.sent + self.waits;
        if late(two, now) || one.arrived.is_some_and(|arrived| late(one, arrived)) {
            return Ok("a request was on its way for longer than its sender waited");
        }
        let granted = two.granted.unwrap_or(two.sent);
        // The one that arrived first may have been sent last.
        let (began, ended) = (granted.min(one.granted.unwrap_or(one.sent)), two.sent.max(one.sent));
        if self.records.forgot(began, ended) {
            return Ok("the store forgot what was saved, or the lease");
        }
        if any(&self.records.jumps, began, ended) {
            return Ok("the clock of the store was set");
        }
        let stood = |call: &Call| {
            let stood = self.replicas[call.by.replica].stood.filter(|_| self.lives(call.by));
            stood.is_some_and(|stood| (call.began..=call.sent).contains(&stood))
        };
        if stood(one) || stood(two) {
            return Ok("its process stood still between its look at the lease and the sending");
        }
        // Its clocks say that the lease is still its own.
        let froze = |call: &Call, to: Duration| {
            let who = &self.replicas[call.by.replica];
            who.life == call.by.life && any(&who.froze, call.granted.unwrap_or(call.sent), to)
        };
        let saved = one.made.as_ref().and_then(|next| self.records.had.get(next)).copied();
        if froze(one, saved.unwrap_or(now)) || froze(two, two.sent) {
            return Ok("the clocks of a machine stood still");
        }
        let Some(told) = one.told.filter(|told| *told <= granted) else {
            return match () {
                () if one.by == two.by => Ok("the answer was lost"),
                () if !self.lives(one.by) => Ok("its process died waiting for the answer"),
                () if one.gave_up.is_some() => Ok("the answer was lost"),
                () if self.stood_in(one.by, one.sent) => Ok("its process stood still while the answer came"),
                () => Err("the first one was still waiting for its answer".to_owned()),
            };
        };
        let next = one.made.clone().unwrap_or_default();
        let saved = self.records.had.get(&next).copied();
        if let Some(saved) = saved.filter(|saved| *saved <= granted) {
            return Err(format!("{next} was in the store since {saved:?}, and the lease was granted at {granted:?}"));
        }
        let holder = &self.replicas[one.by.replica];
        let failed = holder.unsaved.iter().any(|(from, to)| *to >= told && *from <= granted);
        let tries = holder.saving.is_some_and(|from| from >= told && from <= granted);
        // By the second one, or by another who did not get as far as sending anything.
        let forced = any(&self.records.forced, told, two.sent);
        match () {
            () if !self.lives(one.by) => Ok("its process died before it had saved the answer"),
            () if self.stood_in(one.by, told) => Ok("its process stood still before it had saved the answer"),
            () if (failed || tries) && forced => Ok("the store could not be reached to save the answer"),
            () if failed || tries => Err("the lease was given back before the answer was saved".to_owned()),
            () => Err(format!("{} got {token}'s successor at {told:?} and did not save it", one.by)),
        }
    }

    /// Did that process stand still since then?
    fn stood_in(&self, who: Who, since: Duration) -> bool {
        let replica = &self.replicas[who.replica];
        replica.life == who.life && (replica.gate.is_shut() || replica.stood.is_some_and(|stood| stood >= since))
    }

    /// A request has reached the token server.
    pub fn came(&mut self, call: usize, now: Duration) {
        self.idp.came.push(now);
        let Some(budget) = self.idp.budget else { return };
        let from = now.saturating_sub(budget.per);
        let count = self.idp.came.iter().rev().take_while(|came| **came > from).count();
        if count <= budget.max as usize {
            return;
        }
        let calls = &self.idp.calls;
        let late = calls.iter().any(|call| call.arrived.is_some_and(|at| at > from && at > call.sent + self.waits));
        let asked = calls[call].by;
        match () {
            () if self.records.forgot(from.saturating_sub(2 * self.waits), now) => {
                self.excuse("the store forgot what was spent");
            }
            () if self.records.jumped(from) => self.excuse("the clock of the store was set"),
            () if late => self.excuse("a request was on its way for longer than its sender waited"),
            () => self.breaks(now, BUDGET, format!("{count} requests in {:?}, the last by {asked}", budget.per)),
        }
    }

    /// The newest refresh token of each family is somewhere.
    pub fn credentials(&mut self, now: Duration) {
        for family in 0..self.idp.families.len() {
            let (newest, over) = {
                let family = &self.idp.families[family];
                (family.newest.clone(), family.dead || family.lost)
            };
            // What a login brought may be given up for what another login brought; what a person got, for what he got later.
            let person = self.idp.refresh[&format!("rt-{family}-0")].by.is_none();
            let later = family + 1..self.idp.families.len();
            let had = |other: usize| self.records.had.contains_key(&format!("rt-{other}-0"));
            let other =
                |other: &usize| !self.idp.families[*other].dead && self.is_held(&self.idp.families[*other].newest);
            let instead = if person {
                !later.is_empty()
            } else {
                later.clone().any(had) || (0..self.idp.families.len()).any(|one| other(&one))
            };
            if over || self.is_held(&newest) {
                continue;
            }
            if instead {
                self.idp.families[family].lost = true;
                continue;
            }
            let Some(call) = self.idp.refresh[&newest].by else { continue };
            let call = self.idp.calls[call].clone();
            let had = self.records.had.get(&newest).copied();
            let forgot = had.is_some_and(|had| self.records.forgot(had, now));
            match () {
                () if call.told.is_none() => self.excuse("the answer with it was lost"),
                () if forgot => self.excuse("the store forgot it, and those who knew it died"),
                () if had.is_none() && !self.lives(call.by) => self.excuse("its process died before it was saved"),
                () => self.breaks(now, KEPT, format!("{newest}, which {} had at {:?}", call.by, call.told)),
            }
            self.idp.families[family].lost = true;
        }
    }

    /// Does somebody have it, or wait for the answer with it?
    fn is_held(&self, token: &str) -> bool {
        let call = self.idp.refresh[token].by.map(|call| &self.idp.calls[call]);
        let comes = call.is_some_and(|call| call.told.is_none() && call.gave_up.is_none() && self.lives(call.by));
        comes || self.is_somewhere(token)
    }

    pub fn is_somewhere(&self, token: &str) -> bool {
        self.records.all.values().any(|entry| entry.holds.contains(token))
            || self.replicas.iter().any(|replica| {
                let knows = replica.alive && replica.knows.contains_key(token);
                knows || replica.journal.as_ref().is_some_and(|journal| journal.holds(token))
            })
    }
}

impl World {
    /// What an application would be given by each replica that runs.
    pub fn tokens(&self, now: Duration) {
        let slots: Vec<_> = {
            let inner = self.lock();
            let runs = |who: &usize| inner.replicas[*who].alive && !inner.replicas[*who].gate.is_shut();
            let slot = |who: usize| inner.replicas[who].slot.clone().map(|slot| (who, slot));
            (0..inner.replicas.len()).filter(runs).filter_map(slot).collect()
        };
        for (replica, slot) in slots {
            let given = slot.credential(0).map(|credential| credential.value.to_str().unwrap().to_owned());
            let mut inner = self.lock();
            if let Some(given) = &given {
                inner.is_good(replica, given, now);
            }
            inner.is_served(replica, given, now);
        }
    }

    /// Where there were no faults: did one exchange serve all, each time?
    pub fn quiet(&self, now: Duration) {
        let mut inner = self.lock();
        if self.scenario.is_quiet() && !self.scenario.rotates {
            let (exchanges, excuses) = (inner.idp.calls.len(), inner.excuses.clone());
            // A token is replaced after three quarters of its life, a twentieth earlier or later.
            let most = now.as_secs_f64() / (self.scenario.lifetime.as_secs_f64() * 0.7) + 2.0;
            if exchanges as f64 > most || !excuses.is_empty() {
                inner.breaks(now, ONE, format!("{exchanges} exchanges, {most} at most; {excuses:?}"));
            }
        }
    }

    /// After the faults: who has not served yet? Until when may that be, at most?
    pub fn calm(self: &Arc<Self>, without: &mut BTreeSet<usize>) -> Duration {
        let slots: Vec<_> = {
            let inner = self.lock();
            without.retain(|one| inner.replicas[*one].serves.is_none());
            without.iter().map(|one| (*one, inner.replicas[*one].slot.clone())).collect()
        };
        let pause = |(one, slot): (usize, Option<Arc<Slot>>)| {
            let until = slot?.snapshot().not_before?;
            let pause = until.saturating_sub(self.clock(one).now().boot);
            Some(pause).filter(|pause| *pause <= BACKOFF || (*pause <= PAUSE && self.lock().failed_with(one)))
        };
        AFTER + slots.into_iter().filter_map(pause).max().unwrap_or_default()
    }

    /// They never did.
    pub fn unserved(&self, without: &BTreeSet<usize>, now: Duration) {
        let mut inner = self.lock();
        if inner.none_works {
            return inner.excuse("nobody has a client secret that works");
        }
        for one in without {
            let slot = inner.replicas[*one].slot.clone();
            let error = slot.and_then(|slot| slot.snapshot().error.as_ref().map(ToString::to_string));
            let why = format!("replica {one} has no token: {}", error.unwrap_or_default());
            inner.breaks(now, CALM, why);
        }
    }
}

impl Inner {
    /// Was anybody refused with what this one sends, or never answered, or cut off twice when about to send it?
    fn failed_with(&self, one: usize) -> bool {
        let kept = self.records.token().and_then(|entry| serde_json::from_slice::<Value>(&entry.plain).ok());
        if kept.is_some_and(|kept| kept["unanswered"].as_u64() >= Some(2)) {
            return true;
        }
        let same = |call: &&Call| self.replicas[call.by.replica].seed == self.replicas[one].seed;
        self.idp.calls.iter().filter(same).any(|call| call.made.is_none() || call.told.is_none())
    }

    fn is_good(&mut self, replica: usize, token: &str, now: Duration) {
        let Some(super::idp::Granted { ends, purpose, .. }) = self.idp.access.get(token).cloned() else {
            return self.breaks(now, GOOD, format!("replica {replica} gives {token}, which nobody issued"));
        };
        let machine = &self.replicas[replica];
        let issued = ends.saturating_sub(self.lifetime);
        let since = |then: Option<Duration>| then.is_some_and(|then| then >= issued);
        // It serves for as much longer as clocks stood still, in all, and from hand to hand.
        let hands = self.records.handed.get(token).copied().unwrap_or_default().clamp(1, HANDS);
        let longer = self.replicas.iter().map(|replica| replica.frozen).sum::<Duration>() * hands;
        let frozen = since(self.froze()) && now <= ends + longer;
        let stood = self.replicas.iter().any(|replica| since(replica.stood));
        let set = self.records.jumped(issued);
        match () {
            () if purpose != machine.purpose => {
                self.breaks(now, GOOD, format!("replica {replica} gives {token}, which is for {purpose}"));
            }
            () if now <= ends => {}
            () if !(frozen || stood || set) => {
                self.breaks(now, GOOD, format!("replica {replica} gives {token}, which ended at {ends:?}"));
            }
            () if !self.over.insert((replica, token.to_owned())) => {}
            () if frozen => self.excuse("the clocks of a machine stood still"),
            () if stood => self.excuse("whoever saved the token stood still"),
            () => self.excuse("the clock of the store was set"),
        }
    }

    fn is_served(&mut self, replica: usize, given: Option<String>, now: Duration) {
        let machine = &mut self.replicas[replica];
        let before = std::mem::replace(&mut machine.serves, given.clone());
        if let Some(given) = given {
            let by = self.idp.access.get(&given).map(|access| access.by.replica);
            if before.as_ref() != Some(&given) && by.is_some_and(|by| by != replica) {
                self.count("token of another replica served");
            }
            return;
        }
        let machine = &self.replicas[replica];
        let good = |token: &String| {
            let hands = self.records.handed.get(token).copied().unwrap_or_default();
            let trips = self.trip * hands.min(HANDS);
            self.idp
                .access
                .get(token)
                .is_some_and(|access| access.known > now + ENDS + trips && access.purpose == machine.purpose)
        };
        // While it waits for the token server, it does not look.
        let follows = FOLLOWS + self.waits;
        let reaches = machine.reaches_store.is_some_and(|since| since + follows < now);
        let runs = machine.born + follows < now && machine.stood.is_none_or(|stood| stood + follows < now);
        let entry = self.records.token().filter(|entry| entry.since + follows < now && reaches && runs);
        let there = entry.and_then(|entry| entry.access.clone()).filter(good);
        let Some(token) = before.clone().filter(good).or_else(|| there.clone()) else { return };
        let issued = self.idp.access[&token].known.saturating_sub(self.lifetime);
        // A record counts from when it was asked for: the process may have stood still while the answer came.
        let stood = self.replicas[replica].stood.is_some_and(|stood| stood >= issued);
        let stood = stood.then_some("whoever looked at the token's record stood still");
        if let Some(excuse) = self.ended_by_clocks(&token, now).or(stood) {
            if self.without.insert((replica, token)) {
                self.excuse(excuse);
            }
            return;
        }
        self.breaks(now, SERVED, format!("replica {replica} had {before:?}, and has nothing; the store has {there:?}"));
    }

    /// Whichever clock says so ends a token, also that of whoever saved it; and no earlier than by what the clocks were set, or stood
    /// still, in all.
    fn ended_by_clocks(&self, token: &str, now: Duration) -> Option<&'static str> {
        let known = self.idp.access[token].known;
        let since = known.saturating_sub(self.lifetime + 2 * self.waits);
        let hands = self.records.handed.get(token).copied().unwrap_or_default().clamp(1, HANDS);
        let ends = now + ENDS + self.trip * hands;
        // Who saves a record and has not heard of the store since counts by what its clock showed before.
        let heard = |replica: &Replica| replica.heard.is_none_or(|heard| heard >= since);
        let jump = self.records.jumps.last().filter(|jump| **jump >= since || self.replicas.iter().any(heard));
        let set = self.set.filter(|set| *set >= since).map_or(Duration::ZERO, |_| self.set_by);
        let jumped = jump.map_or(Duration::ZERO, |_| self.records.ahead * hands);
        if known <= ends + set + jumped {
            return Some("a clock was set, which ended the token");
        }
        // By clocks that stood still, the time of the store is earlier than it is.
        let froze = self.froze().is_some_and(|froze| froze >= since);
        let frozen: Duration = self.replicas.iter().map(|replica| replica.frozen).sum();
        (froze && known <= ends + frozen * hands + set + jumped).then_some("the clocks of a machine stood still")
    }

    /// Can another token be had at all, without a person?
    pub fn may_serve(&self, grant: Grant) -> bool {
        grant != Grant::RefreshToken || self.idp.families.last().is_some_and(|family| !family.dead && !family.lost)
    }
}
