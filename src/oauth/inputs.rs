//! The values of one request: what the templates of an operation are filled with.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use serde_json::Value;

use super::file::{ClientAuth, Grant};
use crate::secret::Secret;

/// The values of one request.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub grant: Grant,
    pub client_auth: ClientAuth,
    /// The token's own URL, `{url}`.
    pub url: Option<String>,
    pub base_url: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub refresh_token: Option<Secret>,
    /// Joined with the dialect's separator.
    pub scope: Option<String>,
    /// Of the dialect's own names: the token's, or the dialect's.
    pub vars: BTreeMap<String, String>,
    /// What only this request has, by its name in templates: `code`, `state`, `access_token`, …
    pub values: BTreeMap<&'static str, Given>,
    /// How long ago the client secret was made, where that is known.
    pub secret_age: Option<Duration>,
    /// The token's own extra parameters; they win over the dialect's.
    pub params: BTreeMap<String, Secret>,
    /// The token's own extra headers; they win over the dialect's.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Other secrets that the server may repeat: they are masked as well.
    pub known: Vec<Secret>,
}

/// A value that only one request has.
#[derive(Clone, Debug)]
pub enum Given {
    /// It is masked in whatever the server says.
    Secret(Secret),
    /// Text, a number, a list.
    Plain(Value),
}

impl Given {
    /// Text that is no secret.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Plain(Value::String(text.into()))
    }
}

impl Inputs {
    /// Without any value.
    pub fn new(grant: Grant, client_auth: ClientAuth) -> Self {
        Self {
            grant,
            client_auth,
            url: None,
            base_url: None,
            client_id: None,
            client_secret: None,
            username: None,
            password: None,
            refresh_token: None,
            scope: None,
            vars: BTreeMap::new(),
            values: BTreeMap::new(),
            secret_age: None,
            params: BTreeMap::new(),
            headers: Vec::new(),
            known: Vec::new(),
        }
    }

    /// The value of a name in templates, as text; `None` where it is not set.
    pub fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let secret = |secret: &'_ Option<Secret>| secret.as_ref().map(|s| s.expose().to_owned().into());
        let text = |text: &'_ Option<String>| text.clone().map(Cow::Owned);
        match name {
            "grant" => Some(self.grant.as_str().into()),
            "url" => text(&self.url),
            "base_url" => self.base_url.as_deref().map(|url| url.trim_end_matches('/').to_owned().into()),
            "client_id" => text(&self.client_id),
            "client_secret" => secret(&self.client_secret),
            "username" => text(&self.username),
            "password" => secret(&self.password),
            "refresh_token" => secret(&self.refresh_token),
            "scope" => text(&self.scope),
            // What ends a login as a whole is the refresh token, if there is one (RFC 7009 §2.1).
            "token" => self.value("refresh_token").or_else(|| self.value("access_token")),
            name => match (self.values.get(name), name.strip_prefix("headers.")) {
                (Some(Given::Secret(secret)), _) => Some(secret.expose().to_owned().into()),
                (Some(Given::Plain(value)), _) => plain(value).map(Cow::Owned),
                (None, Some(header)) => self.header(header),
                (None, None) => self.vars.get(name).map(|value| value.as_str().into()),
            },
        }
    }

    /// The value of a name that is more than text: a number, a list.
    pub fn typed(&self, name: &str) -> Option<&Value> {
        match self.values.get(name) {
            Some(Given::Plain(value)) if !value.is_string() => Some(value),
            _ => None,
        }
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let (_, value) = self.headers.iter().find(|(header, _)| header.as_str().eq_ignore_ascii_case(name))?;
        Some(value.expose().to_owned().into())
    }

    /// Everything of it that must not come out again.
    pub fn secrets(&self) -> Vec<&Secret> {
        let single = [&self.client_secret, &self.password, &self.refresh_token];
        let mut all: Vec<_> = single.into_iter().flatten().collect();
        all.extend(&self.known);
        all.extend(self.params.values());
        all.extend(self.headers.iter().map(|(_, value)| value));
        all.extend(
            self.values.values().filter_map(|v| if let Given::Secret(secret) = v { Some(secret) } else { None }),
        );
        all
    }
}

/// Text and numbers as they are, a list with spaces between.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(list) => Some(list.iter().filter_map(plain).collect::<Vec<_>>().join(" ")),
        Value::Null | Value::Object(_) => None,
    }
}
