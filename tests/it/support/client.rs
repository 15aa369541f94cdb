//! A client that sends exactly the bytes it is given and takes answers apart strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;

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
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // An early answer may close the connection under a body.
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
        }
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Does the other side close within `limit`, without another byte?
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        let closed = matches!(self.stream.read(&mut [0]), Ok(0)) || self.stream.take_error().is_ok_and(|e| e.is_some());
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        closed
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Some(line);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..n).collect())
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
            (_, true, _) => reply.complete = self.chunks(&mut reply.body).is_some(),
            (_, _, Some(length)) => match self.take(length) {
                Some(body) => reply.body = body,
                None => (reply.body, reply.complete) = (std::mem::take(&mut self.buffer), false),
            },
            (_, _, None) => reply.body = self.rest(),
        }
        Some(reply)
    }

    pub fn head(&mut self) -> Option<Reply> {
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap().to_owned();
        let status = words.next().unwrap_or_else(|| panic!("no status line: {line:?}")).parse().unwrap();
        let mut reply = Reply { status, version, ..Reply::default() };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(reply);
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            reply.headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }

    fn chunks(&mut self, into: &mut Vec<u8>) -> Option<()> {
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Some(());
            }
            into.extend(chunk);
        }
    }

    /// The next chunk of a body; empty at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line()?, 16).unwrap();
        let chunk = self.take(size)?;
        if size > 0 {
            assert_eq!(self.line()?, "");
        } else {
            while !self.line()?.is_empty() {}
        }
        Some(chunk)
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
    match wire.stream.read_to_end(&mut answer) {
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
