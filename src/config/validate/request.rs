//! The requests that get a token: could they be made, and does every key of the token change something?

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Check;
use crate::config::file::TokenFile;
use crate::config::problem::nearest;
use crate::oauth::dialect::Dialect;
use crate::oauth::file::{ClientAuth, Encoding, Grant};
use crate::oauth::operation::{Authorize, Operation, REQUEST_NAMES};
use crate::oauth::request::escaped;

/// One token, as its requests see it.
pub(super) struct Requests<'c> {
    name: &'c str,
    file: &'c TokenFile,
    dialect: &'c Dialect,
    auth: ClientAuth,
    /// With their names.
    operations: Vec<(&'static str, &'c Operation)>,
    /// Where a person logs in, for the grant that needs it.
    page: Option<&'c Authorize>,
}

impl<'c> Requests<'c> {
    pub(super) fn new(
        name: &'c str,
        file: &'c TokenFile,
        dialect: &'c Dialect,
        grant: Grant,
        auth: ClientAuth,
    ) -> Self {
        let acquire = dialect.acquire.as_ref().map(|operation| ("acquire", operation));
        let renew = dialect.renew.as_ref().map(|operation| ("renew", operation));
        let exchange = dialect.exchange.as_ref().map(|operation| ("exchange", operation));
        let operations = match grant {
            Grant::ClientCredentials => acquire.into_iter().collect(),
            Grant::Password => acquire.into_iter().chain(renew).collect(),
            Grant::AuthorizationCode => exchange.into_iter().chain(renew).collect(),
            Grant::RefreshToken => renew.into_iter().collect(),
            Grant::Static => Vec::new(),
        };
        let page = dialect.authorize.as_ref().filter(|_| grant == Grant::AuthorizationCode);
        Self { name, file, dialect, auth, operations, page }
    }

    fn uses(&self, key: &str) -> bool {
        self.operations.iter().any(|(_, operation)| operation.places(key))
            || self.page.is_some_and(|page| page.uses(key))
    }

    /// Is it named by what gets no token: logins, revocations, management?
    fn named(&self, key: &str) -> bool {
        self.dialect.other_urls().any(|(_, url)| url.uses(key))
    }

    /// What a URL is made of; secrets are not looked at, and stand as an x.
    fn value(&self, name: &str) -> Option<Cow<'c, str>> {
        let there = |there: bool| there.then_some(Cow::Borrowed("x"));
        match name {
            "url" => self.file.url.as_deref().map(Cow::Borrowed),
            "base_url" => {
                let url = self.file.base_url.as_deref().or(self.dialect.base_url.as_deref());
                url.map(|url| url.trim_end_matches('/').into())
            }
            "authorize_url" => self.file.authorize_url.as_deref().map(Cow::Borrowed),
            "revoke_url" => self.file.revoke_url.as_deref().map(Cow::Borrowed),
            "client_id" => there(self.file.client_id.is_some()),
            "client_secret" => there(self.file.client_secret.is_some()),
            "username" => there(self.file.username.is_some()),
            "password" => there(self.file.password.is_some()),
            "scope" => there(!self.file.scope.is_empty()),
            name => {
                let own = self.file.vars.get(name).or_else(|| self.dialect.vars.get(name)?.as_ref());
                own.map(|value| escaped(value).into()).or_else(|| there(true))
            }
        }
    }
}

/// The parameters that the grant and the client authentication are made of.
const OWN_PARAMS: [&str; 7] =
    ["grant_type", "client_id", "client_secret", "username", "password", "refresh_token", "scope"];

