//! The stand-ins as `demo` shows them: started, with the configuration that a user of the real one would write.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::fault::{self, Named};
use super::http::Handler;
use super::pki::{Clients, Leaf, Pki};
use super::{Comap, Comodo, Covata, Echo, Issuer, Netrex, OAuth2, Server, Vanco};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::secret::file::create;

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
    /// How long its tokens live.
    pub lifetime: Duration,
    /// How it misbehaves, if it does.
    pub fault: Option<Named>,
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
        let about = format!("{}: token server {}, API {}", V::ABOUT, auth.url(), api.url());
        let lifetime = vendor.issuer.lifetime();
        Ok(Self { route: V::NAME, about, lifetime, fault: None, config, auth, api, echo })
    }
}

/// Starts what `demo` shows; certificates and secrets go to `directory`, `fault` is the name of one of [`fault::names`].
pub async fn start(directory: &Path, lifetime: Duration, fault: Option<&str>) -> Result<Vec<Shown>> {
    let fault = fault.and_then(|fault| fault::names().find(|known| known.name == fault));
    let issuer = |lifetime| Arc::new(Issuer::new(Clock::system(), lifetime));
    Ok(vec![
        // With its budget, shorter lives would end before the next token may be asked for.
        plain(directory, Comap::new(issuer(BUDGETED)), fault).await?,
        plain(directory, Vanco::new(issuer(lifetime)), fault).await?,
        comodo(directory, issuer(lifetime), fault).await?,
        plain(directory, Covata::new(issuer(lifetime)), fault).await?,
        plain(directory, Netrex::new(issuer(lifetime)), fault).await?,
        plain(directory, OAuth2::new(issuer(lifetime)), fault).await?,
    ])
}

/// The lifetime of tokens of which there are five in five minutes.
const BUDGETED: Duration = Duration::from_secs(300);

/// Without TLS.
async fn plain<V: Vendor>(directory: &Path, vendor: V, fault: Option<Named>) -> io::Result<Shown> {
    show(directory, vendor, None, fault).await
}

/// With the fault, if it is one of this vendor's.
async fn show<V: Vendor>(
    directory: &Path,
    vendor: V,
    tls: Option<[Arc<ServerConfig>; 2]>,
    fault: Option<Named>,
) -> io::Result<Shown> {
    let fault = fault.filter(|fault| fault.concerns(V::NAME));
    if let Some(fault) = fault {
        vendor.misbehave(fault.name);
    }
    Ok(Shown { fault, ..Shown::start(directory, &Arc::new(vendor), tls).await? })
}

async fn comodo(directory: &Path, issuer: Arc<Issuer>, fault: Option<Named>) -> Result<Shown> {
    let pki = Pki::new(directory)?;
    let server = pki.issue(&Leaf::server("stand-in"))?;
    pki.issue(&Leaf::client("acme-client", 0x1234_5678_9ABC_DEF0))?;
    let tls = [pki.server_config(&server, Clients::Must)?, pki.server_config(&server, Clients::None)?];
    let comodo = Comodo::new(issuer, "12:34:56:78:9A:BC:DE:F0");
    Ok(show(directory, comodo, Some(tls), fault).await?)
}

/// Writes a private file that is not there yet.
pub fn keep(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    create(&directory.join(name), &Secret::new(text.to_owned()))
}
