//! The store that replicas share: records and leases by its own clock, and what goes wrong with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokenbroker::store::{Age, Version};

use super::wire::{Ask, Reply};
use super::world::{Inner, Who, World, credentials};

/// What its clock shows when a run begins.
const BEGAN: Duration = Duration::from_hours(500_000);
/// What a fail-over may forget at most.
const HISTORY: usize = 8;

#[derive(Clone)]
pub enum StoreRequest {
    Load(String),
    Version(String),
    /// With the time at which it was put together, by the clock of the store as far as that is known, in ms.
    Save {
        name: String,
        before: Version,
        version: Version,
        plain: Vec<u8>,
        sent: Option<u64>,
    },
    Take {
        name: String,
        owner: u128,
        lasts: Duration,
        after: Duration,
        force: bool,
    },
    Release {
        name: String,
        owner: u128,
    },
    Names,
    Forget(String),
}

#[derive(Clone)]
pub enum StoreAnswer {
    Record(Option<Found>),
    Version(Version),
    Saved(Option<Option<Found>>),
    Taken(Granted),
    Done,
    Names(Vec<String>),
    /// It says that it cannot.
    Refuses,
}

#[derive(Clone)]
pub enum Granted {
    Yes(Option<Found>),
    Held(Duration),
    Lapsed,
}

#[derive(Clone)]
pub struct Found {
    pub version: Version,
    pub plain: Vec<u8>,
    pub age: Age,
}

/// One record on the server.
#[derive(Clone, Default)]
pub struct Entry {
    pub version: Version,
    pub plain: Vec<u8>,
    /// By the clock of the store, and how old it was then.
    saved: Duration,
    old: Duration,
    pub owner: Option<(u128, Who)>,
    until: Duration,
    /// What it holds, for the checks: refresh tokens, the access token, and since when (by the world's clock).
    pub holds: BTreeSet<String>,
    pub access: Option<String>,
    pub since: Duration,
}

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    Away,
    Slow,
    ReadOnly,
    /// It does what it is asked for, and does not answer.
    Mute,
}

/// All records, and the server's clock.
#[derive(Default)]
pub struct Records {
    pub all: BTreeMap<String, Entry>,
    /// What was there before each of the last changes.
    before: VecDeque<(String, Option<Entry>)>,
    pub mood: Mood,
    /// How far its clock is ahead of the world's.
    pub ahead: Duration,
    /// When each refresh token came to be in a record.
    pub had: BTreeMap<String, Duration>,
    /// How often each access token was saved: it went from hand to hand so often at most.
    pub handed: BTreeMap<String, u32>,
    /// When it went back, or lost everything.
    forgot: Vec<Duration>,
    /// Each time that its clock was set.
    pub jumps: Vec<Duration>,
    /// Each time that somebody took the lease of the token that another had let lapse.
    pub forced: Vec<Duration>,
    /// A lock that locks nothing, to see whether the other checks see it.
    pub broken_lock: bool,
}

/// Was it then, any of these times?
pub fn any(times: &[Duration], from: Duration, to: Duration) -> bool {
    times.iter().any(|time| (from..=to).contains(time))
}

impl Records {
    pub fn new(broken_lock: bool) -> Self {
        Self { broken_lock, ..Self::default() }
    }

    /// What its clock shows.
    pub fn clock(&self, now: Duration) -> Duration {
        BEGAN + now + self.ahead
    }

    /// The record of the token.
    pub fn token(&self) -> Option<&Entry> {
        self.all.iter().find(|(name, _)| name.starts_with("token.")).map(|(_, entry)| entry)
    }

    /// Loses the last changes.
    pub fn go_back(&mut self, changes: usize, now: Duration) {
        for _ in 0..changes {
            let Some((name, before)) = self.before.pop_back() else { break };
            match before {
                Some(mut entry) => {
                    entry.since = now;
                    self.all.insert(name, entry);
                }
                None => drop(self.all.remove(&name)),
            }
        }
        self.forgot.push(now);
    }

    /// Loses everything.
    pub fn wipe(&mut self, now: Duration) {
        self.all.clear();
        self.before.clear();
        self.forgot.push(now);
    }

    /// Did it forget anything then?
    pub fn forgot(&self, from: Duration, to: Duration) -> bool {
        any(&self.forgot, from, to)
    }

    /// Was its clock set since then?
    pub fn jumped(&self, since: Duration) -> bool {
        self.jumps.last().is_some_and(|last| *last >= since)
    }

    fn change(&mut self, name: &str) -> &mut Entry {
        self.before.push_back((name.to_owned(), self.all.get(name).cloned()));
        if self.before.len() > HISTORY {
            self.before.pop_front();
        }
        self.all.entry(name.to_owned()).or_default()
    }

    fn found(&self, name: &str, now: Duration) -> Option<Found> {
        let entry = self.all.get(name).filter(|entry| entry.version != Version::default())?;
        let least = self.clock(now).saturating_sub(entry.saved);
        let age = Age { least, most: least + entry.old };
        Some(Found { version: entry.version, plain: entry.plain.clone(), age })
    }

