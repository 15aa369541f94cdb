//! A compiled dialect: a vendor's deviations from the RFCs, checked, with templates and expressions parsed. Nothing here
//! knows a vendor.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::error::Class;
use super::expiry::Expires;
use super::file::{
    AnswerFile, BasicEncoding, ClientAuth, DialectFile, Encoding, ExpiresFile, ExpiresTable, ExpiresWord, Grant,
    OneOrMany, Op, OperationFile, Rotation, RuleFile,
};
use super::place::Places;
use super::template::{Template, TemplateError};

/// The names a template of a token request may use.
pub const REQUEST_NAMES: &[&str] =
    &["base_url", "url", "grant", "client_id", "client_secret", "username", "password", "refresh_token", "scope"];

/// The only name a template of `[inject]` or of a route may use.
pub const INJECT_NAMES: &[&str] = &["access_token"];

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

/// A compiled token request.
#[derive(Clone, Debug)]
pub struct Operation {
    pub method: Method,
    pub url: Template,
    pub encoding: Encoding,
    pub params: BTreeMap<String, Param>,
    pub headers: Vec<(HeaderName, Template)>,
}

/// A parameter: text, or for JSON anything.
#[derive(Clone, Debug)]
pub enum Param {
    Text(Template),
    Table(BTreeMap<String, Param>),
    List(Vec<Param>),
    /// A number, a boolean: sent as it is.
    Literal(Value),
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

/// Something wrong in a dialect: which key, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectError {
    pub key: String,
    pub problem: String,
    pub hint: String,
}

/// Collects what is wrong while a dialect is compiled, so that all is said at once.
#[derive(Default)]
pub(super) struct Faults(Vec<DialectError>);

impl Faults {
    pub(super) fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) {
        self.0.push(DialectError { key: key.into(), problem: problem.into(), hint: hint.into() });
    }

    fn template(&mut self, key: &str, text: &str, known: &[&str]) -> Option<Template> {
        match Template::parse(text, known) {
            Ok(template) => Some(template),
            Err(e) => {
                let hint = match &e {
                    TemplateError::Unclosed => "write `{{` for a brace".to_owned(),
                    TemplateError::Unknown { .. } => format!("known here: {}", known.join(", ")),
                };
                self.add(key, e.to_string(), hint);
                None
            }
        }
    }

    fn places(&mut self, key: &str, given: Option<OneOrMany<String>>, default: &[&str]) -> Places {
        let texts = given.map_or_else(|| default.iter().map(|&place| place.to_owned()).collect(), OneOrMany::into_vec);
        Places::parse(&texts).unwrap_or_else(|wrong| {
            self.add(key, format!("{wrong:?} is no place"), "json:PATH, header:NAME, cookie:NAME, text or json_string");
            Places::default()
        })
    }

    fn expires(&mut self, key: &str, file: ExpiresFile) -> Option<Expires> {
        let table = match file {
            ExpiresFile::Word(ExpiresWord::Jwt) => return Some(Expires::Jwt),
            ExpiresFile::Table(table) => table,
        };
        let unit = table.unit.unwrap_or_default();
        match (table.r#in, table.at, table.fixed) {
            (Some(places), None, None) => Some(Expires::In(self.places(key, Some(places), &[]), unit)),
            (None, Some(places), None) => Some(Expires::At(self.places(key, Some(places), &[]), unit)),
            (None, None, Some(fixed)) => Some(Expires::Fixed(fixed.0)),
            _ => {
                self.add(key, "needs exactly one of `in`, `at` and `fixed`", "such as { in = \"json:expires_in\" }");
                None
            }
        }
    }

    fn header(&mut self, key: &str, name: &str) -> Option<HeaderName> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
        if parsed.is_none() {
            self.add(key, format!("{name:?} is not a header name"), "letters, digits and hyphens");
        }
        parsed
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
        let header = f.header("inject.header", file.inject.header.as_deref().unwrap_or("authorization"));
        let format = file.inject.format.as_deref().unwrap_or("Bearer {access_token}");
        let format = f.template("inject.format", format, INJECT_NAMES);
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

    pub fn operation(&self, op: Op) -> Option<&Operation> {
        match op {
            Op::Acquire => self.acquire.as_ref(),
            Op::Renew => self.renew.as_ref(),
        }
    }
}

fn operation(key: &str, file: OperationFile, f: &mut Faults) -> Option<Operation> {
    let method = Method::from_bytes(file.method.as_deref().unwrap_or("POST").as_bytes()).ok();
    if method.is_none() {
        f.add(format!("{key}.method"), "not an HTTP method", "POST or GET");
    }
    let url = match &file.url {
        Some(url) => f.template(&format!("{key}.url"), url, REQUEST_NAMES),
        None => {
            f.add(format!("{key}.url"), "missing", "the URL of this request, such as \"{base_url}/token\"");
            None
        }
    };
    let nested = |value: &Value| value.is_object() || value.is_array();
    if file.encoding != Encoding::Json && file.params.values().any(nested) {
        f.add(format!("{key}.params"), "nested parameters can only be sent as JSON", "set encoding = \"json\"");
    }
    let params = file
        .params
        .into_iter()
        .filter_map(|(name, value)| Some((name.clone(), param(&format!("{key}.params.{name}"), value, f)?)))
        .collect();
    let headers = file
        .headers
        .iter()
        .filter_map(|(name, value)| {
            let key = format!("{key}.headers.{name}");
            Some((f.header(&key, name)?, f.template(&key, value, REQUEST_NAMES)?))
        })
        .collect();
    Some(Operation { method: method?, url: url?, encoding: file.encoding, params, headers })
}

fn param(key: &str, value: Value, f: &mut Faults) -> Option<Param> {
    Some(match value {
        Value::String(text) => Param::Text(f.template(key, &text, REQUEST_NAMES)?),
        Value::Object(table) => Param::Table(
            table
                .into_iter()
                .filter_map(|(name, v)| Some((name.clone(), param(&format!("{key}.{name}"), v, f)?)))
                .collect(),
        ),
        Value::Array(list) => Param::List(list.into_iter().filter_map(|v| param(key, v, f)).collect()),
        literal => Param::Literal(literal),
    })
}

const MESSAGE_PLACES: [&str; 6] =
    ["json:error_description", "json:message", "json:errorMessage", "json:detail", "json:title", "json:error"];

fn answer_rules(file: AnswerFile, f: &mut Faults) -> AnswerRules {
    let expires = file.expires.unwrap_or_else(|| {
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
        expires: f.expires("answer.expires", expires).unwrap_or(Expires::Jwt),
        refresh_expires: file.refresh_expires.and_then(|e| f.expires("answer.refresh_expires", e)),
        success_status: success.status.map(OneOrMany::into_vec).unwrap_or_default(),
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

fn compile_rule(index: usize, file: RuleFile, f: &mut Faults) -> Option<Rule> {
    let message = match file.when.message.map(|text| RegexBuilder::new(&text).case_insensitive(true).build()) {
        Some(Ok(regex)) => Some(regex),
        Some(Err(e)) => {
            f.add(
                format!("error[{index}].when.message"),
                format!("not a regular expression: {e}"),
                "see docs.rs/regex",
            );
            return None;
        }
        None => None,
    };
    Some(Rule {
        op: file.when.op,
        status: file.when.status.map(OneOrMany::into_vec).unwrap_or_default(),
        code: file.when.code.map(OneOrMany::into_vec).unwrap_or_default(),
        message,
        class: file.class,
    })
}
