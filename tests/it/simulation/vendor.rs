//! The client's secrets at the vendor: a list with two places, and who asks about it.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::StatusCode;
use tokenbroker::config;
use tokenbroker::oauth::inputs::Given;
use tokenbroker::oauth::manage::Item;
use tokenbroker::oauth::{Class, Outcome, TokenError};
use tokenbroker::secret::Secret;
use tokenbroker::token::source::{Configured, Unmanaged};

use super::idp::{Client, Mood};
use super::wire::{Ask, Reply};
use super::world::{Inner, Who};

/// What is configured.
pub const CONFIGURED: &str = "sec-0";
const PLACES: usize = 2;
/// The vendor has a secret that somebody can use.
const WORKS: &str = "never without a client secret that works";

/// A token whose secret is rotated, in seconds instead of days.
pub static ROTATED: LazyLock<Arc<config::Token>> = LazyLock::new(|| {
    let text = "[store]\nkind = \"file\"\npath = \"store\"\nkey = \"0123456789abcdef0123456789abcdef\"\n\
                [token.t]\ndialect = \"comap\"\nclient_id = \"c\"\nclient_secret = \"sec-0\"\nheaders = { Comap-Key = \"k\" }\n\
                [token.t.rotate]\ngrace = \"8s\"\nverify = { times = 2, every = \"2s\" }\nsettle = \"2s\"\n\
                [route.t]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    std::fs::write(&path, text).unwrap();
    let (config, report) = config::check(&path, text, "2026-01-01T00:00:00Z".parse().unwrap());
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    Arc::clone(&config.tokens["t"])
});

/// A secret at the vendor.
#[derive(Clone, Debug)]
pub struct Made {
    pub id: String,
    pub value: String,
    name: Option<String>,
    deleted: bool,
}

/// What is asked, with whose access token, and the values that go with it.
#[derive(Clone)]
pub struct Managed {
    what: String,
    access: String,
    values: Vec<(&'static str, String)>,
}

/// All that were ever made.
pub struct Vendor(pub Vec<Made>);

impl Default for Vendor {
    fn default() -> Self {
        Self(vec![Made { id: "id-0".into(), value: CONFIGURED.into(), name: None, deleted: false }])
    }
}

impl Vendor {
    pub fn accepts(&self, value: &str) -> bool {
        self.0.iter().any(|made| made.value == value && !made.deleted)
    }
}

impl Inner {
    /// The answer to a request about secrets, or the status that refuses it.
    pub fn manages(&mut self, who: Who, asked: &Managed, now: Duration) -> Result<Vec<Item>, u16> {
        if self.idp.access.get(&asked.access).is_none_or(|access| access.ends < now) {
            return Err(401);
        }
        match self.idp.mood {
            Mood::Broken => return Err(500),
            Mood::Busy => return Err(429),
            _ => {}
        }
        let value = |name: &str| asked.values.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let item = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, text)| ((*key).into(), (*text).into())).collect();
        let all = &mut self.vendor.0;
        match asked.what.as_str() {
            "secrets.list" => {
                let there = all.iter().filter(|made| !made.deleted);
                Ok(there.map(|made| item(&[("id", &made.id), ("name", made.name.as_deref().unwrap_or(""))])).collect())
            }
            "secrets.create" => {
                if all.iter().filter(|made| !made.deleted).count() >= PLACES {
                    return Err(400);
                }
                let (id, secret) = (format!("id-{}", all.len()), format!("sec-{}", all.len()));
                all.push(Made { id: id.clone(), value: secret.clone(), name: value("name"), deleted: false });
                self.count("client secret created");
                self.event(now, format_args!("idp: {who} makes {secret}"));
                Ok(vec![item(&[("id", &id), ("secret", &secret)])])
            }
            "secrets.delete" => {
                let id = value("secret_id").unwrap_or_default();
                let Some(made) = all.iter_mut().find(|made| made.id == id && !made.deleted) else { return Err(404) };
                made.deleted = true;
                let gone = made.value.clone();
                self.count("client secret deleted");
                self.event(now, format_args!("idp: {who} deletes {gone}"));
                Ok(Vec::new())
            }
            _ => Err(404),
        }
    }

    /// Is there a secret that the vendor takes and somebody has?
    pub fn works(&mut self, now: Duration) {
        let works = |made: &&Made| !made.deleted && (made.value == CONFIGURED || self.is_somewhere(&made.value));
        if self.vendor.0.iter().any(|made| works(&made)) || self.none_works {
            return;
        }
        self.none_works = true;
        if self.records.forgot(Duration::ZERO, now) {
            return self.excuse("the store forgot the client secret, and those who knew it died");
        }
        let all = format!("{:?}", self.vendor.0);
        self.breaks(now, WORKS, all);
    }
}

impl Client {
    pub fn configured_secret() -> Configured {
        let secret = Secret::new(CONFIGURED.to_owned());
        let digest = secret.digest();
        Configured { secret, seed: digest, each: vec![digest] }
    }

    /// The secret that is used: what a rotation brought, or what is configured. Which of how many, and was it brought?
    pub fn secret(&self, wanted: usize) -> (Secret, usize, usize, bool) {
        let configured = Self::configured_secret();
        let now = self.clock.now().wall;
        match self.secrets.as_ref().and_then(|secrets| secrets.instead(Some(configured.seed), now)) {
            Some(instead) => {
                let index = wanted.min(instead.len() - 1);
                (instead[index].secret(), index, instead.len(), true)
            }
            None => (configured.secret, 0, 1, false),
        }
    }

    /// Asks the vendor about secrets.
    pub async fn asked(
        &self,
        what: &str,
        access: &Secret,
        values: Vec<(&'static str, Given)>,
    ) -> Result<Vec<Item>, Unmanaged> {
        let failed = |outcome| Unmanaged::from(TokenError::new(Class::Transient, "simulated", "none").of(outcome));
        if self.wire.ask("idp", Ask::Hello, self.wait).await.is_none() {
            return Err(failed(Outcome::NotSent));
        }
        let text = |given: Given| match given {
            Given::Secret(secret) => secret.expose().to_owned(),
            Given::Plain(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        };
        let values = values.into_iter().map(|(name, given)| (name, text(given))).collect();
        let asked = Managed { what: what.to_owned(), access: access.expose().to_owned(), values };
        let Some(Reply::Managed(answer)) = self.wire.ask("idp", Ask::Manage(asked), self.wait).await else {
            self.wire.world.count("answer of the vendor lost");
            return Err(failed(Outcome::Lost));
        };
        let items = answer.map_err(|status| {
            let (class, outcome) = match status {
                429 => (Class::RateLimited, Outcome::NotJudged),
                500 => (Class::Transient, Outcome::NotJudged),
                _ => (Class::UserAction, Outcome::Refused),
            };
            let error = TokenError::new(class, format!("simulated: {status}"), "none").of(outcome);
            Unmanaged { error, status: StatusCode::from_u16(status).ok() }
        })?;
        let plain = serde_json::to_vec(&items).unwrap();
        let (world, now) = (&self.wire.world, self.wire.world.now());
        world.lock().learns(self.wire.who, &super::world::credentials(&plain), now);
        Ok(items)
    }
}
