//! Which route a request belongs to, found in a few comparisons however many there are. Decides on the bytes that are sent: a
//! target that a server might read in another way is refused where a path decides anything.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::route::{Route, under};
use crate::config;
use crate::door::{self, Host};
use crate::identity::ServerTls;
use crate::peer::Peer;
use crate::problem::Problem;

/// The routes of one listener.
pub struct Routes {
    routes: Vec<Arc<Route>>,
    /// By the names that are served here.
    hosts: BTreeMap<String, Named>,
    /// Those that have no host of their own.
    shared: Paths,
    /// Every path that decides something here, about any of them.
    deciding: Vec<String>,
    /// `None` for a Unix socket.
    port: Option<u16>,
    /// How long a client may keep a response waiting.
    pub stall: Duration,
    /// Does it matter here which user of this machine connects?
    pub ask_for_users: bool,
}

/// The routes under one name: its own come first.
#[derive(Default)]
struct Named {
    own: Paths,
    shared: Paths,
}

/// Routes by their paths.
#[derive(Default)]
struct Paths(BTreeMap<String, Arc<Route>>);

impl Paths {
    fn insert(&mut self, route: &Arc<Route>) {
        // Two of one host and path were refused.
        self.0.entry(route.config.path.clone()).or_insert_with(|| Arc::clone(route));
    }

    /// The route with the longest path that this one is, or is below.
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
        let mut prefix = path;
        while !self.0.is_empty() {
            if let Some(route) = self.0.get(prefix) {
                return Some(route);
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
        None
    }
}

impl Routes {
    pub fn new(routes: Vec<Arc<Route>>, port: Option<u16>) -> Self {
        let (mut hosts, mut shared, mut deciding) = (BTreeMap::<_, Named>::new(), Paths::default(), Vec::new());
        for route in &routes {
            let config = &route.config;
            let paths = [&config.path, &config.upstream.base_path].into_iter().chain(&config.paths);
            deciding.extend(paths.filter(|path| !path.is_empty()).cloned());
            match &config.host {
                Some(host) => hosts.entry(host.clone()).or_default().own.insert(route),
                None => {
                    shared.insert(route);
                    config
                        .accept_hosts
                        .iter()
                        .for_each(|host| hosts.entry(host.clone()).or_default().shared.insert(route));
                }
            }
        }
        let clients = || routes.iter().filter_map(|route| route.config.clients.as_ref());
        Self {
            stall: routes.iter().map(|route| route.config.idle_timeout).max().unwrap_or_default(),
            ask_for_users: clients().any(|clients| !clients.uids.is_empty()),
            routes,
            hosts,
            shared,
            deciding,
            port,
        }
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        self.routes.iter().map(|route| route.config.name.clone())
    }

    /// What connections to this listener begin with; its routes agree on it.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.routes.first()?.config.tls()
    }

    pub fn scheme(&self) -> &'static str {
        self.routes.first().map_or("http", |route| route.config.scheme())
    }

    /// Is there a route here that this one may connect to?
    pub fn admit(&self, peer: &Peer) -> bool {
        self.routes.iter().any(|route| route.config.clients.as_ref().is_none_or(|clients| clients.admit(peer)))
    }

    /// May other users connect to a Unix socket, to be judged then?
    pub fn let_others_in(&self) -> bool {
        config::let_others_in(self.routes.iter().map(|route| &*route.config))
    }

    /// Security: where a path decides something, if only which route it is, every server on the way has to read it as we do.
    pub fn check_path(&self, path: &str) -> Result<(), Problem> {
        if self.deciding.is_empty() {
            return Ok(());
        }
        let plain = plainly(path);
        let differs = |prefix: &String| under(path, prefix) != under(&plain, prefix);
        if is_ambiguous(path) || (plain != path && self.deciding.iter().any(differs)) {
            let detail = "the path can be read in more than one way, and this listener decides by paths";
            return Err(Problem::new(StatusCode::FORBIDDEN, "path_refused", detail));
        }
        Ok(())
    }

    /// The route for a host and a path; `Ok(None)` if the host is served here but the path is not.
    pub fn find(&self, host: Option<&Host<'_>>, path: &str) -> Result<Option<&Arc<Route>>, Problem> {
        let Some(host) = host else {
            return if self.shared.0.is_empty() { Err(door::host_refused()) } else { Ok(self.shared.find(path)) };
        };
        match self.hosts.get(&*host.name).filter(|_| door::is_port(host, self.port)) {
            Some(named) => Ok(named.own.find(path).or_else(|| named.shared.find(path))),
            None => Err(door::host_refused()),
        }
    }
}

/// The path with what need not be percent-encoded decoded (RFC 3986 §2.3): how many servers read it.
fn plainly(path: &str) -> Cow<'_, str> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let code = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|b| unreserved(*b));
        let end = if code.is_some() { at + 3 } else { at + 1 };
        out.push_str(&rest[..if code.is_some() { at } else { end }]);
        out.extend(code.map(char::from));
        rest = &rest[end..];
    }
    if out.is_empty() { path.into() } else { (out + rest).into() }
}

/// Might another server see other segments than we do? Dot segments, doubled or encoded slashes, backslashes, and path
/// parameters on dots (`/..;/`) are where readings differ.
fn is_ambiguous(path: &str) -> bool {
    let dots = |segment: &str| {
        let rest = segment.trim_start_matches('.');
        let parameter = rest.starts_with(';') || rest.get(..3).is_some_and(|code| code.eq_ignore_ascii_case("%3b"));
        matches!(segment.len() - rest.len(), 1 | 2) && (rest.is_empty() || parameter)
    };
    let escape = |at: usize| path.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    path.contains('\\')
        || path.contains("//")
        || path.split('/').any(dots)
        || path
            .match_indices('%')
            .any(|(at, _)| matches!(escape(at), None | Some(b'.' | b'/' | b'\\' | 0..=0x1f | 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_known() {
        for path in [
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/%2e%2e/b",
            "/a/..%2fb",
            "/a%5c..%5cb",
            "/a/..;/b",
            "/a/..%3B/b",
            "/.%3bv=1/b",
            "//a",
            "/a\\b",
            "/a%00",
            "/a/%0d%0a",
            "/%zz",
            "/%2",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["/", "/a.b/..c/...", "/...;/", "/a%3b..", "/a;v=1/b", "/a%20b", "/%c3%a4", "/a%25"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
