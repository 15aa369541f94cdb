//! Records in a private directory: one sealed file a generation, written beside the one before and never over it.
//!
//! A save is a temporary file, its fsync, a rename to a name that is new, and the directory's fsync; whatever stops it leaves
//! the generation before. The last but one generation stays until the next save.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::seal::{Seal, SealError};
use super::{Record, Version};

/// No record is longer.
const RECORD_MAX: u64 = 1 << 20;
const LOCK: &str = "lock";
/// Whoever looks for the owner holds the lock himself for a moment.
const LOOKS_MAX: u32 = 10;
const LOOK_TAKES: Duration = Duration::from_millis(30);
/// How the name of a file is put together: the record's, a dot, and its generation in so many digits.
const DIGITS: usize = 12;

/// A store that one process owns, or that is only looked at.
pub struct FileStore {
    directory: PathBuf,
    seal: Seal,
    /// Held as long as the process lives.
    owned: Option<Owned>,
}

/// The directory itself, locked, and the file that says who holds it.
struct Owned {
    directory: File,
    owner: File,
}

/// Why the store, or a record of it, cannot be used. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {} cannot be used: {source}; it has to be a directory that the broker's user may write to", .directory.display())]
    Directory { directory: PathBuf, source: io::Error },
    #[error("the store {} must be a directory of this user with mode 0700; run this as its owner, chmod 700, or choose another path", .0.display())]
    Open(PathBuf),
    #[error("the store {} belongs to a broker that runs{owner}; two would lose each other's refresh tokens: use that one, stop it, or choose another path", .directory.display())]
    Owned { directory: PathBuf, owner: String },
    #[error(
        "the record {name} in {place} {why}; nothing was changed: correct the store's key, restore the record, or `tokenbroker store forget {name}` and log in again"
    )]
    Record { name: String, place: String, why: SealError },
    #[error(
        "{0} may hold the only client secret that works, so it is not forgotten: it gives way by itself when another client_secret is configured; `tokenbroker secret export` writes it into a file"
    )]
    Kept(String),
    /// The store cannot be asked now; what is needed later is tried again.
    #[error("{0}")]
    Away(String),
    #[error("cannot save {name} in {}: {source}; what was saved before is still there", .directory.display())]
    Save { name: String, directory: PathBuf, source: io::Error },
}

impl StoreError {
    /// A record that is sealed well and still makes no sense.
    pub fn unreadable(name: &str, place: String) -> Self {
        Self::Record { name: name.to_owned(), place, why: SealError::Format }
    }
}

/// A record as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub version: u64,
    pub file: PathBuf,
}

