//! `status`: what the running broker says of its tokens and routes.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::ask::Operator;
use super::{Cli, complain, print};
use crate::clock::Clock;
use crate::expiry::SOON;

/// Of an answer; thousands of tokens fit in.
const ANSWER_MAX: u64 = 4 << 20;
const WATCH_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON, as `/api/status` has it
    #[arg(long)]
    json: bool,
    /// Again every 2 s, until interrupted; with --json a line each time
    #[arg(long)]
    watch: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let operator = match cli.operator() {
        Ok(operator) => operator,
        Err(code) => return code,
    };
    if !args.watch {
        return match status(&operator) {
            Ok(status) => print(&shown(args, &status)),
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        };
    }
    watch(args, &operator)
}

fn shown(args: &Args, status: &Value) -> String {
    match (args.json, args.watch) {
        // A line a look, for programs.
        (true, true) => format!("{status}\n"),
        (true, false) => format!("{status:#}\n"),
        (false, _) => text(status, Clock::system().now().wall),
    }
}

/// Looks again and again, also while the broker is away, until nobody reads it any more.
fn watch(args: &Args, operator: &Operator) -> ExitCode {
    let mut stdout = std::io::stdout();
    // On a terminal each look takes the place of the one before.
    let before = if args.json {
        ""
    } else if stdout.is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        "\n"
    };
    loop {
        let written = match status(operator) {
            Ok(status) => stdout.write_all(format!("{before}{}", shown(args, &status)).as_bytes()),
            Err(error) if args.json => {
                complain(&error);
                Ok(())
            }
            Err(error) => stdout.write_all(format!("{before}{error}\n").as_bytes()),
        };
        match written.and_then(|()| stdout.flush()) {
            Ok(()) => std::thread::sleep(WATCH_EVERY),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("cannot write to stdout: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
}

fn status(operator: &Operator) -> Result<Value, String> {
    let answer = operator.get("/api/status", ANSWER_MAX)?;
    let foreign = || format!("what answers at {} is no broker; see `listen` of [admin]", operator.listen);
    serde_json::from_str(&answer.body).ok().filter(|_| answer.status == 200).ok_or_else(foreign)
}

/// A line for each token and route.
fn text(status: &Value, now: Timestamp) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let left = |value: &Value| {
        let at = value.as_str()?.parse::<Timestamp>().ok()?;
        let seconds = at.duration_since(now).as_secs();
        (seconds >= 0).then(|| format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60))
    };
    let mut out = format!("tokenbroker {}, since {}\n", word(&status["version"]), word(&status["started_at"]));
    if let Some(error) = status["config"]["error"].as_str() {
        out.push_str(&format!("what is on the disk is not in force:\n  {}\n", error.replace('\n', "\n  ")));
    }
    for (name, token) in status["tokens"].as_object().into_iter().flatten() {
        out.push_str(&format!("token {name}: {}", word(&token["state"])));
        for (what, key) in [
            ("ends in", "expires_at"),
            ("refreshed in", "refreshes_at"),
            ("its refresh token ends in", "refresh_expires_at"),
        ] {
            out.push_str(&left(&token[key]).map(|left| format!(", {what} {left}")).unwrap_or_default());
        }
        if token["expires_at"].is_string() && left(&token["expires_at"]).is_none() {
            out.push_str(", ended");
        }
        out.push_str(&token["fingerprint"].as_str().map(|print| format!(", fingerprint {print}")).unwrap_or_default());
        out.push_str(&token["last_error"].as_str().map(|error| format!("\n  {error}")).unwrap_or_default());
        out.push('\n');
    }
    for one in status["expiring"].as_array().into_iter().flatten() {
        if one["days_left"].as_i64().is_some_and(|days| days <= SOON) {
            out.push_str(&format!("{}; {}\n", word(&one["said"]), word(&one["fix"])));
        }
    }
    for (name, route) in status["routes"].as_object().into_iter().flatten() {
        let listen: Vec<_> = route["listen"].as_array().into_iter().flatten().map(word).collect();
        let token = route["token"].as_str().map_or("no token".to_owned(), |token| format!("token {token}"));
        let (requests, errors) = (&route["requests"], &route["errors"]);
        let way = format!("{} to {}", listen.join(", "), word(&route["upstream"]));
        out.push_str(&format!("route {name}: {way}, {token}, {requests} requests, {errors} answered by the broker\n"));
    }
    out
}
