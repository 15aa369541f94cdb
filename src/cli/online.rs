//! `check --online`: each route step by step, as a request would go: secrets, token, connection, answer. One exchange a token at
//! most, by the same task as a broker's, within the budget; what it brings is kept as a broker keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::token::{self, Found, Whence};
use super::{Cli, block_on, count, explain};
use crate::app::{Headers, extra_headers};
use crate::clock::Clock;
use crate::config::{Config, Limits, Route, Token};
use crate::connect::Dialer;
use crate::http1::Bounds;
use crate::proxy::{ProxyError, probe};
use crate::secret::Secret;
use crate::secret::source::SecretSource;

/// What was found out of one route.
pub(super) struct Proof {
    route: String,
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    took: Duration,
    done: Result<String, Not>,
}

/// Why a step is not done.
#[derive(Clone)]
enum Not {
    Failed {
        what: String,
        /// Where `what` does not say it.
        fix: Option<String>,
        /// What `explain` has a page on.
        code: Option<String>,
    },
    /// Something that it needs is not there.
    Skipped(&'static str),
}

impl Not {
    fn failed(what: String) -> Self {
        Self::Failed { what, fix: None, code: None }
    }

    /// An error of the token, which begins with its class.
    fn of_token(what: String) -> Self {
        let code = what.split(':').next().filter(|code| explain::fix(code).is_some()).map(str::to_owned);
        Self::Failed { what, fix: None, code }
    }

    fn of_upstream(error: &ProxyError) -> Self {
        let code = error.problem().code;
        // What is wrong with TLS comes with what to do.
        let fix = explain::fix(code).filter(|_| code != "upstream_tls");
        Self::Failed { what: error.to_string(), fix, code: Some(code.to_owned()) }
    }
}

/// All routes, one after the other; a token that several use is asked for once.
pub(super) fn prove(cli: &Cli, config: &Config) -> Vec<Proof> {
    let mut tokens = BTreeMap::new();
    config
        .routes
        .values()
        .map(|route| Proof { route: route.name.clone(), steps: steps(cli, config, route, &mut tokens) })
        .collect()
}

fn steps(cli: &Cli, config: &Config, route: &Route, tokens: &mut BTreeMap<String, Result<Found, Not>>) -> Vec<Step> {
    let wanted = route.token.as_ref().and_then(|name| config.tokens.get(name));
    let (headers, secrets) = timed("secrets", || secrets(route, wanted));
    let (token, obtained) = match wanted {
        None => (None, None),
        Some(wanted) => {
            let (found, step) = timed("token", || {
                let found = match &secrets.done {
                    Err(_) => Err(Not::Skipped("its secrets cannot be read")),
                    Ok(_) => tokens.entry(wanted.name.clone()).or_insert_with(|| obtain(cli, wanted)).clone(),
                };
                match found {
                    Ok(found) => {
                        let said = described(wanted, &found);
                        (Some(found), Ok(said))
                    }
                    Err(not) => (None, Err(not)),
                }
            });
            (found, Some(step))
        }
    };
    let fields = match (&token, wanted, headers) {
        (None, Some(_), _) => Err(Not::Skipped("there is no token to send")),
        (_, _, None) => Err(Not::Skipped("what the route adds cannot be read")),
        (token, _, Some(headers)) => fields(route, token.as_ref().map(|found| &found.secret), headers),
    };
    let ends = token.map(|found| found.expires_at.and_then(|ends| ends.parse().ok()));
    let upstream = block_on(upstream(route, &config.limits, fields, ends));
    let upstream = upstream
        .unwrap_or_else(|text| vec![Step { name: "connect", took: Duration::ZERO, done: Err(Not::failed(text)) }]);
    [secrets].into_iter().chain(obtained).chain(upstream).collect()
}

fn timed<T>(name: &'static str, work: impl FnOnce() -> (Option<T>, Result<String, Not>)) -> (Option<T>, Step) {
    let started = Instant::now();
    let (found, done) = work();
    (found, Step { name, took: started.elapsed(), done })
}

/// Everything that is read for the token and for the route itself; the values of the route's own headers.
fn secrets(route: &Route, token: Option<&Arc<Token>>) -> (Option<Headers>, Result<String, Not>) {
    let of_token = token.into_iter().flat_map(|token| token.secrets());
    let mut all: Vec<&SecretSource> = Vec::new();
    for source in of_token.chain(route.headers.iter().map(|(_, source)| source)) {
        // What a dialect sends beside the token stands in both.
        if !matches!(source, SecretSource::Inline(_)) && !all.contains(&source) {
            all.push(source);
        }
    }
    let read = block_on(async {
        let mut wrong = Vec::new();
        for source in &all {
            wrong.extend(source.read().await.err().map(|error| error.to_string()));
        }
        wrong.dedup();
        match wrong.is_empty() {
            true => extra_headers(route).await.map_err(|error| error.to_string()),
            false => Err(wrong.join("\n")),
        }
    });
    match read.and_then(|read| read) {
        Ok(headers) => (Some(headers), Ok(format!("{} read", count(all.len(), "secret")))),
        Err(text) => (None, Err(Not::failed(text))),
    }
}

/// From the running broker; without one from the store, or by an exchange.
fn obtain(cli: &Cli, token: &Arc<Token>) -> Result<Found, Not> {
    let gone = |_| Not::failed("the configuration cannot be read any more".to_owned());
    let (_, _, config, _) = cli.load().map_err(gone)?;
    token::obtain(cli, config, token, true).map_err(Not::of_token)
}

/// One that was there already proves nothing of the credentials.
fn described(token: &Token, found: &Found) -> String {
    let end =
        found.expires_at.as_ref().map_or_else(|| "it does not end".to_owned(), |ends| format!("it ends at {ends}"));
    let whence = match found.whence {
        Whence::Broker => "; it is the running broker's",
        Whence::Store => "; it was in the store, so the credentials were not tried",
        Whence::Exchange => "",
    };
    format!("{}, {}; {end}{whence}", token.dialect.name, token.grant.as_str())
}

/// What a request of that route leaves with, beside its own fields.
fn fields(route: &Route, token: Option<&Secret>, mut headers: Headers) -> Result<Headers, Not> {
    if let Some(token) = token {
        let formats = std::slice::from_ref(&route.format);
        let written = crate::token::Token::new(token, formats, Clock::system().now(), None);
        let value = written.and_then(|token| token.value(0).cloned());
        let odd = || Not::failed("the token has characters that no header may have".to_owned());
        headers.push((route.header.clone(), value.ok_or_else(odd)?));
    }
    Ok(headers)
}

/// The connection, whatever became of the token, and one question to the API. `token`, if there is one, is when it ends.
async fn upstream(
    route: &Route,
    limits: &Limits,
    fields: Result<Headers, Not>,
    token: Option<Option<Timestamp>>,
) -> Vec<Step> {
    let started = Instant::now();
    let connected = probe::connect(route, &Dialer::default()).await;
    let took = started.elapsed();
    let (kind, endpoint) =
        (if route.upstream.endpoint.tls.is_some() { "TLS" } else { "TCP" }, &route.upstream.endpoint);
    let said = format!("{kind} with {}, port {}", endpoint.host, endpoint.port);
    let (connection, connect) = match connected {
        Ok(connection) => (Ok(connection), Ok(said)),
        Err(error) => (Err(Not::Skipped("there is no connection")), Err(Not::of_upstream(&error))),
    };
    let question =
        probe::question(route).ok_or(Not::Skipped("the route's `methods` allow nothing that is safe to try"));
    let started = Instant::now();
    // Security: it is never sent after its end, and to connect takes its time.
    let ended = token.flatten().is_some_and(|ends| ends <= Clock::system().now().wall);
    let fields = if ended { Err(Not::failed("the token has ended meanwhile: try again".to_owned())) } else { fields };
    let answer = match (connection, fields, question) {
        (Ok(connection), Ok(fields), Ok(question)) => {
            let bounds = Bounds { bytes: limits.head_max, fields: limits.headers_max };
            let status = probe::ask(route, connection, &question, &fields, bounds).await;
            let asked = format!("{} {}", question.0, question.1);
            status
                .map_err(|error| Not::of_upstream(&error))
                .and_then(|status| judged(status.as_u16(), &asked, token.is_some()))
        }
        (Err(not), ..) | (_, Err(not), _) | (_, _, Err(not)) => Err(not),
    };
    vec![Step { name: "connect", took, done: connect }, Step { name: "answer", took: started.elapsed(), done: answer }]
}

/// Any answer proves that the API is there; only a 401 says that the token is not the right one.
fn judged(status: u16, asked: &str, token: bool) -> Result<String, Not> {
    let answered = format!("{asked}: {status}");
    match status {
        401 if token => {
            let what = format!("{answered}: the API does not take the token");
            Err(Not::Failed { what, fix: explain::fix("invalid_token"), code: Some("invalid_token".to_owned()) })
        }
        401 => Ok(format!("{answered}: the API wants a credential, and the route adds none")),
        403 if token => Ok(format!("{answered}: the API knows the token, and may not allow it this path: see `scope`")),
        500.. => Ok(format!("{answered}: the API is there, and in trouble itself, or with this path")),
        _ => Ok(answered),
    }
}

impl Proof {
    /// Is everything well, as far as it could be tried?
    pub fn is_good(&self) -> bool {
        self.steps.iter().all(|step| !matches!(step.done, Err(Not::Failed { .. })))
    }

