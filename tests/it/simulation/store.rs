//! The store that replicas share: records and leases by its own clock, what goes wrong with it, and the way to it. And the
//! journal of one replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokenbroker::store::{Answer, Lease, Record, Saved, Store, StoreError, Taken, Version};
use zeroize::Zeroizing;

use super::wire::{Ask, Reply, Wire};
use super::world::{Inner, Who, World, refresh_tokens};

/// Within which the way to the store answers or fails.
pub const STORE_WAITS: Duration = Duration::from_secs(2);
/// What a fail-over may forget at most.
const HISTORY: usize = 8;

#[derive(Clone)]
pub enum StoreRequest {
    Load(String),
    Version(String),
    Save { name: String, before: Version, version: Version, plain: Vec<u8> },
    Take { name: String, owner: u128, lasts: Duration, after: Duration, force: bool },
    Release { name: String, owner: u128 },
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
    version: Version,
    plain: Vec<u8>,
    age: Duration,
}

/// One record on the server.
#[derive(Clone, Default)]
pub struct Entry {
    pub version: Version,
    pub plain: Vec<u8>,
    /// By the clock of the store.
    saved: Duration,
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
    /// When it last went back, or lost everything.
    pub forgot: Option<Duration>,
    /// When its clock was set.
    pub jumped: Option<Duration>,
    /// A lock that locks nothing, to see whether the checks see it.
    broken_lock: bool,
}

impl Records {
    pub fn new(broken_lock: bool) -> Self {
        Self { broken_lock, ..Self::default() }
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
        self.forgot = Some(now);
    }

    /// Loses everything.
    pub fn wipe(&mut self, now: Duration) {
        self.all.clear();
        self.before.clear();
        self.forgot = Some(now);
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
        let age = (now + self.ahead).saturating_sub(entry.saved);
        Some(Found { version: entry.version, plain: entry.plain.clone(), age })
    }

    fn take(&mut self, name: &str, by: (u128, Who), until: Duration, force: bool, now: Duration) -> (Granted, bool) {
        let there = self.all.get(name);
        let other = there.filter(|entry| entry.owner.is_some_and(|(owner, _)| owner != by.0)).map(|entry| entry.until);
        let other = other.filter(|_| !self.broken_lock);
        let clock = now + self.ahead;
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
        plain: Vec<u8>,
        now: Duration,
    ) -> StoreAnswer {
        let there = self.records.all.get(name).map_or_else(Version::default, |entry| entry.version);
        if there != before {
            self.count("save that came too late");
            return StoreAnswer::Saved(Some(self.records.found(name, now)));
        }
        let holds = refresh_tokens(&plain);
        for token in &holds {
            self.records.had.entry(token.clone()).or_insert(now);
        }
        let ahead = self.records.ahead;
        let entry = self.records.change(name);
        let access = super::idp::access_token(&plain);
        (entry.version, entry.saved, entry.since) = (version, now + ahead, now);
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
            StoreRequest::Save { name, before, version, plain } => {
                let answer = self.saves(&name, (before, version), plain, now);
                let done = matches!(answer, StoreAnswer::Saved(None));
                let entry = self.records.all.get(&name).cloned().unwrap_or_default();
                let holds = (entry.holds.iter().next_back().cloned().unwrap_or_default(), entry.access.clone());
                let text = if done { "saves" } else { "saves too late, there is" };
                let (refresh, access) = (holds.0, holds.1.unwrap_or_default());
                self.event(now, format_args!("{who} {text} {}: {refresh} {access}", entry.version.number));
                answer
            }
            StoreRequest::Take { name, owner, lasts, after, force } => {
                let until = now + self.records.ahead + lasts + after;
                let (granted, lapsed) = self.records.take(&name, (owner, who), until, force, now);
                let how = match &granted {
                    Granted::Yes(_) if lapsed => "takes the lease that another let lapse",
                    Granted::Yes(_) => "takes the lease",
                    Granted::Held(_) => "may not have the lease",
                    Granted::Lapsed => "waits for the one who let the lease lapse",
                };
                self.event(now, format_args!("{who} {how}"));
                self.count(if lapsed { "lease taken by force" } else { "lease asked for" });
                StoreAnswer::Taken(granted)
            }
            StoreRequest::Release { name, owner } => {
                let own = self.records.all.get(&name).is_some_and(|entry| entry.owner.is_some_and(|by| by.0 == owner));
                if own {
                    self.records.change(&name).owner = None;
                    self.event(now, format_args!("{who} gives the lease back"));
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
    let reply = world.lock().store(who, request, now);
    (mood != Mood::Mute).then_some(Reply::Store(reply))
}

/// A process's way to the store.
pub struct Remote {
    pub wire: Wire,
}

impl Remote {
    async fn ask(&self, request: StoreRequest) -> Result<StoreAnswer, StoreError> {
        let (world, who) = (&self.wire.world, self.wire.who);
        let reply = self.wire.ask("store", Ask::Store(request), STORE_WAITS).await;
        let now = world.now();
        let mut inner = world.lock();
        let replica = &mut inner.replicas[who.replica];
        match reply {
            Some(Reply::Store(StoreAnswer::Refuses)) => {
                replica.reaches_store = None;
                Err(StoreError::Away("the store refuses to write".to_owned()))
            }
            Some(Reply::Store(answer)) => {
                replica.reaches_store.get_or_insert(now);
                Ok(answer)
            }
            _ => {
                replica.reaches_store = None;
                inner.count("store not reached");
                Err(StoreError::Away("the store has not answered".to_owned()))
            }
        }
    }

    /// A record has come: what this process knows from now on.
    fn came(&self, found: Option<Found>) -> Option<Record> {
        let found = found?;
        let now = self.wire.world.now();
        self.wire.world.lock().learns(self.wire.who, &refresh_tokens(&found.plain), now);
        Some(Record { version: found.version, plain: Zeroizing::new(found.plain), age: Some(found.age) })
    }

    async fn saved(&self, request: StoreRequest) -> Result<Saved, StoreError> {
        let (world, replica) = (&self.wire.world, self.wire.who.replica);
        let from = world.now();
        world.lock().replicas[replica].saving = Some(from);
        let answer = self.ask(request).await;
        let now = world.now();
        {
            let mut inner = world.lock();
            let replica = &mut inner.replicas[replica];
            replica.saving = None;
            if !matches!(answer, Ok(StoreAnswer::Saved(None))) {
                replica.unsaved.push((from, now));
            }
        }
        match answer? {
            StoreAnswer::Saved(None) => Ok(Saved::Done),
            StoreAnswer::Saved(Some(there)) => Ok(Saved::Stale(self.came(there))),
            _ => Err(odd()),
        }
    }
}

fn odd() -> StoreError {
    StoreError::Away("an answer to something else".to_owned())
}

impl Store for Remote {
    fn is_shared(&self) -> bool {
        true
    }

    fn place(&self, name: &str, _version: Version) -> String {
        name.to_owned()
    }

    fn load<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        Box::pin(async move {
            match self.ask(StoreRequest::Load(name.to_owned())).await? {
                StoreAnswer::Record(found) => Ok(self.came(found)),
                _ => Err(odd()),
            }
        })
    }

    fn version<'a>(&'a self, name: &'a str) -> Answer<'a, Version> {
        Box::pin(async move {
            match self.ask(StoreRequest::Version(name.to_owned())).await? {
                StoreAnswer::Version(version) => Ok(version),
                _ => Err(odd()),
            }
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        before: Version,
        version: Version,
        plain: Zeroizing<Vec<u8>>,
    ) -> Answer<'a, Saved> {
        let (name, plain) = (name.to_owned(), plain.to_vec());
        Box::pin(self.saved(StoreRequest::Save { name, before, version, plain }))
    }

    fn take<'a>(&'a self, name: &'a str, owner: u128, lease: Lease) -> Answer<'a, Taken> {
        let Lease { lasts, after, force } = lease;
        Box::pin(async move {
            let request = StoreRequest::Take { name: name.to_owned(), owner, lasts, after, force };
            let asked = self.wire.world.now();
            match self.ask(request).await? {
                StoreAnswer::Taken(Granted::Yes(there)) => {
                    self.wire.world.lock().replicas[self.wire.who.replica].granted = Some(asked);
                    Ok(Taken::Yes(self.came(there)))
                }
                StoreAnswer::Taken(Granted::Held(left)) => Ok(Taken::Held(left)),
                StoreAnswer::Taken(Granted::Lapsed) => Ok(Taken::Lapsed),
                _ => Err(odd()),
            }
        })
    }

    fn names(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async {
            match self.ask(StoreRequest::Names).await? {
                StoreAnswer::Names(names) => Ok(names),
                _ => Err(odd()),
            }
        })
    }

    fn forget<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.ask(StoreRequest::Forget(name.to_owned())).await.map(drop) })
    }

    fn release<'a>(&'a self, name: &'a str, owner: u128) -> Answer<'a, ()> {
        Box::pin(async move { self.ask(StoreRequest::Release { name: name.to_owned(), owner }).await.map(drop) })
    }
}

