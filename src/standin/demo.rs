//! The stand-ins as `demo` shows them: started, with the configuration that a user of the real one would write.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::pki::{Clients, Leaf, Pki};
use super::{Comodo, Echo, Fault, Issuer, OAuth2, Server};
use crate::clock::Clock;

/// A vendor's stand-in with an API behind it.
pub struct Shown {
    /// Name of the route in `config`.
    pub route: &'static str,
    pub about: String,
    /// Tables of the configuration file.
    pub config: String,
    _servers: [Server; 2],
}

/// Starts all of them; their certificates and secrets go to `directory`.
pub async fn start(
    directory: &Path,
    lifetime: Duration,
    fault: Option<&Fault>,
) -> Result<Vec<Shown>, Box<dyn std::error::Error + Send + Sync>> {
    let pki = Pki::new(directory)?;
    Ok(vec![comodo(directory, &pki, lifetime, fault).await?, oauth2(directory, lifetime, fault).await?])
}

async fn comodo(
    directory: &Path,
    pki: &Pki,
    lifetime: Duration,
    fault: Option<&Fault>,
) -> Result<Shown, Box<dyn std::error::Error + Send + Sync>> {
    let server = pki.issue(&Leaf::server("stand-in"))?;
    let client = pki.issue(&Leaf::client("acme-client", 0x1234_5678_9ABC_DEF0))?;
    let issuer = Arc::new(Issuer::new(Clock::system(), lifetime));
    let api = Arc::new(Echo::new(Arc::clone(&issuer)));
    let api = Server::start(api, Some(pki.server_config(&server, Clients::None)?)).await?;
    let comodo = Arc::new(Comodo::new(issuer, Clock::system(), "12:34:56:78:9A:BC:DE:F0"));
    if let Some(fault) = fault {
        comodo.faults.alternate(fault.clone());
    }
    let comodo = Server::start(comodo, Some(pki.server_config(&server, Clients::Must)?)).await?;
    keep(directory, "comodo_api_secret", Comodo::CLIENT_SECRET)?;
    keep(directory, "comodo_password", Comodo::PASSWORD)?;
    let config = format!(
        r#"# Comodo One: the login needs a client certificate, HTTP Basic, and a user's password.
[identity.comodo]
cert = {cert:?}
key = {key:?}

[token.comodo]
dialect = "comodo-one"
base_url = "{auth}"
client_id = "{id}"
client_secret = {{ file = "comodo_api_secret" }}
username = "{user}"
password = {{ file = "comodo_password" }}
identity = "comodo"
ca = "ca.pem"

[route.comodo]
listen = "127.0.0.1:0"
upstream = "{upstream}"
ca = "ca.pem"
"#,
        cert = client.cert,
        key = client.key,
        auth = comodo.url(),
        id = Comodo::CLIENT_ID,
        user = Comodo::USERNAME,
        upstream = api.url(),
    );
    let about = format!(
        "Comodo One: login with client certificate, Basic and password at {}, API at {}",
        comodo.url(),
        api.url()
    );
    Ok(Shown { route: "comodo", about, config, _servers: [comodo, api] })
}

async fn oauth2(directory: &Path, lifetime: Duration, fault: Option<&Fault>) -> io::Result<Shown> {
    let issuer = Arc::new(Issuer::new(Clock::system(), lifetime));
    let api = Server::start(Arc::new(Echo::new(Arc::clone(&issuer))), None).await?;
    let oauth2 = Arc::new(OAuth2::new(issuer));
    if let Some(fault) = fault {
        oauth2.faults.alternate(fault.clone());
    }
    let oauth2 = Server::start(oauth2, None).await?;
    keep(directory, "client_secret", OAuth2::CLIENT_SECRET)?;
    let config = format!(
        r#"# A plain OAuth 2 server.
[token.oauth2]
url = "{auth}/token"
client_id = "{id}"
client_secret = {{ file = "client_secret" }}

[route.oauth2]
listen = "127.0.0.1:0"
upstream = "{upstream}"
"#,
        auth = oauth2.url(),
        id = OAuth2::CLIENT_ID,
        upstream = api.url(),
    );
    let about = format!("OAuth 2: client credentials at {}, API at {}", oauth2.url(), api.url());
    Ok(Shown { route: "oauth2", about, config, _servers: [oauth2, api] })
}

/// Writes a private file that is not there yet.
pub fn keep(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name))?;
    file.write_all(text.as_bytes())
}
