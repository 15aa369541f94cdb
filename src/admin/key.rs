//! The admin key: made anew at each start, kept in a file that only this user can read.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Of a key file, in bytes.
const KEY_MAX: u64 = 1024;

/// So many wrong keys in so long make each further one wait.
const WRONG_MAX: usize = 5;
const WRONG_WITHIN: Duration = Duration::from_secs(60);
const WRONG_DELAY: Duration = Duration::from_secs(1);

/// When the last wrong keys came, since boot. Whoever has the right one never waits.
#[derive(Default)]
pub struct WrongKeys(Mutex<VecDeque<Duration>>);

impl WrongKeys {
    /// One more: how long its answer has to wait.
    pub fn count(&self, now: Duration) -> Duration {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(now);
        if last.len() <= WRONG_MAX {
            return Duration::ZERO;
        }
        let lately = last.pop_front().is_some_and(|first| now.saturating_sub(first) < WRONG_WITHIN);
        if lately { WRONG_DELAY } else { Duration::ZERO }
    }
}

/// The file that holds the key of this start; removed with it.
pub struct KeyFile {
    pub path: PathBuf,
    /// Locked as long as the broker runs.
    file: File,
}

/// Writes the key into `directory`, which is made if it is missing and refused if others can enter it. The file is
/// `admin.key`; for a second broker of this user that runs meanwhile, `admin-OTHER.key`.
pub fn keep(key: &Secret, directory: &Path, other: &str) -> io::Result<KeyFile> {
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // A link is fine: systemd makes one of a StateDirectory.
    let meta = directory.metadata()?;
    let own = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_dir() || !own || meta.permissions().mode() & 0o077 != 0 {
        let why = format!("{} must be a directory of this user with mode 0700", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let first = lock(directory.join("admin.key"))?;
    let second = || lock(directory.join(format!("admin-{other}.key")));
    let taken = || io::Error::new(io::ErrorKind::AddrInUse, "another broker keeps its key there");
    let mut kept = first.map_or_else(second, |first| Ok(Some(first)))?.ok_or_else(taken)?;
    kept.file.set_len(0)?;
    kept.file.write_all(format!("{}\n", key.expose()).as_bytes())?;
    Ok(kept)
}

/// The key of the broker that runs there with that `other`; `None` if none does.
///
/// Security: where root looks, the directory may be another user's: what is read is a file of its owner, and no link.
pub fn find(directory: &Path, other: Option<&str>) -> Option<Secret> {
    let owner = directory.metadata().ok()?.uid();
    let names = other.map(|other| format!("admin-{other}.key")).into_iter().chain(["admin.key".to_owned()]);
    names.map(|name| directory.join(name)).find_map(|path| {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let meta = file.metadata().ok().filter(|meta| meta.is_file() && meta.uid() == owner);
        // One that nobody holds is what a broker left that was killed.
        let held = flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
        let mut text = Zeroizing::new(String::new());
        meta.filter(|_| held).and_then(|_| file.take(KEY_MAX).read_to_string(&mut text).ok())?;
        let key = text.trim_end();
        (!key.is_empty()).then(|| Secret::new(key.to_owned()))
    })
}

/// `None` if a running broker holds it.
fn lock(path: PathBuf) -> io::Result<Option<KeyFile>> {
    let open = || {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&path)
    };
    loop {
        let file = open()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let meta = file.metadata()?;
                if meta.uid() != rustix::process::geteuid().as_raw() || meta.permissions().mode() & 0o077 != 0 {
                    let why = format!("{} must be this user's with mode 0600; remove it", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
            Err(e) if e == Errno::WOULDBLOCK => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        // The one who held it may have removed it since it was opened.
        if path.symlink_metadata().is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino())) {
            return Ok(Some(KeyFile { path, file }));
        }
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        // It is of no use to anybody any more; the next start writes over it all the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where a process of this user may keep files while it runs: `$RUNTIME_DIRECTORY` (systemd), `$XDG_RUNTIME_DIR`, `/run` for
/// root, else a private directory below `/tmp`.
#[expect(clippy::disallowed_methods, reason = "the environment is where the system says it")]
pub fn runtime_directory() -> PathBuf {
    let uid = rustix::process::geteuid();
    if let Some(first) = std::env::var_os("RUNTIME_DIRECTORY").and_then(|dirs| std::env::split_paths(&dirs).next()) {
        return first;
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !directory.is_empty() => Path::new(&directory).join("tokenbroker"),
        _ if uid.is_root() => PathBuf::from("/run/tokenbroker"),
        _ => std::env::temp_dir().join(format!("tokenbroker-{}", uid.as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_wrong_key_of_a_minute_waits_and_a_minute_later_none_does() {
        let keys = WrongKeys::default();
        let waits = |at: u64| !keys.count(Duration::from_secs(at)).is_zero();
        assert!((0..5).all(|at| !waits(at)));
        assert!(waits(5) && waits(59) && waits(60));
        assert!(!waits(200));
        assert!(!waits(4000));
    }
}
