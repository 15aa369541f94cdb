//! `healthcheck`: one GET to the operator's listener; an image without a shell has no curl.

use std::process::ExitCode;

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
    let operator = match cli.operator() {
        Ok(operator) => operator,
        Err(code) => return code,
    };
    let path = if args.live { "/livez" } else { "/readyz?verbose" };
    match operator.get(path, ANSWER_MAX) {
        Ok(answer) if answer.status == 200 => ExitCode::SUCCESS,
        Ok(answer) => {
            let body = answer.body.trim_end();
            complain(if body.is_empty() { "not ready" } else { body });
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}
