//! `[token.NAME]`: is everything there that its dialect, grant and client authentication need, and nothing that would be
//! ignored?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::request::Requests;
use super::tls::Secured;
use super::{Check, Named};
use crate::config::Token;
use crate::config::file::{SecretFile, TokenFile};
use crate::oauth::builtin;
use crate::oauth::dialect::Dialect;
use crate::oauth::file::{ClientAuth, Grant, OneOrMany};
use crate::oauth::response::handmade;
use crate::secret::source::SecretSource;

/// No exchange takes longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

impl Check<'_> {
    pub(super) fn tokens(
        &mut self,
        files: &BTreeMap<String, TokenFile>,
        named: &Named,
    ) -> BTreeMap<String, Arc<Token>> {
        let mut tokens = BTreeMap::new();
        for (name, file) in files {
            if let Some(token) = self.token(name, file, named) {
                tokens.insert(name.clone(), Arc::new(token));
            }
        }
        tokens
    }

    fn token(&mut self, name: &str, file: &TokenFile, named: &Named) -> Option<Token> {
        let (identity, trusted) = (file.identity.as_deref(), (file.ca.as_ref(), file.roots));
        let secured = self.secured(&["token", name], named, identity, trusted, file.server_name.as_deref());
        let Secured { identity, client: tls, server_name, .. } = secured;
        self.texts(name, file);
        let dialect = self.dialect_of(name, file, named)?;
        let grant = file.grant.or(dialect.grant).unwrap_or(Grant::ClientCredentials);
        let client_auth = file.client_auth.or(dialect.client_auth).unwrap_or(ClientAuth::ClientSecretBasic);
        let told = |check: &Self, key| !check.refused(&["token", name, key]);
        let (grant_told, auth_told) = (told(self, "grant"), told(self, "client_auth"));
        if grant != Grant::Static {
            self.needs(name, file, &dialect, grant);
        }
        if grant_told {
            self.grant_needs(name, file, &dialect, grant);
        }
        if grant == Grant::Static {
            self.no_requests(name, file);
        } else {
            if auth_told {
                self.client_needs(name, file, client_auth);
            }
            if grant_told && auth_told {
                self.requests(&Requests::new(name, file, &dialect, grant, client_auth));
            }
        }
        let refresh_at = file.refresh_at.or(dialect.refresh_at).unwrap_or(0.75);
        self.scope(name, file);
        Some(Token {
            name: name.to_owned(),
            grant,
            client_auth,
            url: file.url.clone(),
            base_url: file.base_url.clone().or_else(|| dialect.base_url.clone()),
            authorize_url: file.authorize_url.clone(),
            revoke_url: file.revoke_url.clone(),
            redirect_uri: file.redirect_uri.clone(),
            client_id: file.client_id.clone(),
            client_secrets: self.client_secrets(name, file),
            secret_expires: self.secret_expires(name, file),
            username: file.username.clone(),
            password: self.optional(name, "password", file.password.as_ref()),
            refresh_token: self.optional(name, "refresh_token", file.refresh_token.as_ref()),
            access_token: self.access_token(name, file.access_token.as_ref()),
            scope: (!file.scope.is_empty()).then(|| file.scope.join(&dialect.scope_separator)),
            params: self.secrets(&file.params, &["token", name, "params"]).collect(),
            headers: self.headers(&file.headers, &["token", name, "headers"]),
            vars: self.vars(name, file, &dialect),
            identity: identity.and_then(|identity| Some((file.identity.clone()?, identity.leaf.clone()))),
            tls,
            server_name,
            send_to: self.send_to(name, file),
            refresh_at,
            default_lifetime: self.timeout(file.default_lifetime, 300, &["token", name, "default_lifetime"]),
            timeout: self.exchange_timeout(name, file),
            limit: file.limit.or(dialect.limit),
            eager: file.eager.unwrap_or(true),
            required: file.required.unwrap_or(true),
            rotate: self.rotate(name, file, &dialect),
            dialect,
        })
    }

    fn texts(&mut self, name: &str, file: &TokenFile) {
        for (key, url) in [
            ("url", &file.url),
            ("base_url", &file.base_url),
            ("authorize_url", &file.authorize_url),
            ("revoke_url", &file.revoke_url),
        ] {
            if let Some(url) = url {
                self.token_url(url, &["token", name, key]);
            }
        }
        for (key, text) in [("client_id", &file.client_id), ("username", &file.username)] {
            if text.as_deref().is_some_and(str::is_empty) {
                self.problem(&["token", name, key], "is empty", "write what the vendor knows it by, or remove it");
            }
        }
    }

    fn exchange_timeout(&mut self, name: &str, file: &TokenFile) -> Duration {
        let path = ["token", name, "timeout"];
        let timeout = self.timeout(file.timeout, 10, &path);
        if timeout > TIMEOUT_MAX {
            self.problem(&path, "is longer than 5m", "a token server that takes longer is down");
        }
        timeout
    }

    fn dialect_of(&mut self, name: &str, file: &TokenFile, named: &Named) -> Option<Dialect> {
        let wanted = match &file.dialect {
            None if self.refused(&["token", name, "dialect"]) => return None,
            wanted => wanted.as_deref().unwrap_or("oauth2"),
        };
        self.using("dialect", wanted);
        if let Some(own) = named.dialects.get(wanted) {
            return own.clone();
        }
        let found = builtin::built_in(wanted);
        if found.is_none() {
            let key = ["token", name, "dialect"];
            let built_in = builtin::BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
            let known: Vec<_> = built_in.chain(named.dialects.keys().cloned()).collect();
            self.unknown(&key, "dialect", wanted, &known);
        }
        found
    }

    /// What the dialect says it needs.
    fn needs(&mut self, name: &str, file: &TokenFile, dialect: &Dialect, grant: Grant) {
        let login = |need: &str| matches!(need, "username" | "password");
        for need in dialect.needs.iter().filter(|need| grant == Grant::Password || !login(need)) {
            let there = match need.split_once('.') {
                Some(("headers", header)) => file.headers.keys().any(|key| key.eq_ignore_ascii_case(header)),
                Some(("params", param)) => file.params.contains_key(param),
                Some(("vars", var)) => {
                    file.vars.contains_key(var) || dialect.vars.get(var).is_some_and(Option::is_some)
                }
                _ => match need.as_str() {
                    "url" => file.url.is_some(),
                    "base_url" => file.base_url.is_some() || dialect.base_url.is_some(),
                    "client_id" => file.client_id.is_some(),
                    "client_secret" => file.client_secret.is_some(),
                    "username" => file.username.is_some(),
                    "password" => file.password.is_some(),
                    "identity" => file.identity.is_some(),
                    "scope" => !file.scope.is_empty(),
                    _ => true,
                },
            };
            if !there {
                let problem = format!("the dialect {} needs `{need}`", dialect.name);
                self.lacks(name, need, &problem, "add it to this table");
            }
        }
    }

    /// What the grant needs, and what it would silently ignore.
    fn grant_needs(&mut self, name: &str, file: &TokenFile, dialect: &Dialect, grant: Grant) {
        let needs: &[(&str, bool)] = match grant {
            Grant::ClientCredentials => &[],
            Grant::Password => &[("username", file.username.is_some()), ("password", file.password.is_some())],
            Grant::AuthorizationCode => &[],
            Grant::RefreshToken => &[("refresh_token", file.refresh_token.is_some())],
            Grant::Static => &[("access_token", file.access_token.is_some())],
        };
        for (key, _) in needs.iter().filter(|(_, there)| !there) {
            self.lacks(name, key, &format!("the grant {} needs `{key}`", grant.as_str()), "add it to this table");
        }
        let operation = match grant {
            Grant::ClientCredentials | Grant::Password => dialect.acquire.is_some(),
            Grant::AuthorizationCode => dialect.authorize.is_some() && dialect.exchange.is_some(),
            Grant::RefreshToken => dialect.renew.is_some(),
            Grant::Static => true,
        };
        if !operation {
            let problem = format!("the dialect {} has no request for the grant {}", dialect.name, grant.as_str());
            self.problem(&["token", name, "grant"], &problem, "choose another grant or dialect");
        }
        let password = grant == Grant::Password;
        for (key, given, used) in [
            ("username", file.username.is_some(), password),
            ("password", file.password.is_some(), password),
            ("refresh_token", file.refresh_token.is_some(), grant == Grant::RefreshToken),
            ("access_token", file.access_token.is_some(), grant == Grant::Static),
        ] {
            if given && !used {
                let problem = format!("is not used by the grant {}", grant.as_str());
                self.wrong_key(&["token", name, key], &problem, "set the grant that is meant, or remove it");
            }
        }
        self.login(name, file, dialect, grant);
        if matches!(grant, Grant::RefreshToken | Grant::AuthorizationCode) && !self.durable {
            let problem = match grant {
                Grant::RefreshToken => "a rotated refresh token is lost at a restart: the store is in memory",
                _ => "a login is lost at a restart: the store is in memory",
            };
            self.warning(&["token", name, "grant"], problem, "set [store] kind = \"file\", with path and key");
        }
    }

    fn client_needs(&mut self, name: &str, file: &TokenFile, auth: ClientAuth) {
        let there = |key: &str| match key {
            "client_id" => file.client_id.is_some(),
            "client_secret" => file.client_secret.is_some(),
            _ => file.identity.is_some(),
        };
        let needs: &[&str] = match auth {
            ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost => &["client_id", "client_secret"],
            ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth => &["client_id", "identity"],
            ClientAuth::None => &[],
        };
        for key in needs {
            if !there(key) {
                let hint = match *key {
                    "client_id" => "the vendor gave one when the client was registered; or set another client_auth",
                    _ => "add it, or set client_auth to what the vendor expects",
                };
                self.lacks(name, key, &format!("the client authentication needs `{key}`"), hint);
            }
        }
    }

    fn scope(&mut self, name: &str, file: &TokenFile) {
        self.each(&file.scope, ["token", name, "scope"], |check, scope, key| {
            if scope.is_empty() || scope.contains(char::is_whitespace) {
                check.problem(key, "a scope is one word", "write a list: [\"read\", \"write\"]");
            }
        });
    }

    fn send_to(&mut self, name: &str, file: &TokenFile) -> Vec<String> {
        self.each(&file.send_to, ["token", name, "send_to"], Check::origin)
    }

    /// A token made by hand must be a good one; later nobody can tell where a bad one came from.
    fn access_token(&mut self, name: &str, written: Option<&SecretFile>) -> Option<SecretSource> {
        let path = ["token", name, "access_token"];
        let (source, value) = self.secret_and_value(written?.clone(), &path, true);
        if let Some(Err(e)) = value.map(|value| handmade(value, self.now)) {
            self.problem(&path, &e.problem, &e.fix);
        }
        Some(source)
    }

    /// One, or two of which the second is tried when the first is refused.
    fn client_secrets(&mut self, name: &str, file: &TokenFile) -> Vec<SecretSource> {
        let path = ["token", name, "client_secret"];
        match &file.client_secret {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![self.secret(one.clone(), &path, true)],
            Some(OneOrMany::Many(many)) => {
                if many.len() > 2 {
                    self.problem(&path, "there are more than two", "leave the two that the vendor may accept");
                }
                let many = many.iter().take(2).enumerate();
                many.map(|(i, one)| self.secret(one.clone(), &[path[0], path[1], path[2], &i.to_string()], true))
                    .collect()
            }
        }
    }

    fn optional(&mut self, name: &str, key: &str, secret: Option<&SecretFile>) -> Option<SecretSource> {
        secret.map(|secret| self.secret(secret.clone(), &["token", name, key], true))
    }

    fn secrets<'m>(
        &'m mut self,
        written: &'m BTreeMap<String, SecretFile>,
        path: &'m [&'m str; 3],
    ) -> impl Iterator<Item = (String, SecretSource)> + 'm {
        written.iter().map(|(key, secret)| {
            (key.clone(), self.secret(secret.clone(), &[path[0], path[1], path[2], key.as_str()], false))
        })
    }

    /// Extra request headers; framing, hop-by-hop fields and `Host` are not for the configuration to set.
    pub(super) fn headers(
        &mut self,
        written: &BTreeMap<String, SecretFile>,
        path: &[&str; 3],
    ) -> Vec<(HeaderName, SecretSource)> {
        let mut headers = Vec::new();
        for (name, secret) in written {
            let key = [path[0], path[1], path[2], name.as_str()];
            let (source, value) = self.secret_and_value(secret.clone(), &key, false);
            if value.is_some_and(|value| !value.fits_a_header()) {
                self.problem(&key, "the value has bytes that no header may have", "is there a line break in it?");
            }
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(header) if crate::fields::is_ours(header.as_str().as_bytes()) => {
                    self.wrong_key(&key, "the broker sets this field itself", "remove it");
                }
                Ok(header) if headers.iter().any(|(other, _)| *other == header) => {
                    self.wrong_key(
                        &key,
                        "this field is here twice: the case of a name does not count",
                        "remove one of them",
                    );
                }
                Ok(header) => headers.push((header, source)),
                Err(_) => self.wrong_key(&key, "is not a header name", "letters, digits and hyphens"),
            }
        }
        headers
    }
}
