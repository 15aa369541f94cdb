//! Where to listen, and who may connect there.

use std::fmt;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::Route;
use crate::identity::ServerTls;
use crate::peer::{Network, Peer};
use crate::secret::source::SecretSource;

/// Where to listen: a Unix socket or an address, which is loopback unless the route permits others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    /// Can nobody but this machine reach it?
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Can only one of them be bound? On port 0 each has a port of its own.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(other)) = (self, other) else { return self == other };
        // An IPv6 socket on all addresses takes those of IPv4, too.
        let all = |a: IpAddr, b: IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
        let (a, b) = (one.ip(), other.ip());
        one.port() == other.port() && one.port() != 0 && (a == b || all(a, b) || all(b, a))
    }

    /// `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

/// As it displays; what is configured is read by `validate`, with every reason why not.
impl FromStr for Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("unix:").map_or_else(|| text.parse().map(Self::Tcp), |path| Ok(Self::Unix(path.into())))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who may connect to a route. What is not given is not asked for; what is given and cannot be known is refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clients {
    /// Who may over a Unix socket or loopback; empty: nobody is asked.
    pub uids: Vec<u32>,
    /// From where others may, and local ones if there are no `uids`; empty: from anywhere, unless there are `uids`.
    pub networks: Vec<Network>,
    /// What every request has to bear.
    pub key: Option<SecretSource>,
    /// The listener speaks TLS, and demands a certificate.
    pub tls: Option<ServerTls>,
}

impl Clients {
    /// May this one connect, whatever it sends?
    pub fn admit(&self, peer: &Peer) -> bool {
        if peer.is_local() && !self.uids.is_empty() {
            return peer.user().is_some_and(|user| self.uids.contains(&user));
        }
        if self.networks.is_empty() {
            return self.uids.is_empty();
        }
        peer.address().is_some_and(|address| self.networks.iter().any(|network| network.contains(address)))
    }
}

/// Do these routes of one listener list other users than the broker's own? Security: a Unix socket is opened to others only where
/// each of them says who may.
pub fn let_others_in<'r>(mut routes: impl Iterator<Item = &'r Route> + Clone) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let uids = |route: &'r Route| route.clients.as_ref().map(|clients| &clients.uids).filter(|uids| !uids.is_empty());
    let others = routes.clone().filter_map(uids).flatten().any(|uid| *uid != own && *uid != 0);
    others && routes.all(|route| uids(route).is_some())
}
