//! Who is at the other end of a connection, as the kernel tells: an address, and on this machine a user. What the kernel does
//! not tell is not known, and whoever is not known is nobody that a list names.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::OnceLock;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// The other end of a connection.
#[derive(Debug, Default)]
pub struct Peer {
    /// `None` for a Unix socket.
    address: Option<IpAddr>,
    /// Theirs and ours, of a connection within this machine whose user has to be looked up.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Looked up once.
    user: OnceLock<Option<u32>>,
}

impl Peer {
    /// Over a Unix socket; the user was told with the connection (SO_PEERCRED).
    pub fn unix(user: Option<u32>) -> Self {
        Self { user: OnceLock::from(user), ..Self::default() }
    }

    /// Over TCP; `ours` is the end that it connected to.
    pub fn tcp(theirs: SocketAddr, ours: io::Result<SocketAddr>) -> Self {
        let (theirs, ours) = (canonical(theirs), ours.map(canonical));
        let ends = ours.ok().filter(|ours| theirs.ip().is_loopback() && ours.ip().is_loopback());
        Self { address: Some(theirs.ip()), ends: ends.map(|ours| (theirs, ours)), user: OnceLock::new() }
    }

    /// `None` for a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Over a Unix socket or loopback?
    pub fn is_local(&self) -> bool {
        self.address.is_none_or(|address| address.is_loopback())
    }

    /// The user who made the connection, on this machine; `None` if that is not known. Takes some microseconds the first time.
    pub fn user(&self) -> Option<u32> {
        *self.user.get_or_init(|| self.ends.and_then(|(theirs, ours)| owner(theirs, ours).ok().flatten()))
    }
}

/// Who it is, in words.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.user.get(), self.address) {
            (Some(Some(user)), _) => write!(f, "user {user}"),
            (_, Some(address)) if !address.is_loopback() => write!(f, "a client at {address}"),
            (None, Some(address)) => write!(f, "a client at {address}"),
            (Some(None), _) | (None, None) => f.write_str("a user whom the kernel does not name"),
        }
    }
}

/// An IPv4 address that came over an IPv6 socket is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whose the socket is that is bound to `local` and connected to `remote`: one question to the kernel (sock_diag(7)), which it
/// answers before `send` returns, whatever the number of sockets.
fn owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    let id = id(local, remote);
    send(&socket, &question(&id, local.is_ipv6()), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    Ok(answer.get(..length).and_then(|answer| user_of(answer, &id)))
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Established, and the two states of a client that has sent its end.
const CONNECTED: [u8; 3] = [1, 4, 5];
/// How an IPv4 address begins as an IPv6 one.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// `struct inet_diag_sockid` up to the interface: ports and addresses, in network order.
fn id(local: SocketAddr, remote: SocketAddr) -> [u8; 36] {
    let mut id = [0; 36];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (at, address) in [(4, local.ip()), (20, remote.ip())] {
        match address {
            IpAddr::V4(address) => id[at..at + 4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => id[at..at + 16].copy_from_slice(&address.octets()),
        }
    }
    id
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(id: &[u8; 36], ipv6: bool) -> [u8; 72] {
    let mut message = [0; 72];
    message[..4].copy_from_slice(&72_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[16] = if ipv6 { AF_INET6 } else { AF_INET };
    message[17] = IPPROTO_TCP;
    // Any state, any interface, no cookie.
    message[20..24].fill(0xff);
    message[24..60].copy_from_slice(id);
    message[64..].fill(0xff);
    message
}

/// The user in a `struct inet_diag_msg`, if it is about that socket.
fn user_of(answer: &[u8], id: &[u8; 36]) -> Option<u32> {
    let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let mut found: [u8; 36] = answer.get(20..56)?.try_into().ok()?;
    // A program may connect to an IPv4 address with an IPv6 socket, as Java does.
    for at in [4, 20] {
        if found[at..at + 12] == MAPPED {
            found.copy_within(at + 12..at + 16, at);
            found[at + 4..at + 16].fill(0);
        }
    }
    let is_socket = answer.get(4..6)? == SOCK_DIAG_BY_FAMILY.to_ne_bytes() && found == *id;
    // Security: a socket that its process has closed, or that waits for the end of its time, belongs to nobody, and the kernel
    // says 0 for it, which is root. One that listens is not connected.
    let held = CONNECTED.contains(answer.get(17)?) && number(84)? != 0;
    number(80).filter(|_| is_socket && held)
}

/// Addresses with a common beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// So many of its bits count.
    bits: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        first_bits(address, self.bits).is_some_and(|first| Some(first) == first_bits(self.address, self.bits))
            && address.is_ipv4() == self.address.is_ipv4()
    }

    /// Is every address of its kind in it?
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }
}

/// The address with all but its first bits cleared.
fn first_bits(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let mask = |length: u8| u128::MAX.checked_shl(u32::from(length.checked_sub(bits)?)).or(Some(0));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::try_from(mask(32)? & u128::from(u32::MAX)).ok()?;
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => Some(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask(128)?))),
    }
}

