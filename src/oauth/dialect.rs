//! A compiled dialect: a vendor's deviations from the RFCs, checked, with templates and expressions parsed. Nothing here
//! knows a vendor.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::faults::{DialectError, Faults};
use super::file::{BasicEncoding, ClientAuth, DialectFile, Grant, InjectFile, Op, RotateFile};
use super::operation::{self, Authorize, CLIENTS, Managed, Operation, SECRETS, operation};
use super::rules::{AnswerRules, Rule, answer_rules, check_rotate, compile_rule};
use super::template::Template;
use crate::units::Budget;

/// The keys of a token that a dialect may need.
const NEEDS: &[&str] = &["url", "base_url", "client_id", "client_secret", "username", "password", "identity", "scope"];
/// Those of its tables.
const NEEDS_IN: &[&str] = &["headers.", "params.", "vars."];

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
    /// The vendor's request budget, for tokens that name none.
    pub limit: Option<Budget>,
    /// Its own names in templates, with the value where a token has none.
    pub vars: BTreeMap<String, Option<String>>,
    pub acquire: Option<Operation>,
    pub renew: Option<Operation>,
    pub exchange: Option<Operation>,
    pub revoke: Option<Operation>,
    pub authorize: Option<Authorize>,
    /// By name: `list`, `create`, `delete`, `replace`.
    pub secrets: BTreeMap<String, Managed>,
    /// How client secrets are rotated, for tokens that do not say.
    pub rotate: RotateFile,
    /// By name: `list`, `register`, `delete`.
    pub clients: BTreeMap<String, Managed>,
    pub answer: AnswerRules,
    pub errors: Vec<Rule>,
    pub inject_header: HeaderName,
    pub inject_format: Template,
    /// Extra fields of API requests: each is either one `{headers.NAME}` alone, or text without it.
    pub inject_headers: Vec<(HeaderName, Template)>,
}

/// By everything that is in them.
impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        // A regular expression can be compared by its text alone.
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Dialect {
    /// Checks and compiles what was written. `Err` is everything that is wrong with it.
    pub fn compile(name: &str, file: DialectFile) -> Result<Self, Vec<DialectError>> {
        let mut faults = Faults::default();
        let f = &mut faults;
        let vars = vars(&file, f);
        let own: Vec<&str> = vars.keys().map(String::as_str).collect();
        let known = |op| operation::names(op, own.iter().copied());
        let compiled = |key, op, written: Option<_>, f: &mut Faults| operation(key, written?, &known(op), f);
        let acquire = compiled("acquire", Op::Acquire, file.acquire, f);
        let renew = compiled("renew", Op::Renew, file.renew, f);
        let exchange = compiled("exchange", Op::Exchange, file.exchange, f);
        let revoke = compiled("revoke", Op::Revoke, file.revoke, f);
        let authorize = file.authorize.and_then(|page| operation::authorize(page, &own, f));
        let secrets = operation::managed("secrets", file.secrets, SECRETS, &known(Op::Manage), f);
        let clients = operation::managed("clients", file.clients, CLIENTS, &known(Op::Manage), f);
        let answer = answer_rules(file.answer, f);
        let errors = file.error.into_iter().enumerate().filter_map(|(i, rule)| compile_rule(i, rule, f)).collect();
        needs(&file.needs, f);
        check_rotate(&file.rotate, f);
        let inject = inject(&file.inject, &own, f);
        let Some((inject_header, inject_format, inject_headers)) = inject.filter(|_| faults.0.is_empty()) else {
            return Err(faults.0);
        };
        Ok(Self {
            name: name.to_owned(),
            needs: file.needs,
            base_url: file.base_url,
            grant: file.grant,
            client_auth: file.client_auth,
            basic_encoding: file.basic_encoding,
            scope_separator: file.scope_separator.unwrap_or_else(|| " ".into()),
            refresh_at: file.refresh_at,
            limit: file.limit,
            acquire,
            renew,
            exchange,
            revoke,
            authorize,
            secrets,
            rotate: file.rotate,
            clients,
            answer,
            errors,
            inject_header,
            inject_format,
            inject_headers,
            vars,
        })
    }

    /// Does a request of `op` say where `name` goes?
    pub fn places(&self, op: Op, name: &str) -> bool {
        self.operation(op).is_some_and(|operation| operation.places(name))
    }

    /// The URLs of the requests that bring no token, with their keys.
    pub fn other_urls(&self) -> impl Iterator<Item = (String, &Template)> {
        let revoke = self.revoke.iter().map(|operation| ("revoke".to_owned(), &operation.url));
        let authorize = self.authorize.iter().map(|page| ("authorize".to_owned(), &page.url));
        let managed = [("secrets", &self.secrets), ("clients", &self.clients)].into_iter().flat_map(|(table, all)| {
            all.iter().map(move |(name, managed)| (format!("{table}.{name}"), &managed.request.url))
        });
        revoke.chain(authorize).chain(managed)
    }

    pub fn operation(&self, op: Op) -> Option<&Operation> {
        match op {
            Op::Acquire => self.acquire.as_ref(),
            Op::Renew => self.renew.as_ref(),
            Op::Exchange => self.exchange.as_ref(),
            Op::Revoke => self.revoke.as_ref(),
            Op::Manage => None,
        }
    }
}

