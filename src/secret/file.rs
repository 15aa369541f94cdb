//! Writing a secret into a file of the operator's.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::Secret;

/// Puts the secret, and a newline, in the place of what the file holds; readers see the one or the other, whole. Private from
/// its first instant, and durable when this returns. A link stays, and what it leads to is replaced.
pub fn replace(path: &Path, secret: &Secret) -> io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no name of a file"));
    };
    let directory = directory(&path);
    let beside = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || {
        // Left by a process of the same number that was killed.
        let _ = std::fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(secret.expose().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

/// Makes a private file that is not there yet: durable when this returns, and not there after an error.
pub fn create(path: &Path, text: &Secret) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut write = || {
        file.write_all(text.expose().as_bytes())?;
        file.sync_all()?;
        File::open(directory(path))?.sync_all()
    };
    write().inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Where the file lies.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What the file holds, without the newline at its end.
pub fn read(path: &Path) -> io::Result<Secret> {
    let held = Zeroizing::new(std::fs::read_to_string(path)?);
    Ok(Secret::new(held.trim_end_matches(['\r', '\n']).to_owned()))
}
