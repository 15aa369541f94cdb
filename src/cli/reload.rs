//! `reload`: has the running broker read its configuration again.

use std::process::ExitCode;

use super::{CONFIG, Cli, complain, print};

pub(super) fn main(cli: &Cli) -> ExitCode {
    let operator = match cli.operator() {
        Ok(operator) => operator,
        Err(code) => return code,
    };
    match operator.post("/api/reload", None) {
        Ok(_) => print("reloaded\n"),
        Err(error) => {
            complain(&error.text);
            let refused = error.code.as_deref() == Some("config_refused");
            if refused { ExitCode::from(CONFIG) } else { ExitCode::FAILURE }
        }
    }
}
