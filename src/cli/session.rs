//! `try`: a session without a file. The flags make a configuration, which is checked as a file would be, and the broker runs on it
//! until Ctrl-C.

mod draft;
mod prompt;
mod save;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::oneshot;
use toml::{Table, Value};
use tracing::warn;
use zeroize::Zeroizing;

use self::draft::{Draft, NAME, inline};
use self::save::Saved;
use super::beside::{self, Not, Started, Up};
use super::exec::is_used_up;
use super::login::in_browser;
use super::{Cli, LogFormat, complain, print};
use crate::admin::Order;
use crate::clock::Clock;
use crate::config::{self, Config, Limits, Listen, Route, Token};
use crate::oauth::file::Grant;
use crate::secret::Secret;
use crate::secret::source::SecretSource;
use crate::signal::{Passed, Stop};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The API, such as https://api.example.com
    url: String,
    /// The client's name at the vendor
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The token endpoint; the dialect's when not given
    #[arg(long, value_name = "URL")]
    token_url: Option<String>,
    /// How the vendor differs; `tokenbroker dialects` lists them, oauth2 when not given
    #[arg(long, value_name = "NAME")]
    dialect: Option<String>,
    /// The grant; the dialect's when not given
    #[arg(long)]
    grant: Option<String>,
    /// What the token is to permit, a word; may be given more than once
    #[arg(long, value_name = "WORD")]
    scope: Vec<String>,
    /// Log in with a browser: the grant authorization_code
    #[arg(long)]
    login: bool,
    /// The page where a person logs in; the dialect's when not given
    #[arg(long, value_name = "URL")]
    authorize_url: Option<String>,
    /// Where a login comes back to, as it is registered; a free port of 127.0.0.1 when not given
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<String>,
    /// The client certificate for the token server, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Any other key of the token, such as params.audience=…, or of the route, such as route.path=…; of a secret only where it
    /// is read from, such as client_secret.file=…
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Read the secrets that are missing from stdin, a line each. When not given, TOKENBROKER_CLIENT_SECRET (_PASSWORD, …) has
    /// them, or they are asked for on the terminal
    #[arg(long)]
    secret_stdin: bool,
    /// Where to listen; a free port of 127.0.0.1 when not given
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Keep the configuration in a new file, and the secrets that were asked for in private files beside it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// A secret that was asked for.
struct Asked {
    /// Of the token.
    key: Vec<String>,
    secret: Secret,
}

/// Why there is no session: what is wrong with the flags, what cannot be done, or that nobody wants it any more.
enum Never {
    Wrong(String),
    Failed(String),
    GivenUp,
}

impl From<String> for Never {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let session = match Session::of(args) {
        Ok(session) => session,
        Err(Never::GivenUp) => return ExitCode::SUCCESS,
        Err(Never::Wrong(text)) => {
            complain(&text);
            return ExitCode::from(2);
        }
        Err(Never::Failed(text)) => {
            complain(&text);
            return ExitCode::FAILURE;
        }
    };
    cli.start_logging_as(Some(cli.log_format.unwrap_or(LogFormat::Text)));
    session.run()
}

/// What stands for a secret that is not known yet.
fn placeholder() -> Value {
    Value::from("to-be-asked-for")
}

/// A session that can begin.
struct Session {
    path: PathBuf,
    text: Zeroizing<String>,
    config: Config,
    warnings: Vec<String>,
    saved: Option<Saved>,
}

impl Session {
    fn of(args: &Args) -> Result<Self, Never> {
        let mut draft = Draft::of(args).map_err(|lines| lines.join("\n"))?;
        // Before anybody types a secret.
        checked(&draft, Path::new(""), &draft.text(|_| placeholder()))?;
        let asked = secrets(&mut draft, args.secret_stdin)?;
        let saved = args.save.as_deref().map(|file| save::write(file, &mut draft, &asked)).transpose()?;
        let (path, text) = match &saved {
            Some(saved) => {
                let unread = |report: config::Report| draft.problems(&report).join("\n");
                (saved.file.clone(), config::text(&saved.file).map_err(unread)?)
            }
            None => {
                let value = |key: &[String]| {
                    let known = asked.iter().find(|one| one.key == key);
                    known.map_or_else(|| environment(key), |one| inline(&one.secret))
                };
                (PathBuf::new(), draft.text(value))
            }
        };
        let (mut config, warnings) = checked(&draft, &path, &text)?;
        // Another broker may have the usual port.
        config.admin.listen = Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.admin.inspector = true;
        Ok(Self { path, text, config, warnings, saved })
    }

