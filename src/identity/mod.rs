//! Certificates and trusted roots: PEM files to one rustls configuration, for a client or ([`server`]) for a listener.
//!
//! An [`Identity`] is a snapshot: chain, key and what the leaf says of itself were read together and fit each other. It
//! never changes; a changed file makes a new one. Errors name the file and, once the certificate could be read, its
//! subject, serial number and dates, because that is what one has to tell the vendor.

mod server;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ::ring::digest::{Context, SHA256};
use jiff::Timestamp;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode;

pub use server::{Named, ServerTls};

/// A certificate chain with its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub leaf: Leaf,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.leaf.fmt(f)
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub subject: String,
    /// Hexadecimal, colon-separated.
    pub serial: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, serial, not_before, not_after } = self;
        write!(f, "subject {subject}, serial {serial}, valid {not_before} to {not_after}")
    }
}

/// Why an identity or a root cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; {hint}")]
pub struct IdentityError {
    pub problem: String,
    pub hint: &'static str,
}

fn error(problem: String, hint: &'static str) -> IdentityError {
    IdentityError { problem, hint }
}

impl Identity {
    /// Reads chain and key and holds them against each other and against `now`. Errors are of the `cert` or the `key`.
    pub fn load(cert: &Path, key: &Path, now: Timestamp) -> Result<Self, Vec<(&'static str, IdentityError)>> {
        match (Self::chain(cert, now), private_key(key)) {
            (Ok((chain, leaf)), Ok(key_der)) => {
                let identity = Self { chain, key: key_der, leaf };
                client_config(&Roots { system: false, extra: Vec::new() }, Some(&identity)).map_err(|e| {
                    let (cert, key, leaf) = (cert.display(), key.display(), &identity.leaf);
                    vec![("key", error(format!("{key} does not go with {cert} ({leaf}): {}", e.problem), e.hint))]
                })?;
                Ok(identity)
            }
            (cert, key) => {
                Err(cert.err().map(|e| ("cert", e)).into_iter().chain(key.err().map(|e| ("key", e))).collect())
            }
        }
    }

    fn chain(cert: &Path, now: Timestamp) -> Result<(Vec<CertificateDer<'static>>, Leaf), IdentityError> {
        let chain = certificates(cert)?;
        let leaf = Leaf::of(&chain[0], cert)?;
        if leaf.not_after <= now {
            return Err(error(
                format!("the certificate {} has expired ({leaf})", cert.display()),
                "get a new certificate, and give it to the vendor if they keep a copy",
            ));
        }
        if leaf.not_before > now {
            return Err(error(
                format!("the certificate {} is not valid yet ({leaf})", cert.display()),
                "check this machine's clock",
            ));
        }
        Ok((chain, leaf))
    }
}

impl Leaf {
    fn of(der: &CertificateDer<'_>, path: &Path) -> Result<Self, IdentityError> {
        // The parser's own words help nobody, and may quote the file.
        let unreadable = || {
            error(
                format!("{} does not hold a readable certificate", path.display()),
                "it must be X.509 in PEM; look at the file: is it cut off?",
            )
        };
        let certificate = Certificate::from_der(der).map_err(|_| unreadable())?;
        let tbs = certificate.tbs_certificate();
        let time = |time: &x509_cert::time::Time| {
            let seconds = i64::try_from(time.to_unix_duration().as_secs()).map_err(|_| unreadable())?;
            // RFC 5280 writes "never" as the last second of the year 9999, which is beyond what jiff takes.
            Ok(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
        };
        Ok(Self {
            subject: tbs.subject().to_string(),
            serial: serial(&tbs.serial_number().to_string()),
            not_before: time(&tbs.validity().not_before)?,
            not_after: time(&tbs.validity().not_after)?,
        })
    }
}

/// As openssl prints it: without the zero byte that keeps a DER integer positive.
fn serial(hex: &str) -> String {
    hex.strip_prefix("00:").unwrap_or(hex).to_owned()
}

/// Whom to trust: the system's roots, more from a file, or those of the file alone.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    pub system: bool,
    pub extra: Vec<CertificateDer<'static>>,
}

impl Roots {
    pub fn load(system: bool, ca: Option<&PathBuf>) -> Result<Self, IdentityError> {
        let extra = ca.map(|path| certificates(path)).transpose()?.unwrap_or_default();
        trust(&mut RootCertStore::empty(), &extra)?;
        Ok(Self { system, extra })
    }

