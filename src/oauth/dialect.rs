//! A compiled dialect: a vendor's deviations from the RFCs, checked, with templates and expressions parsed. Nothing here
//! knows a vendor.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::error::Class;
use super::expiry::Expires;
use super::faults::{DialectError, Faults};
use super::file::{
    AnswerFile, BasicEncoding, ClientAuth, DialectFile, ExpiresFile, ExpiresTable, ExpiresWord, Grant, OneOrMany, Op,
    Rotation, RuleFile, Status,
};
use super::operation::{Operation, operation};
use super::place::Places;
use super::template::Template;

/// The keys of a token that a dialect may need.
const NEEDS: &[&str] = &["url", "base_url", "client_id", "client_secret", "username", "password", "identity", "scope"];

/// How a token is written into a header: a template of `[inject]` or of a route. `Err` says what is wrong with it.
pub fn credential_format(text: &str) -> Result<Template, String> {
    const NAME: &str = "access_token";
    let format = Template::parse(text, &[NAME]).map_err(|e| e.to_string())?;
    if !format.uses(NAME) {
        return Err("does not hold the token".into());
    }
    let fits = format.render(|_| Some("x".into())).is_some_and(|text| HeaderValue::from_str(&text).is_ok());
    if fits { Ok(format) } else { Err("has characters that no header may have".into()) }
}

/// A compiled dialect.
#[derive(Clone, Debug)]
pub struct Dialect {
    pub name: String,
    pub needs: Vec<String>,
    pub base_url: Option<String>,
    pub grant: Option<Grant>,
    pub client_auth: Option<ClientAuth>,
    pub basic_encoding: BasicEncoding,
    pub scope_separator: String,
    pub refresh_at: Option<f64>,
    pub acquire: Option<Operation>,
    pub renew: Option<Operation>,
    pub answer: AnswerRules,
    pub errors: Vec<Rule>,
    pub inject_header: HeaderName,
    pub inject_format: Template,
}

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
    pub error_message: Places,
    pub token_type: Places,
}

/// A compiled error rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub op: Option<Op>,
    pub status: Vec<u16>,
    pub code: Vec<String>,
    pub message: Option<Regex>,
    pub class: Class,
}

/// By everything that is in them.
impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        // A regular expression can be compared by its text alone.
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Dialect {
    /// Checks and compiles what was written.
    pub fn compile(name: &str, file: DialectFile) -> Result<Self, Vec<DialectError>> {
        let mut faults = Faults::default();
        let f = &mut faults;
        let acquire = file.acquire.and_then(|op| operation("acquire", op, f));
        let renew = file.renew.and_then(|op| operation("renew", op, f));
        let answer = answer_rules(file.answer, f);
        let errors = file.error.into_iter().enumerate().filter_map(|(i, rule)| compile_rule(i, rule, f)).collect();
        for need in &file.needs {
            let in_table = need.strip_prefix("headers.").or_else(|| need.strip_prefix("params."));
            if !(NEEDS.contains(&need.as_str()) || in_table.is_some_and(|name| !name.is_empty())) {
                let hint = format!("one of {}, headers.NAME, params.NAME", NEEDS.join(", "));
                f.add("needs", format!("{need:?} is no key that a token could need"), hint);
            }
        }
        let header = f.header("inject.header", file.inject.header.as_deref().unwrap_or("authorization"));
        let format = file.inject.format.as_deref().unwrap_or("Bearer {access_token}");
        let format = credential_format(format)
            .map_err(|why| f.add("inject.format", why, "written like \"Bearer {access_token}\""))
            .ok();
        if let (Some(inject_header), Some(inject_format), true) = (header, format, faults.0.is_empty()) {
            Ok(Self {
                name: name.to_owned(),
                needs: file.needs,
                base_url: file.base_url,
                grant: file.grant,
                client_auth: file.client_auth,
                basic_encoding: file.basic_encoding,
                scope_separator: file.scope_separator.unwrap_or_else(|| " ".into()),
                refresh_at: file.refresh_at,
                acquire,
                renew,
                answer,
                errors,
                inject_header,
                inject_format,
            })
        } else {
            Err(faults.0)
        }
    }

    /// Does a request of `op` say where `name` goes?
    pub fn places(&self, op: Op, name: &str) -> bool {
        self.operation(op).is_some_and(|operation| operation.places(name))
    }

    pub fn operation(&self, op: Op) -> Option<&Operation> {
        match op {
            Op::Acquire => self.acquire.as_ref(),
            Op::Renew => self.renew.as_ref(),
        }
    }
}

/// No lifetime of the configuration is shorter.
pub const LIFETIME_MIN: Duration = Duration::from_secs(1);

const MESSAGE_PLACES: [&str; 6] =
    ["json:error_description", "json:message", "json:errorMessage", "json:detail", "json:title", "json:error"];

fn answer_rules(file: AnswerFile, f: &mut Faults) -> AnswerRules {
    let told = file.expires.unwrap_or_else(|| {
        ExpiresFile::Table(ExpiresTable {
            r#in: Some(OneOrMany::One("json:expires_in".into())),
            ..ExpiresTable::default()
        })
    });
    let success = file.success.unwrap_or_default();
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
        error_code: f.places("answer.error_code", file.error_code, &["json:error"]),
        error_message: f.places("answer.error_message", file.error_message, &MESSAGE_PLACES),
        token_type: f.places("answer", None, &["json:token_type", "json:tokenType"]),
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

fn compile_rule(index: usize, file: RuleFile, f: &mut Faults) -> Option<Rule> {
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
        class: file.class,
    })
}
