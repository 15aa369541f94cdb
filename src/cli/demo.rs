//! `demo`: stand-ins, an API that echoes, and the broker in front of them, in one process on free ports.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{Cli, LogFormat, complain, lines, print, run};
use crate::admin::key;
use crate::clock::Clock;
use crate::config;
use crate::server::Running;
use crate::standin::pki::{Clients, Leaf, Pki};
use crate::standin::{Comodo, Echo, Fault, Issuer, OAuth2, Server, fault};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Short, so that refreshes can be watched.
const LIFETIME: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Let the token servers misbehave at every other call
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(fault::NAMES))]
    fault: Option<String>,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let format = cli.log_format.unwrap_or(LogFormat::Text);
    cli.start_logging_as(Some(format));
    let directory = std::env::temp_dir().join(format!("tokenbroker-demo-{}", std::process::id()));
    let code = demo(&directory, args.fault.as_deref()).unwrap_or_else(|error| {
        complain(&format!("the demo cannot start: {error}"));
        ExitCode::FAILURE
    });
    // Nothing in it is of use afterwards.
    let _ = std::fs::remove_dir_all(&directory);
    code
}

fn demo(directory: &Path, fault: Option<&str>) -> Result<ExitCode, Error> {
    DirBuilder::new().mode(0o700).create(directory)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let standins = runtime.block_on(StandIns::start(directory, fault))?;
    let file = standins.configuration(directory)?;
    let (config, report) = config::load(&file, Clock::system().now().wall);
    let Some(config) = config else { return Err(lines(&report).into()) };
    let code = run::until_stopped(config, |running| print(&introduction(running, &file, &standins)));
    runtime.shutdown_background();
    Ok(code)
}

struct StandIns {
    pki: Pki,
    client: crate::standin::pki::Files,
    comodo: Server,
    comodo_api: Server,
    oauth2: Server,
    oauth2_api: Server,
}

impl StandIns {
    async fn start(directory: &Path, fault: Option<&str>) -> Result<Self, Error> {
        let clock = Clock::system();
        let pki = Pki::new(directory)?;
        let server = pki.issue(&Leaf::server("stand-in"))?;
        let client = pki.issue(&Leaf::client("acme-client", 0x1234_5678_9ABC_DEF0))?;

        let issuer = Arc::new(Issuer::new(clock.clone(), LIFETIME));
        let echo = Arc::new(Echo::new(Arc::clone(&issuer)));
        let comodo = Arc::new(Comodo::new(issuer, clock.clone(), "12:34:56:78:9A:BC:DE:F0"));
        let comodo_api = Server::start(echo, Some(pki.server_config(&server, Clients::None)?)).await?;

        let issuer = Arc::new(Issuer::new(clock, LIFETIME));
        let echo = Arc::new(Echo::new(Arc::clone(&issuer)));
        let oauth2 = Arc::new(OAuth2::new(issuer));
        let oauth2_api = Server::start(echo, None).await?;

        if let Some(fault) = fault.and_then(Fault::named) {
            comodo.faults.alternate(fault.clone());
            oauth2.faults.alternate(fault);
        }
        let comodo = Server::start(comodo, Some(pki.server_config(&server, Clients::Must)?)).await?;
        let oauth2 = Server::start(oauth2, None).await?;
        Ok(Self { pki, client, comodo, comodo_api, oauth2, oauth2_api })
    }

    /// Writes the same kind of file that a user writes.
    fn configuration(&self, directory: &Path) -> io::Result<PathBuf> {
        let secret = |name: &str, value: &str| write(&directory.join(name), value);
        secret("comodo_api_secret", Comodo::CLIENT_SECRET)?;
        secret("comodo_password", Comodo::PASSWORD)?;
        secret("client_secret", OAuth2::CLIENT_SECRET)?;
        secret("admin_key", key::make()?.expose())?;
        let text = format!(
            r#"[admin]
listen = "127.0.0.1:0"
key = {{ file = "admin_key" }}

# Comodo One: login needs a client certificate, HTTP Basic, and a user's password.
[identity.comodo]
cert = {cert:?}
key = {key:?}

[token.comodo]
dialect = "comodo-one"
base_url = "{comodo}"
client_id = "{comodo_id}"
client_secret = {{ file = "comodo_api_secret" }}
username = "{comodo_user}"
password = {{ file = "comodo_password" }}
identity = "comodo"
ca = {ca:?}

[route.comodo]
listen = "127.0.0.1:0"
upstream = "{comodo_api}"
ca = {ca:?}

# A plain OAuth 2 server.
[token.oauth2]
url = "{oauth2}/token"
client_id = "{oauth2_id}"
client_secret = {{ file = "client_secret" }}

[route.oauth2]
listen = "127.0.0.1:0"
upstream = "{oauth2_api}"
"#,
            cert = self.client.cert,
            key = self.client.key,
            ca = self.pki.ca(),
            comodo = self.comodo.url(),
            comodo_api = self.comodo_api.url(),
            comodo_id = Comodo::CLIENT_ID,
            comodo_user = Comodo::USERNAME,
            oauth2 = self.oauth2.url(),
            oauth2_api = self.oauth2_api.url(),
            oauth2_id = OAuth2::CLIENT_ID,
        );
        let file = directory.join("tokenbroker.toml");
        write(&file, &text)?;
        Ok(file)
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// What a person sees: each `curl` line can be pasted as it stands.
fn introduction(running: &Running, file: &Path, standins: &StandIns) -> String {
    let mut text = format!(
        "\ntokenbroker demo. The configuration in use: {}\n\n\
         These APIs answer 401 to a request without a bearer token. Send them one through the broker, which has it:\n",
        file.display()
    );
    let about = |route: &str| match route {
        "comodo" => {
            let urls = (standins.comodo.url(), standins.comodo_api.url());
            format!("Comodo One: login with client certificate, Basic and password at {}, API at {}", urls.0, urls.1)
        }
        _ => format!("OAuth 2: client credentials at {}, API at {}", standins.oauth2.url(), standins.oauth2_api.url()),
    };
    for (route, listen) in &running.addresses {
        text.push_str(&format!("\n{}\ncurl http://{listen}/hello\n", about(route)));
    }
    text.push_str("\nTokens live 30 s; their refreshes show below. Ctrl-C ends the demo.\n\n");
    text
}
