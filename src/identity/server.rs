//! A listener that speaks TLS and demands a certificate of its clients: PEM files to one rustls configuration.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use super::{Identity, IdentityError, Leaf, Roots, digest, error, provider, read, trust};

/// The rustls configuration of one listener. Two are equal if they are made of the same certificates, lists and key.
#[derive(Clone)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// What the listener's own certificate says of itself.
    pub leaf: Leaf,
    /// The same of the CA's certificate that ends first.
    pub ca: Option<Leaf>,
    /// Stands for what a client's certificate is held against: the CA and its lists.
    pub authority: [u8; 32],
    made_of: [u8; 32],
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

/// The files that it is made of.
pub struct Named<'p> {
    pub ca: &'p Path,
    pub cert: &'p Path,
    pub key: &'p Path,
}

impl ServerTls {
    /// Reads the files and holds them against each other and against `now`. Errors are of the `ca`, the `cert` or the `key`.
    pub fn load(files: &Named<'_>, now: Timestamp) -> Result<Self, Vec<(&'static str, IdentityError)>> {
        let identity = Identity::load(files.cert, files.key, now);
        let authority = Roots::load(false, Some(&files.ca.to_owned())).and_then(|roots| Ok((roots, lists(files.ca)?)));
        let (identity, (roots, lists)) = match (identity, authority) {
            (Ok(identity), Ok(authority)) => (identity, authority),
            (identity, authority) => {
                let (own, theirs) = (identity.err().unwrap_or_default(), authority.err().map(|e| ("ca", e)));
                return Err(own.into_iter().chain(theirs).collect());
            }
        };
        let mut parts: Vec<&[u8]> = roots.extra.iter().map(AsRef::as_ref).collect();
        parts.push(b"lists");
        parts.extend(lists.iter().map(AsRef::as_ref));
        let authority = digest(&parts);
        let mut parts: Vec<&[u8]> = vec![&authority, identity.key.secret_der()];
        parts.extend(identity.chain.iter().map(AsRef::as_ref));
        let made_of = digest(&parts);
        let config = server_config(&identity, &roots, lists).map_err(|e| vec![("ca", e)])?;
        Ok(Self { config, ca: roots.first_to_end(), leaf: identity.leaf, authority, made_of })
    }
}

/// The revocation lists that stand in the CA's file.
fn lists(ca: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&read(ca)?).collect();
    found.map_err(|_| error(format!("{} is not valid PEM", ca.display()), "look at the file: is it cut off?"))
}

/// TLS 1.2 or 1.3, HTTP/1.1 by ALPN, a client certificate that the CA signed and has not revoked.
fn server_config(
    identity: &Identity,
    authority: &Roots,
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut roots = RootCertStore::empty();
    trust(&mut roots, &authority.extra)?;
    let refused =
        |e: &dyn fmt::Display| error(format!("clients cannot be checked with it: {e}"), "see what the file holds");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists)
        // The list of the CA that signed it; an intermediate CA has no list of its own in most places.
        .only_check_end_entity_revocation()
        .build()
        .map_err(|e| refused(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| error(e.to_string(), "this is a fault of the broker"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|e| refused(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Security: a session that goes on would not be held against a new CA, a new list or the end of the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