impl FileStore {
    /// Opens the directory, which is made if it is missing, and owns it from here on.
    pub fn open(directory: &Path, seal: Seal) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory { directory: directory.to_owned(), source };
        if !directory.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
            if let Some(parent) = directory.parent() {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
            }
        }
        private(directory, false)?;
        // The directory and not a file in it: that could be removed, and made anew by another.
        let locked = File::open(directory).map_err(failed)?;
        let owner = options().open(directory.join(LOCK)).map_err(failed)?;
        let mut looks = LOOKS_MAX;
        let lock = loop {
            let lock = flock(&locked, FlockOperation::NonBlockingLockExclusive);
            if lock != Err(Errno::WOULDBLOCK) || looks == 0 {
                break lock;
            }
            looks -= 1;
            std::thread::sleep(LOOK_TAKES);
        };
        match lock {
            Ok(()) => {
                owner.set_len(0).map_err(failed)?;
                let owned = Some(Owned { directory: locked, owner });
                Ok(Self { directory: directory.to_owned(), seal, owned })
            }
            Err(Errno::WOULDBLOCK) => {
                let text = signature(directory);
                let owner = if text.is_empty() { String::new() } else { format!(" ({text})") };
                Err(StoreError::Owned { directory: directory.to_owned(), owner })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Looks at a store, which may belong to a broker that runs.
    pub fn look(directory: &Path, seal: Seal) -> Result<Self, StoreError> {
        private(directory, true)?;
        Ok(Self { directory: directory.to_owned(), seal, owned: None })
    }

    /// What the process that owns the store wrote into the lock; `None` if nobody owns it.
    pub fn owner(directory: &Path) -> Option<String> {
        private(directory, true).ok()?;
        let locked = File::open(directory).ok()?;
        let lock = flock(&locked, FlockOperation::NonBlockingLockShared);
        (lock == Err(Errno::WOULDBLOCK)).then(|| signature(directory))
    }

    /// Is there a record, or what may become one? One that nobody can look at counts as having some.
    pub fn holds(directory: &Path) -> bool {
        match std::fs::read_dir(directory) {
            Ok(files) => files.flatten().any(|file| file.file_name() != LOCK),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Writes into the lock who owns the store, for whoever finds it taken.
    pub fn sign(&self, owner: &str) -> io::Result<()> {
        let Some(mut file) = self.owned.as_ref().map(|owned| &owned.owner) else { return Ok(()) };
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(owner.as_bytes())
    }

    /// The newest generation of a record; `None` if there never was one.
    pub fn load(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let Some(entry) = self.newest()?.remove(name) else { return Ok(None) };
        let failed = |source| StoreError::Directory { directory: self.directory.clone(), source };
        let mut record = Vec::new();
        let file = OpenOptions::new().read(true).custom_flags(NOFOLLOW).open(&entry.file).map_err(failed)?;
        file.take(RECORD_MAX).read_to_end(&mut record).map_err(failed)?;
        let plain = self.seal.open(name, entry.version, &record);
        let plain = plain.map_err(|why| StoreError::Record {
            name: name.to_owned(),
            place: entry.file.display().to_string(),
            why,
        })?;
        Ok(Some(Record { version: Version { number: entry.version, tag: 0 }, plain, age: None }))
    }

    /// Where a generation of a record lies.
    pub fn place(&self, name: &str, version: u64) -> String {
        self.directory.join(file_name(name, version)).display().to_string()
    }

    /// Saves a generation, whose number must be new. When this returns, it is durable.
    pub fn save(&self, name: &str, version: u64, plain: &[u8]) -> Result<(), StoreError> {
        let temporary = self.directory.join(format!(".{name}.tmp"));
        let saved = self.write(name, version, plain, &temporary);
        if saved.is_err() {
            // What is left of it is written over by the next save.
            let _ = std::fs::remove_file(&temporary);
        }
        saved.map_err(|source| StoreError::Save {
            name: name.to_owned(),
            directory: self.directory.clone(),
            source,
        })?;
        // The one before stays; an older one that cannot be removed is in nobody's way.
        let mut all = self.generations(name).unwrap_or_default();
        all.truncate(all.len().saturating_sub(2));
        for entry in all {
            let _ = std::fs::remove_file(entry.file);
        }
        Ok(())
    }

    fn write(&self, name: &str, version: u64, plain: &[u8], temporary: &Path) -> io::Result<()> {
        let record = self.seal.seal(name, version, plain).map_err(io::Error::other)?;
        let ours =
            self.owned.as_ref().ok_or_else(|| io::Error::other("the store is only looked at"))?.directory.metadata()?;
        let there = self.directory.metadata()?;
        let place = self.directory.join(file_name(name, version));
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) || place.exists() {
            return Err(io::Error::other("another directory or record stands there now: somebody else writes here"));
        }
        let mut file = options().truncate(true).open(temporary)?;
        file.write_all(&record)?;
        file.sync_all()?;
        std::fs::rename(temporary, place)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes every generation of a record, the newest last: cut short, no older one takes its place. False if there was none.
    pub fn forget(&self, name: &str) -> Result<bool, StoreError> {
        let failed = |source| StoreError::Directory { directory: self.directory.clone(), source };
        let all = self.generations(name)?;
        for entry in &all {
            std::fs::remove_file(&entry.file).map_err(failed)?;
        }
        // One is there only if a save was cut short.
        let _ = std::fs::remove_file(self.directory.join(format!(".{name}.tmp")));
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(!all.is_empty())
    }

    /// Of a record, the oldest first.
    fn generations(&self, name: &str) -> Result<Vec<Entry>, StoreError> {
        let mut all = self.entries()?;
        all.retain(|entry| entry.name == name);
        all.sort_by_key(|entry| entry.version);
        Ok(all)
    }

    /// The newest generation of each record, by name.
    pub fn newest(&self) -> Result<BTreeMap<String, Entry>, StoreError> {
        let mut newest: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in self.entries()? {
            let later = newest.get(&entry.name).is_none_or(|known| known.version < entry.version);
            if later {
                newest.insert(entry.name.clone(), entry);
            }
        }
        Ok(newest)
    }

    fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let failed = |source| StoreError::Directory { directory: self.directory.clone(), source };
        let mut entries = Vec::new();
        for file in std::fs::read_dir(&self.directory).map_err(failed)? {
            let file = file.map_err(failed)?.path();
            let parsed = file.file_name().and_then(|name| name.to_str()).and_then(parse);
            entries.extend(parsed.map(|(name, version)| Entry { name: name.to_owned(), version, file: file.clone() }));
        }
        Ok(entries)
    }
}

/// Empty if there is none: it is still another's.
fn signature(directory: &Path) -> String {
    let mut text = String::new();
    // Security: where root looks, the directory may be another user's.
    let open = OpenOptions::new().read(true).custom_flags(NOFOLLOW | NONBLOCK).open(directory.join(LOCK));
    let read = open.and_then(|file| file.take(200).read_to_string(&mut text));
    read.map_or_else(|_| String::new(), |_| text.trim().to_owned())
}

const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Security: a file of this store is nobody else's from its first instant, and no link.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NOFOLLOW);
    options
}

/// Root may look into anybody's, but not write there: its owner could not write over root's files.
fn private(directory: &Path, looks: bool) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory { directory: directory.to_owned(), source };
    let meta = directory.metadata().map_err(failed)?;
    let user = rustix::process::geteuid();
    let own = meta.uid() == user.as_raw() || looks && user.is_root();
    if meta.is_dir() && own && meta.permissions().mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(StoreError::Open(directory.to_owned()))
    }
}

fn file_name(name: &str, version: u64) -> String {
    format!("{name}.{version:0DIGITS$}")
}

fn parse(file: &str) -> Option<(&str, u64)> {
    let (name, version) = file.rsplit_once('.')?;
    let digits = version.len() >= DIGITS && version.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !name.is_empty() && !name.starts_with('.')).then_some(())?;
    Some((name, version.parse().ok()?))
}
