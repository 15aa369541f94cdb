//! What a token server's answer means: a token, or an error whose class is decided here and nowhere else. Pure.

use std::time::Duration;

use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

use super::dialect::{Dialect, Rule};
use super::error::{Class, Outcome, TokenError};
use super::expiry::{Expires, Told};
use super::file::{Op, Rotation};
use super::jwt;
use super::place::{Places, Reply, at};
use super::request::Inputs;
use super::words::cleaned;
use crate::secret::Secret;

/// An answer that is no refusal.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// A refresh token that came beside an access token that is of no use is a refresh token all the same: the one before
    /// may be dead already.
    pub access: Result<Access, TokenError>,
    /// `None`: the one we have goes on.
    pub refresh_token: Option<Secret>,
    pub refresh_lifetime: Option<Duration>,
}

/// An access token that can be used.
#[derive(Debug, PartialEq)]
pub struct Access {
    pub token: Secret,
    /// `None`: the server does not tell.
    pub lifetime: Option<Duration>,
    /// Something odd that did not keep the token from being used.
    pub warning: Option<String>,
}

/// Reads the answer to `op`, got at `now`.
pub fn read(dialect: &Dialect, op: Op, inputs: &Inputs, reply: &Reply, now: Timestamp) -> Result<Answer, TokenError> {
    let json = reply.json();
    let json = json.as_ref();
    let rules = &dialect.answer;
    let failed = says_error(&rules.error_code, reply, json);
    let refresh_token = match (op, rules.rotation) {
        (Op::Renew, Rotation::Never) => None,
        _ => rules.refresh_token.find_text(reply, json).map(Secret::new),
    };
    let Some(token) = rules.access_token.find_text(reply, json).filter(|_| !failed && succeeded(dialect, reply, json))
    else {
        let error = refusal(dialect, op, inputs, reply, json, now);
        if reply.status.is_success() && refresh_token.is_some() {
            let access = Err(error.of(Outcome::NotJudged));
            return Ok(Answer { access, refresh_token, refresh_lifetime: None });
        }
        return Err(error);
    };
    let token = Secret::new(token);
    let of_it = refresh_token.as_ref().map_or("", Secret::expose);
    let refresh_lifetime = match rules.refresh_expires.as_ref().map(|e| e.told(reply, json, of_it, now)) {
        Some(Told::Lifetime(lifetime)) => Some(lifetime),
        _ => None,
    };
    let access =
        usable(&token, rules.token_type.find_text(reply, json)).and_then(|()| access(dialect, token, reply, json, now));
    let mut access = access.map_err(|error| error.of(Outcome::NotJudged));
    if let (Op::Renew, Rotation::Always, None, Ok(access)) = (op, rules.rotation, &refresh_token, &mut access) {
        let none = "rotation is \"always\", but the renewal brought no refresh token: going on with the old one";
        access.warning.get_or_insert_with(|| none.to_owned());
    }
    Ok(Answer { access, refresh_token, refresh_lifetime })
}

/// The answer that stands for a token made by hand: only its own `exp` can end it.
pub fn handmade(token: Secret, now: Timestamp) -> Result<Answer, TokenError> {
    let wrong =
        |problem: &str| TokenError::new(Class::Config, problem, "put a good one where access_token is read from");
    usable(&token, None).map_err(|_| wrong("the token in access_token has bytes that no header may have"))?;
    let lifetime = match jwt::expiry(token.expose()) {
        None => None,
        Some(exp) => match u64::try_from(exp.saturating_sub(now.as_second())) {
            Ok(left) if left > 0 => Some(Duration::from_secs(left)),
            _ => return Err(wrong("the token in access_token has expired")),
        },
    };
    Ok(Answer { access: Ok(Access { token, lifetime, warning: None }), refresh_token: None, refresh_lifetime: None })
}

fn succeeded(dialect: &Dialect, reply: &Reply, json: Option<&Value>) -> bool {
    let rules = &dialect.answer;
    let status = match rules.success_status.as_slice() {
        [] => reply.status.is_success(),
        listed => listed.contains(&reply.status.as_u16()),
    };
    let equal = |(path, wanted): &(Vec<String>, Value)| json.and_then(|json| at(json, path)) == Some(wanted);
    status && rules.success_equals.iter().all(equal)
}

/// Does the place of the error code hold anything but a polite "none"?
fn says_error(places: &Places, reply: &Reply, json: Option<&Value>) -> bool {
    match places.find(reply, json) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Number(code)) => code.as_f64() != Some(0.0),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(table)) => !table.is_empty(),
        Some(_) => true,
    }
}

