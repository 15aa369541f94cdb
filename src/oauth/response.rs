//! What a token server's answer means: a token, or an error whose class is decided here and nowhere else. Pure.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::byte_serialize;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

use super::dialect::{Dialect, Rule};
use super::error::{Class, TokenError};
use super::expiry::{Expires, Told};
use super::file::{Op, Rotation};
use super::jwt;
use super::place::{Reply, at};
use super::request::Inputs;
use crate::secret::Secret;

/// At most this many characters of the vendor's message are kept.
const MESSAGE_MAX: usize = 200;

/// A successful exchange.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub access_token: Secret,
    /// `None`: the one we have goes on.
    pub refresh_token: Option<Secret>,
    /// `None`: the server does not tell.
    pub lifetime: Option<Duration>,
    pub refresh_lifetime: Option<Duration>,
    /// Something odd that did not keep the token from being used.
    pub warning: Option<String>,
}

/// Reads the answer to `op`, got at `now`.
pub fn read(dialect: &Dialect, op: Op, inputs: &Inputs, reply: &Reply, now: Timestamp) -> Result<Answer, TokenError> {
    let json = reply.json();
    let json = json.as_ref();
    let rules = &dialect.answer;
    let code = rules.error_code.find_text(reply, json);
    let token = rules.access_token.find_text(reply, json);
    match token {
        Some(token) if code.is_none() && succeeded(dialect, reply, json) => {
            let token = Secret::new(token);
            usable(&token, rules.token_type.find_text(reply, json))?;
            answer(dialect, op, token, reply, json, now)
        }
        _ => Err(refusal(dialect, op, inputs, reply, json, code)),
    }
}

/// The answer that stands for a token made by hand: only its own `exp` can end it.
pub fn handmade(access_token: Secret, now: Timestamp) -> Result<Answer, TokenError> {
    usable(&access_token, None)?;
    let lifetime = match jwt::expiry(access_token.expose()) {
        None => None,
        Some(exp) => match u64::try_from(exp.saturating_sub(now.as_second())) {
            Ok(left) if left > 0 => Some(Duration::from_secs(left)),
            _ => {
                let problem = "the token in access_token has expired";
                return Err(TokenError::new(Class::Config, problem, "put a new one where access_token is read from"));
            }
        },
    };
    Ok(Answer { access_token, refresh_token: None, lifetime, refresh_lifetime: None, warning: None })
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

/// Security: a token becomes a header value; one with control characters could become a header of its own.
fn usable(token: &Secret, token_type: Option<String>) -> Result<(), TokenError> {
    if !token.expose().bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(TokenError::new(
            Class::Transient,
            "the access token has bytes that no header may have",
            "this is a fault of the token server",
        ));
    }
    match token_type {
        Some(kind) if ["mac", "n_a", "dpop", "pop"].contains(&kind.to_ascii_lowercase().as_str()) => {
            Err(TokenError::new(
                Class::Config,
                format!("the server issued a token of type {}, not a bearer token", cleaned(&kind, &[])),
                "ask the vendor for bearer tokens for this client",
            ))
        }
        _ => Ok(()),
    }
}

fn answer(
    dialect: &Dialect,
    op: Op,
    access_token: Secret,
    reply: &Reply,
    json: Option<&Value>,
    now: Timestamp,
) -> Result<Answer, TokenError> {
    let rules = &dialect.answer;
    let token = access_token.expose();
    let mut told = rules.expires.told(reply, json, token, now);
    let mut warning = None;
    if let Told::Odd(why) = &told {
        warning = Some(why.clone());
    }
    if matches!(told, Told::Odd(_) | Told::Nothing) {
        told = Expires::Jwt.told(reply, json, token, now);
    }
    let lifetime = match told {
        Told::Lifetime(lifetime) => Some(lifetime),
        Told::Nothing | Told::Odd(_) => None,
        Told::Over(why) => {
            return Err(TokenError::new(
                Class::Unknown,
                format!("the access token is over on arrival: {why}"),
                "compare the token server's clock with its answer's Date; if the unit is wrong, set `unit` in a [dialect]",
            ));
        }
    };
    let refresh_token = match (op, rules.rotation) {
        (Op::Renew, Rotation::Never) => None,
        _ => rules.refresh_token.find_text(reply, json).map(Secret::new),
    };
    let refresh_lifetime = match rules.refresh_expires.as_ref().map(|e| e.told(reply, json, token, now)) {
        Some(Told::Lifetime(lifetime)) => Some(lifetime),
        _ => None,
    };
    Ok(Answer { access_token, refresh_token, lifetime, refresh_lifetime, warning })
}

