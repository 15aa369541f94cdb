//! What a token server's answer means: a token, or a refusal (see `refusal`). Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::dialect::Dialect;
use super::error::{Class, Outcome, TokenError};
use super::expiry::{Expires, Told};
use super::file::{Op, Rotation};
use super::jwt;
use super::place::{Places, Reply, at};
use super::refusal::refusal;
use super::request::Inputs;
use super::rules::SameToken;
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
    let failed = says_error(&rules.error_flag, reply, json);
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

/// Reads the answer to a request that brings no token, got at `now`: a success needs its status and no error code.
pub fn done(dialect: &Dialect, op: Op, inputs: &Inputs, reply: &Reply, now: Timestamp) -> Result<(), TokenError> {
    let json = reply.json();
    let json = json.as_ref();
    if reply.status.is_success() && !says_error(&dialect.answer.error_flag, reply, json) {
        return Ok(());
    }
    Err(refusal(dialect, op, inputs, reply, json, now))
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
    // A server that gives the same token again may do so in its last second, and then none is left of it.
    if dialect.answer.same_token != SameToken::Never && dialect.answer.expires.is_nothing_left(reply, json) {
        told = Told::Over("nothing is left of it".into());
    }
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
