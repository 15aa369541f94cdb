//! A process's ways to what it keeps: the store that all share, and its own journal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokenbroker::store::{Answer, Lease, Record, Saved, Store, StoreError, StoreTime, Taken, Version};
use zeroize::Zeroizing;

use super::store::{Found, Granted, StoreAnswer, StoreRequest};
use super::wire::{Ask, Reply, Wire};
use super::world::credentials;

/// Within which the way to the store answers or fails.
const STORE_WAITS: Duration = Duration::from_secs(2);

/// A process's way to the store.
pub struct Remote {
    pub wire: Wire,
    pub time: StoreTime,
}

impl Remote {
    async fn ask(&self, request: StoreRequest) -> Result<StoreAnswer, StoreError> {
        let (world, who) = (&self.wire.world, self.wire.who);
        let asked = self.time.boot();
        let reply = self.wire.ask("store", Ask::Store(request), STORE_WAITS).await;
        if let Some(Reply::Store(_, shown)) = &reply {
            self.time.told(*shown, asked);
        }
        let now = world.now();
        let mut inner = world.lock();
        let replica = &mut inner.replicas[who.replica];
        if reply.is_some() && replica.life == who.life {
            replica.heard.get_or_insert(now);
        }
        match reply {
            Some(Reply::Store(StoreAnswer::Refuses, _)) => {
                replica.reaches_store = None;
                Err(StoreError::Away("the store refuses to write".to_owned()))
            }
            Some(Reply::Store(answer, _)) => {
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
        self.wire.world.lock().learns(self.wire.who, &credentials(&found.plain), now);
        Some(Record { version: found.version, plain: Zeroizing::new(found.plain), age: Some(found.age) })
    }

    async fn saved(&self, request: StoreRequest) -> Result<Saved, StoreError> {
        let (world, replica) = (&self.wire.world, self.wire.who.replica);
        let from = world.now();
        let token = matches!(&request, StoreRequest::Save { name, .. } if is_token(name));
        if token {
            world.lock().replicas[replica].saving = Some(from);
        }
        let answer = self.ask(request).await;
        let now = world.now();
        if token {
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

/// Or is it the record of the client's secrets?
fn is_token(name: &str) -> bool {
    name.starts_with("token.")
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
        old: Duration,
    ) -> Answer<'a, Saved> {
        let (name, plain) = (name.to_owned(), plain.to_vec());
        Box::pin(async move {
            if self.time.ago(old).is_none() {
                let there = self.load(&name).await?;
                if there.as_ref().map(|record| record.version).unwrap_or_default() != before {
                    return Ok(Saved::Stale(there));
                }
            }
            let sent = self.time.ago(old);
            self.saved(StoreRequest::Save { name, before, version, plain, sent }).await
        })
    }

    fn take<'a>(&'a self, name: &'a str, owner: u128, lease: Lease) -> Answer<'a, Taken> {
        let Lease { lasts, after, force } = lease;
        Box::pin(async move {
            let request = StoreRequest::Take { name: name.to_owned(), owner, lasts, after, force };
            let asked = self.wire.world.now();
            match self.ask(request).await? {
                StoreAnswer::Taken(Granted::Yes(there)) => {
                    if is_token(name) {
                        self.wire.world.lock().replicas[self.wire.who.replica].granted = Some(asked);
                    }
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

    fn forget<'a>(&'a self, name: &'a str, _instead: &'a [u8]) -> Answer<'a, ()> {
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
        self.0.lock().unwrap().values().any(|(_, plain)| credentials(plain).contains(token))
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
            self.wire.world.lock().learns(self.wire.who, &credentials(&plain), now);
            Ok(Some(Record { version: Version { number, tag: 0 }, plain: Zeroizing::new(plain), age: None }))
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        _before: Version,
        version: Version,
        plain: Zeroizing<Vec<u8>>,
        _old: Duration,
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

    fn forget<'a>(&'a self, name: &'a str, _instead: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.journal.0.lock().unwrap().remove(name);
            Ok(())
        })
    }

    fn release<'a>(&'a self, _name: &'a str, _owner: u128) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
