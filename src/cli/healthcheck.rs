//! `healthcheck`: one GET to the operator's listener; an image without a shell has no curl.

use std::process::ExitCode;

use super::ask::ask;
use super::{Cli, complain};

/// What it says of a hundred tokens fits in here.
const ANSWER_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Is the process alive?
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Is every required token usable? The default
    #[arg(long)]
    ready: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let listen = match cli.admin_listen() {
        Ok(listen) => listen,
        Err(code) => return code,
    };
    let path = if args.live { "/livez" } else { "/readyz?verbose" };
    match ask(&listen, path, ANSWER_MAX) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim_end();
            complain(if body.is_empty() { "not ready" } else { body });
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&format!("no answer from {listen}: {error}; is the broker running with this configuration?"));
            ExitCode::FAILURE
        }
    }
}