    fn take(&mut self, name: &str, by: (u128, Who), until: Duration, force: bool, now: Duration) -> (Granted, bool) {
        let there = self.all.get(name);
        let other = there.filter(|entry| entry.owner.is_some_and(|(owner, _)| owner != by.0)).map(|entry| entry.until);
        let other = other.filter(|_| !self.broken_lock);
        let clock = self.clock(now);
        match other {
            Some(held) if clock < held => return (Granted::Held(held - clock), false),
            Some(_) if !force => return (Granted::Lapsed, false),
            _ => {}
        }
        let entry = self.change(name);
        (entry.owner, entry.until) = (Some(by), until);
        (Granted::Yes(self.found(name, now)), other.is_some())
    }
}

impl Inner {
    fn saves(
        &mut self,
        name: &str,
        (before, version): (Version, Version),
        (plain, sent): (Vec<u8>, Option<u64>),
        now: Duration,
    ) -> StoreAnswer {
        let there = self.records.all.get(name).map_or_else(Version::default, |entry| entry.version);
        if there != before {
            self.count("save that came too late");
            return StoreAnswer::Saved(Some(self.records.found(name, now)));
        }
        let holds = credentials(&plain);
        for token in &holds {
            self.records.had.entry(token.clone()).or_insert(now);
        }
        let access = super::idp::access_token(&plain);
        if let Some(access) = &access {
            *self.records.handed.entry(access.clone()).or_default() += 1;
        }
        let clock = self.records.clock(now);
        let old = sent.map_or(Duration::ZERO, |sent| clock.saturating_sub(Duration::from_millis(sent)));
        let entry = self.records.change(name);
        (entry.version, entry.saved, entry.old, entry.since) = (version, clock, old, now);
        (entry.holds, entry.access, entry.plain) = (holds, access, plain);
        StoreAnswer::Saved(None)
    }

    /// What the server does.
    fn store(&mut self, who: Who, request: StoreRequest, now: Duration) -> StoreAnswer {
        match request {
            StoreRequest::Load(name) => StoreAnswer::Record(self.records.found(&name, now)),
            StoreRequest::Version(name) => {
                StoreAnswer::Version(self.records.all.get(&name).map_or_else(Version::default, |entry| entry.version))
            }
            StoreRequest::Names => StoreAnswer::Names(self.records.all.keys().cloned().collect()),
            _ if self.records.mood == Mood::ReadOnly => StoreAnswer::Refuses,
            StoreRequest::Save { name, before, version, plain, sent } => {
                let answer = self.saves(&name, (before, version), (plain, sent), now);
                let done = matches!(answer, StoreAnswer::Saved(None));
                let entry = self.records.all.get(&name).cloned().unwrap_or_default();
                let holds = (entry.holds.iter().next_back().cloned().unwrap_or_default(), entry.access.clone());
                let text = if done { "saves" } else { "saves too late, there is" };
                let (refresh, access) = (holds.0, holds.1.unwrap_or_default());
                let (number, kind) = (entry.version.number, kind(&name));
                self.event(now, format_args!("{who} {text} {kind} {number}: {refresh} {access}"));
                answer
            }
            StoreRequest::Take { name, owner, lasts, after, force } => {
                let until = self.records.clock(now) + lasts + after;
                let (granted, lapsed) = self.records.take(&name, (owner, who), until, force, now);
                let how = match &granted {
                    Granted::Yes(_) if lapsed => "takes the lease that another let lapse",
                    Granted::Yes(_) => "takes the lease",
                    Granted::Held(_) => "may not have the lease",
                    Granted::Lapsed => "waits for the one who let the lease lapse",
                };
                self.event(now, format_args!("{who} {how} of the {}", kind(&name)));
                if lapsed && kind(&name) == "token" {
                    self.records.forced.push(now);
                }
                self.count(if lapsed { "lease taken by force" } else { "lease asked for" });
                StoreAnswer::Taken(granted)
            }
            StoreRequest::Release { name, owner } => {
                let own = self.records.all.get(&name).is_some_and(|entry| entry.owner.is_some_and(|by| by.0 == owner));
                if own {
                    self.records.change(&name).owner = None;
                    self.event(now, format_args!("{who} gives the lease of the {} back", kind(&name)));
                }
                StoreAnswer::Done
            }
            StoreRequest::Forget(name) => {
                let entry = self.records.change(&name);
                (entry.version, entry.plain) = (Version { number: entry.version.number + 1, tag: 0 }, b"{}".to_vec());
                StoreAnswer::Done
            }
        }
    }
}

/// Of a record.
fn kind(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// The software of the store's host.
pub async fn answer(world: Arc<World>, who: Who, ask: Ask) -> Option<Reply> {
    let Ask::Store(request) = ask else { return None };
    let mood = world.lock().records.mood;
    match mood {
        Mood::Away => return None,
        Mood::Slow => tokio::time::sleep(Duration::from_secs(5)).await,
        Mood::Well | Mood::ReadOnly | Mood::Mute => {}
    }
    let now = world.now();
    let mut inner = world.lock();
    let reply = inner.store(who, request, now);
    let shown = inner.records.clock(now).as_millis().try_into().unwrap();
    (mood != Mood::Mute).then_some(Reply::Store(reply, shown))
}