    /// A line a step, and what to do below those that failed.
    pub fn text(&self) -> String {
        let mut text = format!("route {}\n", self.route);
        for Step { name, took, done } in &self.steps {
            let (result, said) = said(done);
            let margin = " ".repeat(31);
            let said = said.replace('\n', &format!("\n{margin}"));
            text.push_str(&format!("  {name:<8}  {result:<8} {:>7.3} s  {said}\n", took.as_secs_f32()));
            if let Err(Not::Failed { fix, code, .. }) = done {
                let fix = fix.as_ref().map(|fix| format!("{margin}what to do: {fix}\n"));
                let code = code.as_ref().map(|code| format!("{margin}see: tokenbroker explain {code}\n"));
                text.extend(fix.into_iter().chain(code));
            }
        }
        text
    }

    pub fn json(&self) -> (String, Value) {
        let step = |Step { name, took, done }: &Step| {
            let (result, said) = said(done);
            let (fix, code) = match done {
                Err(Not::Failed { fix, code, .. }) => (fix.as_deref(), code.as_deref()),
                _ => (None, None),
            };
            json!({ "step": name, "result": result, "seconds": took.as_secs_f64(), "detail": said, "fix": fix, "explain": code })
        };
        let steps: Vec<_> = self.steps.iter().map(step).collect();
        (self.route.clone(), json!({ "ok": self.is_good(), "steps": steps }))
    }
}

fn said(done: &Result<String, Not>) -> (&'static str, &str) {
    match done {
        Ok(text) => ("ok", text),
        Err(Not::Failed { what, .. }) => ("failed", what),
        Err(Not::Skipped(why)) => ("skipped", why),
    }
}
