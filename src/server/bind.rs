//! How sockets come to listen. Security: a Unix socket is open to nobody else, not even between its making and a chmod, unless every route
//! behind it lists the users who may.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, chmod, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::handed;
use super::listening::{Bound, Listening, SocketFile};
use crate::config::Listen;

/// Connections that the kernel takes while all workers are busy; `net.core.somaxconn` may allow fewer.
const BACKLOG: i32 = 4096;

/// Starts to listen, or takes the socket that was handed over for it. `others`: may other users connect to a Unix socket, to be
/// judged then?
pub fn bind(listen: &Listen, others: bool) -> io::Result<Bound> {
    let bound = match handed::take(listen)? {
        Some(bound) => bound,
        None => make(listen, others)?,
    };
    match &bound.socket {
        Listening::Tcp(listener) => {
            rustix::net::listen(listener, BACKLOG)?;
            listener.set_nonblocking(true)?;
            // What is accepted has it too (tcp(7)).
            rustix::net::sockopt::set_tcp_nodelay(listener, true)?;
        }
        Listening::Unix(listener, _) => {
            rustix::net::listen(listener, BACKLOG)?;
            listener.set_nonblocking(true)?;
        }
    }
    Ok(bound)
}

fn make(listen: &Listen, others: bool) -> io::Result<Bound> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            let address = listener.local_addr()?;
            Ok(Bound { listen: Listen::Tcp(address), socket: Listening::Tcp(listener) })
        }
        Listen::Unix(path) => {
            make_room(path)?;
            // Security: the file takes its mode from the socket's own (unix(7)), so it is private from its first instant.
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            fchmod(&socket, mode(false))?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_path())?)?;
            let listener = UnixListener::from(socket);
            if others {
                // The umask may have taken it away.
                open_to(listen, true)?;
            }
            let file = Arc::new(SocketFile::of(path)?);
            Ok(Bound { listen: listen.clone(), socket: Listening::Unix(listener, Some(file)) })
        }
    }
}

fn mode(others: bool) -> Mode {
    let own = Mode::RUSR | Mode::WUSR;
    if others { own | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH } else { own }
}

/// Changes whether others may connect to a socket that is there.
pub(super) fn open_to(listen: &Listen, others: bool) -> io::Result<()> {
    let Listen::Unix(path) = listen else { return Ok(()) };
    if handed::is_handed(listen) {
        // Its mode was looked at, and is not ours to change.
        return Ok(());
    }
    if path.symlink_metadata()?.file_type().is_socket() { Ok(chmod(path, mode(others))?) } else { Ok(()) }
}

/// Removes a socket that nobody listens on any more, and nothing else.
fn make_room(path: &Path) -> io::Result<()> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::AlreadyExists, why.to_owned()));
    if !there.file_type().is_socket() {
        return refused("something that is not a socket stands there");
    }
    match UnixStream::connect(path) {
        Ok(_) => refused("somebody listens there already"),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) => Err(e),
    }
}
