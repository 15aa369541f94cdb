//! The sockets that systemd handed over: which listener each is for, and whether it may be used.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::listening::{Bound, Listening};
use crate::config::Listen;
use crate::systemd::{self, Handed, Socket};

/// A socket that was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    #[error(
        "{name}: the service manager listens on {place}, and nothing of this configuration does; \
         write ListenStream= and `listen` alike, or remove one of them"
    )]
    Unused { name: String, place: String },
    /// Security: whoever can connect to a route has its token.
    #[error(
        "{name}: other users can connect to {listen}, and a route there does not say who may; \
         set SocketMode=0600 in its unit and let it belong to root or the broker's user, or list `clients.uids` in each of its routes"
    )]
    Open { name: String, listen: Listen },
    #[error("{name}: cannot see who may connect to {listen}: {source}; let the broker's user search its directory")]
    Hidden { name: String, listen: Listen, source: io::Error },
}

/// Where it listens; `None` for a name without a path.
fn place(handed: &Handed) -> Option<Listen> {
    match &handed.socket {
        Socket::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
        Socket::Unix(listener) => Some(Listen::Unix(listener.local_addr().ok()?.as_pathname()?.into())),
    }
}

fn find(listen: &Listen) -> Option<&'static Handed> {
    systemd::handed().iter().find(|handed| place(handed).as_ref() == Some(listen))
}

/// The socket for that listener, if it was handed over.
pub(super) fn take(listen: &Listen) -> io::Result<Option<Bound>> {
    let Some(handed) = find(listen) else { return Ok(None) };
    let socket = match &handed.socket {
        Socket::Tcp(listener) => Listening::Tcp(listener.try_clone()?),
        // Its file belongs to the service manager.
        Socket::Unix(listener) => Listening::Unix(listener.try_clone()?, None),
    };
    Ok(Some(Bound { listen: listen.clone(), socket }))
}

/// Is that listener's socket one that was handed over?
pub(super) fn is_handed(listen: &Listen) -> bool {
    find(listen).is_some()
}

/// Is each of them used, and private where it has to be? `wanted`: every listener, and whether other users may connect to it.
pub(super) fn check(wanted: &[(&Listen, bool)]) -> Result<(), HandedError> {
    for handed in systemd::handed() {
        let (name, place) = (handed.name.clone(), place(handed));
        let Some((listen, others)) = wanted.iter().find(|(listen, _)| Some(*listen) == place.as_ref()) else {
            let place = place.map_or_else(|| "a name without a path".to_owned(), |place| place.to_string());
            return Err(HandedError::Unused { name, place });
        };
        if let (Listen::Unix(path), false) = (listen, others) {
            let listen = || (*listen).clone();
            let own = [0, rustix::process::geteuid().as_raw()];
            match path.symlink_metadata() {
                Ok(meta) if meta.permissions().mode() & 0o077 == 0 && own.contains(&meta.uid()) => {}
                Ok(_) => return Err(HandedError::Open { name, listen: listen() }),
                Err(source) => return Err(HandedError::Hidden { name, listen: listen(), source }),
            }
        }
    }
    Ok(())
}
