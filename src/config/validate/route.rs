//! `[route.NAME]`: does it lead somewhere, and to one place only?

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::{HeaderName, Method};

use super::url::Parts;
use super::{Check, Named};
use crate::config::file::{RouteFile, TokenRef};
use crate::config::{Admin, Listen, Route, Token, Upstream};
use crate::fields;
use crate::oauth::client::is_loopback;
use crate::oauth::dialect::credential_format;
use crate::oauth::file::OneOrMany;
use crate::oauth::template::Template;
use crate::secret::Secret;
use crate::secret::source::SecretSource;

const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Check<'_> {
    pub(super) fn routes(
        &mut self,
        files: BTreeMap<String, RouteFile>,
        tokens: &BTreeMap<String, Arc<Token>>,
        named: &Named,
        admin: &Admin,
        token_names: &BTreeSet<String>,
    ) -> BTreeMap<String, Arc<Route>> {
        let mut routes = BTreeMap::new();
        for (name, file) in files {
            let route = self.route(&name, file, tokens, named, token_names);
            routes.insert(name, Arc::new(route));
        }
        self.overlaps(&routes, admin);
        self.one_tls(&routes);
        self.loops(&routes, admin);
        routes
    }

    fn route(
        &mut self,
        name: &str,
        file: RouteFile,
        tokens: &BTreeMap<String, Arc<Token>>,
        named: &Named,
        token_names: &BTreeSet<String>,
    ) -> Route {
        let key = |key| ["route", name, key];
        let listen = file.listen.clone().map(OneOrMany::into_vec).unwrap_or_default();
        if listen.is_empty() && !self.refused(&key("listen")) {
            self.problem(&key("listen"), "is missing", "where the application connects, such as 127.0.0.1:8403");
        }
        let listen =
            self.each(&listen, key("listen"), |check, text, key| check.listen_for(text, key, file.unsafe_listen));
        let clients = file.clients.clone().map(|clients| self.clients(name, clients, &listen));
        self.reachable(name, &file, &listen);
        let (parts, mut upstream) = self.upstream(file.upstream.as_deref(), file.unsafe_plain_upstream, name);
        self.secure(name, &file, named, &parts, &mut upstream);
        let token = self.token_of(name, file.token.as_ref(), token_names);
        let config = token.as_ref().and_then(|token| tokens.get(token));
        if let Some(token) = config {
            self.sendable(name, token, &upstream);
        }
        let dialect = config.map(|token| &token.dialect);
        let header = match &file.header {
            Some(header) => self.credential_header(header, &key("header")),
            None => dialect.map_or(http::header::AUTHORIZATION, |dialect| dialect.inject_header.clone()),
        };
        let format = match &file.format {
            Some(format) => self.format(format, &key("format")),
            None => dialect.map(|dialect| dialect.inject_format.clone()),
        };
        let mut headers = self.headers(&file.headers, &key("headers"));
        if token.is_some() && headers.iter().any(|(name, _)| *name == header) {
            self.wrong_key(
                &key("headers"),
                "names the field that carries the token",
                "remove it, or set token = false",
            );
        }
        for (name, source) in config.into_iter().flat_map(|token| injected(token)) {
            if name != header && headers.iter().all(|(own, _)| *own != name) {
                headers.push((name, source));
            }
        }
        Route {
            name: name.to_owned(),
            listen,
            host: file.host.map(|host| self.host(&host, &key("host"))),
            path: self.prefix(file.path.as_deref().unwrap_or("/"), &key("path")),
            strip: file.strip.unwrap_or(true),
            upstream,
            token,
            authorization: file.authorization,
            header,
            #[expect(clippy::unwrap_used, reason = "a literal without names")]
            format: format.unwrap_or_else(|| Template::parse("", &[]).unwrap()),
            headers,
            methods: self.each(&file.methods, key("methods"), Check::method).into_iter().flatten().collect(),
            paths: self.each(&file.paths, key("paths"), Check::prefix),
            token_wait: file.token_wait.map_or(std::time::Duration::from_secs(5), |span| span.0),
            retry_unauthorized: file.retry_unauthorized.unwrap_or(true),
            replay_body_max: file
                .replay_body_max
                .map_or(64 * 1024, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            connect_timeout: self.timeout(file.connect_timeout, 3, &key("connect_timeout")),
            response_timeout: self.timeout(file.response_timeout, 60, &key("response_timeout")),
            idle_timeout: self.timeout(file.idle_timeout, 300, &key("idle_timeout")),
            rewrite_location: file.rewrite_location.unwrap_or(true),
            accept_hosts: match file.accept_hosts {
                Some(hosts) => self.each(&hosts, key("accept_hosts"), Check::host),
                None => LOCAL_HOSTS.map(str::to_owned).to_vec(),
            },
            accept_origins: self.each(&file.accept_origins, key("accept_origins"), Check::origin),
            clients,
            forwarded: file.forwarded,
        }
    }

    /// The TLS to the API.
    fn secure(&mut self, name: &str, file: &RouteFile, named: &Named, parts: &Parts, upstream: &mut Upstream) {
        let (identity, trusted) = (file.identity.as_deref(), (file.ca.as_ref(), file.roots));
        let secured = self.secured(&["route", name], named, identity, trusted, file.server_name.as_deref());
        if parts.https {
            upstream.endpoint.tls = secured.to(parts.host.clone());
            if upstream.endpoint.tls.is_none() {
                self.problem(
                    &["route", name, "upstream"],
                    "its host is no valid name",
                    "written like https://api.example.com",
                );
            }
        } else if secured.identity.is_some() {
            self.wrong_key(
                &["route", name, "identity"],
                "a client certificate needs an https:// upstream",
                "remove it",
            );
        }
    }

    /// Each element of a list, with its own key.
    pub(super) fn each<T>(
        &mut self,
        list: &[String],
        key: [&str; 3],
        one: impl Fn(&mut Self, &str, &[&str]) -> T,
    ) -> Vec<T> {
        let keys = |index: usize| index.to_string();
        list.iter().enumerate().map(|(i, text)| one(self, text, &[key[0], key[1], key[2], &keys(i)])).collect()
    }

    /// The token a route names; a token that is there but wrong was reported already.
    fn token_of(&mut self, name: &str, token: Option<&TokenRef>, known: &BTreeSet<String>) -> Option<String> {
        let wanted = match token {
            Some(TokenRef::Off(false)) => return None,
            Some(TokenRef::Off(true)) => {
                self.using("token", name);
                self.problem(&["route", name, "token"], "must be a name or false", "the name of a [token]");
                return None;
            }
            Some(TokenRef::Name(wanted)) => wanted.as_str(),
            None => name,
        };
        self.using("token", wanted);
        if !known.contains(wanted) {
            if token.is_some() {
                self.unknown(&["route", name, "token"], "token", wanted, known);
            } else if !self.refused(&["route", name, "token"]) && !self.refused(&["token", name]) {
                let problem = format!("no token is named, and there is no [token.{name}]");
                self.problem(
                    &["route", name],
                    &problem,
                    "set `token` to a [token], or token = false to forward without one",
                );
            }
        }
        Some(wanted.to_owned())
    }

    /// Security: a token goes only where its source says.
    fn sendable(&mut self, name: &str, token: &Token, upstream: &Upstream) {
        if !token.send_to.is_empty() && !token.send_to.contains(&upstream.origin()) {
            let problem = format!("the token {} may not be sent to {}", token.name, upstream.origin());
            self.problem(&["route", name, "upstream"], &problem, "add the origin to the token's send_to");
        }
    }

    fn credential_header(&mut self, name: &str, key: &[&str]) -> HeaderName {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) if !fields::is_ours(header.as_str().as_bytes()) => return header,
            Ok(_) => self.problem(
                key,
                "the broker sets this field itself",
                "choose the field that the API reads the token from",
            ),
            Err(_) => self.problem(key, "is not a header name", "letters, digits and hyphens"),
        }
        http::header::AUTHORIZATION
    }

    fn format(&mut self, text: &str, key: &[&str]) -> Option<Template> {
        let format = credential_format(text);
        format.map_err(|why| self.problem(key, &why, "written like \"Bearer {access_token}\"")).ok()
    }

    fn host(&mut self, host: &str, key: &[&str]) -> String {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        let port = !host.starts_with('[') && host.contains(':');
        if host.is_empty() || !host.chars().all(fine) || port {
            self.problem(key, &format!("{host:?} is not a host name"), "a name without a port, such as api.local");
        }
        host.to_ascii_lowercase()
    }

    /// A path prefix without its trailing slash.
    fn prefix(&mut self, path: &str, key: &[&str]) -> String {
        let fine = |c: char| c.is_ascii_graphic() && !"?#%\\;".contains(c);
        let dots = path.split('/').any(|step| step == "." || step == "..");
        if !path.starts_with('/') || !path.chars().all(fine) || dots || path.contains("//") {
            self.problem(
                key,
                &format!("{path:?} is not a path prefix"),
                "written like /api/v1, without %, dots and doubled slashes",
            );
        }
        path.trim_end_matches('/').to_owned()
    }

    fn method(&mut self, method: &str, key: &[&str]) -> Option<Method> {
        match Method::from_bytes(method.as_bytes()) {
            Ok(Method::CONNECT | Method::TRACE) => {
                self.problem(key, &format!("{method} is never forwarded"), "remove it");
            }
            Ok(parsed) if method.chars().all(|c| !c.is_ascii_lowercase()) => return Some(parsed),
            _ => self.problem(key, &format!("{method:?} is not a method"), "in capitals, such as GET"),
        }
        None
    }

    pub(super) fn origin(&mut self, origin: &str, key: &[&str]) -> String {
        match Parts::parse(origin) {
            Ok(parts) if parts.path.is_empty() && !origin.ends_with('/') => parts.origin(),
            _ => {
                self.problem(
                    key,
                    &format!("{origin:?} is not an origin"),
                    "written like https://app.example.com, without a path",
                );
                String::new()
            }
        }
    }

    /// Routes that would get the same requests, and routes on the operator's listener.
    fn overlaps(&mut self, routes: &BTreeMap<String, Arc<Route>>, admin: &Admin) {
        let free = |listen: &Listen| matches!(listen, Listen::Tcp(address) if address.port() == 0);
        let mut seen = BTreeMap::new();
        for route in routes.values() {
            for listen in route.listen.iter().filter(|listen| !free(listen)) {
                for (key, own) in admin.listeners().filter(|(_, own)| own.overlaps(listen)) {
                    let problem = format!("{own} is the operator's listener");
                    let hint = format!("choose another port, or move it with [admin] {key}");
                    self.problem(&["route", &route.name, "listen"], &problem, &hint);
                }
                if let Some(other) = seen.insert((listen.clone(), route.host.clone(), route.path.clone()), &route.name)
                {
                    let problem = format!("{listen} leads to the route {other} already");
                    self.problem(
                        &["route", &route.name, "listen"],
                        &problem,
                        "tell them apart by host or path, or choose another port",
                    );
                }
            }
        }
    }

    /// An upstream that is one of our own listeners would call itself for ever.
    fn loops(&mut self, routes: &BTreeMap<String, Arc<Route>>, admin: &Admin) {
        let ports: Vec<_> = routes
            .values()
            .flat_map(|route| &route.listen)
            .chain(admin.listeners().map(|(_, listen)| listen))
            .filter_map(|listen| if let Listen::Tcp(address) = listen { Some(address.port()) } else { None })
            .collect();
        for route in routes.values() {
            let endpoint = &route.upstream.endpoint;
            if is_loopback(&endpoint.host) && ports.contains(&endpoint.port) {
                let problem = "leads back to a listener of this broker";
                self.problem(&["route", &route.name, "upstream"], problem, "name the API itself");
            }
        }
    }
}

/// The fields that go with a token on every API request, as its dialect says; one without a value is left out.
fn injected(token: &Token) -> impl Iterator<Item = (HeaderName, SecretSource)> {
    let value = |name: &str| match name {
        "client_id" => token.client_id.as_deref().map(Cow::Borrowed),
        own => token.vars.get(own).map(|value| value.as_str().into()),
    };
    token.dialect.inject_headers.iter().filter_map(move |(name, template)| {
        let source = match template.alone().and_then(|name| name.strip_prefix("headers.")) {
            Some(wanted) => token.headers.iter().find(|(own, _)| own.as_str().eq_ignore_ascii_case(wanted))?.1.clone(),
            None => SecretSource::Inline(Secret::new(template.render(value)?.to_string())),
        };
        Some((name.clone(), source))
    })
}
