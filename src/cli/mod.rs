//! The command line: one file a command.

mod alone;
mod ask;
mod beside;
mod callback;
mod check;
mod client;
mod completions;
#[cfg(feature = "demo")]
mod demo;
mod dialects;
mod ending;
mod exec;
mod explain;
mod harden;
mod healthcheck;
mod init;
mod login;
mod logout;
mod man;
mod online;
mod reload;
mod run;
mod secret;
mod session;
mod shown;
mod status;
mod store;
mod token;
mod watched;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;
use zeroize::Zeroizing;

use self::ask::Operator;
use crate::clock::Clock;
use crate::config::{self, Config, Problem, Report};
use crate::telemetry::{self, Format};

/// Exit status of a broken configuration (EX_CONFIG of sysexits.h).
const CONFIG: u8 = 78;

const DEFAULT_FILES: [&str; 2] = ["tokenbroker.toml", "/etc/tokenbroker/tokenbroker.toml"];

/// A local reverse proxy that takes authentication off an application's hands: it gets access tokens, keeps them fresh,
/// and adds them to each request.
#[derive(Debug, Parser)]
#[command(name = "tokenbroker", version, max_term_width = 100)]
struct Cli {
    /// The configuration; ./tokenbroker.toml, then /etc/tokenbroker/tokenbroker.toml, when not given
    #[arg(short, long, global = true, value_name = "FILE", env = "TOKENBROKER_CONFIG")]
    config: Option<PathBuf>,
    /// How much to log
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "TOKENBROKER_LOG_LEVEL",
        default_value = "info",
        ignore_case = true
    )]
    log_level: Level,
    /// How log lines look; text on a terminal, json elsewhere, when not given
    #[arg(long, global = true, value_name = "FORMAT", env = "TOKENBROKER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run,
    /// Write starter files for a dialect, with what only you know left to be filled in
    Init(init::Args),
    /// Stand-ins of vendors, an API, and the broker in front of them, in one process
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Run a command beside a broker that is ready; the exit status is the command's
    Exec(exec::Args),
    /// Call an API with a token of its own, without a configuration file
    Try(Box<session::Args>),
    /// Check the configuration without starting
    Check(check::Args),
    /// Print the JSON Schema of the configuration
    Schema,
    /// The built-in dialects; or one of them, to copy and change
    Dialects(dialects::Args),
    /// What a class, state or code of an error means, and what to do
    Explain(explain::Args),
    /// Ask the running broker whether it is ready, for container health checks
    Healthcheck(healthcheck::Args),
    /// What the running broker says of its tokens and routes
    Status(status::Args),
    /// Have the running broker read its configuration again
    Reload,
    /// Log in with a browser, for a token that needs it
    Login(login::Args),
    /// Give up a token, and have the vendor end it
    Logout(logout::Args),
    /// Print an access token, for scripts
    Token(token::Args),
    /// Client applications at the vendor: list, register, delete
    Client(client::Args),
    /// Client secrets at the vendor: list, rotate, import, delete, export
    Secret(secret::Args),
    /// What is kept across restarts: list it, forget it, export it
    Store(store::Args),
    /// Print what a shell needs to complete commands and flags
    Completions(completions::Args),
    /// Print the manual page of the program or of a command
    Man(man::Args),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The program: arguments to exit status.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let before = harden::process(matches!(cli.command, Command::Exec(_)));
    match &cli.command {
        Command::Run => run::main(&cli),
        Command::Init(args) => init::main(args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::main(&cli, args),
        Command::Exec(args) => exec::main(&cli, args, before),
        Command::Try(args) => session::main(&cli, args),
        Command::Check(args) => check::main(&cli, args),
        Command::Schema => print(&format!("{:#}\n", config::schema::schema())),
        Command::Dialects(args) => dialects::main(args),
        Command::Explain(args) => explain::main(args),
        Command::Healthcheck(args) => healthcheck::main(&cli, args),
        Command::Status(args) => status::main(&cli, args),
        Command::Reload => reload::main(&cli),
        Command::Login(args) => login::main(&cli, args),
        Command::Logout(args) => logout::main(&cli, args),
        Command::Token(args) => token::main(&cli, args),
        Command::Client(args) => client::main(&cli, args),
        Command::Secret(args) => secret::main(&cli, args),
        Command::Store(args) => store::main(&cli, args),
        Command::Completions(args) => completions::main(args),
        Command::Man(args) => man::main(args),
    }
}