/// Security: a token becomes a header value; one with control characters could become a header of its own.
fn usable(token: &Secret, token_type: Option<String>) -> Result<(), TokenError> {
    if !token.expose().bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(TokenError::new(
            Class::Transient,
            "the access token has bytes that no header may have",
            "this is a fault of the token server",
        ));
    }
    let kind = token_type.unwrap_or_default().to_ascii_lowercase();
    match ["mac", "n_a", "dpop", "pop"].into_iter().find(|other| *other == kind) {
        Some(other) => Err(TokenError::new(
            Class::Config,
            format!("the server issued a token of type {other}, not a bearer token"),
            "ask the vendor for bearer tokens for this client",
        )),
        None => Ok(()),
    }
}

fn access(
    dialect: &Dialect,
    token: Secret,
    reply: &Reply,
    json: Option<&Value>,
    now: Timestamp,
) -> Result<Access, TokenError> {
    let mut told = dialect.answer.expires.told(reply, json, token.expose(), now);
    let odd = if let Told::Odd(why) = &told { Some(why.clone()) } else { None };
    if matches!(told, Told::Odd(_) | Told::Nothing) {
        told = Expires::Jwt.told(reply, json, token.expose(), now);
    }
    let instead = if matches!(told, Told::Lifetime(_)) { "the token's own exp" } else { "default_lifetime" };
    let warning = odd.map(|why| format!("{why}: using {instead} instead"));
    match told {
        Told::Lifetime(lifetime) => Ok(Access { token, lifetime: Some(lifetime), warning }),
        Told::Nothing | Told::Odd(_) => Ok(Access { token, lifetime: None, warning }),
        Told::Over(why) => Err(TokenError::new(
            Class::Unknown,
            format!("the access token is over on arrival: {why}"),
            "compare the token server's clock with its answer's Date; if the unit is wrong, set `unit` in a [dialect]",
        )),
    }
}

fn refusal(
    dialect: &Dialect,
    op: Op,
    inputs: &Inputs,
    reply: &Reply,
    json: Option<&Value>,
    now: Timestamp,
) -> TokenError {
    let text = String::from_utf8_lossy(&reply.body);
    let code = dialect.answer.error_code.find_text(reply, json);
    let message = dialect.answer.error_message.find_text(reply, json);
    let searched = message.as_deref().or(json.is_none().then_some(&*text)).unwrap_or_default();
    let class = dialect
        .errors
        .iter()
        .find(|rule| applies(rule, op, reply.status, code.as_deref(), searched))
        .map_or_else(|| by_default(op, inputs, reply.status, code.as_deref()), |rule| rule.class);
    let problem = problem(op, inputs, reply, json, code.as_deref());
    let mut error =
        TokenError::new(class, problem, fix(class, op, inputs)).of(outcome(class, op, code.as_deref(), reply, json));
    // Security: the text of an answer that is none may hold the very token it brings; that of a refusal is the vendor's word.
    let plain = json.is_none() && !reply.status.is_success() && !text.trim_start().starts_with('<');
    error.vendor = message.or_else(|| plain.then(|| text.into_owned())).map(|message| cleaned(&message, inputs));
    error.vendor = error.vendor.filter(|message| !message.is_empty() && Some(message) != code.as_ref());
    error.retry_after = retry_after(reply, now);
    error
}

/// What became of the request: its status says, unless the class knows better.
fn outcome(class: Class, op: Op, code: Option<&str>, reply: &Reply, json: Option<&Value>) -> Outcome {
    let success = reply.status.is_success();
    match (reply.status.as_u16(), class) {
        (300..=399, _) => Outcome::Unclear,
        (_, Class::Transient | Class::RateLimited) if !success => Outcome::NotJudged,
        // Somebody before the token server may have said that. A password is not tried often even so; a refresh token is
        // not given up for it.
        (_, Class::Transient | Class::RateLimited | Class::Unknown) if success && code.is_none() => Outcome::Unclear,
        (_, Class::Unknown) if op == Op::Renew && code.is_none() => Outcome::Unclear,
        (408 | 425 | 429 | 500..=599, class) if class.passes() => Outcome::NotJudged,
        (_, _) if success && json.is_none() => Outcome::Unclear,
        _ => Outcome::Refused,
    }
}

