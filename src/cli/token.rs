//! `token`: an access token on stdout, for scripts.

use std::borrow::Cow;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::alone::Alone;
use super::exec::is_used_up;
use super::login::no_token;
use super::{Cli, block_on, complain, print};
use crate::app::TokenPart;
use crate::clock::{Clock, rfc3339};
use crate::config::{Config, Token};
use crate::secret::Secret;
use crate::token::absence::token_or_why;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name in the configuration
    token: String,
    /// As the header field that carries it, such as "Authorization: Bearer …"
    #[arg(long, conflicts_with = "json")]
    header: bool,
    /// As JSON, with the time when it ends
    #[arg(long)]
    json: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let (_, _, config, _) = match cli.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let found = config.tokens.get(&args.token).cloned().ok_or_else(|| no_token(&args.token, &config));
    let done = found.and_then(|token| Ok((obtain(cli, config, &token, false)?, token)));
    match done {
        Ok((found, token)) => shown(args, &token, &found.secret, found.expires_at),
        Err(text) => {
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

/// An access token.
#[derive(Clone)]
pub(super) struct Found {
    pub secret: Secret,
    pub expires_at: Option<String>,
    pub whence: Whence,
}

/// Where it comes from.
#[derive(Clone, Copy)]
pub(super) enum Whence {
    Broker,
    Store,
    Exchange,
}

/// From the running broker; without one from the store, or by an exchange, `again` if a person may have mended what the last one
/// failed of.
pub(super) fn obtain(cli: &Cli, config: Config, token: &Arc<Token>, again: bool) -> Result<Found, String> {
    let Ok(operator) = cli.operator() else { return Err("the configuration cannot be read any more".to_owned()) };
    if operator.runs() {
        let path = format!("/api/tokens/{}/access_token", token.name);
        let answer = operator.post(&path, None).map_err(|e| e.text)?;
        let answer: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let word = |key: &str| answer[key].as_str().map(str::to_owned);
        let secret = word("access_token").ok_or("the broker's answer holds no access token")?;
        return Ok(Found { secret: Secret::new(secret), expires_at: word("expires_at"), whence: Whence::Broker });
    }
    if is_used_up(&config, token) {
        return Err("its refresh token may end with its use, and the store is in memory: the next one would be lost; \
                    set [store] kind = \"file\" with path and key, or start the broker first"
            .to_owned());
    }
    block_on(async {
        let began = Clock::system().now().wall;
        let mut alone = Alone::open(config, &token.name).await?;
        if again {
            alone.refresher.reconsider();
        }
        let wanted = async |part: &TokenPart| token_or_why(&part.slot, token.limit, token.row_max()).await;
        let (found, saved) = alone.until(wanted).await;
        let found = found.map_err(|none| none.why)?;
        saved?;
        let whence = if found.obtained_at < began { Whence::Store } else { Whence::Exchange };
        let expires_at = found.expires.map(|expires| rfc3339(expires.wall));
        Ok(Found { secret: found.secret().clone(), expires_at, whence })
    })?
}

fn shown(args: &Args, token: &Token, secret: &Secret, expires_at: Option<String>) -> ExitCode {
    let value = secret.expose();
    if args.json {
        return print(&format!("{}\n", json!({ "access_token": value, "expires_at": expires_at })));
    }
    if !args.header {
        return print(&format!("{value}\n"));
    }
    let dialect = &token.dialect;
    let written = dialect.inject_format.render(|_| Some(Cow::Borrowed(value))).unwrap_or_default();
    print(&format!("{}: {}\n", title(dialect.inject_header.as_str()), &*written))
}

/// `x-api-key` as `X-Api-Key`.
fn title(name: &str) -> String {
    let word = |word: &str| {
        format!("{}{}", word.get(..1).unwrap_or_default().to_uppercase(), word.get(1..).unwrap_or_default())
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}
