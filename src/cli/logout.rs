//! `logout`: a token is given up, and the vendor ends it.

use std::process::ExitCode;

use serde_json::Value;

use super::alone::Alone;
use super::login::no_token;
use super::{Cli, block_on, complain, print};
use crate::config::Config;
use crate::oauth::file::Grant;
use crate::token::refresh::LoggedOut;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name in the configuration
    token: String,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let (_, _, config, _) = match cli.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match logout(cli, &args.token, config) {
        Ok(done) => print(&format!("{}: {}\n", args.token, said(done))),
        Err(text) => {
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

fn logout(cli: &Cli, token: &str, config: Config) -> Result<LoggedOut, String> {
    let found = config.tokens.get(token).ok_or_else(|| no_token(token, &config))?;
    if found.grant == Grant::Static {
        return Err(format!("token {token} was made by hand: end it where it was made"));
    }
    let Ok(operator) = cli.operator() else { return Err("the configuration cannot be read any more".to_owned()) };
    if operator.runs() {
        let answer = operator.post(&format!("/api/tokens/{token}/revoke"), None).map_err(|e| e.text)?;
        let answer: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let number = |key: &str| answer[key].as_u64().unwrap_or_default() as usize;
        return Ok(LoggedOut { revoked: number("revoked"), refused: number("refused"), queued: number("queued") });
    }
    if config.store.is_none() {
        return Err("no broker runs with this configuration, and the store is in memory: there is nothing to log out"
            .to_owned());
    }
    block_on(async {
        let mut alone = Alone::open(config, token).await?;
        let done = alone.refresher.logout().await;
        alone.saved().await?;
        done.map_err(|error| error.to_string())
    })?
}

fn said(done: LoggedOut) -> &'static str {
    match done {
        LoggedOut { queued: 1.., .. } => "logged out; the vendor was not told yet: the broker tries again",
        LoggedOut { revoked: 1.., .. } => "logged out, and revoked at the vendor",
        LoggedOut { refused: 1.., .. } => "logged out; the vendor did not know the token any more",
        _ => "logged out; the vendor has no request to revoke what there was",
    }
}
