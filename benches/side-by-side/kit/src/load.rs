//! The load generator. Without `--rate` each connection sends its next request once it has the answer. With it,
//! requests are due at even steps, and a latency counts from when its request was due: a stall cannot hide. `--fresh`
//! opens a connection for each request; `--count N` ends after N answers; `--body N` sends POSTs of N bytes. What comes
//! back is dropped in the kernel.
//!
//! Prints `measure` and `stop` at the two moments between which it counts, for whoever reads the proxy's clocks.
use std::net::SocketAddrV4;
use std::os::fd::RawFd;

use crate::hist::Hist;
use crate::sys::*;

#[derive(PartialEq, Clone, Copy)]
enum State {
    Idle,
    Sending,
    Head,
    Body(u64),
}

struct Conn {
    fd: RawFd,
    state: State,
    due: u64,
    /// How much of the request's head and of its body is sent.
    head_sent: usize,
    body_sent: u64,
    buf: Vec<u8>,
    wants_out: bool,
    good: bool,
}

struct Request {
    head: Vec<u8>,
    body: u64,
    file: RawFd,
}

struct Load {
    addr: SocketAddrV4,
    request: Request,
    fresh: bool,
    conns: Vec<Conn>,
    idle: Vec<usize>,
    alive: usize,
    epoll: Epoll,
    scratch: Vec<u8>,
    from: u64,
    end: u64,
    /// Nanoseconds between two requests, 0 for as many as possible; and when the next one is due.
    step: f64,
    next: f64,
    latency: Hist,
    ok: u64,
    bad: u64,
    errors: u64,
}

pub fn run(args: &Args) {
    sharp_timers();
    let body = args.num("--body", 0);
    let mut fields = TYPICAL.to_owned();
    if body > 0 {
        fields.push_str(&format!("Content-Length: {body}\r\n"));
    }
    let method = if body > 0 { "POST" } else { "GET" };
    let head = request(method, args.get("--path").unwrap_or("/b/1024"), args, &fields);
    let rate: f64 = args.num("--rate", 0.0);
    let mut load = Load {
        addr: args.addr("--addr"),
        request: Request { head, body, file: memfile() },
        fresh: args.has("--fresh"),
        conns: vec![],
        idle: vec![],
        alive: 0,
        epoll: Epoll::new(1024),
        scratch: vec![0; 256 << 10],
        from: 0,
        end: 0,
        step: if rate > 0.0 { 1e9 / rate } else { 0.0 },
        next: 0.0,
        latency: Hist::new(),
        ok: 0,
        bad: 0,
        errors: 0,
    };
    for at in 0..args.num("--conns", 16) {
        let fd = load.open(at);
        load.conns.push(Conn::new(fd));
    }
    load.alive = load.conns.len();
    load.idle = (0..load.conns.len()).rev().collect();
    let start = now_ns();
    load.next = start as f64;
    load.from = start + (args.num("--warm", 0.3) * 1e9) as u64;
    load.end = load.from + (args.num("--secs", 2.0) * 1e9) as u64;
    load.generate(args.num("--count", u64::MAX));
    let took = now_ns().saturating_sub(load.from) as f64 / 1e9;
    println!("stop");
    println!(
        "{{\"ok\":{},\"bad\":{},\"errors\":{},\"secs\":{took:.4},\"p50\":{:.2},\"p99\":{:.2},\"p999\":{:.2}}}",
        load.ok,
        load.bad,
        load.errors,
        load.latency.us(0.5),
        load.latency.us(0.99),
        load.latency.us(0.999),
    );
}

impl Load {
    fn open(&self, at: usize) -> RawFd {
        let fd = connect(self.addr, true).unwrap_or_else(|e| fail(&format!("connect {}: {e}", self.addr)));
        unblock(fd);
        self.epoll.add(fd, IN, at as u64);
        fd
    }

    fn generate(&mut self, count: u64) {
        let mut events = vec![];
        let mut measuring = false;
        while self.alive > 0 && self.ok + self.bad < count {
            let mut now = now_ns();
            if !measuring && now >= self.from {
                measuring = true;
                println!("measure");
                now = now_ns();
            }
            if now >= self.end {
                break;
            }
            self.send_what_is_due(now);
            let mut until = if measuring { self.end } else { self.from };
            if self.step > 0.0 && !self.idle.is_empty() {
                until = until.min(self.next as u64);
            }
            self.epoll.wait(until.saturating_sub(now_ns()) as i64, &mut events);
            for &(id, what) in &events {
                self.event(id as usize, what);
            }
        }
    }

