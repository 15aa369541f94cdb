//! A client that sends exactly the bytes it is given and takes answers apart strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::buffered::Buffered;

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub version: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Did the body end as its framing says?
    pub complete: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The `code` of a problem.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

/// A connection.
pub struct Wire(Buffered);

impl Wire {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(Buffered::new(stream))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // An early answer may close the connection under a body.
        let _ = self.0.stream.write_all(bytes.as_ref());
        self
    }

    pub fn stream(&self) -> &TcpStream {
        &self.0.stream
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> Vec<u8> {
        self.0.rest()
    }

    /// Does the other side close within `limit`, without another byte?
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        let stream = &mut self.0.stream;
        stream.set_read_timeout(Some(limit)).unwrap();
        let closed = match stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        closed
    }

    /// The next answer, to a request of that method; `None` if the connection ends instead. 100 is passed over.
    pub fn reply(&mut self, method: &str) -> Option<Reply> {
        let mut reply = self.head()?;
        while reply.status == 100 {
            reply = self.head()?;
        }
        let bodiless = method == "HEAD" || matches!(reply.status, 101 | 204 | 304);
        let length = reply.header("content-length").map(|n| n.parse::<usize>().unwrap());
        let chunked = reply.header("transfer-encoding").is_some();
        assert!(!(chunked && length.is_some()), "two framings: {reply:?}");
        reply.complete = true;
        match (bodiless, chunked, length) {
            (true, ..) => {}
            (_, true, _) => reply.complete = self.0.chunks(&mut reply.body).is_some(),
            (_, _, Some(length)) => match self.0.exactly(length) {
                Some(body) => reply.body = body,
                None => (reply.body, reply.complete) = (std::mem::take(&mut self.0.buffer), false),
            },
            (_, _, None) => reply.body = self.rest(),
        }
        Some(reply)
    }

    pub fn head(&mut self) -> Option<Reply> {
        let line = self.0.line()?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap().to_owned();
        let status = words.next().unwrap_or_else(|| panic!("no status line: {line:?}")).parse().unwrap();
        let mut reply = Reply { status, version, ..Reply::default() };
        loop {
            let line = self.0.line()?;
            if line.is_empty() {
                return Some(reply);
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            reply.headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }

    /// So many bytes.
    pub fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        self.0.exactly(n)
    }

    /// The next chunk of a body; empty at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        self.0.chunk()
    }
}

/// One request on a connection of its own.
pub fn call(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut wire = Wire::open(address);
    wire.send(head).send(body);
    wire.reply(method).unwrap_or_else(|| panic!("no answer to {method} {target}"))
}

/// These bytes on a connection of their own; everything that comes back before the other side closes, which it has to.
#[track_caller]
pub fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut wire = Wire::open(address);
    wire.send(bytes.as_ref());
    let mut answer = Vec::new();
    match wire.0.stream.read_to_end(&mut answer) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            panic!(
                "not closed after {:?}: {:?}",
                String::from_utf8_lossy(bytes.as_ref()),
                String::from_utf8_lossy(&answer)
            )
        }
        _ => answer,
    }
}
