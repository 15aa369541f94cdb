//! Listen addresses: loopback or a Unix socket, and what another machine can reach only where a route says so and who may.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::Check;
use crate::config::Listen;

impl Check<'_> {
    /// As [`Self::listen`], for a route that may permit what is not loopback.
    pub(super) fn listen_for(&mut self, text: &str, key: &[&str], anywhere: bool) -> Listen {
        match text.parse() {
            Ok(address) if anywhere => Listen::Tcp(address),
            _ => self.listen(text, key),
        }
    }

    /// Security: names are not resolved, so `/etc/hosts` cannot turn `localhost` into a LAN address.
    pub(super) fn listen(&mut self, text: &str, key: &[&str]) -> Listen {
        let nowhere = Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        if let Some(path) = text.strip_prefix("unix:") {
            let directory = Path::new(path).parent().filter(|_| Path::new(path).is_absolute());
            match directory {
                None => {
                    self.problem(
                        key,
                        "a socket's path must be absolute",
                        "written like unix:/run/tokenbroker/api.sock",
                    );
                }
                Some(directory) if !directory.is_dir() => {
                    let problem = format!("the socket's directory {} is not there", directory.display());
                    self.problem(key, &problem, "make it, for the broker's user alone (mode 0700)");
                }
                Some(_) => {}
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
                let hint = if key[0] == "admin" {
                    "listen on 127.0.0.1, [::1] or unix:/path"
                } else {
                    "listen on 127.0.0.1, [::1] or unix:/path; or set unsafe_listen = true, and `clients`"
                };
                let what = if key[0] == "admin" { "reach the operator's listener" } else { "use the token" };
                let problem = format!("other machines could {what}: only loopback addresses are allowed");
                self.problem(key, &problem, hint);
                nowhere
            }
            Err(_) => {
                let number = literal.rsplit(':').next().unwrap_or_default();
                let port = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
                let problem = match number.parse::<u16>() {
                    Err(_) if port => "its port is not from 1 to 65535",
                    _ => "is not an address to listen on",
                };
                self.problem(key, problem, "written like 127.0.0.1:8403 or unix:/run/tokenbroker/api.sock");
                nowhere
            }
        }
    }
}
