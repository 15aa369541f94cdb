//! One connection to a host: name → addresses → TCP → TLS, within one deadline.
//!
//! Names are resolved asynchronously (hickory), so a dead name server blocks no thread and a static binary needs no libc
//! plug-ins. Addresses are tried as RFC 8305 says. Proxy variables of the environment are not read.

mod stream;
mod tls;

use std::fs::Metadata;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

pub use stream::{Socket, Stream};
pub use tls::{chain, explain_client, refuses_our_certificate, tls_error};

use crate::identity::ClientTls;

/// How long an address has before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// More addresses than this are not tried.
const ADDRESSES_MAX: usize = 8;
/// Where a cloud serves an instance's own credentials; over IPv4 that is a link-local address.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Where to connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
}

/// How to speak TLS to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    pub client: ClientTls,
    /// The name that is sent (SNI) and that the certificate must bear.
    pub name: ServerName<'static>,
    /// What the client certificate in `client` is, for messages; `None` without one.
    pub certificate: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the name {host} could not be resolved: {why}")]
    Dns { host: String, why: String },
    #[error("cannot connect to {address}: {source}")]
    Tcp { address: String, source: io::Error },
    #[error("no connection to {address} within {seconds} s: {stage}")]
    Timeout { stage: &'static str, address: String, seconds: f32 },
    #[error("no TLS with {host}: {what}; {fix}")]
    Tls { host: String, what: String, fix: String, source: io::Error },
}

/// Makes connections; shared by everything that needs one.
#[derive(Default)]
pub struct Dialer {
    /// The resolver, and the state of `/etc/resolv.conf` it was made from.
    resolver: Mutex<Option<(Option<SystemTime>, Arc<TokioResolver>)>>,
}

impl Dialer {
    /// Connects, TLS handshake included, within `timeout`.
    pub async fn connect(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + timeout;
        let late = |stage| ConnectError::Timeout {
            stage,
            address: format!("{}:{}", endpoint.host, endpoint.port),
            seconds: timeout.as_secs_f32(),
        };
        let addresses = timeout_at(deadline, self.resolve(&endpoint.host)).await;
        let addresses = addresses.map_err(|_| late("the name could not be resolved"))??;
        let tcp = timeout_at(deadline, first_of(addresses, endpoint.port)).await;
        let tcp = tcp.map_err(|_| late("it does not answer"))??;
        let Some(tls) = &endpoint.tls else { return Ok(Stream::Plain(Socket::Tcp(tcp))) };
        let connector = TlsConnector::from(Arc::clone(&tls.client.config));
        match timeout_at(deadline, connector.connect(tls.name.clone(), Socket::Tcp(tcp))).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
            Ok(Err(source)) => {
                let (what, fix) = match tls_error(&source) {
                    Some(error) => endpoint.explain(error),
                    None if source.kind() == io::ErrorKind::UnexpectedEof => {
                        ("it ended the connection in the handshake".to_owned(), "is this port really TLS?".to_owned())
                    }
                    None => (format!("{source} in the handshake"), "is this port really TLS?".to_owned()),
                };
                Err(ConnectError::Tls { host: endpoint.host.clone(), what, fix, source })
            }
            Err(_) => Err(late("the TLS handshake did not end (is this port really TLS?)")),
        }
    }

    /// The addresses of a host, both families in turn, at most [`ADDRESSES_MAX`].
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let failed = |why: String| ConnectError::Dns { host: host.to_owned(), why };
        let resolver = self.resolver().map_err(failed)?;
        let found = resolver.lookup_ip(host).await.map_err(|e| {
            failed(if e.is_nx_domain() || e.is_no_records_found() {
                "there is no such name".into()
            } else {
                e.to_string()
            })
        })?;
        let (fine, odd): (Vec<_>, Vec<_>) = found.iter().partition(|address| may_be_of(host, *address));
        if let (true, Some(odd)) = (fine.is_empty(), odd.first()) {
            return Err(failed(format!(
                "it leads to {odd}, where no server of that name can be; if it is meant, write it"
            )));
        }
        let (six, four): (Vec<_>, Vec<_>) = fine.into_iter().partition(IpAddr::is_ipv6);
        let mut mixed: Vec<_> = six.iter().enumerate().chain(four.iter().enumerate()).collect();
        mixed.sort_by_key(|(rank, _)| *rank);
        match mixed.is_empty() {
            true => Err(failed("it has no address".into())),
            false => Ok(mixed.into_iter().map(|(_, address)| *address).take(ADDRESSES_MAX).collect()),
        }
    }

    /// The resolver of the system's current settings: a VPN that comes up rewrites them.
    fn resolver(&self) -> Result<Arc<TokioResolver>, String> {
        let stamp = std::fs::metadata("/etc/resolv.conf").and_then(|meta: Metadata| meta.modified()).ok();
        let mut held = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, resolver)) = &*held
            && *of == stamp
        {
            return Ok(Arc::clone(resolver));
        }
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
            // No usable resolv.conf, as in an empty image: /etc/hosts and localhost still work.
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        let resolver = Arc::new(builder.build().map_err(|e| e.to_string())?);
        *held = Some((stamp, Arc::clone(&resolver)));
        Ok(resolver)
    }
}

/// Security: may a server of that name have this address? A name server must not lead a token to this machine, or to what
/// a cloud serves on a link: whoever means such an address writes it instead of a name.
fn may_be_of(host: &str, address: IpAddr) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match address.to_canonical() {
        address if address.is_loopback() => host == "localhost" || host.ends_with(".localhost"),
        address if address.is_unspecified() || address.is_multicast() => false,
        IpAddr::V4(four) => !four.is_link_local() && !four.is_broadcast(),
        IpAddr::V6(six) => !six.is_unicast_link_local() && six != METADATA_V6,
    }
}

/// Connects to whichever address answers first (RFC 8305 §5).
async fn first_of(addresses: Vec<IpAddr>, port: u16) -> Result<TcpStream, ConnectError> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        let more = match waiting.next() {
            Some(address) => {
                attempts.push(tcp(SocketAddr::new(address, port)));
                waiting.len() > 0
            }
            None => false,
        };
        let finished = if more {
            match tokio::time::timeout(ATTEMPT_DELAY, attempts.next()).await {
                Ok(finished) => finished,
                Err(_) => continue,
            }
        } else {
            attempts.next().await
        };
        match finished {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(e)) => failure = Some(e),
            None => {
                let none = || io::Error::from(io::ErrorKind::AddrNotAvailable);
                let none = || ConnectError::Tcp { address: format!("port {port}"), source: none() };
                return Err(failure.unwrap_or_else(none));
            }
        }
    }
}

async fn tcp(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Tcp { address: address.to_string(), source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_no_address_of_this_machine_or_its_link() {
        let may = |host: &str, address: &str| may_be_of(host, address.parse().unwrap());
        for odd in [
            "127.0.0.1",
            "127.0.1.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!may("api.example.com", odd), "{odd}");
        }
        for address in ["93.184.216.34", "10.0.0.1", "192.168.1.1", "172.17.0.1", "fd00::1", "2606:2800::1"] {
            assert!(may("api.example.com", address), "{address}");
        }
        assert!(may("localhost", "127.0.0.1") && may("LocalHost.", "::1") && may("api.localhost", "127.0.0.1"));
        assert!(!may("localhost.example.com", "127.0.0.1") && !may("localhost", "169.254.169.254"));
    }
}
