//! A compiled token request: what is sent where, with templates for what is only known later.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use serde_json::Value;

use super::faults::Faults;
use super::file::{Encoding, OperationFile};
use super::template::Template;

/// The names a template of a token request may use.
pub const REQUEST_NAMES: &[&str] =
    &["base_url", "url", "grant", "client_id", "client_secret", "username", "password", "refresh_token", "scope"];

/// A compiled token request.
#[derive(Clone, Debug)]
pub struct Operation {
    pub method: Method,
    pub url: Template,
    pub encoding: Encoding,
    pub params: BTreeMap<String, Param>,
    pub headers: Vec<(HeaderName, Template)>,
}

impl Operation {
    /// Does it say itself where `name` goes?
    pub fn places(&self, name: &str) -> bool {
        let header = |(_, template): &(HeaderName, Template)| template.uses(name);
        self.url.uses(name) || self.headers.iter().any(header) || self.params.values().any(|param| param.uses(name))
    }
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

impl Param {
    fn uses(&self, name: &str) -> bool {
        match self {
            Self::Text(template) => template.uses(name),
            Self::Table(table) => table.values().any(|param| param.uses(name)),
            Self::List(list) => list.iter().any(|param| param.uses(name)),
            Self::Literal(_) => false,
        }
    }
}

pub(super) fn operation(key: &str, file: OperationFile, f: &mut Faults) -> Option<Operation> {
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
    if file.encoding == Encoding::None && !file.params.is_empty() {
        f.add(
            format!("{key}.params"),
            "encoding = \"none\" sends no parameters",
            "remove them, or set another encoding",
        );
    }
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
