//! Compiled `[answer]` and `[[error]]`: how an answer is read, and what a refusal means.

use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::error::Class;
use super::expiry::Expires;
use super::faults::Faults;
use super::file::{
    AnswerFile, ExpiresFile, ExpiresTable, ExpiresWord, OneOrMany, Op, RotateFile, Rotation, RuleFile, SameTokenFile,
    SameTokenWord, Status,
};
use super::place::Places;

/// Compiled `[answer]`.
#[derive(Clone, Debug)]
pub struct AnswerRules {
    pub access_token: Places,
    pub refresh_token: Places,
    pub rotation: Rotation,
    pub expires: Expires,
    pub refresh_expires: Option<Expires>,
    pub success_status: Vec<u16>,
    /// JSON paths and the values they must have.
    pub success_equals: Vec<(Vec<String>, Value)>,
    pub error_code: Places,
    /// Those of `error_code` that hold something only when something is wrong.
    pub error_flag: Places,
    pub error_message: Places,
    pub token_type: Places,
    pub same_token: SameToken,
    /// A new token ends the one before.
    pub exclusive: bool,
}

/// Does a server give the same token again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameToken {
    Never,
    UntilExpiry,
    /// As long as more than this is left of it.
    UntilRemaining(Duration),
}

/// A compiled error rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub op: Option<Op>,
    pub status: Vec<u16>,
    pub code: Vec<String>,
    pub message: Option<Regex>,
    /// The client secret was made less than this before; does not hold where nobody knows when.
    pub secret_younger_than: Option<Duration>,
    pub class: Class,
    /// What to do about it, where the dialect knows better than the class.
    pub fix: Option<String>,
}

/// No pause of a secret's rotation is longer.
pub const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// No lifetime of the configuration is shorter.
pub const LIFETIME_MIN: Duration = Duration::from_secs(1);

const MESSAGE_PLACES: [&str; 6] =
    ["json:error_description", "json:message", "json:errorMessage", "json:detail", "json:title", "json:error"];

pub(super) fn answer_rules(file: AnswerFile, f: &mut Faults) -> AnswerRules {
    let told = file.expires.unwrap_or_else(|| {
        ExpiresFile::Table(ExpiresTable {
            r#in: Some(OneOrMany::One("json:expires_in".into())),
            ..ExpiresTable::default()
        })
    });
    let success = file.success.unwrap_or_default();
    // What `success.equals` names tells a success by its value, and not by being there.
    let told_by_value =
        |place: &String| place.strip_prefix("json:").is_some_and(|path| success.equals.contains_key(path));
    let codes = file.error_code.map_or_else(|| vec!["json:error".to_owned()], OneOrMany::into_vec);
    let flags: Vec<_> = codes.iter().filter(|place| !told_by_value(place)).cloned().collect();
    AnswerRules {
        access_token: f.places("answer.access_token", file.access_token, &["json:access_token"]),
        refresh_token: f.places("answer.refresh_token", file.refresh_token, &["json:refresh_token"]),
        rotation: file.rotation,
        expires: expires(f, "answer.expires", told).unwrap_or(Expires::Jwt),
        refresh_expires: file.refresh_expires.and_then(|e| expires(f, "answer.refresh_expires", e)),
        success_status: statuses(success.status),
        success_equals: success
            .equals
            .into_iter()
            .map(|(path, value)| (path.split('.').map(str::to_owned).collect(), value))
            .collect(),
        error_code: f.places("answer.error_code", Some(OneOrMany::Many(codes)), &[]),
        error_flag: Places::parse(&flags).unwrap_or_default(),
        error_message: f.places("answer.error_message", file.error_message, &MESSAGE_PLACES),
        token_type: f.places("answer", None, &["json:token_type", "json:tokenType"]),
        same_token: match file.same_token {
            None | Some(SameTokenFile::Word(SameTokenWord::Never)) => SameToken::Never,
            Some(SameTokenFile::Word(SameTokenWord::UntilExpiry)) => SameToken::UntilExpiry,
            Some(SameTokenFile::Table(table)) => SameToken::UntilRemaining(table.until_remaining.0),
        },
        exclusive: file.exclusive,
    }
}

fn expires(f: &mut Faults, key: &str, file: ExpiresFile) -> Option<Expires> {
    let table = match file {
        ExpiresFile::Word(ExpiresWord::Jwt) => return Some(Expires::Jwt),
        ExpiresFile::Table(table) => table,
    };
    let unit = table.unit.unwrap_or_default();
    match (table.r#in, table.at, table.fixed) {
        (Some(places), None, None) => Some(Expires::In(f.places(key, Some(places), &[]), unit)),
        (None, Some(places), None) => Some(Expires::At(f.places(key, Some(places), &[]), unit)),
        (None, None, Some(fixed)) if fixed.0 < LIFETIME_MIN => {
            f.add(key, "a lifetime is at least a second", "such as { fixed = \"28m\" }");
            None
        }
        (None, None, Some(fixed)) => Some(Expires::Fixed(fixed.0)),
        _ => {
            f.add(key, "needs exactly one of `in`, `at` and `fixed`", "such as { in = \"json:expires_in\" }");
            None
        }
    }
}

fn statuses(written: Option<OneOrMany<Status>>) -> Vec<u16> {
    written.map(OneOrMany::into_vec).unwrap_or_default().into_iter().map(|status| status.0).collect()
}

pub(super) fn check_rotate(file: &RotateFile, f: &mut Faults) {
    for (key, span) in [("rotate.verify.every", file.verify.every), ("rotate.settle", file.settle)] {
        if span.is_some_and(|span| span.0 > PAUSE_MAX) {
            f.add(key, "is too long", "at most 1h");
        }
    }
}

pub(super) fn compile_rule(index: usize, file: RuleFile, f: &mut Faults) -> Option<Rule> {
    let message = match file.when.message.map(|text| RegexBuilder::new(&text).case_insensitive(true).build()) {
        Some(Ok(regex)) => Some(regex),
        Some(Err(e)) => {
            // The lines before the last draw a picture.
            let e = e.to_string();
            let why = e.lines().last().unwrap_or_default().trim_start_matches("error: ");
            f.add(
                format!("error[{index}].when.message"),
                format!("not a regular expression: {why}"),
                "see docs.rs/regex",
            );
            return None;
        }
        None => None,
    };
    Some(Rule {
        op: file.when.op,
        status: statuses(file.when.status),
        code: file.when.code.map(OneOrMany::into_vec).unwrap_or_default(),
        message,
        secret_younger_than: file.when.secret_younger_than.map(|span| span.0),
        class: file.class,
        fix: file.fix,
    })
}
