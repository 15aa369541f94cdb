//! A route at work: what it allows, and the exact target that a request is forwarded with.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::error::Trouble;
use super::upstream::Upstream;
use crate::config;
use crate::http1::Request;
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

impl PartialEq for TokenUse {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot) && self.format == other.format
    }
}

/// Is the path the prefix, or below it? Prefixes have no trailing slash.
pub(super) fn under(path: &str, prefix: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_segments() {
        assert!(under("/api", "/api") && under("/api/x", "/api") && under("/anything", ""));
        assert!(!under("/apix", "/api") && !under("/ap", "/api"));
    }
}
