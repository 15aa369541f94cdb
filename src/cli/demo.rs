//! `demo`: stand-ins, an API that echoes, and the broker in front of them, in one process on free ports.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};

use super::{Cli, LogFormat, complain, lines, print, run};
use crate::clock::Clock;
use crate::config::{self, Listen};
use crate::secret::Secret;
use crate::server::Running;
use crate::standin::demo::{Shown, keep, start};
use crate::standin::fault;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Short, so that refreshes can be watched.
const LIFETIME: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Let the token servers misbehave, all or the named: at every other call, or always where it is a way of the server
    #[arg(long, value_name = "NAME", value_parser = faults())]
    fault: Option<String>,
}

fn faults() -> PossibleValuesParser {
    PossibleValuesParser::new(fault::names().map(|fault| PossibleValue::new(fault.name).help(fault.help())))
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    cli.start_logging_as(Some(cli.log_format.unwrap_or(LogFormat::Text)));
    // One that was killed leaves its directory, and the number of its process comes again.
    let name = format!("tokenbroker-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let directory = std::env::temp_dir().join(name);
    let code = demo(&directory, args.fault.as_deref()).unwrap_or_else(|error| {
        complain(&format!("the demo cannot start: {error}"));
        ExitCode::FAILURE
    });
    // Nothing in it is of use afterwards.
    let _ = std::fs::remove_dir_all(&directory);
    code
}

fn demo(directory: &Path, fault: Option<&str>) -> Result<ExitCode, Error> {
    DirBuilder::new().mode(0o700).create(directory).map_err(|error| {
        let directory = directory.display();
        format!("{directory} cannot be made: {error}; set TMPDIR to a directory that you may write to")
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let shown = runtime.block_on(start(directory, LIFETIME, fault))?;
    keep(directory, "admin_key", Secret::random()?.expose())?;
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\nkey = { file = \"admin_key\" }\ninspector = true\n".to_owned();
    let tables: Vec<_> = std::iter::once(admin).chain(shown.iter().map(|one| one.config.clone())).collect();
    keep(directory, "tokenbroker.toml", &tables.join("\n"))?;
    let file = directory.join("tokenbroker.toml");
    let text = config::text(&file).map_err(|report| lines(&report))?;
    let (config, report) = config::check(&file, &text, Clock::system().now().wall);
    let Some(config) = config else { return Err(lines(&report).into()) };
    let code = run::until_stopped((file.clone(), text, config), |running, operator, _| {
        // Where nobody reads it, the broker runs all the same.
        let _ = print(&introduction(running, operator, &file, &shown));
    });
    runtime.shutdown_background();
    Ok(code)
}

/// What a person sees: each `curl` line can be pasted as it stands.
fn introduction(running: &Running, operator: &Listen, file: &Path, shown: &[Shown]) -> String {
    let mut text = format!(
        "\ntokenbroker demo. The configuration in use: {}\n\n\
         These APIs answer 401 to a request without an access token. Send them one through the broker, which has it:\n",
        file.display()
    );
    for one in shown {
        for (_, listen) in running.addresses().iter().filter(|(route, _)| *route == one.route) {
            let fault = one.fault.map(|fault| format!("; with --fault {} it {}", fault.name, fault.what));
            let (about, seconds, fault) = (&one.about, one.lifetime.as_secs(), fault.unwrap_or_default());
            text.push_str(&format!("\n{about}\nTokens live {seconds} s{fault}.\ncurl http://{listen}/hello\n"));
        }
    }
    text.push_str(&format!("\nTo look on in a browser: http://{operator}/\n"));
    text.push_str(&format!("What it thinks of its tokens: http://{operator}/readyz?verbose\n"));
    text.push_str(&format!("What went wrong, and what to do: last_error in http://{operator}/api/status\n"));
    text.push_str("\nTheir refreshes show below, at about three quarters of their lives. Ctrl-C ends the demo.\n\n");
    text
}
