//! A vendor's stand-in with the broker before it, configured as its example says.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokenbroker::clock::Clock;
use tokenbroker::standin::demo::{Shown, Vendor};
use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokenbroker::standin::{Comodo, Issuer, Quirk};
use toml::Table;

use super::{Broker, RUNTIME, Reply, write};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn issuer(lifetime: Duration) -> Arc<Issuer> {
    Arc::new(Issuer::new(Clock::system(), lifetime))
}

/// A vendor's stand-in, and the configuration of its example: nothing in the tables of token and route is another but URLs
/// and the paths of secrets.
pub struct Setup<V> {
    pub vendor: Arc<V>,
    pub shown: Shown,
    pub directory: TempDir,
    pub config: Table,
}

impl<V: Vendor> Setup<V> {
    pub fn new(example: &str, vendor: V) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), example, vendor, None)
    }

    fn start_in(directory: TempDir, example: &str, vendor: V, pki: Option<(&Pki, Clients)>) -> Self {
        let vendor = Arc::new(vendor);
        let tls = pki.map(|(pki, clients)| {
            let server = pki.issue(&Leaf::server("server")).unwrap();
            [clients, Clients::None].map(|clients| pki.server_config(&server, clients).unwrap())
        });
        let shown = RUNTIME.block_on(Shown::start(directory.path(), &vendor, tls)).unwrap();
        write(directory.path(), "store_key", "a key of at least thirty-two bytes");
        let path = format!("{}/examples/{example}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("/run/secrets/", "").replace("certs/", "").replace("/var/lib/tokenbroker", "store");
        let mut setup = Self { vendor, config: text.parse().unwrap(), shown, directory };
        let (auth, api) = (setup.shown.auth.url(), setup.shown.api.url());
        let token = setup.token();
        if let Some(url) = token.get_mut("url") {
            *url = format!("{auth}/connect/token").into();
        }
        token.insert("base_url".into(), auth.into());
        let route = setup.config["route"][V::NAME].as_table_mut().unwrap();
        route.insert("listen".into(), "127.0.0.1:0".into());
        route.insert("upstream".into(), api.into());
        setup
    }

    pub fn token(&mut self) -> &mut Table {
        self.config["token"][V::NAME].as_table_mut().unwrap()
    }

    /// The tables that the operator writes, as they are now.
    pub fn text(&self) -> String {
        self.config.to_string()
    }

    pub fn write(self, file: &str, text: &str) -> Self {
        write(self.directory.path(), file, text);
        self
    }

    pub fn turn(self, quirk: Quirk) -> Self {
        self.vendor.faults.turn(quirk, true);
        self
    }

    pub fn start(self) -> Stand<V> {
        let broker = Broker::start_in(self.directory, &self.config.to_string(), |_| {});
        Stand { broker, vendor: self.vendor, shown: self.shown }
    }

    /// Starts; the first exchange fails in that way: the reason.
    #[track_caller]
    pub fn fails(self, state: &str, class: &str) -> (String, Stand<V>) {
        let stand = self.start();
        stand.broker.wait_for_state(V::NAME, state);
        let token = stand.broker.token(V::NAME);
        let error = token["last_error"].as_str().unwrap().to_owned();
        assert_eq!(token["class"], class, "{error}");
        assert!(error.starts_with(&format!("{class}: ")) && error.contains("localhost: "), "{error}");
        (error, stand)
    }
}

impl Setup<Comodo> {
    /// With a certificate that is on file, or `clients` decides.
    pub fn comodo(lifetime: Duration, clients: Clients) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        pki.issue(&Leaf::client("comodo", 0x1122_3344_5566_7788)).unwrap();
        let comodo = Comodo::new(issuer(lifetime), "11:22:33:44:55:66:77:88");
        let mut setup = Self::start_in(directory, "comodo-one", comodo, Some((&pki, clients)));
        // The stand-in's certificate is not of a public CA.
        for table in ["token", "route"] {
            setup.config[table]["comodo"].as_table_mut().unwrap().insert("ca".into(), "ca.pem".into());
        }
        setup
    }
}

/// The broker, before a vendor's stand-in.
pub struct Stand<V> {
    pub broker: Broker,
    pub vendor: Arc<V>,
    pub shown: Shown,
}

impl<V: Vendor> Stand<V> {
    pub fn get(&self) -> Reply {
        self.broker.get(V::NAME, "/hello")
    }

    pub fn token(&self) -> serde_json::Value {
        self.broker.token(V::NAME)
    }

    pub fn refresh(&self) -> Reply {
        self.broker.admin("POST", &format!("/api/tokens/{}/refresh", V::NAME))
    }

    /// Calls of the token server.
    pub fn calls(&self) -> u64 {
        self.vendor.faults.calls()
    }
}
