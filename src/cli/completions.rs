//! `completions`: what a shell needs to complete commands and flags.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, print};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Put what is printed where this shell looks, such as /etc/bash_completion.d/tokenbroker
    shell: Shell,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let (mut command, mut script) = (Cli::command(), Vec::new());
    clap_complete::generate(args.shell, &mut command, "tokenbroker", &mut script);
    print(&String::from_utf8_lossy(&script))
}