/// The dialect's own names: those with a value in `vars`, and those that `needs` asks a token for.
fn vars(file: &DialectFile, f: &mut Faults) -> BTreeMap<String, Option<String>> {
    let needed = file.needs.iter().filter_map(|need| need.strip_prefix("vars.")).map(|name| (name.to_owned(), None));
    let given = file.vars.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
    let vars: BTreeMap<_, _> = needed.chain(given).collect();
    for name in vars.keys() {
        let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if operation::is_taken(name) {
            f.add(format!("vars.{name}"), "this name has a meaning already", "choose another");
        } else if !word {
            f.add(format!("vars.{name}"), "is not a usable name", "lower-case letters, digits and _");
        }
    }
    vars
}

fn needs(needs: &[String], f: &mut Faults) {
    for need in needs {
        let in_table = NEEDS_IN.iter().any(|table| need.strip_prefix(table).is_some_and(|name| !name.is_empty()));
        if !NEEDS.contains(&need.as_str()) && !in_table {
            let hint = format!("one of {}, headers.NAME, params.NAME, vars.NAME", NEEDS.join(", "));
            f.add("needs", format!("{need:?} is no key that a token could need"), hint);
        }
    }
}

type Inject = (HeaderName, Template, Vec<(HeaderName, Template)>);

fn inject(file: &InjectFile, own: &[&str], f: &mut Faults) -> Option<Inject> {
    let header = f.header("inject.header", file.header.as_deref().unwrap_or("authorization"));
    let format = credential_format(file.format.as_deref().unwrap_or("Bearer {access_token}"))
        .map_err(|why| f.add("inject.format", why, "written like \"Bearer {access_token}\""))
        .ok();
    let known: Vec<_> = ["headers.*", "client_id"].iter().chain(own).copied().collect();
    let headers = f.headers("inject.headers", &file.headers, &known);
    for (name, template) in &headers {
        let written = file.headers.keys().find(|key| name.as_str().eq_ignore_ascii_case(key));
        let key = format!("inject.headers.{}", written.map_or(name.as_str(), String::as_str));
        if Some(name) == header.as_ref() {
            f.add(&key, "names the field that carries the token", "set inject.format, or choose another field");
        }
        if template.names().any(|name| name.starts_with("headers.")) && template.alone().is_none() {
            f.add(&key, "a field of the token can only be sent as it is", "nothing beside the {headers.NAME}");
        }
    }
    Some((header?, format?, headers))
}
