//! `clients` of a route: who may connect, and what says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Check;
use crate::config::file::{ClientsFile, RouteFile, SecretFile};
use crate::config::{Clients, Listen, Route};
use crate::expiry::Expiring;
use crate::identity::{Named, ServerTls};
use crate::secret::source::SecretSource;

/// How the kernel shows a user of another namespace, too.
const NOBODY: u32 = 65_534;
/// A shorter key could be guessed.
const KEY_MIN: usize = 16;

impl Check<'_> {
    /// Who may connect to that route.
    pub(super) fn clients(&mut self, name: &str, file: ClientsFile, listen: &[Listen]) -> Clients {
        let key = |key| ["route", name, "clients", key];
        let given = [!file.uids.is_empty(), !file.networks.is_empty(), file.key.is_some(), file.ca.is_some()];
        let table = ["route", name, "clients"];
        if !given.contains(&true) && file.cert.is_none() && !self.refused(&table) {
            self.problem(&table, "lets everybody in", "name `uids`, `networks`, a `key`, or a `ca`");
        }
        if file.uids.contains(&NOBODY) {
            let problem = "65534 is also how users of another namespace look";
            self.warning(&key("uids"), problem, "give the application a user of its own");
        }
        let networks = file.networks.iter().enumerate();
        let parsed = networks.map(|(i, text)| (i.to_string(), text.parse::<crate::peer::Network>()));
        let mut networks = Vec::new();
        for (index, network) in parsed.collect::<Vec<_>>() {
            let path = ["route", name, "clients", "networks", &index];
            match network {
                Ok(network) => {
                    if network.is_everything() && file.key.is_none() {
                        self.warning(&path, "is every address there is", "name the network that the application is in");
                    }
                    networks.push(network);
                }
                Err(hint) => self.problem(&path, "is not a network", &hint),
            }
        }
        let unix = listen.iter().any(|listen| matches!(listen, Listen::Unix(_)));
        if unix && given[1] && !given[0] {
            let problem = "nobody could connect over the Unix socket, which has no address";
            self.problem(&key("networks"), problem, "name its users in `uids`, or listen on addresses alone");
        }
        let far = listen.iter().any(|listen| !listen.is_local());
        if far && given[0] && !given[1] {
            let problem = "only this machine has users that can be known: all others are refused";
            self.warning(&key("uids"), problem, "name `networks` for the others, or listen on loopback");
        }
        let tls = file.ca.is_some() || file.cert.is_some();
        let (tls, secret) = if tls { (self.listener_tls(name, &file), None) } else { (None, file.key) };
        let secret = secret.map(|written| self.client_key(name, written));
        Clients { uids: file.uids, networks, key: secret, tls }
    }

    /// Security: where other machines can connect, somebody has to say who may.
    pub(super) fn reachable(&mut self, name: &str, file: &RouteFile, listen: &[Listen]) {
        let clients = ["route", name, "clients"];
        if file.unsafe_listen && file.clients.is_none() && !self.refused(&clients) {
            let problem = "needs `clients`: other machines could use the token";
            self.problem(&["route", name, "unsafe_listen"], problem, "say in `clients` who may connect");
        }
        let far = listen.iter().any(|listen| !listen.is_local());
        if far && file.accept_hosts.is_none() && file.host.is_none() {
            let problem = "other machines know this listener by other names than localhost, and get 421";
            self.warning(&["route", name, "listen"], problem, "list those names in `accept_hosts`");
        }
    }

    fn client_key(&mut self, name: &str, written: SecretFile) -> SecretSource {
        let path = ["route", name, "clients", "key"];
        let (source, value) = self.secret_and_value(written, &path, true);
        match value {
            Some(value) if !value.fits_a_header() => {
                self.problem(&path, "has bytes that no header may have", "is there a line break in it?");
            }
            Some(value) if value.len() < KEY_MIN => {
                let problem = format!("has fewer than {KEY_MIN} characters, and could be guessed");
                self.warning(&path, &problem, "make one with: openssl rand -hex 32");
            }
            _ => {}
        }
        source
    }

    /// All of `ca`, `cert` and `key`, or what they were before.
    fn listener_tls(&mut self, name: &str, file: &ClientsFile) -> Option<ServerTls> {
        let table = ["route", name, "clients"];
        for (key, given, hint) in [
            ("ca", file.ca.is_some(), "the PEM file with the CA whose certificates clients have"),
            ("cert", file.cert.is_some(), "the PEM file with the listener's own certificate and its chain"),
            ("key", file.key.is_some(), "the PEM file with the private key of `cert`"),
        ] {
            if !given && !self.refused(&["route", name, "clients", key]) {
                self.problem(&table, &format!("`{key}` is missing"), hint);
            }
        }
        let (ca, cert) = (self.watched(file.ca.as_ref()?), self.watched(file.cert.as_ref()?));
        let (key, named) = self.key_file(name, file.key.as_ref()?)?;
        let private = self.private(&key, &["route", name, "clients", "key"]);
        let before = self.before.and_then(|before| before.listeners.get(name)).cloned();
        let tls = match ServerTls::load(&Named { ca: &ca, cert: &cert, key: &key }, self.now) {
            Ok(_) if !private => before,
            Ok(tls) => Some(tls),
            Err(errors) => {
                for (part, e) in errors {
                    // Security: what stands where a path should may be a secret.
                    let problem = if part == "key" && !named { "cannot be read as a file's name" } else { &e.problem };
                    self.problem(&["route", name, "clients", part], problem, e.hint);
                }
                before
            }
        }?;
        let place = format!("route.{name}.clients");
        let which = |leaf: &crate::identity::Leaf| format!("subject {}, serial {}", leaf.subject, leaf.serial);
        let own = Expiring::listener(&place, which(&tls.leaf), tls.leaf.not_after);
        self.ends(&["route", name, "clients", "cert"], own);
        if let Some(first) = &tls.ca {
            let ending = Expiring::ca(&place, &ca.display().to_string(), which(first), first.not_after);
            self.ends(&["route", name, "clients", "ca"], ending);
        }
        self.certificates.listeners.insert(name.to_owned(), tls.clone());
        Some(tls)
    }

    /// The file of a private key, which may be written like a secret's; and whether it was named as a file for certain.
    fn key_file(&mut self, name: &str, written: &SecretFile) -> Option<(PathBuf, bool)> {
        let path = match &written.0 {
            SecretSource::File(path) => Some((path.clone(), true)),
            inline @ SecretSource::Inline(_) => {
                let text = inline.look_bytes().ok().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
                text.filter(|text| !text.contains('\n')).map(|text| (PathBuf::from(text), false))
            }
            SecretSource::Env(_) | SecretSource::Exec(..) | SecretSource::Credential(_) => None,
        };
        if path.is_none() {
            let problem = "with `ca`, this is the file of the private key of `cert`";
            self.problem(&["route", name, "clients", "key"], problem, "name it: key = { file = \"listener.key\" }");
        }
        path.map(|(path, named)| (self.watched(&path), named))
    }

    /// A listener speaks TLS in one way: it has to know before it sees which route is meant.
    pub(super) fn one_tls(&mut self, routes: &BTreeMap<String, Arc<Route>>) {
        let mut seen: BTreeMap<&Listen, &Arc<Route>> = BTreeMap::new();
        for route in routes.values() {
            let part = if route.tls().is_some() { "clients" } else { "listen" };
            for listen in route.listen.iter().filter(|listen| listen.port() != Some(0)) {
                let first = seen.entry(listen).or_insert(route);
                if first.tls() != route.tls() && !self.refused(&["route", &first.name, "clients"]) {
                    let problem = format!("the route {} has another `ca`, `cert` or `key` on {listen}", first.name);
                    let hint = "give both the same, or listen on another port";
                    self.problem(&["route", &route.name, part], &problem, hint);
                    break;
                }
            }
        }
    }
}
