//! Which route a request belongs to, and the exact target it is forwarded with. Decides on the bytes that are sent: a
//! target that a server might read in another way is refused where a path decides anything.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::error::Trouble;
use super::upstream::Upstream;
use crate::config;
use crate::door::{self, Host};
use crate::http1::Request;
use crate::identity::ServerTls;
use crate::peer::Peer;
use crate::problem::{Problem, bad_request};
use crate::secret::Secret;
use crate::telemetry::metrics::RouteMetrics;
use crate::token::cache::Slot;

/// A route at work.
pub struct Route {
    pub config: Arc<config::Route>,
    pub upstream: Upstream,
    pub token: Option<TokenUse>,
    /// `Host` for the upstream.
    pub host: HeaderValue,
    /// Extra request headers, secrets read.
    pub extra: ArcSwap<Vec<(HeaderName, HeaderValue)>>,
    /// What clients have to prove that they know.
    pub key: ArcSwapOption<Secret>,
    pub metrics: Arc<RouteMetrics>,
    pub trouble: Trouble,
}

/// The token of a route, and in which of its formats it is sent.
pub struct TokenUse {
    pub slot: Arc<Slot>,
    pub format: usize,
}

/// The routes of one listener.
pub struct Routes {
    /// Those with a host first, then longer paths first.
    routes: Vec<Arc<Route>>,
    /// Every path that decides something here, about any of them.
    deciding: Vec<String>,
    /// `None` for a Unix socket.
    port: Option<u16>,
}

impl PartialEq for TokenUse {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot) && self.format == other.format
    }
}

impl Routes {
    pub fn new(mut routes: Vec<Arc<Route>>, port: Option<u16>) -> Self {
        routes.sort_by_key(|route| (route.config.host.is_none(), std::cmp::Reverse(route.config.path.len())));
        let config = routes.iter().map(|route| &route.config);
        let deciding = config.flat_map(|c| [&c.path, &c.upstream.base_path].into_iter().chain(&c.paths));
        let deciding = deciding.filter(|path| !path.is_empty()).cloned().collect();
        Self { routes, deciding, port }
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        self.routes.iter().map(|route| route.config.name.clone())
    }

    /// How long a client may keep a response waiting.
    pub fn stall(&self) -> Duration {
        self.routes.iter().map(|route| route.config.idle_timeout).max().unwrap_or_default()
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

    /// Does it matter here which user of this machine connects?
    pub fn ask_for_users(&self) -> bool {
        self.routes.iter().any(|route| route.config.clients.as_ref().is_some_and(|clients| !clients.uids.is_empty()))
    }

    /// Security: where a path decides something, if only which route it is, every server on the way has to read it as we do.
    pub fn check_path(&self, path: &str) -> Result<(), Problem> {
        if self.deciding.is_empty() {
            return Ok(());
        }
        let plain = plainly(path);
        if is_ambiguous(path) || self.deciding.iter().any(|prefix| under(path, prefix) != under(&plain, prefix)) {
            let detail = "the path can be read in more than one way, and this listener decides by paths";
            return Err(Problem::new(StatusCode::FORBIDDEN, "path_refused", detail));
        }
        Ok(())
    }

    /// The route for a host and a path; `Ok(None)` if the host is served here but the path is not.
    pub fn find(&self, host: Option<&Host<'_>>, path: &str) -> Result<Option<&Arc<Route>>, Problem> {
        let mut known = false;
        for route in &self.routes {
            if self.answers(route, host) {
                known = true;
                if under(path, &route.config.path) {
                    return Ok(Some(route));
                }
            }
        }
        if known { Ok(None) } else { Err(door::host_refused()) }
    }

    fn answers(&self, route: &Route, host: Option<&Host<'_>>) -> bool {
        match (&route.config.host, host) {
            (Some(wanted), Some(host)) => door::is_ours(host, std::slice::from_ref(wanted), self.port),
            (Some(_), None) => false,
            (None, Some(host)) => door::is_ours(host, &route.config.accept_hosts, self.port),
            (None, None) => true,
        }
    }
}

/// Is the path the prefix, or below it? Prefixes have no trailing slash.
fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Refuses the methods that are never forwarded, and targets whose form does not go with the method (RFC 9112 §3.2).
pub fn check_form(head: &Request, scheme: &str) -> Result<(), Problem> {
    // `TRACE` would send the token back in the answer's body; some servers take its lower-case and IIS's old name for it.
    let method = head.method.as_str();
    if head.method == Method::CONNECT || method.eq_ignore_ascii_case("TRACE") || method.eq_ignore_ascii_case("TRACK") {
        let refused =
            method_refused("this method is never forwarded", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into());
        return Err(Problem { close: true, ..refused });
    }
    let Some(uri) = head.uri() else { return Ok(()) };
    let absolute = uri.scheme_str().is_some_and(|sent| sent.eq_ignore_ascii_case(scheme)) && uri.authority().is_some();
    let asterisk = head.method == Method::OPTIONS && uri.path() == "*";
    if !(absolute || asterisk) {
        return Err(bad_request("the request's target is not a path"));
    }
    Ok(())
}

impl Route {
    /// Refuses what the route does not allow.
    pub fn check_allowed(&self, head: &Request) -> Result<(), Problem> {
        let config = &self.config;
        if !config.methods.is_empty() && !config.methods.contains(&head.method) {
            let allowed: Vec<_> = config.methods.iter().map(Method::as_str).collect();
            return Err(method_refused("the route does not allow this method: see its `methods`", allowed.join(", ")));
        }
        let path = head.path();
        if !config.paths.is_empty() && !config.paths.iter().any(|allowed| under(path, allowed)) {
            let detail = "the route does not allow this path: see its `paths`";
            return Err(Problem::new(StatusCode::FORBIDDEN, "path_refused", detail));
        }
        Ok(())
    }

