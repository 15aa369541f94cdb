//! A compiled request: what is sent where, with templates for what is only known later.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use serde_json::Value;

use super::faults::Faults;
use super::file::{AuthorizeFile, Encoding, ManagedFile, Op, OperationFile};
use super::place::Places;
use super::template::Template;

/// The names that the templates of `acquire` and `renew` may use.
pub const REQUEST_NAMES: &[&str] =
    &["base_url", "url", "grant", "client_id", "client_secret", "username", "password", "refresh_token", "scope"];
/// What `exchange` knows besides.
const EXCHANGE_NAMES: &[&str] = &["code", "code_verifier", "redirect_uri"];
/// What `revoke` knows besides.
const REVOKE_NAMES: &[&str] = &["revoke_url", "access_token", "token"];
/// Security: nothing secret is known here, because a browser shows the URL and keeps it.
const AUTHORIZE_NAMES: &[&str] =
    &["base_url", "authorize_url", "client_id", "redirect_uri", "scope", "state", "code_challenge"];
/// What the requests of `secrets` and `clients` know; the access token is the administrator's.
const MANAGE_NAMES: &[&str] = &[
    "base_url",
    "url",
    "client_id",
    "access_token",
    "headers.*",
    "secret_id",
    "new_secret",
    "name",
    "lifetime",
    "expires_at",
    "id",
    "new_client_id",
    "grants",
    "redirect_uris",
    "access_ttl",
    "refresh_ttl",
    "limit",
    "offset",
    "sort",
    "order",
];

/// The names that templates of a request for `op` may use, with the dialect's own.
pub(super) fn names<'n>(op: Op, own: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let (all, more): (&[&str], &[&str]) = match op {
        Op::Acquire | Op::Renew => (REQUEST_NAMES, &[]),
        Op::Exchange => (REQUEST_NAMES, EXCHANGE_NAMES),
        Op::Revoke => (REQUEST_NAMES, REVOKE_NAMES),
        Op::Manage => (MANAGE_NAMES, &[]),
    };
    all.iter().chain(more).copied().chain(own).collect()
}

/// Has that name a meaning in some template already? Then it cannot be one of a dialect's own.
pub(super) fn is_taken(name: &str) -> bool {
    [REQUEST_NAMES, EXCHANGE_NAMES, REVOKE_NAMES, AUTHORIZE_NAMES, MANAGE_NAMES].iter().any(|all| all.contains(&name))
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

/// A compiled `[authorize]`: the URL that a browser opens.
#[derive(Clone, Debug)]
pub struct Authorize {
    pub url: Template,
    pub params: BTreeMap<String, Template>,
}

impl Authorize {
    /// Does it say where `name` goes?
    pub fn uses(&self, name: &str) -> bool {
        self.url.uses(name) || self.params.values().any(|param| param.uses(name))
    }
}

/// A compiled request of `[secrets]` or `[clients]`.
#[derive(Clone, Debug)]
pub struct Managed {
    pub request: Operation,
    /// Where the list is in the answer; `None`: the answer itself is it, or one of its items.
    pub items: Option<Places>,
    /// What an item has, by our name for it.
    pub fields: BTreeMap<String, Places>,
}

/// Requests that `[secrets]` may have, and what their answers may hold.
pub(super) const SECRETS: (&[&str], &[&str]) = (
    &["list", "create", "delete", "replace"],
    &["items", "id", "name", "hint", "secret", "starts", "expires", "deleted"],
);
/// The same of `[clients]`.
pub(super) const CLIENTS: (&[&str], &[&str]) = (
    &["list", "register", "delete"],
    &[
        "items",
        "id",
        "name",
        "client_id",
        "client_secret",
        "grants",
        "redirect_uris",
        "access_ttl",
        "refresh_ttl",
        "enabled",
    ],
);

pub(super) fn operation(key: &str, file: OperationFile, names: &[&str], f: &mut Faults) -> Option<Operation> {
    let method = Method::from_bytes(file.method.as_deref().unwrap_or("POST").as_bytes()).ok();
    if method.is_none() {
        f.add(format!("{key}.method"), "not an HTTP method", "POST or GET");
    }
    let url = url(key, file.url.as_deref(), names, f);
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
        .filter_map(|(name, value)| Some((name.clone(), param(&format!("{key}.params.{name}"), value, names, f)?)))
        .collect();
    let headers = f.headers(&format!("{key}.headers"), &file.headers, names);
    Some(Operation { method: method?, url: url?, encoding: file.encoding, params, headers })
}

fn url(key: &str, written: Option<&str>, names: &[&str], f: &mut Faults) -> Option<Template> {
    let key = format!("{key}.url");
    let Some(url) = written else {
        f.add(key, "is missing", "the URL of this request, such as \"{base_url}/token\"");
        return None;
    };
    f.template(&key, url, names)
}

fn param(key: &str, value: Value, names: &[&str], f: &mut Faults) -> Option<Param> {
    Some(match value {
        Value::String(text) => Param::Text(f.template(key, &text, names)?),
        Value::Object(table) => Param::Table(
            table
                .into_iter()
                .filter_map(|(name, v)| Some((name.clone(), param(&format!("{key}.{name}"), v, names, f)?)))
                .collect(),
        ),
        Value::Array(list) => Param::List(list.into_iter().filter_map(|v| param(key, v, names, f)).collect()),
        literal => Param::Literal(literal),
    })
}

pub(super) fn authorize(file: AuthorizeFile, own: &[&str], f: &mut Faults) -> Option<Authorize> {
    let names: Vec<_> = AUTHORIZE_NAMES.iter().chain(own).copied().collect();
    let url = url("authorize", file.url.as_deref(), &names, f);
    let template = |(name, text): (String, String)| {
        let template = f.template(&format!("authorize.params.{name}"), &text, &names)?;
        Some((name, template))
    };
    let params = file.params.into_iter().filter_map(template).collect();
    Some(Authorize { url: url?, params })
}

/// Compiles a table of management requests; `known` are the requests and the fields that it may have.
pub(super) fn managed(
    table: &str,
    files: BTreeMap<String, ManagedFile>,
    known: (&[&str], &[&str]),
    names: &[&str],
    f: &mut Faults,
) -> BTreeMap<String, Managed> {
    let mut all = BTreeMap::new();
    for (name, file) in files {
        let key = format!("{table}.{name}");
        if !known.0.contains(&name.as_str()) {
            f.add(key, "there is no such request", format!("one of {}", known.0.join(", ")));
            continue;
        }
        let mut fields = BTreeMap::new();
        for (field, places) in file.answer {
            let key = format!("{key}.answer.{field}");
            if known.1.contains(&field.as_str()) {
                fields.insert(field, f.places(&key, Some(places), &[]));
            } else {
                f.add(key, "is not known here", format!("one of {}", known.1.join(", ")));
            }
        }
        let ManagedFile { method, url, encoding, params, headers, .. } = file;
        let request = OperationFile { method, url, encoding, params, headers };
        if let Some(request) = operation(&key, request, names, f) {
            let items = fields.remove("items");
            all.insert(name, Managed { request, items, fields });
        }
    }
    all
}
