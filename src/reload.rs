//! What changes under a running broker: its configuration when somebody asks, the files that it names by themselves.
//!
//! Both come down to one thing: the configuration is checked as at the start, and the difference is applied. A configuration
//! that is wrong changes nothing. A file that is wrong leaves what was read of it before, while the others are followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::app::Plan;
use crate::config::{self, Config, Report};
use crate::expiry::{Expiring, Kind};
use crate::secret::source;
use crate::server::Running;
use crate::token::cache::State;

/// How often the files are looked at. A directory watch would tell a little earlier, and not for every kind of mount.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Files that change one after the other, such as a certificate and its key, are read once they stand still for so long.
const STILL: Duration = Duration::from_millis(200);
/// And if they never do, after so many looks.
const STILL_LOOKS_MAX: u32 = 8;
/// A file system that does not answer holds nothing up for longer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// What could not be used is tried, and complained of, again.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The configuration in force, and how its files looked when they were read.
pub struct Reload {
    /// Empty if there is no file.
    pub path: PathBuf,
    text: Zeroizing<String>,
    stamps: BTreeMap<PathBuf, u64>,
    /// Why the configuration on the disk is not in force.
    refused: Vec<String>,
    /// Which of its files are not in use, and when that was said.
    broken: Vec<String>,
    told: Option<Instant>,
    pub loaded_at: Timestamp,
}

impl Reload {
    pub fn new(path: PathBuf, text: Zeroizing<String>, loaded_at: Timestamp) -> Self {
        // Without stamps, the files count as changed: they may have been, since they were read.
        Self { path, text, stamps: BTreeMap::new(), refused: Vec::new(), broken: Vec::new(), told: None, loaded_at }
    }