    fn send_what_is_due(&mut self, now: u64) {
        while (self.step == 0.0 || self.next <= now as f64)
            && let Some(at) = self.idle.pop()
        {
            let due = if self.step > 0.0 { self.next as u64 } else { now_ns() };
            self.next += self.step;
            self.conns[at].begin(due);
            if self.conns[at].send(&self.request) {
                self.conns[at].arm(&self.epoll, at);
            } else {
                self.broken(at);
            }
        }
    }

    fn broken(&mut self, at: usize) {
        self.errors += 1;
        self.alive -= 1;
        close(self.conns[at].fd);
    }

    fn event(&mut self, at: usize, what: u32) {
        let conn = &mut self.conns[at];
        let mut open = what & OUT == 0 || conn.send(&self.request);
        let mut finished = false;
        if open && what & !OUT != 0 {
            match conn.receive(&mut self.scratch) {
                Ok(whole) => finished = whole,
                Err(()) => open = false,
            }
        }
        if !open {
            return self.broken(at);
        }
        if finished {
            let now = now_ns();
            let (due, good) = (conn.due, conn.good);
            conn.state = State::Idle;
            self.idle.push(at);
            if (self.from..self.end).contains(&now) {
                if good {
                    self.ok += 1;
                    self.latency.add(now.saturating_sub(due));
                } else {
                    self.bad += 1;
                }
            }
            if self.fresh {
                close(self.conns[at].fd);
                self.conns[at] = Conn::new(self.open(at));
            }
        }
        self.conns[at].arm(&self.epoll, at);
    }
}

impl Conn {
    fn new(fd: RawFd) -> Conn {
        let state = State::Idle;
        Conn { fd, state, due: 0, head_sent: 0, body_sent: 0, buf: vec![], wants_out: false, good: false }
    }

    fn begin(&mut self, due: u64) {
        (self.state, self.due, self.head_sent, self.body_sent) = (State::Sending, due, 0, 0);
        self.buf.clear();
    }

    fn arm(&mut self, epoll: &Epoll, at: usize) {
        let wants_out = self.state == State::Sending;
        if wants_out != self.wants_out {
            self.wants_out = wants_out;
            epoll.set(self.fd, if wants_out { IN | OUT } else { IN }, at as u64);
        }
    }

    fn send(&mut self, request: &Request) -> bool {
        if self.state != State::Sending {
            return true;
        }
        while self.head_sent < request.head.len() {
            let n = send(self.fd, &request.head[self.head_sent..], request.body > 0);
            if n < 0 {
                return again();
            }
            self.head_sent += n as usize;
        }
        while self.body_sent < request.body {
            let n = sendfile(self.fd, request.file, self.body_sent, request.body - self.body_sent);
            if n <= 0 {
                return n < 0 && again();
            }
            self.body_sent += n as u64;
        }
        self.state = State::Head;
        true
    }

    /// `Ok(true)` when the answer is whole.
    fn receive(&mut self, scratch: &mut [u8]) -> Result<bool, ()> {
        let n = match self.state {
            State::Idle => return Err(()),
            State::Body(left) => discard(self.fd, left.min(4 << 20) as usize),
            State::Sending | State::Head => recv(self.fd, scratch),
        };
        if n <= 0 {
            return if n < 0 && again() { Ok(false) } else { Err(()) };
        }
        if let State::Body(left) = self.state {
            let left = left - n as u64;
            self.state = State::Body(left);
            return Ok(left == 0);
        }
        self.buf.extend_from_slice(&scratch[..n as usize]);
        let Some(end) = find(&self.buf, b"\r\n\r\n") else { return Ok(false) };
        let head = &self.buf[..end + 2];
        self.good = head.get(9..12) == Some(b"200");
        let length = header(head, b"content-length").and_then(number).unwrap_or(0);
        let came = (self.buf.len() - end - 4) as u64;
        self.buf.clear();
        self.state = State::Body(length.saturating_sub(came));
        Ok(came >= length)
    }
}
