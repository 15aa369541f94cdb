//! What one dialect needs, as tables of a configuration. Everything that is said of a vendor comes from the dialect's own file.

use super::places::Place;
use crate::cli::dialects::about;
use crate::oauth::builtin::{BUILT_IN, built_in};
use crate::oauth::dialect::Dialect;
use crate::oauth::file::{ClientAuth, Grant};
use crate::secret::source::UNFILLED;

/// The first route's; each further one has the next.
const PORT: usize = 8404;
/// Where a login comes back to.
const REDIRECT_URI: &str = "http://127.0.0.1:8484/callback";

/// How the name of a certificate or a key ends.
pub(super) const PEM: &str = ".pem";

/// A token and its route.
pub(super) struct Starter {
    pub dialect: String,
    /// Of both.
    pub name: String,
    pub port: usize,
    /// Does a person log in?
    pub logs_in: bool,
    /// Names of the files that hold a secret each, or a certificate or key.
    pub secrets: Vec<String>,
    pub text: String,
}

impl Starter {
    /// `None`: there is no built-in dialect of that name.
    pub fn new(dialect: &str, index: usize, place: Place) -> Option<Self> {
        let (_, file) = BUILT_IN.iter().find(|(known, _)| *known == dialect)?;
        let compiled = built_in(dialect)?;
        let name = if dialect == "oauth2" { "api" } else { dialect };
        let mut starter = Self {
            dialect: dialect.to_owned(),
            name: name.to_owned(),
            port: PORT + index,
            logs_in: compiled.grant == Some(Grant::AuthorizationCode),
            secrets: Vec::new(),
            text: String::new(),
        };
        let needs = needs(&compiled);
        if needs.iter().any(|need| need == "identity") {
            let (cert, key) = (starter.keep("cert.pem"), starter.keep("key.pem"));
            let (cert, key) = (place.file(&cert), place.file(&key));
            starter.text.push_str(&format!("[identity.{name}]\ncert = \"{cert}\"\nkey = \"{key}\"\n\n"));
        }
        starter.token(&needs, &compiled, about(file), place);
        let port = starter.port;
        starter.text.push_str(&format!(
            "\n[route.{name}]\nlisten = \"127.0.0.1:{port}\"   # where the application connects\n\
             upstream = \"https://{UNFILLED}\"   # the API\n"
        ));
        Some(starter)
    }

    /// Does it need a client certificate?
    pub fn has_identity(&self) -> bool {
        self.secrets.iter().any(|name| name.ends_with(PEM))
    }

    /// The name of a file for one of its secrets.
    fn keep(&mut self, what: &str) -> String {
        let name = format!("{}_{what}", self.name).to_lowercase().replace('-', "_");
        self.secrets.push(name.clone());
        name
    }

    fn token(&mut self, needs: &[String], dialect: &Dialect, about: &str, place: Place) {
        let name = self.name.clone();
        self.text.push_str(&format!("# {about}; `tokenbroker dialects {}` shows how it works.\n", self.dialect));
        self.text.push_str(&format!("[token.{name}]\ndialect = \"{}\"\n", self.dialect));
        for need in needs {
            let line = match need.as_str() {
                "url" => format!("url = \"https://{UNFILLED}\"   # the token endpoint"),
                "base_url" => format!("base_url = \"https://{UNFILLED}\"   # what the vendor's URLs begin with"),
                "authorize_url" => format!("authorize_url = \"https://{UNFILLED}\"   # where a person logs in"),
                "redirect_uri" => format!("redirect_uri = \"{REDIRECT_URI}\"   # as it is registered at the vendor"),
                "scope" => format!("scope = [\"{UNFILLED}\"]   # what the token is to be good for, a word each"),
                "identity" => format!("identity = \"{name}\"   # the client certificate, above"),
                "client_secret" | "password" => format!("{need} = {}", place.secret(&self.keep(need))),
                _ if need.contains('.') => continue,
                _ => format!("{need} = \"{UNFILLED}\""),
            };
            self.text.push_str(&format!("{line}\n"));
        }
        for table in ["headers", "params", "vars"] {
            let own = needs.iter().filter_map(|need| need.strip_prefix(table)?.strip_prefix('.'));
            let own = own.filter(|key| table != "vars" || dialect.vars.get(*key).is_none_or(Option::is_none));
            let entries = own.map(|key| match table {
                "headers" => format!("{key} = {}", place.secret(&self.keep(key))),
                _ => format!("{key} = \"{UNFILLED}\""),
            });
            let entries: Vec<_> = entries.collect();
            if !entries.is_empty() {
                self.text.push_str(&format!("{table} = {{ {} }}\n", entries.join(", ")));
            }
        }
    }
}

/// The keys that a token of that dialect has to have, in the order in which they are written.
fn needs(dialect: &Dialect) -> Vec<String> {
    let grant = dialect.grant.unwrap_or(Grant::ClientCredentials);
    let login = |need: &str| matches!(need, "username" | "password");
    let told = dialect.needs.iter().map(String::as_str).filter(|need| grant == Grant::Password || !login(need));
    let client: &[&str] = match dialect.client_auth.unwrap_or(ClientAuth::ClientSecretBasic) {
        ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost => &["client_id", "client_secret"],
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth => &["client_id", "identity"],
        ClientAuth::None => &[],
    };
    let page = dialect.authorize.as_ref().filter(|_| grant == Grant::AuthorizationCode);
    let granted: &[&str] = match (grant, page.is_some_and(|page| page.url.uses("authorize_url"))) {
        (Grant::Password, _) => &["username", "password"],
        (Grant::AuthorizationCode, false) => &["redirect_uri"],
        (Grant::AuthorizationCode, true) => &["authorize_url", "redirect_uri"],
        _ => &[],
    };
    let mut needs: Vec<String> = Vec::new();
    for need in told.chain(client.iter().copied()).chain(granted.iter().copied()) {
        let known = need == "base_url" && dialect.base_url.is_some();
        if !known && needs.iter().all(|other| other != need) {
            needs.push(need.to_owned());
        }
    }
    needs
}
