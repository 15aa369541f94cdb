//! The upstream: `/b/N` answers 200 with N bytes, and 401 to whoever's `Authorization` does not start with `--auth`.
//! Bodies of requests are thrown away in the kernel. `/token` answers as an OAuth 2 token endpoint does, for an hour;
//! `/token/N` for N seconds, each time with another token.
use std::os::fd::RawFd;

use crate::sys::*;

/// What an ordinary API answers with besides its length.
const FIELDS: &str = "Content-Type: application/json\r\nServer: kit\r\nDate: Fri, 21 Nov 2025 18:00:00 GMT\r\n\
Cache-Control: no-store, max-age=0\r\nETag: \"5f3c2a1b0d9e8f7a\"\r\nVary: Accept-Encoding\r\n\
X-Request-Id: 7d1f0c3e-6b7a-4f0e-9d58-0c2a4b6d8e10\r\nStrict-Transport-Security: max-age=31536000\r\n";
/// Bodies up to this size leave in one piece with their head.
const SMALL: u64 = 16 << 10;
const HEAD_MAX: usize = 1 << 20;
const LISTENER: u64 = u64::MAX;

struct Conn {
    fd: RawFd,
    buf: Vec<u8>,
    /// Bytes of the request's body that have not come yet; the answer waits for them.
    body_left: u64,
    out: Vec<u8>,
    sent: usize,
    file_sent: u64,
    file_left: u64,
    close: bool,
    wants_out: bool,
}

struct Server {
    auth: Vec<u8>,
    file: RawFd,
    tokens: u64,
}

pub fn run(args: &Args) {
    let listener = listen(args.addr("--listen"));
    let auth = args.get("--auth").unwrap_or_else(|| fail("--auth VALUE is missing")).into();
    let mut server = Server { auth, file: memfile(), tokens: 0 };
    let mut epoll = Epoll::new(1024);
    epoll.add(listener, IN, LISTENER);
    let mut conns: Vec<Option<Conn>> = vec![];
    let mut free = vec![];
    let mut scratch = vec![0; 256 << 10];
    let mut events = vec![];
    loop {
        epoll.wait(-1, &mut events);
        for &(id, what) in &events {
            if id == LISTENER {
                while let Some(fd) = accept(listener) {
                    let at = vacant(&mut conns, &mut free);
                    conns[at] = Some(Conn::new(fd));
                    epoll.add(fd, IN, at as u64);
                }
                continue;
            }
            let at = id as usize;
            let Some(conn) = conns[at].as_mut() else { continue };
            let mut open = what & OUT == 0 || conn.consume(&mut server);
            open = open && (what & !OUT == 0 || conn.readable(&mut scratch, &mut server));
            if !open {
                close(conn.fd);
                conns[at] = None;
                free.push(at);
            } else if conn.pending() != conn.wants_out {
                conn.wants_out = !conn.wants_out;
                epoll.set(conn.fd, if conn.wants_out { OUT } else { IN }, id);
            }
        }
    }
}

impl Conn {
    fn new(fd: RawFd) -> Conn {
        let (buf, out) = (vec![], vec![]);
        Conn { fd, buf, body_left: 0, out, sent: 0, file_sent: 0, file_left: 0, close: false, wants_out: false }
    }

    fn pending(&self) -> bool {
        self.body_left == 0 && (self.sent < self.out.len() || self.file_left > 0)
    }

    fn readable(&mut self, scratch: &mut [u8], server: &mut Server) -> bool {
        let n = if self.body_left > 0 {
            discard(self.fd, self.body_left.min(1 << 20) as usize)
        } else {
            recv(self.fd, scratch)
        };
        if n <= 0 {
            return n < 0 && again();
        }
        if self.body_left > 0 {
            self.body_left -= n as u64;
        } else {
            self.buf.extend_from_slice(&scratch[..n as usize]);
        }
        self.consume(server)
    }

    /// Takes requests and answers them, as far as both are possible now; `false` when the connection is over.
    fn consume(&mut self, server: &mut Server) -> bool {
        loop {
            let n = self.body_left.min(self.buf.len() as u64);
            self.buf.drain(..n as usize);
            self.body_left -= n;
            if self.body_left > 0 {
                return true;
            }
            if !self.flush(server.file) {
                return false;
            }
            if self.pending() {
                return true;
            }
            let Some(end) = find(&self.buf, b"\r\n\r\n") else { return self.buf.len() < HEAD_MAX };
            let head: Vec<u8> = self.buf.drain(..end + 4).collect();
            self.answer(&head, server);
        }
    }

    fn answer(&mut self, head: &[u8], server: &mut Server) {
        let target =
            head.split(|b| *b == b' ').nth(1).and_then(|target| std::str::from_utf8(target).ok()).unwrap_or("");
        self.body_left = header(head, b"content-length").and_then(number).unwrap_or(0);
        self.close = header(head, b"connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let connection = if self.close { "Connection: close\r\n" } else { "" };
        if let Some(life) = target.strip_prefix("/token") {
            let body = server.token(life);
            self.reply(
                &format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{connection}"),
                body.len() as u64,
            );
            self.out.extend_from_slice(body.as_bytes());
            return;
        }
        let length = target.strip_prefix("/b/").and_then(|n| n.parse::<u64>().ok());
        let (status, length) = match length {
            // Bodies are counted by their length alone.
            _ if header(head, b"transfer-encoding").is_some() => ("501 Not Implemented", 0),
            _ if !header(head, b"authorization").is_some_and(|sent| sent.starts_with(&server.auth)) => {
                ("401 Unauthorized", 0)
            }
            Some(length) => ("200 OK", length),
            None => ("404 Not Found", 0),
        };
        self.reply(&format!("HTTP/1.1 {status}\r\n{FIELDS}{connection}"), length);
        if length <= SMALL {
            self.out.resize(self.out.len() + length as usize, b'x');
        } else {
            (self.file_sent, self.file_left) = (0, length);
        }
    }

    fn reply(&mut self, head: &str, length: u64) {
        self.out.clear();
        self.sent = 0;
        self.out.extend_from_slice(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes());
    }

    fn flush(&mut self, file: RawFd) -> bool {
        let answered = !self.out.is_empty();
        while self.sent < self.out.len() {
            let n = send(self.fd, &self.out[self.sent..], self.file_left > 0);
            if n < 0 {
                return again();
            }
            self.sent += n as usize;
        }
        while self.file_left > 0 {
            let n = sendfile(self.fd, file, self.file_sent, self.file_left);
            if n <= 0 {
                return n < 0 && again();
            }
            self.file_sent += n as u64;
            self.file_left -= n as u64;
        }
        !(self.close && answered)
    }
}

impl Server {
    /// The body of a token endpoint's answer; `life` is what stands behind `/token`.
    fn token(&mut self, life: &str) -> String {
        let token = std::str::from_utf8(&self.auth).unwrap_or("").trim_start_matches("Bearer ");
        let Some(secs) = life.strip_prefix('/') else {
            return format!("{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}");
        };
        self.tokens += 1;
        format!("{{\"access_token\":\"{token}-{}\",\"token_type\":\"Bearer\",\"expires_in\":{secs}}}", self.tokens)
    }
}
