//! What both sides of a test read with: a stream, and what has come of it so far.

use std::io::Read;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// Bytes kept for [`Buffered::log`].
const LOG_MAX: usize = 8 << 20;

/// A stream with a buffer.
pub struct Buffered {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
    /// Every byte that came.
    pub log: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Buffered {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), log: None }
    }

    /// Reads once; false at the end.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        let Ok(n @ 1..) = self.stream.read(&mut chunk) else { return false };
        self.buffer.extend_from_slice(&chunk[..n]);
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap();
            if log.len() < LOG_MAX {
                log.extend_from_slice(&chunk[..n]);
            }
        }
        true
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Up to `end`, and with it.
    pub fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// A line without its end.
    pub fn line(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.until(b"\r\n")?.strip_suffix(b"\r\n")?).into_owned())
    }

    pub fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..n).collect())
    }

    /// The next chunk of a body; empty at its end, trailers passed over.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line()?, 16).unwrap();
        let chunk = self.exactly(size)?;
        if size > 0 {
            assert_eq!(self.line()?, "");
        } else {
            while !self.line()?.is_empty() {}
        }
        Some(chunk)
    }

    /// A chunked body into `body`, as far as it comes; `None` if it broke off.
    pub fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Some(());
            }
            body.extend(chunk);
        }
    }
}
