//! `secret`: the client secrets at the vendor, and the one in use here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::alone::Alone;
use super::ask::Operator;
use super::login::no_token;
use super::{Cli, block_on, complain, print, stdin, store};
use crate::clock::{Clock, rfc3339};
use crate::config::Token;
use crate::secret::file;
use crate::token::secrets::{Asked, KeptSecrets, Progress, Secrets, Verb, record};
use crate::units::{Date, date};

/// Between two looks at a rotation.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A rotation that says nothing new for so long is not waited for.
const QUIET_MAX: Duration = Duration::from_secs(1800);
/// How long the old secret may stay for the command to wait until it is gone.
const GRACE_WAITED: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read the access token of a person who may do this from stdin
    #[arg(long, global = true)]
    admin_token_stdin: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Which the vendor has, and which one is in use; no values
    List {
        /// Its name in the configuration
        token: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a new one in the place of the one in use
    Rotate {
        /// Its name in the configuration
        token: String,
        /// The vendor's id of the one in use, where the list does not tell
        #[arg(long, value_name = "ID")]
        current: Option<String>,
        /// One that nobody uses, to be deleted where there is no room for another
        #[arg(long, value_name = "ID")]
        remove: Option<String>,
        /// One that was made by a rotation whose answer was lost
        #[arg(long, value_name = "ID")]
        ours: Option<String>,
    },
    /// Use one that was made at the vendor by hand; its value comes on stdin
    Import {
        /// Its name in the configuration
        token: String,
        /// The vendor's id of it
        #[arg(long)]
        id: Option<String>,
        /// When it ends
        #[arg(long, value_name = "DATE", value_parser = end)]
        expires: Option<Timestamp>,
    },
    /// Delete one that nobody uses
    Delete {
        /// Its name in the configuration
        token: String,
        /// Its id, as `list` has it
        id: String,
    },
    /// Write the one in use into a private file
    Export {
        /// Its name in the configuration
        token: String,
        /// Replaced as a whole
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

fn end(text: &str) -> Result<Timestamp, String> {
    date(text).map(|Date(end)| end).map_err(str::to_owned)
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let done = match &args.command {
        Command::List { token, .. }
        | Command::Rotate { token, .. }
        | Command::Import { token, .. }
        | Command::Delete { token, .. }
        | Command::Export { token, .. } => match Client::of(cli, token) {
            Ok(client) => client.and_then(|client| client.run(args)),
            Err(code) => return code,
        },
    };
    done.unwrap_or_else(|text| {
        complain(&text);
        ExitCode::FAILURE
    })
}

/// Whose secrets they are, through the running broker if there is one.
struct Client<'c> {
    cli: &'c Cli,
    token: Arc<Token>,
    operator: Operator,
    durable: bool,
}

impl<'c> Client<'c> {
    fn of(cli: &'c Cli, token: &str) -> Result<Result<Self, String>, ExitCode> {
        let (_, _, config, _) = cli.load()?;
        let operator = cli.operator()?;
        let found = config.tokens.get(token).cloned().ok_or_else(|| no_token(token, &config));
        let durable = config.store.is_some();
        Ok(found.and_then(|token| {
            let none = format!("token {} has no client secret", token.name);
            if token.client_secrets.is_empty() { Err(none) } else { Ok(Self { cli, token, operator, durable }) }
        }))
    }

    fn run(&self, args: &Args) -> Result<ExitCode, String> {
        let admin_token = |wanted| if wanted { stdin("access token").map(Some) } else { Ok(None) };
        if args.admin_token_stdin && matches!(args.command, Command::Import { .. } | Command::Export { .. }) {
            return Err("--admin-token-stdin is of no use here: nobody but the token server is asked".to_owned());
        }
        let admin_token = admin_token(args.admin_token_stdin)?;
        match &args.command {
            Command::List { json, .. } => {
                let listed = self.ask(Verb::List, Asked { admin_token, ..Asked::default() })?;
                Ok(print(&if *json { format!("{:#}\n", listed["secrets"]) } else { lines(&listed["secrets"]) }))
            }
            Command::Rotate { current, remove, ours, .. } => {
                let (current, remove, ours) = (current.clone(), remove.clone(), ours.clone());
                self.follow(Verb::Rotate, Asked { admin_token, current, remove, ours, ..Asked::default() })
            }
            Command::Import { id, expires, .. } => {
                let secret = Some(stdin("client secret")?);
                self.follow(Verb::Import, Asked { id: id.clone(), expires: *expires, secret, ..Asked::default() })
            }
            Command::Delete { id, .. } => {
                self.ask(Verb::Delete, Asked { admin_token, id: Some(id.clone()), ..Asked::default() })?;
                Ok(print(&format!("{id}: deleted\n")))
            }
            Command::Export { to, .. } => self.export(to),
        }
    }

    fn ask(&self, verb: Verb, asked: Asked) -> Result<Value, String> {
        if self.operator.runs() {
            return self.post(verb.as_str(), &json!(asked));
        }
        block_on(async {
            let alone = self.alone().await?;
            let (done, saved) = alone.until(async |part| told(&part.secrets, verb, asked).await).await;
            let done = done?;
            saved.map(|()| done)
        })?
    }

    /// Has it begun, and says how it goes on until the new secret is in use.
    fn follow(&self, verb: Verb, asked: Asked) -> Result<ExitCode, String> {
        let mut report = Report { token: &self.token, last: String::new(), changed: Instant::now() };
        let done = if self.operator.runs() {
            self.post(verb.as_str(), &json!(asked))?;
            loop {
                let progress = serde_json::from_value(self.post("progress", &json!({}))?);
                let progress: Progress =
                    progress.map_err(|_| "the broker's answer is not understood: is it of another version?")?;
                if let Some(done) = report.look(&progress) {
                    break done;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        } else if !self.durable {
            return Err(
                "no broker runs with this configuration, and the store is in memory: a rotated secret would be \
                        lost; set [store] kind = \"file\", with path and key"
                    .to_owned(),
            );
        } else {
            block_on(async {
                let alone = self.alone().await?;
                let work = async |part: &crate::app::TokenPart| {
                    told(&part.secrets, verb, asked).await?;
                    loop {
                        if let Some(done) = report.look(&part.secrets.progress()) {
                            return done;
                        }
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                };
                let (done, saved) = alone.until(work).await;
                done.and(saved)
            })?
        };
        done.map(|()| ExitCode::SUCCESS)
    }

    async fn alone(&self) -> Result<Alone, String> {
        let (_, _, config, _) = self.cli.load().map_err(|_| "the configuration cannot be read any more")?;
        Alone::of_client(config, &self.token.name).await
    }

    fn post(&self, verb: &str, body: &Value) -> Result<Value, String> {
        let path = format!("/api/secrets/{}/{verb}", self.token.name);
        let answer = self.operator.post(&path, Some(body)).map_err(|failure| failure.text)?;
        serde_json::from_str(&answer.body).map_err(|_| "the broker's answer is cut off".to_owned())
    }

    /// From the store, which may belong to a broker that runs.
    fn export(&self, to: &Path) -> Result<ExitCode, String> {
        let (_, _, config, _) = self.cli.load().map_err(|_| "the configuration cannot be read any more")?;
        let none = || "no rotated client secret is kept: the configured one is in use".to_owned();
        let kept = config.store.as_ref().ok_or_else(none)?;
        let look = store::look(kept, store::seal(kept)?)?;
        let found = block_on(look.load(&record(&self.token)))?.map_err(|e| e.to_string())?.ok_or_else(none)?;
        let kept: KeptSecrets = serde_json::from_slice(&found.plain).map_err(|e| e.to_string())?;
        let held = kept.record.serving();
        if !kept.is_rotated() {
            return Err(none());
        }
        file::replace(to, &held.secret()).map_err(|e| format!("{}: {e}", to.display()))?;
        let id = held.id.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
        Ok(print(&format!("{}: the client secret in use{id}\n", to.display())))
    }
}

async fn told(secrets: &Secrets, verb: Verb, asked: Asked) -> Result<Value, String> {
    let reply = secrets.ask(verb, asked)?;
    reply.await.unwrap_or_else(|_| Err("it broke off inside the broker: report this".to_owned()))
}

/// What is said of a rotation, each thing once.
struct Report<'t> {
    token: &'t Token,
    last: String,
    changed: Instant,
}

impl Report<'_> {
    /// `None`: it goes on.
    fn look(&mut self, progress: &Progress) -> Option<Result<(), String>> {
        let name = &self.token.name;
        if let Some(problem) = &progress.problem {
            let fix = progress.fix.as_deref().unwrap_or("see the log");
            let said = progress.said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
            return Some(Err(format!("{name}: {problem}{said}; {fix}")));
        }
        let id = progress.in_use.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
        let goes = progress.old_goes_at.map(rfc3339).unwrap_or_default();
        let line = match progress.state.as_str() {
            "planned" => "looking at what the vendor has".to_owned(),
            "creating" => "another secret is asked for".to_owned(),
            "created" => "it is there, and kept".to_owned(),
            "verifying" => {
                let said = progress.said.as_ref().map(|said| format!("; not yet: {said}")).unwrap_or_default();
                format!("it is tried: {} of {} times{said}", progress.verified, progress.verify_times)
            }
            "swapped" => format!("the new secret{id} is in use; the old one goes at {goes}"),
            "deleting" => format!("the new secret{id} is in use; the old one is deleted"),
            "aborting" => "the new one is given up, and deleted".to_owned(),
            _ => format!("the new secret{id} is the only one in use"),
        };
        if line != self.last {
            print(&format!("{name}: {line}\n"));
            (self.last, self.changed) = (line, Instant::now());
        }
        if self.changed.elapsed() > QUIET_MAX {
            return Some(Err(format!("{name}: nothing has changed for 30 min; see how it stands: tokenbroker status")));
        }
        match progress.state.as_str() {
            "stable" => Some(Ok(())),
            "swapped" if goes_late(progress) => {
                let text = format!("{name}: the running broker deletes it then, or the next `secret rotate {name}`\n");
                print(&text);
                Some(Ok(()))
            }
            _ => None,
        }
    }
}

/// Does the old one stay for longer than anybody waits?
fn goes_late(progress: &Progress) -> bool {
    let soon = Clock::system().now().wall.checked_add(GRACE_WAITED).unwrap_or(Timestamp::MAX);
    progress.old_goes_at.is_none_or(|goes| goes > soon)
}

/// A line for each, in columns.
fn lines(listed: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "-".to_owned(),
    };
    let mut rows = vec![["id", "name", "hint", "starts", "ends", "days left", ""].map(str::to_owned)];
    for one in listed.as_array().into_iter().flatten() {
        let mut marks = Vec::new();
        match one["in_use"].as_bool() {
            Some(true) => marks.push("in use"),
            Some(false) => {}
            None => marks.push("in use?"),
        }
        if one["deleted"] == true {
            marks.push("deleted");
        }
        let told = ["id", "name", "hint", "starts_at", "expires_at", "days_left"].map(|key| word(&one[key]));
        let [id, name, hint, starts, ends, days] = told;
        rows.push([id, name, hint, starts, ends, days, marks.join(", ")]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