    /// The target as the upstream gets it: byte for byte what was judged, without the route's own path, below the base path.
    pub fn target<'r>(&self, head: &'r Request) -> Cow<'r, str> {
        let sent = head.target();
        let config = &self.config;
        let stripped = if config.strip { sent.strip_prefix(config.path.as_str()).unwrap_or(sent) } else { sent };
        if stripped.starts_with('/') && config.upstream.base_path.is_empty() {
            return stripped.into();
        }
        let slash = if stripped.starts_with('/') { "" } else { "/" };
        format!("{}{slash}{stripped}", config.upstream.base_path).into()
    }

    /// A `Location` that points at the upstream, as the client has to follow it; `None` to leave it as it is.
    pub fn map_back(&self, location: &str, client_host: Option<&[u8]>) -> Option<String> {
        let config = &self.config;
        let origin = config.upstream.origin();
        let own_port = if config.upstream.scheme() == "https" { ":443" } else { ":80" };
        // Without a scheme it has the one of the answer's own URL, which is the upstream's (RFC 3986 §4.2).
        let own =
            if location.starts_with("//") { origin.split_once(':').map_or("", |(_, rest)| rest) } else { &origin };
        let after = strip_prefix_ignore_case(location, own).map(|rest| rest.strip_prefix(own_port).unwrap_or(rest));
        let (absolute, target) = match after {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '?', '#']) => (true, rest),
            Some(_) => return None,
            None if location.starts_with('/') && !location.starts_with("//") => (false, location),
            None => return None,
        };
        let cut = target.find(['?', '#']).unwrap_or(target.len());
        let (path, rest) = target.split_at(cut);
        if !under(path, &config.upstream.base_path) {
            return None;
        }
        let below = &path[config.upstream.base_path.len()..];
        let prefix: Cow<'_, str> = if config.strip { config.path.as_str().into() } else { "".into() };
        let slash = if below.is_empty() && prefix.is_empty() { "/" } else { "" };
        let host = if absolute {
            format!("{}://{}", config.scheme(), std::str::from_utf8(client_host?).ok()?)
        } else {
            String::new()
        };
        let mapped = format!("{host}{prefix}{below}{slash}{rest}");
        (mapped != location).then_some(mapped)
    }

    /// Does the route set that field itself?
    pub fn is_extra(&self, name: &[u8]) -> bool {
        self.config.headers.iter().any(|(extra, _)| extra.as_str().as_bytes() == name)
    }

    /// The fields that a client may not set itself: the credential and the route's own.
    pub fn is_credential(&self, name: &[u8]) -> bool {
        name == b"authorization" || name == self.config.header.as_str().as_bytes() || self.is_extra(name)
    }
}

fn method_refused(detail: &str, allow: String) -> Problem {
    Problem { allow: Some(allow), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_refused", detail) }
}

fn strip_prefix_ignore_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
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
    fn prefixes_end_at_segments() {
        assert!(under("/api", "/api") && under("/api/x", "/api") && under("/anything", ""));
        assert!(!under("/apix", "/api") && !under("/ap", "/api"));
    }

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
