//! A Redis that replicas share. A record is one key, a hash of its version (`v`), the sealed bytes (`d`), when it was saved
//! (`t`) and how old it was then (`a`), and its lease: whose it is (`o`), until when (`u`), and how long it is in all (`l`).
//! Times are in ms, and Redis's own.
//!
//! What must be one step is a script, so nothing is left half done; each can be sent again without harm. Values are sealed
//! before they leave this process. A lease that is not given back stays, so that everybody sees that its owner may hold an
//! answer that nobody else knows.

mod link;
mod scripts;
mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Value, cmd};
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::link::Link;
use self::scripts::{BEGINS, LOAD, RELEASE, SAVE, TAKE};
use super::{Age, Answer, Lease, Record, Saved, Seal, SealError, Store, StoreError, StoreTime, Taken, Version};
use crate::clock::Clock;
use crate::connect::{Dialer, Endpoint};
use crate::secret::source::SecretSource;

/// No record is longer, sealed.
const RECORD_MAX: usize = 1 << 20;
/// More records than these are none of ours. All keys of the database are looked at for them, so many at a time, for so long.
const NAMES_MAX: usize = 10_000;
const STEP: usize = 1_000;
const LISTING_MAX: Duration = Duration::from_secs(10);
/// Tries to be the last who writes.
const FORGET_TRIES: u32 = 5;

/// Which Redis, and how it is spoken to. Shown as its address, without the user name.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    pub endpoint: Endpoint,
    pub username: Option<String>,
    /// Read for each connection.
    pub password: Option<SecretSource>,
    pub database: u32,
    /// Of every key.
    pub prefix: String,
}