impl Check<'_> {
    pub(super) fn requests(&mut self, requests: &Requests<'_>) {
        for (op, operation) in &requests.operations {
            self.address(requests, op, operation);
        }
        self.others(requests);
        self.overrides(requests);
        let file = requests.file;
        let secret = matches!(requests.auth, ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost);
        let silent = requests.operations.iter().all(|(_, operation)| operation.encoding == Encoding::None);
        for (key, given, used) in [
            ("url", file.url.is_some(), requests.uses("url")),
            ("base_url", file.base_url.is_some(), requests.uses("base_url") || requests.named("base_url")),
            ("scope", !file.scope.is_empty(), requests.uses("scope")),
            ("client_secret", file.client_secret.is_some(), secret || requests.uses("client_secret")),
            ("params", !file.params.is_empty(), !silent),
        ] {
            let wanted = requests.dialect.needs.iter().any(|need| need.split('.').next() == Some(key));
            if given && !used && !wanted && !requests.operations.is_empty() {
                let (problem, hint) = match key {
                    "client_secret" => {
                        ("is not used by this client_auth".into(), "remove it, or set another client_auth")
                    }
                    "url" if requests.uses("base_url") => {
                        (self.unused(requests), "remove it, or set base_url, which its requests start with")
                    }
                    _ => (self.unused(requests), "remove it, or choose the dialect that is meant"),
                };
                self.wrong_key(&["token", requests.name, key], &problem, hint);
            }
        }
    }

    /// The values of the dialect's own names, its own where the token has none.
    pub(super) fn vars(&mut self, name: &str, file: &TokenFile, dialect: &Dialect) -> BTreeMap<String, String> {
        for (var, value) in &file.vars {
            let path = ["token", name, "vars", var];
            if !dialect.vars.contains_key(var) {
                let known: Vec<_> = dialect.vars.keys().map(String::as_str).collect();
                let hint = match nearest(var, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => "remove it".to_owned(),
                    None => format!("known here: {}", known.join(", ")),
                };
                self.wrong_key(&path, &format!("the dialect {} has no such name", dialect.name), &hint);
            } else if value.is_empty() {
                self.problem(&path, "is empty", "write what the vendor calls it, or remove it");
            }
        }
        let known = dialect.vars.iter();
        let value =
            |(var, own): (&String, &Option<String>)| Some((var.clone(), file.vars.get(var).or(own.as_ref()).cloned()?));
        known.filter_map(value).collect()
    }

    fn unused(&self, requests: &Requests<'_>) -> String {
        format!("is not used by the requests of the dialect {}", requests.dialect.name)
    }

    /// A token made by hand is asked of nobody.
    pub(super) fn no_requests(&mut self, name: &str, file: &TokenFile) {
        for (key, given) in [
            ("url", file.url.is_some()),
            ("base_url", file.base_url.is_some()),
            ("authorize_url", file.authorize_url.is_some()),
            ("revoke_url", file.revoke_url.is_some()),
            ("redirect_uri", file.redirect_uri.is_some()),
            ("client_id", file.client_id.is_some()),
            ("client_secret", file.client_secret.is_some()),
            ("secret_expires", file.secret_expires.is_some()),
            ("client_auth", file.client_auth.is_some()),
            ("scope", !file.scope.is_empty()),
            ("params", !file.params.is_empty()),
            ("headers", !file.headers.is_empty()),
            ("limit", file.limit.is_some()),
            ("identity", file.identity.is_some()),
            ("rotate", file.rotate.is_some()),
        ] {
            if given {
                let hint = "remove it, or set the grant that is meant";
                self.wrong_key(&["token", name, key], "is not used by the grant static, which makes no request", hint);
            }
        }
    }

    /// Can the URL of a request be made, and is it one?
    fn address(&mut self, requests: &Requests<'_>, op: &str, operation: &Operation) {
        let name = requests.name;
        let lacking: Vec<_> =
            REQUEST_NAMES.iter().filter(|key| operation.url.uses(key) && requests.value(key).is_none()).collect();
        for key in &lacking {
            let problem = format!("the {op} request of the dialect {} needs `{key}`", requests.dialect.name);
            self.lacks(name, key, &problem, "add it to this table");
        }
        let wrong = ["url", "base_url"].iter().any(|key| self.refused(&["token", name, key]))
            || self.refused(&["dialect", &requests.dialect.name]);
        if wrong || !lacking.is_empty() {
            return;
        }
        let Some(url) = operation.url.render(|name| requests.value(name)) else { return };
        if let Some((problem, hint)) = Self::token_url_fault(&url) {
            let own = ["dialect", requests.dialect.name.as_str(), op, "url"];
            let problem = format!("the URL of the {op} request: {problem}");
            let token = ["token", name];
            self.problem(if self.document.has(&own) { &own } else { &token }, &problem, hint);
        }
    }

    /// The URLs of what gets no token: they are not asked for, but where they are known they are good ones.
    fn others(&mut self, requests: &Requests<'_>) {
        let name = &requests.dialect.name;
        if self.refused(&["dialect", name]) || self.refused(&["token", requests.name, "base_url"]) {
            return;
        }
        for (op, url) in requests.dialect.other_urls() {
            let steps: Vec<_> = ["dialect", name].into_iter().chain(op.split('.')).chain(["url"]).collect();
            let fault = url.render(|name| requests.value(name)).filter(|_| self.document.has(&steps));
            if let Some((problem, hint)) = fault.and_then(|url| Self::token_url_fault(&url)) {
                self.problem(&steps, problem, hint);
            }
        }
    }

    /// Extra parameters and headers that would take the place of what the grant and the client authentication send.
    fn overrides(&mut self, requests: &Requests<'_>) {
        let basic = requests.auth == ClientAuth::ClientSecretBasic;
        let file = requests.file;
        for param in file.params.keys().filter(|param| OWN_PARAMS.contains(&param.as_str())) {
            let added = match param.as_str() {
                "client_id" => !basic,
                "client_secret" => requests.auth == ClientAuth::ClientSecretPost,
                _ => false,
            };
            if added || requests.operations.iter().any(|(_, operation)| operation.params.contains_key(param)) {
                let hint = if param == "grant_type" { "set `grant`" } else { "set the token's own key of that name" };
                self.wrong_key(
                    &["token", requests.name, "params", param],
                    "would take the place of what the broker sends itself",
                    hint,
                );
            }
        }
        for header in file.headers.keys().filter(|name| basic && name.eq_ignore_ascii_case("authorization")) {
            self.wrong_key(
                &["token", requests.name, "headers", header],
                "would take the place of the client's id and secret, which client_secret_basic sends there",
                "remove it, or set another client_auth",
            );
        }
    }
}
