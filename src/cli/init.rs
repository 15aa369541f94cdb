//! `init`: starter files for a dialect, with everything in them but what only a person knows. Never writes over anything.

mod places;
mod starter;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zeroize::Zeroizing;

use self::places::Place;
use self::starter::Starter;
use super::{complain, dialects, print};
use crate::secret::Secret;
use crate::secret::source::UNFILLED;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Built-in dialects: a token and a route for each; oauth2 when not given
    #[arg(value_name = "DIALECT")]
    dialects: Vec<String>,
    /// For docker compose: a compose.yaml beside the configuration
    #[arg(long, group = "place")]
    compose: bool,
    /// For Kubernetes: manifests with the configuration in them
    #[arg(long, group = "place")]
    kubernetes: bool,
    /// For systemd: a service beside the configuration, which belongs in /etc/tokenbroker
    #[arg(long, group = "place")]
    systemd: bool,
    /// The folder to write to
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// A file or folder to be made.
struct Made {
    /// In the folder that is written to.
    path: PathBuf,
    /// `None` for a folder, which is private.
    text: Option<Zeroizing<String>>,
    mode: u32,
}

impl Made {
    fn folder(path: &str) -> Self {
        Self { path: path.into(), text: None, mode: 0o700 }
    }

    /// Holds nothing secret: whoever runs the broker may be another user.
    fn file(path: &str, text: String) -> Self {
        Self { path: path.into(), text: Some(text.into()), mode: 0o644 }
    }

    fn private(path: &str, text: impl Into<Zeroizing<String>>) -> Self {
        Self { path: path.into(), text: Some(text.into()), mode: 0o600 }
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(&self.path);
        let Some(text) = &self.text else { return DirBuilder::new().mode(self.mode).create(path) };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn remove(&self, dir: &Path) {
        let path = dir.join(&self.path);
        let _ = if self.text.is_some() { std::fs::remove_file(path) } else { std::fs::remove_dir(path) };
    }
}

pub(super) fn main(args: &Args) -> ExitCode {
    let names = if args.dialects.is_empty() { vec!["oauth2".to_owned()] } else { args.dialects.clone() };
    let place = match (args.compose, args.kubernetes, args.systemd) {
        (true, ..) => Place::Compose,
        (_, true, _) => Place::Kubernetes,
        (.., true) => Place::Systemd,
        _ => Place::Here,
    };
    let mut starters = Vec::new();
    for name in &names {
        if starters.iter().any(|known: &Starter| known.dialect == *name) {
            complain(&format!("{name} is named twice"));
            return ExitCode::from(2);
        }
        match Starter::new(name, starters.len(), place) {
            Some(starter) => starters.push(starter),
            None => {
                complain(&dialects::unknown(name));
                return ExitCode::from(2);
            }
        }
    }
    let done = Secret::random().map_err(|e| e.to_string()).and_then(|key| {
        // Security: into the private file that holds it from now on.
        let made = place.files(&starters, key.expose());
        write(&args.dir, &made)?;
        Ok(made)
    });
    match done {
        Ok(made) => print(&told(&args.dir, &made, &place.commands(&args.dir, &starters))),
        Err(text) => {
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

/// All or nothing.
fn write(dir: &Path, made: &[Made]) -> Result<(), String> {
    let there = made.iter().filter(|one| dir.join(&one.path).symlink_metadata().is_ok());
    let there: Vec<_> = there.map(|one| shown(dir, &one.path)).collect();
    if !there.is_empty() {
        let there = there.join(", ");
        return Err(format!("nothing was written, for there is already: {there}; name another folder with --dir"));
    }
    std::fs::create_dir_all(dir)
        .map_err(|e| format!("nothing was written: {}: {e}; choose another folder with --dir", dir.display()))?;
    for (at, one) in made.iter().enumerate() {
        if let Err(error) = one.write(dir) {
            // What was in the way since is not ours.
            let ours = if error.kind() == io::ErrorKind::AlreadyExists { &made[..at] } else { &made[..=at] };
            ours.iter().rev().for_each(|one| one.remove(dir));
            return Err(format!("nothing was written: {}: {error}", shown(dir, &one.path)));
        }
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| format!("{}: {e}", dir.display()))
}

fn shown(dir: &Path, path: &Path) -> String {
    if dir == Path::new(".") { path.display().to_string() } else { dir.join(path).display().to_string() }
}

/// What was written, what is to be filled in, what comes next.
fn told(dir: &Path, made: &[Made], commands: &[String]) -> String {
    let mut text = "Written:\n".to_owned();
    for one in made {
        let slash = if one.text.is_none() { "/" } else { "" };
        text.push_str(&format!("  {}{slash}\n", shown(dir, &one.path)));
    }
    text.push_str("\nTo be filled in, where it says FILL-ME-IN:\n");
    for one in made {
        for (at, line) in one.text.iter().flat_map(|text| text.lines()).enumerate() {
            if line.contains(UNFILLED) && !line.starts_with('#') {
                let line = if line == UNFILLED { "" } else { line.trim() };
                let filled = format!("  {}:{}: {line}", shown(dir, &one.path), at + 1);
                text.push_str(filled.trim_end_matches([':', ' ']));
                text.push('\n');
            }
        }
    }
    text.push_str("\nThen:\n");
    for command in commands {
        text.push_str(&format!("  {command}\n"));
    }
    text
}
