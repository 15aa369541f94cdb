//! What systemd hands over and is told: sockets that listen already (sd_listen_fds(3)), and how the start, a reload and the end go
//! (sd_notify(3)). Where it does not ask for that, nothing happens. A message that is lost stops nothing.

use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::OnceLock;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// A message waits so long for a place in systemd's queue.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Characters of a status.
const STATUS_MAX: usize = 1000;

/// A socket that listens already. It stays open as long as the process, whatever the configuration makes of it.
#[derive(Debug)]
pub struct Handed {
    /// As its unit calls it; `LISTEN_FDNAMES`.
    pub name: String,
    pub socket: Socket,
}

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The descriptors belong to the process as a whole, and so does this.
static HANDED: OnceLock<Vec<Handed>> = OnceLock::new();

/// Takes what was handed over. To be called once, before there is another thread and before anything is started that would inherit it.
#[expect(clippy::disallowed_methods, reason = "systemd names the sockets in the environment")]
pub fn take() -> Result<(), String> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = ListenFd::from_env();
    let handed = (0..sockets.len()).map(|index| {
        let name = names.next().filter(|name| !name.is_empty());
        let name = name.map_or_else(|| format!("descriptor {}", index + 3), str::to_owned);
        let tcp = sockets.take_tcp_listener(index).ok().flatten().map(Socket::Tcp);
        let socket = tcp.or_else(|| sockets.take_unix_listener(index).ok().flatten().map(Socket::Unix));
        match socket.filter(Socket::listens) {
            Some(socket) => Ok(Handed { name, socket }),
            None => Err(format!("{name}: {NOT_LISTENING}")),
        }
    });
    let handed = handed.collect::<Result<_, _>>()?;
    HANDED.set(handed).map_err(|_| "the sockets of the service manager were taken twice".to_owned())
}

const NOT_LISTENING: &str = "the service manager handed over what is not a socket that listens for TCP or on a path; \
    write ListenStream= and Accept=no in its unit";

pub fn handed() -> &'static [Handed] {
    HANDED.get().map_or(&[], Vec::as_slice)
}

impl Socket {
    fn listens(&self) -> bool {
        match self {
            Self::Tcp(listener) => rustix::net::sockopt::socket_acceptconn(listener),
            Self::Unix(listener) => rustix::net::sockopt::socket_acceptconn(listener),
        }
        .unwrap_or(false)
    }
}

/// Everything listens. Also the end of a reload; `status` is shown by `systemctl status`.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={}", one_line(status)));
}

pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
}

/// The drain has begun.
pub fn stopping(status: &str) {
    tell(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
}

/// Within one line, because each is a message of its own; and short, because systemd drops what is longer than 4096 bytes.
fn one_line(text: &str) -> String {
    text.chars().take(STATUS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[expect(clippy::disallowed_methods, reason = "systemd names its socket in the environment")]
fn tell(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, message) {
        warn!(%error, "the service manager could not be told: {}", message.lines().next().unwrap_or_default());
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(TELL_TIMEOUT))?;
    datagram.send_to_addr(message.as_bytes(), &address).map(drop)
}
