//! Where a secret is read from: a file, the environment, a command, a systemd credential, or (with a warning) the
//! configuration itself.
//!
//! A source is read again at each use that matters, so that a rotated file is picked up without a restart. Errors name
//! the source, never what it held.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::Secret;

/// A secret is at most this long; a longer one is a mistake in the path.
pub const LENGTH_MAX: u64 = 64 * 1024;
/// A command that prints a secret has this long.
pub const EXEC_TIMEOUT: Duration = Duration::from_secs(10);

/// Stands where a person has to fill something in, as `init` writes it: never a value.
pub const UNFILLED: &str = "FILL-ME-IN";
/// What to do about it.
pub const FILL_IN: &str = "write the value in the place of FILL-ME-IN";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Written in the configuration: accepted with a warning.
    Inline(Secret),
    File(PathBuf),
    Env(String),
    /// Program and arguments; no shell.
    Exec(String, Vec<String>),
    /// A file of that name in systemd's `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// Why a secret could not be had. The text is for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; {hint}")]
pub struct SecretError {
    pub problem: String,
    pub hint: &'static str,
    /// May it be better the next time, without anybody doing anything? Only a command may.
    pub passing: bool,
    /// Is it still [`UNFILLED`]?
    pub unfilled: bool,
}

fn error(problem: String, hint: &'static str) -> SecretError {
    SecretError { problem, hint, passing: false, unfilled: false }
}

impl SecretSource {
    /// Does only reading it tell whether it changed?
    pub fn is_command(&self) -> bool {
        matches!(self, Self::Exec(..))
    }

    /// Reads the secret, which must be text: one trailing newline is stripped, an empty one is an error. Bounded by
    /// [`LENGTH_MAX`] and, for a command, [`EXEC_TIMEOUT`].
    pub async fn read(&self) -> Result<Secret, SecretError> {
        self.text(self.read_bytes().await?)
    }

    /// As [`Self::read`], whatever the bytes.
    pub async fn read_bytes(&self) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        match self {
            Self::Exec(program, arguments) => self.trimmed(exec(program, arguments).await?),
            Self::Inline(_) | Self::File(_) | Self::Env(_) | Self::Credential(_) => self.look_bytes(),
        }
    }

    /// Reads everything that can be read without running a command; for one, says only whether its program is there.
    pub fn look(&self) -> Result<Secret, SecretError> {
        self.text(self.look_bytes()?)
    }

    /// As [`Self::look`], whatever the bytes.
    pub fn look_bytes(&self) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        match self {
            Self::Inline(secret) if secret.is_empty() => {
                Err(error("the secret is empty".into(), "name where it is, such as { file = \"…\" }"))
            }
            Self::Inline(secret) => self.filled(Zeroizing::new(secret.expose().as_bytes().to_vec())),
            Self::File(path) => self.trimmed(file(path)?),
            Self::Env(name) => self.trimmed(environment(name)?),
            Self::Credential(name) => self.trimmed(file(&credential_path(name)?)?),
            Self::Exec(name, _) => program(name).map(|()| Zeroizing::default()),
        }
    }

    /// What was read of this source, as text.
    pub fn text(&self, bytes: Zeroizing<Vec<u8>>) -> Result<Secret, SecretError> {
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            let printed = matches!(self, Self::Exec(..));
            let what = if printed { "printed what is not UTF-8 text" } else { "does not hold UTF-8 text" };
            error(format!("{} {what}", self.described()), "a secret is text")
        })?;
        Ok(Secret::new(text.to_owned()))
    }

    fn trimmed(&self, mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            let (what, hint) = match self {
                Self::Exec(..) => ("printed nothing", "it has to print the secret"),
                _ => ("is empty", "put the secret there"),
            };
            return Err(error(format!("{} {what}", self.described()), hint));
        }
        self.filled(bytes)
    }

    fn filled(&self, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        if bytes.trim_ascii() != UNFILLED.as_bytes() {
            return Ok(bytes);
        }
        let problem = format!("{} is still to be filled in", self.described());
        Err(SecretError { unfilled: true, ..error(problem, FILL_IN) })
    }

    /// Where it is read from, in words; nothing of what is there.
    pub fn described(&self) -> String {
        match self {
            Self::Inline(_) => "the secret".to_owned(),
            Self::File(path) => format!("the file {}", path.display()),
            Self::Env(name) => format!("the environment variable {name}"),
            Self::Exec(program, _) => format!("the command {program:?}"),
            Self::Credential(name) => format!("the credential {name:?}"),
        }
    }

    /// Changes when the file behind the source does; constant for the other kinds. Costs one `stat`.
    pub fn stamp(&self) -> u64 {
        self.path().map_or(0, |path| stamp(&path))
    }

    /// The file behind the source, if there is one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Credential(name) => credential_path(name).ok(),
            _ => None,
        }
    }
}