    fn run(self) -> ExitCode {
        let Self { path, text, config, warnings, mut saved } = self;
        for warning in &warnings {
            warn!("{warning}");
        }
        let token = config.tokens.get(NAME).cloned();
        if token.as_ref().is_some_and(|token| is_used_up(&config, token)) {
            warn!(
                "this session may use up the refresh token, and the next one needs another; --save keeps what follows on it"
            );
        }
        let (limits, route) = (config.limits.clone(), config.routes.get(NAME).cloned());
        let code = beside::run((path, text, config), async |started: Started, signals: &mut Passed| {
            match Box::pin(begin(started, signals, token, limits)).await {
                Ok(up) => {
                    saved.iter_mut().for_each(|saved| saved.kept = true);
                    let file = saved.as_ref().map(|saved| saved.file.as_path());
                    // Where nobody reads it, the broker runs all the same.
                    let _ = route.map(|route| print(&introduction(&up, &route, file)));
                    (ExitCode::SUCCESS, Stop::Signal(signals.end().await.name))
                }
                Err(Not::Came(came)) => (ExitCode::SUCCESS, Stop::Signal(came.name)),
                Err(Not::Ready(text)) => {
                    complain(&text);
                    (ExitCode::FAILURE, Stop::Done)
                }
            }
        });
        if let Some(mut saved) = saved.filter(|saved| !saved.kept) {
            saved.kept = saved.is_needed();
            let what = if saved.kept { "is kept: go on with tokenbroker -c and its name" } else { "is not kept" };
            complain(&format!("{} {what}", saved.file.display()));
        }
        code
    }
}

/// The broker, once it has a token; a person logs in first where that is the grant.
async fn begin(started: Started, signals: &mut Passed, token: Option<Arc<Token>>, limits: Limits) -> Result<Up, Not> {
    let up = Up::wait(started, signals).await?;
    if let Some(token) = token.filter(|token| token.grant == Grant::AuthorizationCode) {
        tokio::select! {
            done = Box::pin(log_in(&up, &token, limits)) => done.map_err(Not::Ready)?,
            came = signals.end() => return Err(Not::Came(came)),
        }
    }
    up.ready(|_| true, signals).await?;
    Ok(up)
}

async fn log_in(up: &Up, token: &Token, limits: Limits) -> Result<(), String> {
    let code = in_browser(token, limits).await?;
    let (reply, done) = oneshot::channel();
    // The broker is there as long as this is.
    let _ = up.admin.orders.send(Order::Login(token.name.clone(), code, reply)).await;
    match done.await {
        Ok(Some(done)) => done.map_err(|error| error.to_string()),
        _ => Err("the login could not be finished: log in again".to_owned()),
    }
}

/// Checks the file that the flags make, as `check` does: what came of it, and warnings.
fn checked(draft: &Draft, path: &Path, text: &str) -> Result<(Config, Vec<String>), String> {
    let (config, report) = config::check(path, text, Clock::system().now().wall);
    config.map(|config| (config, draft.warnings(&report))).ok_or_else(|| draft.problems(&report).join("\n"))
}

/// Asks for every secret that no flag and no variable names.
fn secrets(draft: &mut Draft, stdin: bool) -> Result<Vec<Asked>, Never> {
    let (mut asked, mut missing) = (Vec::new(), Vec::new());
    for key in draft.lacking.clone() {
        if SecretSource::Env(variable(&key)).look_bytes().is_ok() {
            continue;
        }
        let name = key.join(".");
        let answer = if stdin { Some(prompt::read()) } else { prompt::ask(&name) };
        let secret = match answer {
            None => {
                missing.push(format!(
                    "{name} is missing, and there is no terminal to ask for it: set {}, or give it on stdin with \
                     --secret-stdin, or name its file with --set {name}.file=PATH",
                    variable(&key)
                ));
                continue;
            }
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => return Err(Never::GivenUp),
            Some(Err(error)) => return Err(Never::Wrong(format!("{name}: {error}"))),
            Some(Ok(secret)) => secret,
        };
        if !secret.is_empty() {
            asked.push(Asked { key, secret });
        } else if !stdin && draft.may_be_public(&key) {
            complain("without a secret: client_auth = \"none\"");
        } else {
            return Err(Never::Wrong(format!("{name} is empty")));
        }
    }
    if missing.is_empty() { Ok(asked) } else { Err(Never::Wrong(missing.join("\n"))) }
}

/// Where a secret is looked for before anybody is asked: `TOKENBROKER_CLIENT_SECRET`.
fn variable(key: &[String]) -> String {
    let name = key.last().map(String::as_str).unwrap_or_default();
    format!("TOKENBROKER_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// The same, as it is written in a configuration.
fn environment(key: &[String]) -> Value {
    Value::from(Table::from_iter([("env".to_owned(), Value::from(variable(key)))]))
}

/// What a person sees: the `curl` line can be pasted as it stands.
fn introduction(up: &Up, route: &Route, file: Option<&Path>) -> String {
    let url = up.url(route).unwrap_or_default();
    let curl = match url.strip_prefix("unix:") {
        Some(socket) => format!("curl --unix-socket {socket} http://localhost/"),
        None => format!("curl {url}/"),
    };
    let kept = file.map(|file| format!("Kept in {0}: tokenbroker -c {0} run\n", file.display())).unwrap_or_default();
    format!(
        "\nThe access token is there. Requests to this address get it, and go to {}{}:\n\n{curl}\n\n\
         Its token and the last requests, in a browser: http://{}/\n{kept}Ctrl-C ends it.\n\n",
        route.upstream.origin(),
        route.upstream.base_path,
        up.operator,
    )
}