fn applies(rule: &Rule, op: Op, status: StatusCode, code: Option<&str>, message: &str) -> bool {
    rule.op.is_none_or(|wanted| wanted == op)
        && (rule.status.is_empty() || rule.status.contains(&status.as_u16()))
        && (rule.code.is_empty() || code.is_some_and(|code| rule.code.iter().any(|wanted| wanted == code)))
        && rule.message.as_ref().is_none_or(|regex| regex.is_match(message))
}

/// What RFC 6749 §5.2, OpenID Connect and HTTP say, where no rule of the dialect does.
fn by_default(op: Op, inputs: &Inputs, status: StatusCode, code: Option<&str>) -> Class {
    match code {
        // There is no grant to be rejected but the client's own credentials.
        Some("invalid_grant") if op == Op::Acquire && inputs.password.is_none() => Class::ClientRejected,
        Some("invalid_grant" | "interaction_required" | "consent_required" | "login_required" | "mfa_required") => {
            Class::GrantRejected
        }
        Some("invalid_token") if op == Op::Renew => Class::GrantRejected,
        Some("invalid_client") => Class::ClientRejected,
        Some(
            "unauthorized_client" | "unsupported_grant_type" | "invalid_scope" | "invalid_request" | "invalid_target",
        ) => Class::Config,
        Some("slow_down") => Class::RateLimited,
        Some("temporarily_unavailable" | "server_error") => Class::Transient,
        _ => match status.as_u16() {
            200..=299 if code.is_none() => Class::Transient,
            300..=399 | 408 | 500..=599 => Class::Transient,
            429 => Class::RateLimited,
            401 => Class::ClientRejected,
            404 | 405 | 410 | 415 => Class::Config,
            _ => Class::Unknown,
        },
    }
}

fn problem(op: Op, inputs: &Inputs, reply: &Reply, json: Option<&Value>, code: Option<&str>) -> String {
    let what = if op == Op::Acquire { "the request for a token" } else { "the refresh token" };
    let status = reply.status.as_u16();
    let kind = reply.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.map_or(String::new(), |kind| format!(", {}", cleaned(kind, inputs)));
    match code {
        Some(code) => format!("the token server refused {what} (HTTP {status}, {})", cleaned(code, inputs)),
        None if reply.status.is_redirection() => {
            let to = reply.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            // Security: only scheme and host; a query could hold what we sent.
            let to = match to.split_once("://") {
                Some((scheme, rest)) => format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or("")),
                None => "another path".into(),
            };
            format!("the token server redirects to {} (HTTP {status}), which is never followed", cleaned(&to, inputs))
        }
        None if reply.status.is_server_error() => format!("the token server failed (HTTP {status}{kind})"),
        None if !reply.status.is_success() => format!("the token server refused {what} (HTTP {status}{kind})"),
        None if reply.body.is_empty() => format!("the token server's answer is empty (HTTP {status})"),
        None if json.is_none() => format!("the token server's answer is not JSON (HTTP {status}{kind})"),
        None => format!("the token server's answer holds no access token (HTTP {status})"),
    }
}

fn fix(class: Class, op: Op, inputs: &Inputs) -> &'static str {
    match (class, op) {
        (Class::Transient, _) => "the broker tries again; if it stays so, check that the URL is the token endpoint",
        (Class::RateLimited, _) => "the broker waits and tries again",
        (Class::Unknown, _) => {
            "the broker tries again; an [[error]] rule in a [dialect] can say what this answer means"
        }
        (Class::SecretExpired, _) => {
            "get a new client secret from the vendor and put it where client_secret is read from"
        }
        (Class::ClientRejected, Op::Acquire) if inputs.password.is_some() => {
            "check client_id, client_secret, username and password: the server does not say which is wrong"
        }
        (Class::ClientRejected, _) => {
            "check client_id and client_secret, and whether client_auth is the one the server expects"
        }
        (Class::Config, _) => "check url, grant, scope and params against the vendor's documentation",
        (Class::UserAction, _) => "the vendor has to accept this client certificate",
        (Class::GrantRejected, Op::Acquire) => {
            "check username and password; the broker will not try them again by itself"
        }
        (Class::GrantRejected, Op::Renew) => "the refresh token is dead: a new login is needed",
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), against the answer's own `Date`, or our clock.
fn retry_after(reply: &Reply, now: Timestamp) -> Option<Duration> {
    let text = |name| reply.headers.get(name).and_then(|value| value.to_str().ok());
    let value = text(header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok()).or_else(|| Some(now.into()))?;
    until.duration_since(now).ok()
}