/// Changes when the file does, or what stands there instead: links are followed.
pub fn stamp(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(meta) = path.metadata() {
        (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let describe = || format!("the file {}", path.display());
    let meta = path
        .metadata()
        .map_err(|e| error(format!("cannot read {}: {e}", describe()), "check the path and its permissions"))?;
    regular(&meta, path)?;
    if meta.len() > LENGTH_MAX {
        return Err(error(format!("{} is larger than 64 KiB", describe()), "a secret is a short text: check the path"));
    }
    let bytes =
        std::fs::read(path).map_err(|e| error(format!("cannot read {}: {e}", describe()), "check its permissions"))?;
    Ok(Zeroizing::new(bytes))
}

/// A directory, a device or a pipe would block or never end.
fn regular(meta: &Metadata, path: &Path) -> Result<(), SecretError> {
    if meta.is_file() {
        Ok(())
    } else {
        Err(error(format!("{} is not a regular file", path.display()), "name the file itself"))
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads secrets from the environment")]
fn environment(name: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    match std::env::var_os(name) {
        Some(value) if !value.is_empty() => Ok(Zeroizing::new(value.into_vec())),
        // An empty one is how many tools write "none".
        _ => Err(error(
            format!("the environment variable {name} is not set or empty"),
            "set it for the broker's process, or use { file = \"…\" }",
        )),
    }
}

#[expect(clippy::disallowed_methods, reason = "systemd names the directory in the environment")]
fn credential_path(name: &str) -> Result<PathBuf, SecretError> {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) => Ok(Path::new(&directory).join(name)),
        None => Err(error(
            format!("no systemd credentials here, so {name:?} cannot be read"),
            "start the broker from a unit with LoadCredential=, or use { file = \"…\" }",
        )),
    }
}

/// Is there such a program, as a path or in `PATH`?
#[expect(clippy::disallowed_methods, reason = "PATH is how a program is found")]
fn program(name: &str) -> Result<(), SecretError> {
    let found = if name.contains('/') {
        Path::new(name).is_file()
    } else {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
    };
    if found { Ok(()) } else { Err(error(format!("the command {name:?} was not found"), "give its full path")) }
}

/// What systemd tells the broker alone (sd_listen_fds(3), sd_notify(3)).
pub const FOR_THE_BROKER: [&str; 4] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET"];

async fn exec(program: &str, arguments: &[String]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |why: String| SecretError {
        problem: format!("the command {program:?} {why}"),
        hint: "run it by hand to see why; its output is never shown here",
        passing: true,
        unfilled: false,
    };
    let mut command = Command::new(program);
    for name in FOR_THE_BROKER {
        command.env_remove(name);
    }
    let mut child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("could not be started: {e}")))?;
    let Some(stdout) = child.stdout.take() else { return Err(failed("has no output".into())) };
    let finished = tokio::time::timeout(EXEC_TIMEOUT, async {
        let mut out = Zeroizing::new(Vec::with_capacity(1024));
        stdout.take(LENGTH_MAX + 1).read_to_end(&mut out).await?;
        Ok::<_, std::io::Error>((out, child.wait().await?))
    });
    let (out, status) = match finished.await {
        Ok(Ok(done)) => done,
        Ok(Err(e)) => return Err(failed(format!("could not be read: {e}"))),
        Err(_) => return Err(failed("did not end within 10 s".into())),
    };
    // A command whose output nobody reads any more fails for that alone, so the length comes first.
    if out.len() as u64 > LENGTH_MAX {
        return Err(failed("printed more than 64 KiB".into()));
    }
    if !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_end_is_given_up_and_one_that_prints_too_much_is_refused() {
        let exec = |program: &str, argument: &str| SecretSource::Exec(program.into(), vec![argument.into()]);
        let error = exec("sleep", "60").read().await.unwrap_err();
        assert!(error.problem.ends_with("did not end within 10 s"), "{error}");
        tokio::time::resume();
        let error = exec("cat", "/dev/zero").read().await.unwrap_err();
        assert!(error.problem.ends_with("printed more than 64 KiB"), "{error}");
    }

    #[tokio::test]
    async fn one_newline_is_stripped_and_no_more() {
        for (printed, kept) in [("a\\n", "a"), ("a\\r\\n", "a"), ("a\\n\\n", "a\n"), (" a ", " a ")] {
            let source = SecretSource::Exec("printf".into(), vec![printed.into()]);
            assert_eq!(source.read().await.unwrap().expose(), kept, "{printed:?}");
        }
    }
}
