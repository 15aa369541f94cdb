//! Certificates made on the spot: a CA, servers, clients.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::provider;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A certificate authority of its own, and the directory that its files go to.
pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// What a leaf certificate says.
pub struct Leaf<'a> {
    pub name: &'a str,
    pub serial: u64,
    /// First and last year.
    pub years: (i32, i32),
    /// When it ends, in Unix seconds, where the year is not enough.
    pub end: Option<u64>,
    /// The hosts of a server; none for a client.
    pub hosts: &'a [&'a str],
}

impl<'a> Leaf<'a> {
    pub fn client(name: &'a str, serial: u64) -> Self {
        Self { name, serial, years: (2020, 2099), end: None, hosts: &[] }
    }

    /// For `localhost` and `127.0.0.1`.
    pub fn server(name: &'a str) -> Self {
        Self { name, serial: 1, years: (2020, 2099), end: None, hosts: &["localhost", "127.0.0.1"] }
    }
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    pub fn new(directory: &Path) -> Result<Self> {
        Self::until(directory, None)
    }

    /// One that ends then, in Unix seconds.
    pub fn until(directory: &Path, end: Option<u64>) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "tokenbroker stand-in CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if let Some(end) = end {
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        }
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let pki = Self { ca, directory: directory.to_owned() };
        pki.write("ca.pem", pki.ca.pem().as_bytes())?;
        Ok(pki)
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate of this CA.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Result<Files> {
        let hosts: Vec<String> = leaf.hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, leaf.name);
        params.serial_number = Some(leaf.serial.into());
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = match leaf.end {
            Some(end) => date_time_ymd(1970, 1, 1) + Duration::from_secs(end),
            None => date_time_ymd(leaf.years.1, 1, 1),
        };
        let client = leaf.hosts.is_empty();
        let usage = if client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth };
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.ca)?;
        self.keep(leaf.name, &cert.pem(), &key)
    }

    /// Adds to the CA's file the list that revokes that certificate.
    pub fn revoke(&self, serial: u64) -> Result<()> {
        let revoked = RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.ca)?;
        self.write("ca.pem", (self.ca.pem() + &list.pem()?).as_bytes())
    }

    /// A certificate that only its owner vouches for.
    pub fn self_signed(&self, name: &str) -> Result<Files> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        self.keep(name, &cert.pem(), &key)
    }

    fn keep(&self, name: &str, cert: &str, key: &KeyPair) -> Result<Files> {
        let file = |suffix: &str| format!("{name}.{suffix}");
        self.write(&file("pem"), cert.as_bytes())?;
        self.write(&file("key"), key.serialize_pem().as_bytes())?;
        Ok(Files { cert: self.directory.join(file("pem")), key: self.directory.join(file("key")) })
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(file.write_all(contents)?)
    }

    /// TLS for a server; `clients` says whether clients must have, may have, or cannot have a certificate of this CA.
    pub fn server_config(&self, files: &Files, clients: Clients) -> Result<Arc<ServerConfig>> {
        let chain = CertificateDer::pem_file_iter(&files.cert)?.collect::<std::result::Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&files.key)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = match clients {
            Clients::None => WebPkiClientVerifier::no_client_auth(),
            Clients::May => verifier.allow_unauthenticated().build()?,
            Clients::Must => verifier.build()?,
        };
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}

/// What a server demands of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    None,
    May,
    Must,
}
