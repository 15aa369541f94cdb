//! Listening sockets, as they are shared.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Listen;

/// A listening socket; its clones share it.
pub struct Bound {
    /// With the port that the kernel chose, where 0 was asked for.
    pub listen: Listen,
    pub(super) socket: Listening,
}

pub(super) enum Listening {
    Tcp(TcpListener),
    /// Without a file where that is not ours to remove.
    Unix(UnixListener, Option<Arc<SocketFile>>),
}

/// Removes the socket's file when its last clone is gone, unless somebody else's stands there by then.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: path.symlink_metadata()?.ino() })
    }
}

impl Bound {
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Listening::Tcp(listener) => Listening::Tcp(listener.try_clone()?),
            Listening::Unix(listener, file) => Listening::Unix(listener.try_clone()?, file.clone()),
        };
        Ok(Self { listen: self.listen.clone(), socket })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|meta| meta.ino() == self.inode) {
            // Nothing listens there any more; the next start would remove it as well.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
