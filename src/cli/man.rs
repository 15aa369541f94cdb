//! `man`: the manual page of the program, or of one of its commands, in roff.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, complain, print};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The command, such as `client list`; the program itself when not given
    command: Vec<String>,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let mut program = Cli::command();
    program.build();
    let mut command = &program;
    for name in &args.command {
        match command.find_subcommand(name) {
            Some(found) => command = found,
            None => {
                complain(&format!("there is no command {name:?} in `{}`; see --help", command.get_name()));
                return ExitCode::from(2);
            }
        }
    }
    let mut page = Vec::new();
    match Man::new(command.clone()).render(&mut page) {
        Ok(()) => print(&String::from_utf8_lossy(&page)),
        Err(error) => {
            complain(&format!("cannot write the page: {error}"));
            ExitCode::FAILURE
        }
    }
}