/// The commands that make a configuration take none.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let mut command = Cli::command();
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| {
        let (name, rest) = matches.subcommand().unwrap_or(("", &matches));
        let named = [&matches, rest].iter().any(|m| m.value_source("config") == Some(ValueSource::CommandLine));
        let instead = [("demo", "use `run`"), ("try", "use `run`"), ("init", "name the folder with --dir")];
        if let Some((name, instead)) = instead.iter().find(|(own, _)| named && *own == name) {
            let text = format!("`{name}` makes a configuration of its own; leave out -c, or {instead}");
            return Err(command.error(ErrorKind::ArgumentConflict, text));
        }
        Cli::from_arg_matches(&matches)
    });
    parsed.map_err(|error| {
        let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        let unread = error.print().is_err_and(|e| e.kind() != std::io::ErrorKind::BrokenPipe);
        if unread { ExitCode::FAILURE } else { code }
    })
}

impl Cli {
    /// The configuration file: a named one must be there. `Err` says what to do.
    fn file(&self) -> Result<PathBuf, String> {
        if let Some(file) = &self.config {
            return Ok(file.clone());
        }
        DEFAULT_FILES.iter().map(Path::new).find(|file| file.exists()).map(Path::to_owned).ok_or_else(|| {
            format!("there is no {} and no {}; name the configuration with -c FILE", DEFAULT_FILES[0], DEFAULT_FILES[1])
        })
    }

    /// How to reach the running broker; a problem goes to stderr.
    fn operator(&self) -> Result<Operator, ExitCode> {
        self.file().and_then(|file| config::operator(&file)).map(Operator::find).map_err(|problem| {
            complain(&problem);
            ExitCode::from(CONFIG)
        })
    }

    /// Reads and checks the configuration; problems go to stderr, as log lines if JSON is asked for.
    fn load(&self) -> Result<(PathBuf, Zeroizing<String>, Config, Report), ExitCode> {
        let problems = match self.file() {
            Err(text) => vec![text],
            Ok(file) => match config::text(&file) {
                Err(report) => vec![lines(&report)],
                Ok(text) => match config::check(&file, &text, Clock::system().now().wall) {
                    (Some(config), report) => return Ok((file, text, config, report)),
                    (None, report) => lines(&report).lines().map(str::to_owned).collect(),
                },
            },
        };
        if matches!(self.log_format, Some(LogFormat::Json)) {
            self.start_logging();
            for line in &problems {
                match line.strip_prefix("warning: ") {
                    Some(warning) => tracing::warn!("{warning}"),
                    None => tracing::error!("{line}"),
                }
            }
        } else {
            complain(&problems.join("\n"));
        }
        Err(ExitCode::from(CONFIG))
    }

    fn start_logging(&self) {
        self.start_logging_as(self.log_format);
    }

    fn start_logging_as(&self, wanted: Option<LogFormat>) {
        let level = match self.log_level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        };
        let automatic = Format::of_stderr(colour());
        let format = match (wanted, automatic) {
            (None, automatic) => automatic,
            (Some(LogFormat::Json), _) => Format::Json,
            (Some(LogFormat::Text), Format::Json) => Format::Text { colour: false },
            (Some(LogFormat::Text), text) => text,
        };
        if telemetry::init(level, format).is_err() {
            complain("logging was started already");
        }
    }
}

const STDIN_MAX: u64 = 64 * 1024;

/// What comes on stdin, without the white space around it.
fn stdin(what: &str) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().lock().take(STDIN_MAX).read_to_string(&mut text).map_err(|e| format!("stdin: {e}"))?;
    let text = Zeroizing::new(text.trim().to_owned());
    if text.is_empty() { Err(format!("no {what} came on stdin")) } else { Ok(text) }
}

/// For a command that has one thing to wait for.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    Ok(runtime.block_on(work))
}

/// The `NO_COLOR` convention: set and not empty means no.
#[expect(clippy::disallowed_methods, reason = "NO_COLOR is a convention of the environment")]
fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// More are not read by anybody.
const LINES_MAX: usize = 50;

/// The problems and the warnings, a line each.
fn lines(report: &Report) -> String {
    let shown = |all: &[Problem], prefix: &str| -> Vec<String> {
        let mut lines: Vec<_> = all.iter().take(LINES_MAX).map(|one| format!("{prefix}{}", report.line(one))).collect();
        if all.len() > LINES_MAX {
            lines.push(format!("{prefix}and {} more", all.len() - LINES_MAX));
        }
        lines
    };
    let warnings = [&report.unfilled, &report.warnings, &report.ending].map(|all| shown(all, "warning: "));
    [shown(&report.problems, ""), warnings.concat()].concat().join("\n")
}

/// `1 route`, `2 routes`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// To stdout; a reader that is gone is nobody's problem, but a full disk is.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to stdout: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// To stderr, a line or more.
fn complain(text: &str) {
    if !text.is_empty() {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}
