//! The one connection to Redis: made at first use, and made anew when it broke, after a pause.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, Value, cmd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Redis;
use super::words::{Fault, ended, fault, no_redis, said};
use crate::connect::{Dialer, Stream};

/// Every command has been answered by then, connecting included.
pub const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two tries to connect, and at most so much.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Of its first answer.
const LINE_MAX: usize = 512;
/// What it calls itself in `CLIENT LIST`.
const NAME: &str = "tokenbroker";

pub struct Link {
    server: Redis,
    dialer: Arc<Dialer>,
    state: Mutex<State>,
    /// Held by whoever connects.
    connecting: tokio::sync::Mutex<()>,
    made: AtomicU64,
    /// The last connection on which anything was answered.
    proven: AtomicU64,
    failures: AtomicU32,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Nobody connects before that, and why it is so.
    away: Option<(Instant, String)>,
}

struct Open {
    connection: MultiplexedConnection,
    /// One is never mistaken for the next.
    number: u64,
    /// What moves its bytes; ends with it.
    _driver: JoinSet<()>,
}

impl Link {
    pub fn new(server: Redis, dialer: Arc<Dialer>) -> Self {
        let (state, connecting) = Default::default();
        Self {
            server,
            dialer,
            state,
            connecting,
            made: AtomicU64::new(1),
            proven: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        }
    }

    pub fn server(&self) -> &Redis {
        &self.server
    }

    /// Why there is no connection.
    pub fn trouble(&self) -> Option<String> {
        self.state().away.as_ref().map(|(_, why)| why.clone())
    }

    /// The answer to a command, which does no harm twice; or why there is none, for the operator.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, String> {
        let deadline = Instant::now() + ANSWER_MAX;
        let mut again = false;
        loop {
            let (mut connection, number) = self.connection(deadline).await?;
            let answer = timeout_at(deadline, command.query_async(&mut connection)).await;
            let Fault { text, over } = match answer {
                Ok(Ok(value)) => {
                    self.answered(number);
                    return Ok(value);
                }
                // One that worked and was closed meanwhile, as idle ones are, says nothing of the server.
                Ok(Err(error)) if error.code().is_none() && !again && self.proven.load(Ordering::Relaxed) == number => {
                    self.lost(number, None);
                    again = true;
                    continue;
                }
                Ok(Err(error)) => fault(&self.server, &error, false),
                Err(_) => Fault { text: self.late(), over: true },
            };
            if over {
                self.lost(number, Some(&text));
            } else {
                self.answered(number);
            }
            return Err(text);
        }
    }

    fn answered(&self, number: u64) {
        self.failures.store(0, Ordering::Relaxed);
        self.proven.store(number, Ordering::Relaxed);
    }

    async fn connection(&self, deadline: Instant) -> Result<(MultiplexedConnection, u64), String> {
        if let Some(open) = self.open()? {
            return Ok(open);
        }
        let _connecting = timeout_at(deadline, self.connecting.lock()).await.map_err(|_| self.late())?;
        // Somebody else has, or could not.
        if let Some(open) = self.open()? {
            return Ok(open);
        }
        match self.connect(deadline).await {
            Ok(open) => {
                let opened = (open.connection.clone(), open.number);
                *self.state() = State { open: Some(open), away: None };
                Ok(opened)
            }
            Err(text) => {
                self.pause(&mut self.state(), &text);
                Err(text)
            }
        }
    }

    /// The connection that there is; an error while nobody may make one.
    fn open(&self) -> Result<Option<(MultiplexedConnection, u64)>, String> {
        let state = self.state();
        if let Some(open) = &state.open {
            return Ok(Some((open.connection.clone(), open.number)));
        }
        match &state.away {
            Some((until, text)) if Instant::now() < *until => Err(text.clone()),
            _ => Ok(None),
        }
    }

    async fn connect(&self, deadline: Instant) -> Result<Open, String> {
        let server = &self.server;
        let password = match &server.password {
            Some(source) => {
                let late = |_| format!("store.password: {} has not ended within {} s", source.described(), seconds());
                let read = timeout_at(deadline, source.read()).await.map_err(late)?;
                Some(read.map_err(|e| format!("store.password: {e}"))?)
            }
            None => None,
        };
        // As it is written in messages.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() / 100;
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default() * 100);
        let stream = self.dialer.connect(&server.endpoint, left).await;
        let mut stream = stream.map_err(|e| format!("{server} cannot be reached: {e}"))?;
        match timeout_at(deadline, greet(&mut stream)).await.map_err(|_| self.late())? {
            // Who nobody is yet may not even ask.
            Ok(line) if ["+PONG", "-NOAUTH", "-NOPERM"].iter().any(|word| line.starts_with(word)) => {}
            Ok(line) => return Err(said(server, line.strip_prefix('-').ok_or_else(|| no_redis(server))?, false).text),
            Err(error) if server.endpoint.tls.is_some() => return Err(ended(server, &error)),
            Err(error) => return Err(ended(server, &error) + " If it speaks TLS, write rediss://"),
        }
        // What this says of itself, and how it logs in, is up to us: the crate's own errors tell less.
        let nothing = RedisConnectionInfo::default().set_skip_set_lib_name();
        let patient = AsyncConnectionConfig::new().set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&nothing, stream, patient).await;
        let (mut connection, driver) = made.map_err(|e| fault(server, &e, false).text)?;
        let mut driving = JoinSet::new();
        driving.spawn(driver);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut first = Vec::new();
        if let Some(password) = &password {
            let mut auth = cmd("AUTH");
            auth.arg(&server.username).arg(password.expose());
            first.push(auth);
        }
        if server.database != 0 {
            first.push(cmd("SELECT").arg(server.database).take());
        }
        for command in first {
            let answer = timeout_at(deadline, command.query_async::<Value>(&mut connection)).await;
            // Security: what is said of it may quote the password.
            answer.map_err(|_| self.late())?.map_err(|e| fault(server, &e, true).text)?;
        }
        // It may be forbidden, and need not be.
        let named = cmd("CLIENT").arg("SETNAME").arg(NAME).take();
        let _ = timeout_at(deadline, named.query_async::<Value>(&mut connection)).await.map_err(|_| self.late())?;
        Ok(Open { connection, number, _driver: driving })
    }

    /// A pause follows, if there is a reason.
    fn lost(&self, number: u64, text: Option<&str>) {
        let mut state = self.state();
        if state.open.as_ref().is_some_and(|open| open.number == number) {
            state.open = None;
            if let Some(text) = text {
                self.pause(&mut state, text);
            }
        }
    }

    fn pause(&self, state: &mut State, text: &str) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = PAUSE.saturating_mul(1 << failures).min(PAUSE_MAX);
        let pause = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        state.away = Some((Instant::now() + pause, text.to_owned()));
    }

    fn late(&self) -> String {
        format!("{} has not answered within {} s; is it up, and is it this broker's network?", self.server, seconds())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to a first PING, a line: a server that wants nobody says so and is gone, as does one of another kind.
async fn greet(stream: &mut Stream) -> io::Result<String> {
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
    stream.flush().await?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < LINE_MAX {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn seconds() -> u64 {
    ANSWER_MAX.as_secs()
}