/// `ADDRESS/BITS`, or an address alone. The error is what to write instead.
impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "written like 172.16.0.0/12, fd00::/8 or 10.1.2.3";
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| HELP)?;
        if address.to_canonical() != address {
            return Err(format!("write it as an IPv4 network, such as {}/32", address.to_canonical()));
        }
        let all = if address.is_ipv4() { 32 } else { 128 };
        let digits = |bits: &&str| !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => all,
            Some(bits) => Some(bits).filter(digits).and_then(|bits| bits.parse().ok()).ok_or(HELP)?,
        };
        let first = first_bits(address, bits).ok_or(HELP)?;
        if first != address {
            return Err(format!("its address has more than {bits} bits: {first}/{bits}, or {address}/{all}, is meant"));
        }
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_network_is_an_address_and_a_length_and_says_what_is_in_it() {
        let network = |text: &str| text.parse::<Network>();
        for (text, inside, outside) in [
            ("172.16.0.0/12", "172.31.255.255", "172.32.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.2/31", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "ffff::", "0.0.0.0"),
            ("::1", "::1", "::2"),
        ] {
            let network = network(text).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text}");
            assert!(!network.contains(outside.parse().unwrap()), "{text}");
        }
        for wrong in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "10.0.0.0/8/8", "a/8", "10.0.0/8"]
        {
            assert!(network(wrong).unwrap_err().starts_with("written like"), "{wrong}");
        }
        assert!(network("10.1.2.3/8").unwrap_err().contains("10.0.0.0/8, or 10.1.2.3/32, is meant"));
        assert!(network("::ffff:10.0.0.0/104").unwrap_err().contains("10.0.0.0"));
    }

    #[test]
    fn the_owner_of_a_connection_is_known_while_it_is_open_and_nobody_afterwards() {
        for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let port = listener.local_addr().unwrap().port();
            let host = if listen.starts_with('1') || listen.starts_with("[::]") { "127.0.0.1" } else { "::1" };
            let client = TcpStream::connect((host, port)).unwrap();
            let (stream, theirs) = listener.accept().unwrap();
            let peer = || Peer::tcp(theirs, stream.local_addr());
            assert!(peer().is_local());
            assert_eq!(peer().user(), Some(rustix::process::geteuid().as_raw()), "{listen}");
            let known = peer();
            known.user();
            drop(client);
            assert_eq!(peer().user(), None, "{listen}: a closed socket is not root's");
            assert!(known.user().is_some(), "it is looked up once");
        }
    }

    #[test]
    fn what_is_not_the_connection_itself_tells_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        assert_eq!(Peer::tcp(ours, Ok(ours)).user(), None, "a listener is not connected");
        assert_eq!(Peer::tcp("10.0.0.1:80".parse().unwrap(), Ok(ours)).user(), None);
        assert_eq!(Peer::tcp(ours, Err(io::ErrorKind::NotConnected.into())).user(), None);
        assert_eq!(Peer::default().user(), None);
        let id = id(ours, ours);
        assert_eq!((user_of(&[], &id), user_of(&[0; 88], &id)), (None, None));
    }
}