    /// Waits until a file that the configuration names has changed.
    pub async fn changed(&mut self, config: &Config) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut stamps = stamps(config).await;
            if stamps == self.stamps && self.told.is_none_or(|told| told.elapsed() < TRY_AGAIN) {
                continue;
            }
            for _ in 0..STILL_LOOKS_MAX {
                let before = stamps;
                tokio::time::sleep(STILL).await;
                stamps = self::stamps(config).await;
                if stamps == before {
                    break;
                }
            }
            self.stamps = stamps;
            return;
        }
    }

    /// Reads the configuration again, because somebody asked. `Err` has every reason why it is not in force.
    pub async fn configuration(&mut self, running: &mut Running) -> Result<(), Vec<String>> {
        let done = self.read_again(running).await;
        running.app.metrics.reloaded(done.is_ok());
        match &done {
            Ok(()) => (self.refused, self.broken, self.told) = (Vec::new(), Vec::new(), None),
            Err(lines) => {
                for line in lines {
                    error!("{line}");
                }
                error!(config = %self.path.display(), "not reloaded: what was running goes on");
                self.refused.clone_from(lines);
            }
        }
        done
    }

    async fn read_again(&mut self, running: &mut Running) -> Result<(), Vec<String>> {
        if self.path.as_os_str().is_empty() {
            return Err(vec!["there is no configuration file: end this, and begin again with other flags".to_owned()]);
        }
        let (path, now) = (self.path.clone(), running.app.clock.now().wall);
        let read = move || {
            let text = config::text(&path).map_err(|report| lines(&report))?;
            match config::check(&path, &text, now) {
                (Some(config), report) => Ok((text, config, report)),
                (None, report) => Err(lines(&report)),
            }
        };
        let (text, config, report) = blocking(read).await?;
        fixed(&running.parts.config, &config)?;
        for warning in &report.warnings {
            warn!("{}", report.line(warning));
        }
        let plan = plan(running, config, &BTreeSet::new()).await?;
        if !plan.wrong.is_empty() {
            return Err(plan.wrong);
        }
        apply(running, plan).await?;
        // A server that refused may have been mended meanwhile: whoever reloads asks for another try.
        running.parts.tokens.values().for_each(|part| part.slot.reconsider());
        // The files count as changed: they may have been, since they were read.
        (self.text, self.loaded_at, self.stamps) = (text, now, BTreeMap::new());
        info!(config = %self.path.display(), "reloaded");
        Ok(())
    }

    /// Reads the files again that the configuration in force names.
    pub async fn files(&mut self, running: &mut Running) {
        // Their own tasks read the secrets of tokens, at each use.
        running.parts.tokens.values().for_each(|part| part.slot.look());
        let (path, text, now) = (self.path.clone(), self.text.clone(), running.app.clock.now().wall);
        let parts = Arc::clone(&running.parts);
        let read = move || Ok(config::reread(&path, &text, now, &parts.config.certificates));
        let mut wrong = Vec::new();
        let done = match blocking(read).await {
            Ok((Some(config), report)) => {
                wrong = lines(&report);
                let refused = report.problems.iter().map(|problem| problem.key.clone()).collect();
                match plan(running, config, &refused).await {
                    Ok(mut plan) => {
                        wrong.append(&mut plan.wrong);
                        apply(running, plan).await
                    }
                    Err(lines) => Err(lines),
                }
            }
            Ok((None, report)) => Err(lines(&report)),
            Err(lines) => Err(lines),
        };
        let changed = *done.as_ref().unwrap_or(&false);
        wrong.extend(done.err().into_iter().flatten());
        if changed || !wrong.is_empty() {
            running.app.metrics.reloaded(wrong.is_empty());
        }
        // The same again only after a while.
        if wrong != self.broken || self.told.is_none_or(|told| told.elapsed() >= TRY_AGAIN) {
            for line in &wrong {
                error!("{line}; what was read before stays in use");
            }
            self.told = (!wrong.is_empty()).then(Instant::now);
        }
        if changed {
            info!("changed files are in use");
        }
        self.broken = wrong;
    }

    /// Why what is on the disk is not in force or in use; `None` if it is.
    pub fn error(&self) -> Option<String> {
        let lines: Vec<_> = self.refused.iter().chain(&self.broken).map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// What a running broker cannot change.
fn fixed(before: &Config, after: &Config) -> Result<(), Vec<String>> {
    let tables = [
        ("store", before.store != after.store),
        ("admin", before.admin != after.admin),
        ("limits", before.limits != after.limits),
    ];
    let changed = tables.iter().filter(|(_, changed)| *changed);
    let lines: Vec<_> = changed.map(|(table, _)| format!("[{table}] is another one: that needs a restart")).collect();
    if lines.is_empty() { Ok(()) } else { Err(lines) }
}

async fn plan(running: &Running, mut config: Config, refused: &BTreeSet<String>) -> Result<Plan, Vec<String>> {
    config.narrow(running.parts.config.only.as_deref());
    running.app.plan(config, Some(&running.parts), refused).await.map_err(|e| vec![e.to_string()])
}

/// Applies the difference; false if there is none.
async fn apply(running: &mut Running, plan: Plan) -> Result<bool, Vec<String>> {
    let (before, app) = (Arc::clone(&running.parts), Arc::clone(&running.app));
    running.change(plan).await.map_err(|e| vec![e.to_string()])?;
    let after = &running.parts;
    for name in before.tokens.keys().filter(|name| !after.tokens.contains_key(*name)) {
        app.metrics.forget_token(name, &State::ALL);
    }
    let still = |one: &Expiring| after.config.expiring.iter().any(|o| (o.kind, &o.table) == (one.kind, &one.table));
    for one in before.config.expiring.iter().filter(|one| !still(one)) {
        match one.kind {
            Kind::Certificate => app.metrics.certificate(one.name(), None),
            Kind::Ca => app.metrics.ca(&one.table, None),
            Kind::Secret | Kind::RefreshToken => {}
        }
    }
    let tokens = difference("token", &before.tokens, &after.tokens);
    let routes = difference("route", &before.routes, &after.routes);
    Ok(tokens | routes)
}

/// Says what is new, gone or not what it was; false if nothing is.
fn difference<T>(what: &str, before: &BTreeMap<String, Arc<T>>, after: &BTreeMap<String, Arc<T>>) -> bool {
    let mut any = false;
    for (name, part) in after {
        let how = match before.get(name) {
            None => "new",
            Some(old) if !Arc::ptr_eq(old, part) => "changed",
            Some(_) => continue,
        };
        info!("{what} {name}: {how}");
        any = true;
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        info!("{what} {name}: gone");
        any = true;
    }
    any
}

async fn stamps(config: &Config) -> BTreeMap<PathBuf, u64> {
    let files = config.files.clone();
    let stamp = move || files.into_iter().map(|file| (file.clone(), source::stamp(&file))).collect();
    // Without an answer, everything counts as changed.
    let stamps = tokio::time::timeout(READ_TIMEOUT, tokio::task::spawn_blocking(stamp)).await;
    stamps.ok().and_then(Result::ok).unwrap_or_default()
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Vec<String>> + Send + 'static,
) -> Result<T, Vec<String>> {
    let broken = |_| vec!["the reading broke off inside the broker: report this".to_owned()];
    let late = |_| vec![format!("the files could not be read within {} s", READ_TIMEOUT.as_secs())];
    tokio::time::timeout(READ_TIMEOUT, tokio::task::spawn_blocking(read)).await.map_err(late)?.map_err(broken)?
}

fn lines(report: &Report) -> Vec<String> {
    report.problems.iter().map(|problem| report.line(problem)).collect()
}
