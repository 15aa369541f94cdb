//! The hops of a message: this broker's own mark on every request, by which it knows one that comes back, and what `forwarded`
//! adds for others to read.

use std::net::IpAddr;
use std::sync::LazyLock;

use http::{StatusCode, Version};

use super::route::Route;
use crate::http1::{Fields, Request, write_field};
use crate::peer::Peer;
use crate::problem::Problem;

/// A list of the brokers that a request went through.
const MARK: &str = "x-tokenbroker-hop";

/// This process among all brokers; in `Via`, too.
struct Own {
    mark: String,
    via_10: String,
    via_11: String,
}

static OWN: LazyLock<Own> = LazyLock::new(|| {
    let name = format!("tokenbroker-{:016x}", fastrand::u64(..));
    Own { via_10: format!("1.0 {name}"), via_11: format!("1.1 {name}"), mark: name }
});

/// Refuses a request that has been here before.
pub fn check(fields: &Fields) -> Result<(), Problem> {
    let mark = OWN.mark.as_bytes();
    let ours = |value: &[u8]| value.windows(mark.len()).any(|part| part.eq_ignore_ascii_case(mark));
    if fields.all(MARK).chain(fields.all("via")).any(ours) {
        let detail = "this request came through this broker before: the route's `upstream` leads back to it";
        return Err(Problem { close: true, ..Problem::new(StatusCode::LOOP_DETECTED, "loop", detail) });
    }
    Ok(())
}

/// Marks a request on its way to the API, behind the marks of others.
pub fn mark(out: &mut Vec<u8>, request: &Request, route: &Route, peer: &Peer) {
    write_field(out, MARK.as_bytes(), OWN.mark.as_bytes());
    if route.config.forwarded {
        write_field(out, b"via", via(request.version));
        let forwarded = forwarded(peer.address(), request.fields.text("host"), route.config.scheme());
        write_field(out, b"forwarded", forwarded.as_bytes());
    }
}

/// `Via` for a message that arrived in that version of HTTP (RFC 9110 §7.6.3).
pub fn via(version: Version) -> &'static [u8] {
    if version == Version::HTTP_10 { OWN.via_10.as_bytes() } else { OWN.via_11.as_bytes() }
}

/// One element of `Forwarded` (RFC 7239 §4); a Unix socket has no address.
fn forwarded(address: Option<IpAddr>, host: Option<&str>, scheme: &str) -> String {
    let client = match address {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    // It was judged before: there is nothing in it that would end a quoted string.
    let host = host.map(|host| format!("host=\"{host}\";")).unwrap_or_default();
    format!("for={client};{host}proto={scheme}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_is_written_as_its_rfc_says() {
        let said = |address: Option<&str>, host| forwarded(address.map(|a| a.parse().unwrap()), host, "http");
        assert_eq!(said(Some("127.0.0.1"), Some("localhost:80")), "for=127.0.0.1;host=\"localhost:80\";proto=http");
        assert_eq!(said(Some("::1"), None), "for=\"[::1]\";proto=http");
        assert_eq!(said(None, Some("a")), "for=unknown;host=\"a\";proto=http");
    }
}