/// The directory of one replica, which outlives its processes.
#[derive(Default)]
pub struct Journal(pub Mutex<BTreeMap<String, (u64, Vec<u8>)>>);

impl Journal {
    pub fn holds(&self, token: &str) -> bool {
        self.0.lock().unwrap().values().any(|(_, plain)| refresh_tokens(plain).contains(token))
    }
}

/// One process's way to its journal.
pub struct Local {
    pub journal: Arc<Journal>,
    pub wire: Wire,
}

impl Store for Local {
    fn is_shared(&self) -> bool {
        false
    }

    fn place(&self, name: &str, _version: Version) -> String {
        name.to_owned()
    }

    fn load<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        Box::pin(async move {
            let found = self.journal.0.lock().unwrap().get(name).cloned();
            let Some((number, plain)) = found else { return Ok(None) };
            let now = self.wire.world.now();
            self.wire.world.lock().learns(self.wire.who, &refresh_tokens(&plain), now);
            Ok(Some(Record { version: Version { number, tag: 0 }, plain: Zeroizing::new(plain), age: None }))
        })
    }

    fn version<'a>(&'a self, name: &'a str) -> Answer<'a, Version> {
        Box::pin(async move { Ok(self.load(name).await?.map_or_else(Version::default, |record| record.version)) })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        _before: Version,
        version: Version,
        plain: Zeroizing<Vec<u8>>,
    ) -> Answer<'a, Saved> {
        Box::pin(async move {
            // The disk takes a moment: a crash may come before, and may come after.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await;
            self.wire.gate.passed().await;
            self.journal.0.lock().unwrap().insert(name.to_owned(), (version.number, plain.to_vec()));
            Ok(Saved::Done)
        })
    }

    fn take<'a>(&'a self, name: &'a str, _owner: u128, _lease: Lease) -> Answer<'a, Taken> {
        Box::pin(async move { Ok(Taken::Yes(self.load(name).await?)) })
    }

    fn names(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async { Ok(self.journal.0.lock().unwrap().keys().cloned().collect()) })
    }

    fn forget<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.journal.0.lock().unwrap().remove(name);
            Ok(())
        })
    }

    fn release<'a>(&'a self, _name: &'a str, _owner: u128) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
