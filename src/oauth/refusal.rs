//! What a refusal means: its class, what happened and what to do, in words. Decided here and nowhere else. Pure.

use std::borrow::Cow;
use std::time::Duration;

use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

use super::dialect::Dialect;
use super::error::{Class, Outcome, TokenError};
use super::file::{Grant, Op};
use super::place::Reply;
use super::request::Inputs;
use super::rules::Rule;
use super::words::cleaned;

/// What an answer means that is no success.
pub(super) fn refusal(
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
    // A gateway may have written an answer into a text once more: then that text is what is read.
    let text = match json {
        None => Some(text),
        Some(Value::String(inner)) => Some(inner.into()),
        Some(_) => None,
    };
    let searched = message.as_deref().or(text.as_deref()).unwrap_or_default();
    let rule = dialect.errors.iter().find(|rule| applies(rule, op, inputs, reply.status, code.as_deref(), searched));
    let class = rule.map_or_else(|| by_default(op, inputs, reply.status, code.as_deref()), |rule| rule.class);
    let problem = problem(op, inputs, reply, json, code.as_deref());
    let fix = rule.and_then(|rule| rule.fix.as_deref()).unwrap_or_else(|| fix(class, op, inputs));
    let mut error = TokenError::new(class, problem, fix).of(outcome(class, op, code.as_deref(), reply, json));
    // Security: the text of an answer that is none may hold the very token it brings; that of a refusal is the vendor's word.
    let plain = text.filter(|text| !reply.status.is_success() && !is_page(text));
    error.vendor = message.or_else(|| plain.map(Cow::into_owned)).map(|message| cleaned(&message, inputs));
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

fn applies(rule: &Rule, op: Op, inputs: &Inputs, status: StatusCode, code: Option<&str>, message: &str) -> bool {
    rule.op.is_none_or(|wanted| wanted == op)
        && (rule.status.is_empty() || rule.status.contains(&status.as_u16()))
        && (rule.code.is_empty() || code.is_some_and(|code| rule.code.iter().any(|wanted| wanted == code)))
        && rule
            .message
            .as_ref()
            .is_none_or(|regex| regex.is_match(message) && !(is_page(message) && blames(rule.class)))
        && rule.secret_younger_than.is_none_or(|limit| inputs.secret_age.is_some_and(|age| age < limit))
}

/// Somebody before the token server may have written it.
fn is_page(text: &str) -> bool {
    text.trim_start().starts_with('<')
}

/// Does it blame what we sent, so that it would not be sent again? The words of a page are no ground for that.
fn blames(class: Class) -> bool {
    matches!(class, Class::GrantRejected | Class::ClientRejected | Class::SecretExpired | Class::UserAction)
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
        // Some say that of a password that is wrong.
        Some("temporarily_unavailable" | "server_error")
            if op != Op::Acquire || !matches!(status.as_u16(), 401 | 403) =>
        {
            Class::Transient
        }
        _ => match status.as_u16() {
            // It is the administrator's access token that was refused, and not the client.
            401 | 403 if op == Op::Manage => Class::UserAction,
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
    let what = match op {
        Op::Acquire => "the request for a token",
        Op::Renew => "the refresh token",
        Op::Exchange => "the code",
        Op::Revoke => "to revoke the token",
        Op::Manage => "the administrator's request",
    };
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
        (Class::UserAction, Op::Manage) => {
            "get an access token of somebody who may manage this, and that has not ended"
        }
        (Class::UserAction, _) => {
            "see to it at the vendor: an account that is locked, a consent, or a client certificate not known there"
        }
        (Class::GrantRejected, Op::Acquire) => {
            "check username and password; the broker will not try them again by itself"
        }
        (Class::GrantRejected, Op::Exchange) => {
            "the code has ended, was used already, or is not of this redirect_uri: log in again"
        }
        (Class::GrantRejected, _) if inputs.grant == Grant::RefreshToken => {
            "the refresh token is dead: get another one, and set it as refresh_token"
        }
        (Class::GrantRejected, _) => "the refresh token is dead: a new login is needed",
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
