//! The admin key: made anew at each start, kept in a file that only this user can read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use crate::secret::Secret;

const FILE: &str = "admin.key";

/// A key of 256 random bits, in hexadecimal.
pub fn make() -> io::Result<Secret> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Writes the key into `directory`, which is made if it is missing and refused if others can enter it. Returns the file.
pub fn keep(key: &Secret, directory: &Path) -> io::Result<PathBuf> {
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let meta = directory.symlink_metadata()?;
    let own = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_dir() || !own || meta.permissions().mode() & 0o077 != 0 {
        let why = format!("{} must be a directory of this user with mode 0700", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let (path, new) = (directory.join(FILE), directory.join(format!(".{FILE}.{}", std::process::id())));
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(key.expose().as_bytes())?;
    file.write_all(b"\n")?;
    std::fs::rename(&new, &path)?;
    Ok(path)
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
