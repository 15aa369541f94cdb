//! `login`: a person logs in with a browser, and the token lives on what comes of it.

use std::io::{BufRead, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::alone::Alone;
use super::callback::{self, Came, Expected};
use super::{Cli, block_on, complain, print};
use crate::config::{Config, Limits, Token};
use crate::oauth::file::Grant;
use crate::oauth::inputs::{Given, Inputs};
use crate::oauth::request;
use crate::secret::Secret;
use crate::server::Bound;
use crate::token::refresh::Code;

/// Of the URL that is pasted.
const LINE_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A token with the grant authorization_code
    token: String,
    /// Read the URL that the browser came back with from stdin, for machines without a browser
    #[arg(long)]
    paste: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let (_, _, config, _) = match cli.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let done = login(cli, args, config);
    done.unwrap_or_else(|text| {
        complain(&text);
        ExitCode::FAILURE
    })
}

fn login(cli: &Cli, args: &Args, config: Config) -> Result<ExitCode, String> {
    let token = Arc::clone(config.tokens.get(&args.token).ok_or_else(|| no_token(&args.token, &config))?);
    if token.grant != Grant::AuthorizationCode {
        return Err(format!("token {}: the grant {} needs no login", token.name, token.grant.as_str()));
    }
    let Ok(operator) = cli.operator() else { return Ok(ExitCode::FAILURE) };
    if config.store.is_none() && !operator.runs() {
        return Err(
            "no broker runs with this configuration, and the store is in memory: a login would be lost at once; \
                    start the broker first, or set [store] kind = \"file\""
                .to_owned(),
        );
    }
    let code = if args.paste {
        let begun = Begun::new(&token, place(&token, true)?.0)?;
        complain("open this in a browser, log in, and paste the URL that it ends at:");
        shown(&begun.url)?;
        Code { code: pasted(&begun.expected)?, ..begun.code }
    } else {
        block_on(in_browser(&token, config.limits.clone()))??
    };
    deliver(cli, config, &token.name, code)?;
    Ok(print(&format!("{}: logged in\n", token.name)))
}

/// Shows where to log in, and waits for the browser to come back.
pub(super) async fn in_browser(token: &Token, limits: Limits) -> Result<Code, String> {
    let (redirect_uri, bound) = place(token, false)?;
    let begun = Begun::new(token, redirect_uri)?;
    complain("open this in a browser and log in; this waits for five minutes:");
    shown(&begun.url)?;
    let bound = bound.ok_or("there is no listener for the browser")?;
    Ok(Code { code: callback::wait(bound, begun.expected, limits).await?, ..begun.code })
}

pub(super) fn no_token(name: &str, config: &Config) -> String {
    let known: Vec<_> = config.tokens.keys().map(String::as_str).collect();
    format!("there is no token {name}; there are: {}", known.join(", "))
}

fn shown(url: &str) -> Result<(), String> {
    if print(&format!("{url}\n")) == ExitCode::SUCCESS { Ok(()) } else { Err(String::new()) }
}

/// Where the browser comes back to, and who waits there.
fn place(token: &Token, paste: bool) -> Result<(String, Option<Bound>), String> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match &token.redirect_uri {
        Some(uri) if paste => Ok((uri.clone(), None)),
        Some(uri) => {
            let elsewhere = || format!("{uri} does not come back to this machine: use --paste");
            Ok((uri.clone(), Some(callback::bind(Expected::address(uri).ok_or_else(elsewhere)?)?)))
        }
        None => {
            let bound = callback::bind(any)?;
            let uri = format!("http://{}/callback", bound.listen);
            Ok((uri, Some(bound).filter(|_| !paste)))
        }
    }
}

/// A login that was begun.
struct Begun {
    url: String,
    expected: Expected,
    /// Without its code.
    code: Code,
}

impl Begun {
    fn new(token: &Token, redirect_uri: String) -> Result<Self, String> {
        let fresh = || Secret::random().map_err(|e| e.to_string());
        let (state, verifier) = (fresh()?, fresh()?);
        let proves = token.dialect.authorize.as_ref().is_some_and(|page| page.uses("code_challenge"));
        // RFC 7636 §4.2, S256: the challenge tells nothing of the verifier.
        let challenge = URL_SAFE_NO_PAD.encode(verifier.digest());
        let mut inputs = Inputs {
            base_url: token.base_url.clone(),
            client_id: token.client_id.clone(),
            scope: token.scope.clone(),
            vars: token.vars.clone(),
            ..Inputs::new(token.grant, token.client_auth)
        };
        inputs.values.extend(token.authorize_url.clone().map(|url| ("authorize_url", Given::text(url))));
        inputs.values.extend([
            ("redirect_uri", Given::text(&*redirect_uri)),
            ("state", Given::Secret(state.clone())),
            ("code_challenge", Given::text(challenge)),
        ]);
        let url = request::authorize_url(&token.dialect, &inputs).map_err(|e| e.to_string())?;
        let code_verifier = proves.then_some(verifier);
        let code = Code { code: Secret::new(String::new()), redirect_uri: redirect_uri.clone(), code_verifier };
        Ok(Self { expected: Expected { state, redirect_uri, page: url.clone() }, url, code })
    }
}

/// Reads lines until one is the answer to this login.
fn pasted(expected: &Expected) -> Came {
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut line = String::new();
        let read = (&mut stdin).take(LINE_MAX).read_line(&mut line).map_err(|e| e.to_string())?;
        if read == 0 {
            return Err("no URL came on stdin".to_owned());
        }
        let answer = line.trim().strip_prefix(&expected.redirect_uri);
        let query = answer.and_then(|rest| rest.strip_prefix(['?', '&'])).map(|rest| rest.split('#').next());
        match query.flatten().map(|query| expected.judge(query)) {
            Some(Ok(came)) => return came,
            Some(Err(why)) => complain(&format!("{why}: paste the URL that this login ended at")),
            None => complain(&format!("the URL begins with {}?", expected.redirect_uri)),
        }
    }
}

/// To the running broker; without one, into the store.
fn deliver(cli: &Cli, config: Config, token: &str, code: Code) -> Result<(), String> {
    let Ok(operator) = cli.operator() else { return Err("the configuration cannot be read any more".to_owned()) };
    if operator.runs() {
        // Security: to this user's own broker, in the body.
        let verifier = code.code_verifier.as_ref().map(Secret::expose);
        let body = json!({ "code": code.code.expose(), "redirect_uri": code.redirect_uri, "code_verifier": verifier });
        return operator.post(&format!("/api/login/{token}"), Some(&body)).map(|_| ()).map_err(|e| e.text);
    }
    block_on(async {
        let mut alone = Alone::open(config, token).await?;
        alone.refresher.login(&code).await.map_err(|error| error.to_string())?;
        alone.saved().await
    })?
}
