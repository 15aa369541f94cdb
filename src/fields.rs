//! Which header fields belong to one connection, to the framing or to routing, and so are never carried across the broker
//! (RFC 9110 §7.6.1, RFC 9112 §6).

/// What a client proves to a route with that it may use it; never forwarded.
pub const CLIENT_KEY: &str = "x-tokenbroker-key";

/// Hop-by-hop fields: they end at the next hop, whether `Connection` names them or not. Names are in lower case, here and below.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"proxy-authenticate"
            | b"proxy-authentication-info"
            | b"proxy-authorization"
            | b"http2-settings"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
    )
}

/// Fields that say where a message came from; a client's own are not believed.
pub fn is_forwarding(name: &[u8]) -> bool {
    matches!(name, b"forwarded" | b"x-real-ip") || name.starts_with(b"x-forwarded-")
}

/// Fields that only the broker writes: framing, hop-by-hop, `Host`, `Expect`, forwarding.
pub fn is_ours(name: &[u8]) -> bool {
    is_hop_by_hop(name) || matches!(name, b"content-length" | b"host" | b"expect") || is_forwarding(name)
}

/// Some servers read `_` as `-` (CGI): a field whose name is one of theirs once so read. `None` when there is no `_`.
pub fn with_hyphens(name: &[u8]) -> Option<Vec<u8>> {
    let hyphened = || name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
    name.contains(&b'_').then(hyphened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underscore_does_not_hide_a_field() {
        let hidden = b"transfer_encoding";
        assert!(!is_ours(hidden));
        assert!(is_ours(&with_hyphens(hidden).unwrap()));
        assert_eq!(with_hyphens(b"x-a"), None);
    }
}
