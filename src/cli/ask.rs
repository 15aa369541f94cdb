//! Asks the running broker, as its operator.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::block_on;
use crate::admin::key;
use crate::config::{self, Listen};
use crate::secret::Secret;
use crate::secret::source::SecretSource;
use crate::store::FileStore;

/// For each step of a GET.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What is asked for may have to wait for a token exchange in flight.
const POST_TIMEOUT: Duration = Duration::from_secs(120);
const POST_ANSWER_MAX: u64 = 1 << 20;

/// A running broker.
pub(super) struct Operator {
    pub listen: Listen,
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
        Self { listen: said.unwrap_or(admin.listen), key: admin.key, store }
    }

    /// The answer to a GET, at most so many bytes of it. An error is a line for the person.
    pub fn get(&self, path: &str, bytes_max: u64) -> Result<Answer, String> {
        self.ask("GET", path, "", (TIMEOUT, bytes_max))
    }

    /// The good answer to a POST with the admin key; another one is an error, in the broker's words.
    pub fn post(&self, path: &str) -> Result<Answer, Failure> {
        let key = self.admin_key()?;
        // Security: on its way to the listener of this user's own broker.
        let field = zeroize::Zeroizing::new(format!("Authorization: Bearer {}\r\nContent-Length: 0\r\n", key.expose()));
        let answer = self.ask("POST", path, &field, (POST_TIMEOUT, POST_ANSWER_MAX))?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let word = |key: &str| problem[key].as_str().map(str::to_owned);
        let text = word("detail").unwrap_or_else(|| format!("it answers {}", answer.status));
        Err(Failure { text, code: word("code") })
    }

    /// The configured one, or the one that the broker made at its start.
    fn admin_key(&self) -> Result<Secret, String> {
        if let Some(source) = &self.key {
            return block_on(source.read())?.map_err(|e| format!("admin.key: {e}"));
        }
        let directory = self.store.clone().unwrap_or_else(key::runtime_directory);
        let other = self.listen.port().map(|port| directory.join(format!("admin-{port}.key")));
        let file = other.filter(|other| other.exists()).unwrap_or_else(|| directory.join("admin.key"));
        SecretSource::File(file).look().map_err(|e| format!("no admin key: {e}; is the broker running?"))
    }

    fn ask(&self, method: &str, path: &str, fields: &str, limits: (Duration, u64)) -> Result<Answer, String> {
        let answer = self.exchange(method, path, fields, limits).map_err(|error| {
            format!("no answer from {}: {error}; is the broker running with this configuration?", self.listen)
        })?;
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("what answers at {} is no broker", self.listen))?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
        Ok(Answer { status, body })
    }

    fn exchange(&self, method: &str, path: &str, fields: &str, limits: (Duration, u64)) -> std::io::Result<String> {
        let (timeout, bytes_max) = limits;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let request = zeroize::Zeroizing::new([&head, fields, "\r\n"].concat());
        let mut answer = Vec::new();
        match &self.listen {
            Listen::Tcp(address) => {
                let mut stream = TcpStream::connect_timeout(address, TIMEOUT)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.write_all(request.as_bytes())?;
                stream.take(bytes_max).read_to_end(&mut answer)?;
            }
            Listen::Unix(socket) => {
                let mut stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.write_all(request.as_bytes())?;
                stream.take(bytes_max).read_to_end(&mut answer)?;
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
