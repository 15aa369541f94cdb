//! Listen addresses: loopback or a Unix socket, never anything that another machine can reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::Check;
use crate::config::Listen;

impl Check<'_> {
    /// Security: names are not resolved, so `/etc/hosts` cannot turn `localhost` into a LAN address.
    pub(super) fn listen(&mut self, text: &str, key: &[&str]) -> Listen {
        let nowhere = Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        if let Some(path) = text.strip_prefix("unix:") {
            if !Path::new(path).is_absolute() {
                self.problem(key, "a socket's path must be absolute", "written like unix:/run/tokenbroker/api.sock");
            }
            // sockaddr_un holds 108 bytes with the terminating zero (unix(7)).
            if path.len() > 107 {
                self.problem(key, "a socket's path has at most 107 bytes", "choose a shorter one");
            }
            return Listen::Unix(path.into());
        }
        let literal =
            text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        match literal.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_loopback() => Listen::Tcp(address),
            Ok(_) => {
                self.problem(
                    key,
                    "other machines could use the token: only loopback addresses are allowed",
                    "listen on 127.0.0.1, [::1] or unix:/path; `unsafe_listen` is not yet there in this version",
                );
                nowhere
            }
            Err(_) => {
                self.problem(
                    key,
                    "is not an address to listen on",
                    "written like 127.0.0.1:8403 or unix:/run/tokenbroker/api.sock",
                );
                nowhere
            }
        }
    }
}