/// A word, and perhaps something with it.
type Said = (&'static [u8], Option<Value>);

/// Records in a Redis.
pub struct RedisStore {
    link: Link,
    seal: Seal,
    time: StoreTime,
    /// Why it took nothing when it was last asked to.
    refuses: Mutex<Option<String>>,
}

impl RedisStore {
    /// Connects at the first use.
    pub fn new(server: Redis, seal: Seal, dialer: Arc<Dialer>, clock: Clock) -> Self {
        Self { link: Link::new(server, dialer), seal, time: StoreTime::new(clock), refuses: Mutex::default() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.link.server().prefix)
    }

    fn script(&self, name: &str, script: &str) -> Cmd {
        cmd("EVAL").arg([BEGINS, script].concat()).arg(1).arg(self.key(name)).take()
    }

    async fn ask(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.link.ask(command).await.map_err(StoreError::Away)
    }

    /// What a script says that changes something.
    async fn change(&self, command: &Cmd) -> Result<Option<Said>, StoreError> {
        let asked = self.time.boot();
        let answer = self.link.ask(command).await;
        *self.refuses.lock().unwrap_or_else(PoisonError::into_inner) = answer.as_ref().err().cloned();
        Ok(self.answer(answer.map_err(StoreError::Away)?, asked))
    }

    /// The version as it is written there; empty if there is none.
    async fn written(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        match self.ask(cmd("HGET").arg(self.key(name)).arg("v")).await? {
            Value::Nil => Ok(Vec::new()),
            Value::BulkString(written) => Ok(written),
            _ => Err(self.odd()),
        }
    }

    /// What the key holds.
    async fn found(&self, name: &str) -> Result<Value, StoreError> {
        let asked = self.time.boot();
        match self.answer(self.ask(&self.script(name, LOAD)).await?, asked) {
            Some((b"there", Some(held))) => Ok(held),
            _ => Err(self.odd()),
        }
    }

    async fn write(
        &self,
        name: &str,
        before: &[u8],
        version: Version,
        plain: &[u8],
        old: Duration,
    ) -> Result<Saved, StoreError> {
        let sealed = self.seal.seal(name, version.number, plain).map_err(|why| self.record_fault(name, why))?;
        if sealed.len() > RECORD_MAX {
            return Err(self.record_fault(name, SealError::Long));
        }
        if self.time.ago(old).is_none() {
            // Redis was not heard of yet: nothing tells when this was put together. What is read for it may be forgotten there
            // before the next question.
            let there = self.opened(name, self.found(name).await?)?;
            if text(there.as_ref().map(|record| record.version).unwrap_or_default()).as_bytes() != before {
                return Ok(Saved::Stale(there));
            }
        }
        let saved = self.script(name, SAVE).arg(before).arg(text(version)).arg(sealed).arg(self.time.ago(old)).take();
        match self.change(&saved).await? {
            Some((b"done", _)) => Ok(Saved::Done),
            Some((b"stale", Some(held))) => self.opened(name, held).map(Saved::Stale),
            _ => Err(self.odd()),
        }
    }

    async fn forgotten(&self, name: &str, instead: &[u8]) -> Result<(), StoreError> {
        for _ in 0..FORGET_TRIES {
            // Of a record that cannot be opened, too.
            let before = self.written(name).await?;
            let number = version(&before).map_or(0, |version| version.number);
            let version = Version { number: number + 1, tag: fastrand::u64(..) };
            let saved = self.write(name, &before, version, instead, Duration::ZERO).await;
            match saved {
                Ok(Saved::Done) => return Ok(()),
                Ok(Saved::Stale(_)) | Err(StoreError::Record { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let server = self.link.server();
        Err(StoreError::Away(format!("{server}: {name} is saved by others again and again; try again")))
    }

    async fn listed(&self) -> Result<Vec<String>, StoreError> {
        let server = self.link.server();
        let mut names = BTreeSet::new();
        let mut cursor = b"0".to_vec();
        let began = Instant::now();
        while began.elapsed() < LISTING_MAX && names.len() <= NAMES_MAX {
            let scan = cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern(&server.prefix)).arg("COUNT").arg(STEP).take();
            let Value::Array(answer) = self.ask(&scan).await? else { return Err(self.odd()) };
            let Ok([Value::BulkString(next), Value::Array(keys)]) = <[Value; 2]>::try_from(answer) else {
                return Err(self.odd());
            };
            for key in keys {
                let Value::BulkString(key) = key else { return Err(self.odd()) };
                let name = key.strip_prefix(server.prefix.as_bytes());
                names.extend(name.and_then(|name| Some(std::str::from_utf8(name).ok()?.to_owned())));
            }
            if next == b"0" && names.len() <= NAMES_MAX {
                return Ok(names.into_iter().collect());
            }
            cursor = next;
        }
        let fix = "give the broker a database of its own, or another [store] prefix";
        Err(StoreError::Away(format!("{server} has too many keys for all to be looked at; {fix}")))
    }

    /// What a script says that was sent then.
    fn answer(&self, value: Value, asked: Duration) -> Option<Said> {
        let Value::Array(parts) = value else { return None };
        let mut parts = parts.into_iter();
        let (Some(Value::BulkString(word)), Some(Value::Int(time))) = (parts.next(), parts.next()) else { return None };
        self.time.told(time.try_into().ok()?, asked);
        let known: [&[u8]; 6] = [b"there", b"done", b"stale", b"yes", b"held", b"lapsed"];
        Some((known.into_iter().find(|known| *known == word)?, parts.next()))
    }

    /// What a script found; `None` if there is no record, or it was never saved.
    fn opened(&self, name: &str, held: Value) -> Result<Option<Record>, StoreError> {
        let Value::Array(held) = held else { return Err(self.odd()) };
        if held.is_empty() {
            return Ok(None);
        }
        let (written, least, old, sealed) = match <[Value; 4]>::try_from(held) {
            Ok([Value::BulkString(written), Value::Int(least), Value::Int(old), Value::BulkString(sealed)]) => (
                written,
                Duration::from_millis(least.unsigned_abs()),
                Duration::from_millis(old.unsigned_abs()),
                sealed,
            ),
            Ok([_, _, _, Value::Int(_)]) => return Err(self.record_fault(name, SealError::Long)),
            _ => return Err(self.record_fault(name, SealError::Damaged)),
        };
        let version = version(&written).ok_or_else(|| self.record_fault(name, SealError::Format))?;
        let plain = self.seal.open(name, version.number, &sealed).map_err(|why| self.record_fault(name, why))?;
        Ok(Some(Record { version, plain, age: Some(Age { least, most: least + old }) }))
    }

    fn record_fault(&self, name: &str, why: SealError) -> StoreError {
        StoreError::Record { name: name.to_owned(), place: self.place(name, Version::default()), why }
    }

    fn odd(&self) -> StoreError {
        StoreError::Away(words::no_redis(self.link.server()))
    }
}

impl Store for RedisStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        let refuses = || self.refuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.link.trouble().or_else(refuses)
    }

    fn place(&self, name: &str, _version: Version) -> String {
        format!("{}, key {}", self.link.server(), self.key(name))
    }

    fn load<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        Box::pin(async move { self.opened(name, self.found(name).await?) })
    }

    fn version<'a>(&'a self, name: &'a str) -> Answer<'a, Version> {
        Box::pin(async move {
            let written = self.written(name).await?;
            version(&written).ok_or_else(|| self.record_fault(name, SealError::Format))
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
        Box::pin(async move { self.write(name, text(before).as_bytes(), version, &plain, old).await })
    }

    fn take<'a>(&'a self, name: &'a str, owner: u128, lease: Lease) -> Answer<'a, Taken> {
        Box::pin(async move {
            let long = lease.lasts.saturating_add(lease.after).as_millis().try_into().unwrap_or(u64::MAX);
            let take = self.script(name, TAKE).arg(hex(owner)).arg(long).arg(u8::from(lease.force)).take();
            match self.change(&take).await? {
                Some((b"yes", Some(held))) => self.opened(name, held).map(Taken::Yes),
                Some((b"held", Some(Value::Int(left)))) => Ok(Taken::Held(Duration::from_millis(left.unsigned_abs()))),
                Some((b"lapsed", None)) => Ok(Taken::Lapsed),
                _ => Err(self.odd()),
            }
        })
    }

    fn names(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.listed())
    }

    fn forget<'a>(&'a self, name: &'a str, instead: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(self.forgotten(name, instead))
    }

    fn release<'a>(&'a self, name: &'a str, owner: u128) -> Answer<'a, ()> {
        Box::pin(async move { self.ask(self.script(name, RELEASE).arg(hex(owner))).await.map(drop) })
    }
}

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port, tls } = &self.endpoint;
        let scheme = if tls.is_some() { "rediss" } else { "redis" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        write!(f, "{scheme}://{host}:{port}")?;
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

/// Empty for a record that is not there.
fn text(version: Version) -> String {
    if version.number == 0 { String::new() } else { format!("{}-{:016x}", version.number, version.tag) }
}

fn version(written: &[u8]) -> Option<Version> {
    if written.is_empty() {
        return Some(Version::default());
    }
    let (number, tag) = std::str::from_utf8(written).ok()?.split_once('-')?;
    Some(Version { number: number.parse().ok()?, tag: u64::from_str_radix(tag, 16).ok()? })
}

fn hex(owner: u128) -> String {
    format!("{owner:032x}")
}

/// Every key that begins so; none of its characters is a wildcard.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::new();
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    pattern
}
