//! The stand-ins as `demo` shows them: started, with the configuration that a user of the real one would write.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::http::Handler;
use super::pki::{Clients, Leaf, Pki};
use super::{Comap, Comodo, Covata, Echo, Issuer, Netrex, OAuth2, Server, Vanco};
use crate::clock::Clock;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A stand-in that can be shown.
pub trait Vendor: Handler + Sized {
    /// Name of the token and the route.
    const NAME: &str;
    const ABOUT: &str;

    /// The private files that the configuration names, and what is in them.
    fn files(&self) -> Vec<(&'static str, String)>;

    /// The tables that its user writes, for servers at these URLs.
    fn config(&self, auth: &str, api: &str) -> String;

    /// The API that takes its tokens.
    fn api(self: &Arc<Self>) -> Echo {
        Echo::new(Arc::clone(&self.issuer))
    }
}

/// A stand-in with an API behind it, both started.
pub struct Shown {
    /// Name of the route in `config`.
    pub route: &'static str,
    pub about: String,
    /// Tables of the configuration file.
    pub config: String,
    pub auth: Server,
    pub api: Server,
    pub echo: Arc<Echo>,
}

impl Shown {
    /// Starts it; its secrets go to `directory`. `tls` is for the token server and for the API.
    pub async fn start<V: Vendor>(
        directory: &Path,
        vendor: &Arc<V>,
        tls: Option<[Arc<ServerConfig>; 2]>,
    ) -> io::Result<Self> {
        let (auth_tls, api_tls) = tls.map_or((None, None), |[auth, api]| (Some(auth), Some(api)));
        let echo = Arc::new(vendor.api());
        let auth = Server::start(Arc::clone(vendor), auth_tls).await?;
        let api = Server::start(Arc::clone(&echo), api_tls).await?;
        for (name, text) in vendor.files() {
            keep(directory, name, &text)?;
        }
        let config = vendor.config(&auth.url(), &api.url());
        let about = format!("{} at {}, API at {}", V::ABOUT, auth.url(), api.url());
        Ok(Self { route: V::NAME, about, config, auth, api, echo })
    }
}

/// Starts what `demo` shows; certificates and secrets go to `directory`, `fault` is one of [`super::fault::names`].
pub async fn start(directory: &Path, lifetime: Duration, fault: Option<&str>) -> Result<Vec<Shown>> {
    Ok(vec![comodo(directory, lifetime, fault).await?, oauth2(directory, lifetime, fault).await?])
}

/// As [`start`], all there are.
pub async fn all(directory: &Path, lifetime: Duration, fault: Option<&str>) -> Result<Vec<Shown>> {
    let mut all = start(directory, lifetime, fault).await?;
    // With its budget, shorter lives would end before the next token may be asked for.
    all.push(plain(directory, Comap::new(issuer(Duration::from_secs(300))), fault).await?);
    all.push(plain(directory, Covata::new(issuer(lifetime)), fault).await?);
    all.push(plain(directory, Netrex::new(issuer(lifetime)), fault).await?);
    all.push(plain(directory, Vanco::new(issuer(lifetime)), fault).await?);
    Ok(all)
}

fn issuer(lifetime: Duration) -> Arc<Issuer> {
    Arc::new(Issuer::new(Clock::system(), lifetime))
}

async fn oauth2(directory: &Path, lifetime: Duration, fault: Option<&str>) -> io::Result<Shown> {
    plain(directory, OAuth2::new(issuer(lifetime)), fault).await
}

/// Without TLS.
async fn plain<V: Vendor>(directory: &Path, vendor: V, fault: Option<&str>) -> io::Result<Shown> {
    vendor.misbehave(fault.unwrap_or_default());
    Shown::start(directory, &Arc::new(vendor), None).await
}

async fn comodo(directory: &Path, lifetime: Duration, fault: Option<&str>) -> Result<Shown> {
    let pki = Pki::new(directory)?;
    let server = pki.issue(&Leaf::server("stand-in"))?;
    pki.issue(&Leaf::client("acme-client", 0x1234_5678_9ABC_DEF0))?;
    let tls = [pki.server_config(&server, Clients::Must)?, pki.server_config(&server, Clients::None)?];
    let comodo = Comodo::new(issuer(lifetime), "12:34:56:78:9A:BC:DE:F0");
    comodo.misbehave(fault.unwrap_or_default());
    Ok(Shown::start(directory, &Arc::new(comodo), Some(tls)).await?)
}

/// Writes a private file that is not there yet.
pub fn keep(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name))?;
    file.write_all(text.as_bytes())
}
