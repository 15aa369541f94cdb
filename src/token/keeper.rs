//! A place in the store: a token's, or that of a client's secrets. Where replicas share the store, one works on it at a time,
//! and all of them learn what it holds.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;
use zeroize::Zeroizing;

use crate::clock::{Clock, Now};
use crate::store::{Age, Lease, Record, Saved, Store, StoreError, Stores, Taken, Version};

/// What a record is made of.
pub trait Content: Serialize + DeserializeOwned {
    /// Of two states of which neither was written with knowledge of the other: is this the newer one?
    fn is_newer_than(&self, other: &Self) -> bool;

    /// Takes over what must not be forgotten of a state that is not gone on with. True if it knows of more then.
    fn recall(&mut self, other: &Self) -> bool;

    /// Puts its times on this machine's clocks, given how old it is by the clock of the store.
    fn rebase(&mut self, age: Age, now: Now, clock: &Clock);
}

/// What loads and saves one record.
pub struct Keeper {
    stores: Stores,
    record: String,
    clock: Clock,
    /// What the store has, as far as is known here.
    version: Version,
    /// What was last tried to be saved, whatever became of it: a number is never used for two contents.
    tried: Version,
    /// Is it not known whether the store has that? Once it is known, a store that has it again has gone back to it.
    unclear: bool,
    /// Of the copy.
    copied: u64,
    /// Whose leases are this one's.
    owner: u128,
    /// Until when the lease is, since boot.
    lease: Option<Duration>,
    /// Whose lease could not be given back: it is, once the store answers.
    late: Option<u128>,
    /// Was what was last learned saved by somebody who did not know of what was known here?
    back: bool,
}

/// What somebody else has made of a record.
#[derive(Debug)]
pub enum News<T> {
    None,
    /// What is there was saved by another; or the store has gone back to it.
    Theirs(T),
    /// There is nothing any more.
    Gone,
}

/// What became of asking for the lease.
#[derive(Debug)]
pub enum Held<T> {
    Ours(News<T>),
    /// Somebody else has it, for so long at most.
    Others(Duration),
    /// Somebody else had it, and never gave it back.
    Lapsed,
}

/// Why something was not saved.
#[derive(Debug)]
pub enum Unsaved<T> {
    /// Somebody else has saved something meanwhile.
    Stale(Box<News<T>>),
    Failed(String),
}

/// A record as it was found.
pub struct Found<T> {
    pub keeper: Keeper,
    pub content: Option<T>,
    /// Does the store have that, too?
    pub saved: bool,
}

/// What the record of a token is called, for that account.
pub fn record(token: &str, account: &str) -> String {
    format!("token.{token}.{}", &account[..16])
}

impl Keeper {
    /// What the record of that name holds. A shared store that cannot be asked now does not count: what is known here is gone on
    /// with, and it is asked again.
    pub async fn open<T: Content>(stores: &Stores, record: String, clock: &Clock) -> Result<Found<T>, StoreError> {
        let mut keeper = Self::unread(stores, record, clock);
        let now = clock.now();
        let mut ours: Option<T> = None;
        if let Some(copy) = &stores.copy {
            let found = copy.load(&keeper.record).await?;
            keeper.copied = found.as_ref().map_or(0, |found| found.version.number);
            ours = keeper.read(&**copy, found, now)?;
        }
        let found = match stores.main.load(&keeper.record).await {
            Ok(found) => found,
            Err(StoreError::Away(why)) if stores.main.is_shared() => {
                warn!(record = keeper.record, "{why}");
                return Ok(Found { keeper, content: ours, saved: false });
            }
            Err(error) => return Err(error),
        };
        let version = found.as_ref().map_or_else(Version::default, |found| found.version);
        (keeper.version, keeper.tried) = (version, version);
        let theirs: Option<T> = keeper.read(&*stores.main, found, now)?;
        Ok(match (ours, theirs) {
            (Some(ours), None) => Found { keeper, content: Some(ours), saved: false },
            (Some(mut ours), Some(theirs)) if ours.is_newer_than(&theirs) => {
                ours.recall(&theirs);
                Found { keeper, content: Some(ours), saved: false }
            }
            (ours, mut theirs) => {
                let mut more = false;
                if let Some(theirs) = &mut theirs {
                    more = ours.is_some_and(|ours| theirs.recall(&ours));
                    keeper.copy(theirs).await;
                }
                Found { keeper, content: theirs, saved: !more }
            }
        })
    }

    /// One that has not looked into the store yet.
    pub fn unread(stores: &Stores, record: String, clock: &Clock) -> Self {
        Self {
            stores: stores.clone(),
            record,
            clock: clock.clone(),
            version: Version::default(),
            tried: Version::default(),
            unclear: false,
            copied: 0,
            owner: fastrand::u128(..),
            lease: None,
            late: None,
            back: false,
        }
    }

    /// Its name in the store.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Do others write here too?
    pub fn is_shared(&self) -> bool {
        self.stores.main.is_shared()
    }

    /// Has the store gone back behind what was known here, as far as was last seen?
    pub fn went_back(&self) -> bool {
        self.back
    }

    /// What is left of the lease.
    pub fn leased(&self) -> Duration {
        self.lease.map_or(Duration::ZERO, |until| until.saturating_sub(self.clock.now().boot))
    }

    /// Saves it, within the store's bound; durable when this returns.
    pub async fn save<T: Content>(&mut self, content: &T) -> Result<(), Unsaved<T>> {
        let plain = serde_json::to_vec(content).map_err(|error| Unsaved::Failed(error.to_string()))?;
        let (plain, made) = (Zeroizing::new(plain), self.clock.now().boot);
        self.copied += 1;
        let (copy, record, number) = (self.stores.copy.clone(), self.record.clone(), self.copied);
        // A disk that hangs must not keep the others waiting.
        let (saved, ()) = futures_util::join!(self.share(&plain, made), write_copy(copy, &record, number, &plain));
        saved
    }

