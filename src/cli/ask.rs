//! Asks the running broker, as its operator.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use zeroize::Zeroizing;

use super::block_on;
use crate::admin::key;
use crate::config::{self, Listen};
use crate::secret::Secret;
use crate::secret::source::SecretSource;
use crate::store::FileStore;

/// For each step of a GET.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What is asked for may have to wait for a token exchange in flight.
const POST_TIMEOUT: Duration = Duration::from_secs(600);
const POST_ANSWER_MAX: u64 = 1 << 20;

/// A running broker.
pub(super) struct Operator {
    pub listen: Listen,
    /// False if the store says that nobody owns it.
    runs: bool,
    key: Option<SecretSource>,
    store: Option<std::path::PathBuf>,
}

/// An answer.
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

/// Why something was not done.
pub(super) struct Failure {
    /// Of the broker's own refusal.
    pub code: Option<String>,
    /// For the person; a line or more.
    pub text: String,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { code: None, text }
    }
}

impl Operator {
    /// Whoever holds the store says where he listens; else the configuration does.
    pub fn find(operator: config::Operator) -> Self {
        let config::Operator { admin, store } = operator;
        let owner = store.as_deref().and_then(FileStore::owner);
        let said = owner.as_deref().and_then(|text| text.strip_prefix("admin ")?.split(", pid ").next()?.parse().ok());
        // Security: where root asks, the store may be another user's, who must not send its key elsewhere.
        let said = said.filter(|listen| !matches!(listen, Listen::Tcp(address) if !address.ip().is_loopback()));
        let runs = store.is_none() || said.is_some();
        Self { listen: said.unwrap_or(admin.listen), runs, key: admin.key, store }
    }

    /// The answer to a GET, at most so many bytes of it. An error is a line for the person.
    pub fn get(&self, path: &str, bytes_max: u64) -> Result<Answer, String> {
        self.ask("GET", path, "\r\n", (TIMEOUT, bytes_max))
    }

    /// The good answer to a POST with the admin key; another one is an error, in the broker's words.
    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        // Security: whoever else listens there must not get the key.
        if !self.runs {
            return Err("no broker runs with this configuration; start it: tokenbroker run".to_owned().into());
        }
        let key = self.admin_key()?;
        // Security: on its way to the listener of the broker that owns the store.
        let body = Zeroizing::new(body.map(Value::to_string).unwrap_or_default());
        let fields = format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", key.expose(), body.len());
        let rest = Zeroizing::new([&*Zeroizing::new(fields), "\r\n", &body].concat());
        let answer = self.ask("POST", path, &rest, (POST_TIMEOUT, POST_ANSWER_MAX))?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let word = |key: &str| problem[key].as_str().map(str::to_owned);
        let text = word("detail").unwrap_or_else(|| format!("it answers {}", answer.status));
        Err(Failure { text, code: word("code") })
    }

    /// Does a broker run with this configuration? Where no store tells, it is the one that keeps its admin key, or answers.
    pub fn runs(&self) -> bool {
        if self.store.is_some() {
            return self.runs;
        }
        let port = self.listen.port().map(|port| port.to_string());
        let keeps = || key::find(&key::runtime_directory(), port.as_deref()).is_some();
        (self.key.is_some() || keeps()) && self.get("/livez", 1024).is_ok()
    }

    /// The configured one, or the one that the broker made at its start.
    fn admin_key(&self) -> Result<Secret, String> {
        if let Some(source) = &self.key {
            return block_on(source.read())?.map_err(|e| format!("admin.key: {e}"));
        }
        let directory = self.store.clone().unwrap_or_else(key::runtime_directory);
        let port = self.listen.port().map(|port| port.to_string());
        let none = || format!("no running broker keeps an admin key in {}; is it running?", directory.display());
        key::find(&directory, port.as_deref()).ok_or_else(none)
    }

    fn ask(&self, method: &str, path: &str, rest: &str, limits: (Duration, u64)) -> Result<Answer, String> {
        let answer = self.exchange(method, path, rest, limits).map_err(|error| {
            format!("no answer from {}: {error}; is the broker running with this configuration?", self.listen)
        })?;
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| match answer.is_empty() {
            true => format!("{} ended the connection without an answer: is the broker about to end?", self.listen),
            false => format!("what answers at {} is no broker; see `listen` of [admin]", self.listen),
        })?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
        Ok(Answer { status, body })
    }

    fn exchange(&self, method: &str, path: &str, rest: &str, limits: (Duration, u64)) -> std::io::Result<String> {
        let (timeout, bytes_max) = limits;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let request = Zeroizing::new([&head, rest].concat());
        match &self.listen {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
                stream.set_read_timeout(Some(timeout))?;
                talk(stream, &request, bytes_max)
            }
            Listen::Unix(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(timeout))?;
                talk(stream, &request, bytes_max)
            }
        }
    }
}

fn talk(mut stream: impl Read + Write, request: &str, bytes_max: u64) -> std::io::Result<String> {
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes())?;
    stream.take(bytes_max).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
