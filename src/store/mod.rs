//! What outlives the process: sealed records in a private directory, or in one place for many replicas. `kind = "memory"` has
//! no store at all.

mod disk;
mod file;
mod redis;
mod seal;
mod time;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

pub use self::redis::{Redis, RedisStore};
pub use disk::Disk;
pub use file::{Entry, FileStore, StoreError};
pub use seal::{KEY_MIN, Seal, SealError};
pub use time::StoreTime;

/// Which state of a record it is. Where others write too, two that have the same number differ in their tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Grows by one with each save. 0 for a record that is not there.
    pub number: u64,
    /// By chance; 0 where nobody else writes.
    pub tag: u64,
}

/// A record, opened.
#[derive(Clone)]
pub struct Record {
    pub version: Version,
    pub plain: Zeroizing<Vec<u8>>,
    /// By the store's own clock, if it has one.
    pub age: Option<Age>,
}

/// How old a record is. How long it was on its way to the store is known only about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Since it was saved.
    pub least: Duration,
    /// Since it was put together.
    pub most: Duration,
}

/// Security: without what it holds.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("version", &self.version).field("age", &self.age).finish_non_exhaustive()
    }
}

/// What became of a save.
#[derive(Debug)]
pub enum Saved {
    Done,
    /// Somebody else has saved meanwhile: this is there now, and nothing was changed.
    Stale(Option<Record>),
}

/// What became of asking for the lease of a record.
#[derive(Debug)]
pub enum Taken {
    /// It is this owner's, for as long as was asked for; and what the record holds now.
    Yes(Option<Record>),
    /// Another one has it, for so long at most.
    Held(Duration),
    /// Another one had it and never gave it back: its process has died, or only sleeps, with an answer in its hands.
    Lapsed,
}

/// The answer of a store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where records are kept: a directory, or a server that replicas share. Every answer comes within a bound.
pub trait Store: Send + Sync {
    /// Do others write here too? Then nobody works on a record without its lease.
    fn is_shared(&self) -> bool;

    /// Why it cannot be asked now; `None` if it can, or nobody tried.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Where it keeps a record, for messages.
    fn place(&self, name: &str, version: Version) -> String;

    /// What a record holds; `None` if there never was one.
    fn load<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>>;

    /// Its version; zero if there never was one.
    fn version<'a>(&'a self, name: &'a str) -> Answer<'a, Version> {
        Box::pin(async move { Ok(self.load(name).await?.map_or_else(Version::default, |record| record.version)) })
    }

    /// Saves a record that was put together so long ago, if what is there now is `before`. When this returns [`Saved::Done`], it is
    /// durable.
    fn save<'a>(
        &'a self,
        name: &'a str,
        before: Version,
        version: Version,
        plain: Zeroizing<Vec<u8>>,
        old: Duration,
    ) -> Answer<'a, Saved>;

    /// Takes the lease of a record, or makes it last anew. It stays with its owner for `lasts`, and nobody else gets it before
    /// `lasts + after` have passed. One that has lapsed goes to another owner only by `force`.
    fn take<'a>(&'a self, name: &'a str, owner: u128, lease: Lease) -> Answer<'a, Taken>;

    /// The names of all records.
    fn names(&self) -> Answer<'_, Vec<String>>;

    /// Removes what a record holds. Where others write too, `instead` takes its place: they would put it back.
    fn forget<'a>(&'a self, name: &'a str, instead: &'a [u8]) -> Answer<'a, ()>;

    /// Gives a lease back, if it is still this owner's.
    fn release<'a>(&'a self, name: &'a str, owner: u128) -> Answer<'a, ()>;
}

/// All that a process has.
#[derive(Clone)]
pub struct Stores {
    pub main: Arc<dyn Store>,
    /// Beside a shared one: what this process knows of it, in case that it forgets.
    pub copy: Option<Arc<dyn Store>>,
    /// The directory of either, which this process owns.
    pub files: Option<Arc<FileStore>>,
}

impl Stores {
    /// A directory is all there is.
    pub fn directory(files: Arc<FileStore>) -> Self {
        Self { main: Arc::new(Disk::new(Arc::clone(&files))), copy: None, files: Some(files) }
    }

    /// One that others share, and perhaps a directory for what this process knows of it.
    pub fn shared(main: Arc<dyn Store>, files: Option<Arc<FileStore>>) -> Self {
        let copy = files.clone().map(|files| Arc::new(Disk::new(files)) as Arc<dyn Store>);
        Self { main, copy, files }
    }

    /// Forgets the records of that name, or below it: a token has one for each account that it was ever configured with. Those
    /// that there were.
    ///
    /// `instead` makes what takes the place of one in a shared store, of its name and of what it held, if that can be read.
    pub async fn forget_all(
        &self,
        name: &str,
        instead: impl Fn(&str, Option<&[u8]>) -> Vec<u8>,
    ) -> Result<Vec<String>, StoreError> {
        let meant: Vec<_> = self.main.names().await?.into_iter().filter(|known| is_meant(name, known)).collect();
        for known in &meant {
            if let Some(copy) = &self.copy {
                copy.forget(known, &[]).await?;
            }
            let held = if self.main.is_shared() { self.main.load(known).await.ok().flatten() } else { None };
            let instead = instead(known, held.as_ref().map(|held| held.plain.as_slice()));
            self.main.forget(known, &instead).await?;
        }
        Ok(meant)
    }
}

/// Is a record that name's, or below it? A kind of record, such as `token`, is none.
pub fn is_meant(name: &str, known: &str) -> bool {
    let one = name.contains('.') && !name.ends_with('.');
    one && known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// How a lease is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub lasts: Duration,
    /// What its owner has begun may go on for so long after its end.
    pub after: Duration,
    /// Take it also from an owner that let it lapse.
    pub force: bool,
}