    /// Saves what was put together then, since boot.
    async fn share<T: Content>(&mut self, plain: &Zeroizing<Vec<u8>>, made: Duration) -> Result<(), Unsaved<T>> {
        let failed = |error: StoreError| Unsaved::Failed(error.to_string());
        loop {
            let (tried, unclear) = (self.tried, self.unclear);
            let tag = if self.is_shared() { fastrand::u64(..) } else { 0 };
            self.tried = Version { number: self.version.number.max(tried.number) + 1, tag };
            let now = self.clock.now();
            self.unclear = true;
            let old = now.boot.saturating_sub(made);
            let saved = self.stores.main.save(&self.record, self.version, self.tried, plain.clone(), old).await;
            match saved.map_err(failed)? {
                Saved::Done => {
                    (self.version, self.unclear) = (self.tried, false);
                    return Ok(());
                }
                // The answer to that one was lost, and it was saved.
                Saved::Stale(Some(there)) if unclear && there.version == tried => self.version = tried,
                Saved::Stale(there) => {
                    self.unclear = false;
                    let news = self.told(there, now).map_err(Unsaved::Failed)?;
                    return Err(Unsaved::Stale(Box::new(news)));
                }
            }
        }
    }

    /// What others have made of the record since it was last looked at.
    pub async fn news<T: Content>(&mut self) -> Result<News<T>, String> {
        let looked = self.stores.main.version(&self.record).await.map_err(|error| error.to_string())?;
        if let Some(late) = self.late {
            self.late = self.stores.main.release(&self.record, late).await.is_err().then_some(late);
        }
        if looked == self.version {
            return Ok(News::None);
        }
        let now = self.clock.now();
        let there = self.stores.main.load(&self.record).await.map_err(|error| error.to_string())?;
        self.told(there, now)
    }

    /// Asks for the lease, or for more of it.
    pub async fn take<T: Content>(&mut self, lease: Lease) -> Result<Held<T>, String> {
        if !self.is_shared() {
            return Ok(Held::Ours(News::None));
        }
        let (now, had) = (self.clock.now(), self.lease.is_some());
        let taken = match self.stores.main.take(&self.record, self.owner, lease).await {
            Ok(Taken::Yes(there)) => {
                self.lease = Some(now.boot + lease.lasts);
                self.told(there, now).map(Held::Ours)
            }
            Ok(Taken::Held(left)) => Ok(Held::Others(left)),
            Ok(Taken::Lapsed) => Ok(Held::Lapsed),
            Err(StoreError::Away(why)) => return Err(why),
            Err(error) => Err(error.to_string()),
        };
        if taken.is_err() && !had {
            // It may be this one's all the same: of a record that cannot be read, nobody may be kept away.
            self.lease = Some(now.boot);
            self.release().await;
        }
        taken
    }

    /// Gives the lease back. If that cannot be said, it lapses.
    pub async fn release(&mut self) {
        if self.lease.take().is_some() && self.stores.main.release(&self.record, self.owner).await.is_err() {
            // It may arrive late, and must not give back what is taken from now on.
            self.late = Some(std::mem::replace(&mut self.owner, fastrand::u128(..)));
        }
    }

    fn told<T: Content>(&mut self, there: Option<Record>, now: Now) -> Result<News<T>, String> {
        let version = there.as_ref().map_or_else(Version::default, |there| there.version);
        if version == self.version {
            return Ok(News::None);
        }
        if self.unclear && version == self.tried {
            // The answer to that was lost.
            (self.version, self.unclear) = (version, false);
            return Ok(News::None);
        }
        let theirs = self.read(&*self.stores.main, there, now).map_err(|error| error.to_string())?;
        // That is what the next save has to know of.
        self.back = version.number <= self.version.number;
        self.version = version;
        Ok(theirs.map_or(News::Gone, News::Theirs))
    }

    /// `None` if there is none, or if it was forgotten.
    fn read<T: Content>(&self, store: &dyn Store, record: Option<Record>, asked: Now) -> Result<Option<T>, StoreError> {
        let Some(record) = record else { return Ok(None) };
        let unreadable = |_| StoreError::unreadable(&self.record, store.place(&self.record, record.version));
        let mut content: Option<T> = serde_json::from_slice(&record.plain).map_err(unreadable)?;
        if let (Some(content), Some(age)) = (&mut content, record.age) {
            // It was asked for then, and may have been on its way since.
            let way = self.clock.now().boot.saturating_sub(asked.boot);
            content.rebase(Age { most: age.most + way, ..age }, self.clock.now(), &self.clock);
        }
        Ok(content)
    }

    /// Into the directory of this process alone.
    pub async fn copy(&mut self, content: &impl Content) {
        if let (Some(_), Ok(plain)) = (&self.stores.copy, serde_json::to_vec(content)) {
            self.copied += 1;
            write_copy(self.stores.copy.clone(), &self.record, self.copied, &Zeroizing::new(plain)).await;
        }
    }
}

/// A failure is said, and no more: the shared store has it, or is tried again.
async fn write_copy(copy: Option<Arc<dyn Store>>, record: &str, number: u64, plain: &Zeroizing<Vec<u8>>) {
    let Some(copy) = copy else { return };
    let version = Version { number, tag: 0 };
    if let Err(error) = copy.save(record, Version::default(), version, plain.clone(), Duration::ZERO).await {
        warn!(record, %error, "the local copy of what the shared store has could not be written");
    }
}
