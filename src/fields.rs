//! Which header fields belong to one connection, to the framing or to routing, and so are never carried across the broker
//! (RFC 9110 §7.6.1, RFC 9112 §6).

use http::HeaderName;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

/// What a client proves to a route with that it may use it; never forwarded.
pub const CLIENT_KEY: HeaderName = HeaderName::from_static("x-tokenbroker-key");

/// Hop-by-hop fields: they end at the next hop, whether `Connection` names them or not.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | PROXY_AUTHENTICATE | PROXY_AUTHORIZATION | TE | TRAILER | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings" | "proxy-authentication-info")
}

/// Fields that say where a message came from; a client's own are not believed.
pub fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-")
}

/// Fields that only the broker writes: framing, hop-by-hop, `Host`, `Expect`, forwarding.
pub fn is_ours(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || matches!(*name, CONTENT_LENGTH | HOST | EXPECT) || is_forwarding(name)
}

/// Some servers read `_` as `-` (CGI): a field whose name is one of theirs once so read. `None` when there is no `_`.
pub fn with_hyphens(name: &HeaderName) -> Option<HeaderName> {
    let name = name.as_str();
    if !name.contains('_') {
        return None;
    }
    HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underscore_does_not_hide_a_field() {
        let hidden = HeaderName::from_static("transfer_encoding");
        assert!(!is_ours(&hidden));
        assert!(is_ours(&with_hyphens(&hidden).unwrap()));
        assert_eq!(with_hyphens(&HeaderName::from_static("x-a")), None);
    }
}