fn refusal(
    dialect: &Dialect,
    op: Op,
    inputs: &Inputs,
    reply: &Reply,
    json: Option<&Value>,
    code: Option<String>,
) -> TokenError {
    let text = String::from_utf8_lossy(&reply.body);
    let message = dialect.answer.error_message.find_text(reply, json);
    let searched = message.as_deref().unwrap_or(&text);
    let class = dialect
        .errors
        .iter()
        .find(|rule| applies(rule, op, reply.status, code.as_deref(), searched))
        .map_or_else(|| by_default(op, reply.status, code.as_deref()), |rule| rule.class);
    let secrets = inputs.secrets();
    let problem = problem(op, reply, json, code.as_deref().map(|code| cleaned(code, &secrets)));
    let mut error = TokenError::new(class, problem, fix(class, op, inputs));
    let html = text.trim_start().starts_with('<');
    error.vendor =
        message.or_else(|| (json.is_none() && !html).then(|| text.into_owned())).map(|m| cleaned(&m, &secrets));
    error.vendor = error.vendor.filter(|message| !message.is_empty() && Some(message) != code.as_ref());
    error.retry_after = retry_after(reply);
    error
}

fn applies(rule: &Rule, op: Op, status: StatusCode, code: Option<&str>, message: &str) -> bool {
    rule.op.is_none_or(|wanted| wanted == op)
        && (rule.status.is_empty() || rule.status.contains(&status.as_u16()))
        && (rule.code.is_empty() || code.is_some_and(|code| rule.code.iter().any(|wanted| wanted == code)))
        && rule.message.as_ref().is_none_or(|regex| regex.is_match(message))
}

/// What RFC 6749 §5.2, OpenID Connect and HTTP say, where no rule of the dialect does.
fn by_default(op: Op, status: StatusCode, code: Option<&str>) -> Class {
    match code {
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

fn problem(op: Op, reply: &Reply, json: Option<&Value>, code: Option<String>) -> String {
    let what = if op == Op::Acquire { "the request for a token" } else { "the refresh token" };
    let status = reply.status.as_u16();
    match code {
        Some(code) => format!("the token server refused {what} (HTTP {status}, {code})"),
        None if reply.status.is_redirection() => {
            let to = reply.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            // Security: only scheme and host; a query could hold what we sent.
            let to: String =
                to.split(['?', '#']).next().unwrap_or_default().split('/').take(3).collect::<Vec<_>>().join("/");
            format!("the token server redirects to {} (HTTP {status}), which is never followed", cleaned(&to, &[]))
        }
        None if !reply.status.is_success() => format!("the token server refused {what} (HTTP {status})"),
        None if reply.body.is_empty() => format!("the token server's answer is empty (HTTP {status})"),
        None if json.is_none() => format!("the token server's answer is not JSON (HTTP {status})"),
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

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), against the answer's own `Date`.
fn retry_after(reply: &Reply) -> Option<Duration> {
    let text = |name| reply.headers.get(name).and_then(|value| value.to_str().ok());
    let value = text(header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    until.duration_since(now).ok()
}

/// The vendor's text, fit for a log: one line, no control characters, our secrets masked, cut.
fn cleaned(text: &str, secrets: &[&Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(|secret| secret.expose()).filter(|secret| secret.len() >= 4) {
        for shape in [secret.to_owned(), STANDARD.encode(secret), byte_serialize(secret.as_bytes()).collect()] {
            text = text.replace(&shape, "***");
        }
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MESSAGE_MAX).collect()
}
