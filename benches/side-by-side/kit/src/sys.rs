//! Thin wrappers over the few system calls that the kit needs, and the little of HTTP that it shares.
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;

pub struct Args(pub Vec<String>);

impl Args {
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.windows(2).filter(move |pair| pair[0] == name).map(|pair| pair[1].as_str())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|arg| arg == name)
    }

    pub fn num<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.get(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| fail(&format!("{name} {text}: no number"))))
    }

    pub fn addr(&self, name: &str) -> SocketAddrV4 {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or_else(|| fail(&format!("{name} IP:PORT is missing")))
    }
}

#[expect(clippy::disallowed_methods, reason = "one thread, and nothing to put away")]
pub fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1)
}

pub fn check(result: libc::c_int, what: &str) -> libc::c_int {
    if result < 0 {
        fail(&format!("{what}: {}", io::Error::last_os_error()));
    }
    result
}

fn sockaddr(addr: SocketAddrV4) -> libc::sockaddr_in {
    let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    raw.sin_family = libc::AF_INET as u16;
    raw.sin_port = addr.port().to_be();
    raw.sin_addr.s_addr = u32::from(*addr.ip()).to_be();
    raw
}

fn set<T>(fd: RawFd, level: i32, name: i32, value: &T) {
    unsafe {
        libc::setsockopt(fd, level, name, value as *const T as *const _, size_of::<T>() as u32);
    }
}

pub fn receive_timeout(fd: RawFd, secs: i64) {
    set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: secs, tv_usec: 0 });
}

pub fn listen(addr: SocketAddrV4) -> RawFd {
    assert!(addr.ip().is_loopback(), "loopback only");
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = check(libc::socket(libc::AF_INET, kind, 0), "socket");
        set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32);
        let raw = sockaddr(addr);
        check(libc::bind(fd, &raw as *const _ as *const _, size_of_val(&raw) as u32), "bind");
        check(libc::listen(fd, 4096), "listen");
        fd
    }
}

/// Connects; without `blocking` it may still be in progress.
pub fn connect(addr: SocketAddrV4, blocking: bool) -> io::Result<RawFd> {
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if blocking { 0 } else { libc::SOCK_NONBLOCK };
        let fd = libc::socket(libc::AF_INET, kind, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let raw = sockaddr(addr);
        if libc::connect(fd, &raw as *const _ as *const _, size_of_val(&raw) as u32) < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINPROGRESS) {
                libc::close(fd);
                return Err(error);
            }
        }
        set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32);
        Ok(fd)
    }
}

pub fn accept(listener: RawFd) -> Option<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32);
    (fd >= 0).then_some(fd)
}

pub fn unblock(fd: RawFd) {
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
}

pub struct Epoll {
    fd: RawFd,
    events: Vec<libc::epoll_event>,
}

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub const EDGE: u32 = libc::EPOLLET as u32;

impl Epoll {
    pub fn new(n: usize) -> Epoll {
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }, "epoll_create1");
        Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; n] }
    }

    pub fn add(&self, fd: RawFd, what: u32, id: u64) {
        let mut event = libc::epoll_event { events: what, u64: id };
        check(unsafe { libc::epoll_ctl(self.fd, libc::EPOLL_CTL_ADD, fd, &mut event) }, "epoll add");
    }

    pub fn set(&self, fd: RawFd, what: u32, id: u64) {
        let mut event = libc::epoll_event { events: what, u64: id };
        check(unsafe { libc::epoll_ctl(self.fd, libc::EPOLL_CTL_MOD, fd, &mut event) }, "epoll mod");
    }

    /// Waits at most `ns` (forever when negative), to the nanosecond; gives pairs of id and events.
    pub fn wait(&mut self, ns: i64, out: &mut Vec<(u64, u32)>) {
        out.clear();
        let span = libc::timespec { tv_sec: ns.max(0) / 1_000_000_000, tv_nsec: ns.max(0) % 1_000_000_000 };
        let timeout = if ns < 0 { std::ptr::null() } else { &span as *const libc::timespec };
        let mask = std::ptr::null::<libc::sigset_t>();
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        let n = unsafe { libc::syscall(libc::SYS_epoll_pwait2, self.fd, events, room, timeout, mask, 8usize) };
        out.extend(self.events[..n.max(0) as usize].iter().map(|event| (event.u64, event.events)));
    }
}

/// A place in a list whose entries come and go.
pub fn vacant<T>(list: &mut Vec<Option<T>>, free: &mut Vec<usize>) -> usize {
    free.pop().unwrap_or_else(|| {
        list.push(None);
        list.len() - 1
    })
}

pub fn again() -> bool {
    matches!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

pub fn recv(fd: RawFd, into: &mut [u8]) -> isize {
    unsafe { libc::recv(fd, into.as_mut_ptr() as *mut _, into.len(), 0) }
}

/// Drops up to `n` received bytes in the kernel, without copying them out.
pub fn discard(fd: RawFd, n: usize) -> isize {
    unsafe { libc::recv(fd, std::ptr::null_mut(), n, libc::MSG_TRUNC) }
}

pub fn send(fd: RawFd, bytes: &[u8], more: bool) -> isize {
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    unsafe { libc::send(fd, bytes.as_ptr() as *const _, bytes.len(), flags) }
}

pub fn close(fd: RawFd) {
    unsafe {
        libc::close(fd);
    }
}

/// How long the file is from which bodies leave, over and over.
pub const FILE: u64 = 4 << 20;

/// A file in memory, so that bodies leave by sendfile without a copy out of user space.
pub fn memfile() -> RawFd {
    let data = vec![b'x'; FILE as usize];
    unsafe {
        let fd = check(libc::memfd_create(c"body".as_ptr(), libc::MFD_CLOEXEC), "memfd_create");
        let mut at = 0;
        while at < data.len() {
            let n = libc::write(fd, data[at..].as_ptr() as *const _, data.len() - at);
            assert!(n > 0);
            at += n as usize;
        }
        fd
    }
}

/// Sends of a body of which `done` bytes are gone and `left` are not; how many it took.
pub fn sendfile(to: RawFd, file: RawFd, done: u64, left: u64) -> isize {
    let at = done % FILE;
    let mut offset = at as libc::off_t;
    unsafe { libc::sendfile(to, file, &mut offset, left.min(FILE - at).min(1 << 20) as usize) }
}

pub fn now_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

pub fn sharp_timers() {
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1u64);
    }
}

pub fn pin(cpu: usize) {
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut cpus);
        libc::sched_setaffinity(0, size_of_val(&cpus), &cpus);
    }
}

/// What an ordinary client library sends besides Host.
pub const TYPICAL: &str = "User-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\n\
Accept: application/json\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n\
X-Request-Id: 7d1f0c3e-6b7a-4f0e-9d58-0c2a4b6d8e10\r\n\
traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
Cookie: session=0123456789abcdef0123456789abcdef\r\n";

/// A request's head, with every `--header` of the arguments.
pub fn request(method: &str, path: &str, args: &Args, fields: &str) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{fields}", args.addr("--addr"));
    args.all("--header").for_each(|line| head.extend([line, "\r\n"]));
    head.push_str("\r\n");
    head.into_bytes()
}

pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

/// The value of the field `name` (lower case) in a head.
pub fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|b| *b == b'\n').skip(1).find_map(|line| {
        let named = line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name);
        named.then(|| line[name.len() + 1..].trim_ascii())
    })
}

pub fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
