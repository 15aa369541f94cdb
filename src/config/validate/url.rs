//! URLs and origins of the configuration.

use http::Uri;

use super::Check;
use crate::config::Upstream;
use crate::connect::Endpoint;
use crate::oauth::client::{host_and_port, is_loopback};

/// Scheme, host and port of a URL, the host in lower case and without brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub https: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Parts {
    /// An absolute `http` or `https` URL without user information, query and fragment.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const HELP: &str = "written like https://api.example.com or https://api.example.com/base";
        if text.contains(char::is_whitespace) {
            return Err("there is a space in it");
        }
        if text.contains(['{', '}']) {
            return Err("nothing is filled in for {names} here: write the value itself");
        }
        if text.contains(['?', '#', '@', '\\']) {
            return Err("no user name, query or fragment belongs here");
        }
        let uri: Uri = text.parse().map_err(|_| HELP)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(HELP),
        };
        let (host, port) = host_and_port(&uri).ok_or("its host is missing, or its port is not from 1 to 65535")?;
        let port = port.unwrap_or(if https { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/').to_owned();
        if path.split('/').any(|step| step == "." || step == "..") {
            return Err("no `.` or `..` belongs here");
        }
        Ok(Self { https, host, port, path })
    }

    /// As in `Host`: an IPv6 address in brackets, the port unless it is the scheme's own.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let own = if self.https { 443 } else { 80 };
        if self.port == own { host } else { format!("{host}:{}", self.port) }
    }

    pub(super) fn origin(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }

    /// A placeholder for one that was reported.
    fn none() -> Self {
        Self { https: false, host: "localhost".into(), port: 1, path: String::new() }
    }
}

impl Check<'_> {
    /// A URL of a token server; it may have a query.
    pub(super) fn token_url(&mut self, url: &str, key: &[&str]) {
        if let Some((problem, hint)) = Self::token_url_fault(url) {
            self.problem(key, problem, hint);
        }
    }

    /// What is wrong with it, and what to do.
    pub(super) fn token_url_fault(url: &str) -> Option<(&'static str, &'static str)> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        match Parts::parse(base) {
            Ok(_) if !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') => {
                Some(("is not a usable URL", "its query has characters that must be encoded"))
            }
            Ok(parts) if !parts.https && !is_loopback(&parts.host) => {
                Some(("credentials would cross the network unencrypted", "use https://"))
            }
            Ok(_) => None,
            Err(help) => Some(("is not a usable URL", help)),
        }
    }

    /// A route's `upstream`, its TLS not filled in yet.
    pub(super) fn upstream(&mut self, url: Option<&str>, plain: bool, name: &str) -> (Parts, Upstream) {
        let key = ["route", name, "upstream"];
        let parts = match url.map(Parts::parse) {
            Some(Ok(parts)) => parts,
            Some(Err(help)) => {
                self.problem(&key, "is not a usable URL", help);
                Parts::none()
            }
            None if self.refused(&key) => Parts::none(),
            None => {
                self.problem(&key, "is missing", "the API's URL, such as https://api.example.com");
                Parts::none()
            }
        };
        if !parts.https && !is_loopback(&parts.host) && !plain {
            self.problem(
                &key,
                "the token would cross the network unencrypted",
                "use https://, or unsafe_plain_upstream = true",
            );
        }
        let endpoint = Endpoint { host: parts.host.clone(), port: parts.port, tls: None };
        let upstream = Upstream { endpoint, authority: parts.authority(), base_path: parts.path.clone() };
        (parts, upstream)
    }
}