    /// What the file's certificate says of itself that ends before the others. One that we cannot read, but that can be
    /// trusted, is passed over.
    pub fn first_to_end(&self) -> Option<Leaf> {
        let leaves = self.extra.iter().filter_map(|der| Leaf::of(der, Path::new("")).ok());
        leaves.min_by_key(|leaf| leaf.not_after)
    }
}

/// The rustls configuration for one peer. Two are equal if they are made of the same certificates and key.
#[derive(Clone)]
pub struct ClientTls {
    pub config: Arc<ClientConfig>,
    made_of: [u8; 32],
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

/// TLS 1.2 or 1.3, HTTP/1.1 by ALPN, the provider passed explicitly.
pub fn client_tls(roots: &Roots, identity: Option<&Identity>) -> Result<ClientTls, IdentityError> {
    let mut parts: Vec<&[u8]> = vec![if roots.system { b"system" } else { b"" }];
    parts.extend(roots.extra.iter().map(AsRef::as_ref));
    if let Some(identity) = identity {
        parts.push(b"identity");
        parts.extend(identity.chain.iter().map(AsRef::as_ref));
        parts.push(identity.key.secret_der());
    }
    Ok(ClientTls { config: client_config(roots, identity)?, made_of: digest(&parts) })
}

/// Stands for exactly these parts.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    for part in parts {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut made_of = [0; 32];
    made_of.copy_from_slice(digest.finish().as_ref());
    made_of
}

fn client_config(roots: &Roots, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut store = if roots.system { system_roots().clone() } else { RootCertStore::empty() };
    trust(&mut store, &roots.extra)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| error(e.to_string(), "this is a fault of the broker"))?
        .with_root_certificates(store);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(|e| match e {
                rustls::Error::InconsistentKeys(_) => error(
                    "the private key is not the certificate's".into(),
                    "the first certificate of the file must be the client's own, and the key must belong to it",
                ),
                e => error(
                    format!("the private key cannot be used: {e}"),
                    "RSA, ECDSA P-256, P-384 and Ed25519 keys are supported",
                ),
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn trust(store: &mut RootCertStore, roots: &[CertificateDer<'static>]) -> Result<(), IdentityError> {
    roots.iter().try_for_each(|root| store.add(root.clone())).map_err(|_| {
        error(
            "a certificate of the CA file is not a readable one".to_owned(),
            "it must hold the CA's certificates, X.509 in PEM; is it cut off?",
        )
    })
}

/// The one crypto provider of the program.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// The system's CA store merged with Mozilla's, which an empty container image needs. Read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        store
    })
}

/// PKCS#12 by its usual names.
fn is_p12(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("p12") || ending.eq_ignore_ascii_case("pfx"))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ if is_p12(path) => Err(error(
            format!("{} is PKCS#12, not PEM", path.display()),
            "convert it: openssl pkcs12 -in FILE -nokeys -out client.pem",
        )),
        Ok(_) => Err(error(
            format!("{} holds no certificate", path.display()),
            "it must be PEM, with -----BEGIN CERTIFICATE-----",
        )),
        Err(_) => Err(error(format!("{} is not valid PEM", path.display()), "look at the file: is it cut off?")),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let pem = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|e| {
        let encrypted = pem.windows(9).any(|w| w == b"ENCRYPTED");
        let p12 = is_p12(path);
        let path = path.display();
        if p12 {
            error(
                format!("{path} is PKCS#12, not PEM"),
                "convert it: openssl pkcs12 -in FILE -nocerts -nodes -out client.key, mode 0600",
            )
        } else if encrypted {
            error(
                format!("the private key {path} is encrypted"),
                "decrypt it: openssl pkey -in KEY -out KEY.plain, mode 0600",
            )
        } else if matches!(e, rustls_pki_types::pem::Error::NoItemsFound) {
            error(format!("{path} holds no private key"), "it must be PEM: PKCS#8, SEC1 or PKCS#1")
        } else {
            // Security: the parser's own words may quote a line of the key.
            error(format!("the private key {path} is not valid PEM"), "look at the file: is it cut off?")
        }
    })
}

/// No file of certificates is longer: the system's own has 250 KiB.
const LENGTH_MAX: u64 = 4 << 20;

/// Security: a pipe or a device would block, or never end.
fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed =
        |e: io::Error| error(format!("cannot read {}: {e}", path.display()), "check the path and its permissions");
    let meta = path.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > LENGTH_MAX {
        let what = if meta.is_file() { "is larger than 4 MiB" } else { "is not a regular file" };
        return Err(error(format!("{} {what}", path.display()), "name the PEM file itself"));
    }
    std::fs::read(path).map_err(failed)
}
