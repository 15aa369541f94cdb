//! What of a configuration is not as it was, with everything read that may not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::{App, AppError, Parts, Restored};
use crate::config::{self, Config, Listen};
use crate::oauth::template::Template;
use crate::proxy::Route;
use crate::secret::Secret;
use crate::token::source::{Exchange, Source, With};

/// A configuration of which everything is read that may not be there. What is left to do cannot fail.
pub struct Plan {
    pub(super) config: Config,
    pub(super) extra: BTreeMap<String, Headers>,
    /// What the clients of a route have to know.
    pub(super) keys: BTreeMap<String, Arc<Secret>>,
    /// By token.
    pub(super) formats: BTreeMap<String, Vec<Template>>,
    /// Tokens that are new or not what they were.
    pub(super) changed: BTreeMap<String, Opened>,
    /// What could not be read although it could before, and stays as it was.
    pub wrong: Vec<String>,
}

pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// A token before its task starts.
pub(super) struct Opened {
    pub source: Source,
    pub with: With,
    pub restored: Restored,
}

impl App {
    /// Reads what the parts need and finds what is not as it was. Changes nothing, gets no token yet. The values of headers
    /// whose keys are among `refused` stay as they are.
    pub async fn plan(
        &self,
        config: Config,
        before: Option<&Parts>,
        refused: &BTreeSet<String>,
    ) -> Result<Plan, AppError> {
        let (mut extra, mut keys, mut wrong) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut formats: BTreeMap<String, Vec<Template>> = BTreeMap::new();
        for (name, part) in before.iter().flat_map(|before| &before.tokens) {
            formats.insert(name.clone(), part.formats.clone());
        }
        for (name, route) in &config.routes {
            let old =
                before.and_then(|before| before.routes.get(name)).filter(|old| old.config.headers == route.headers);
            let told = format!("route.{name}.headers.");
            let headers = match old {
                Some(old) if refused.iter().any(|key| key.starts_with(&told)) => old.extra.load().to_vec(),
                old => match (extra_headers(route).await, old) {
                    (Ok(headers), _) => headers,
                    (Err(error), Some(old)) => {
                        wrong.push(error.to_string());
                        old.extra.load().to_vec()
                    }
                    (Err(error), None) => return Err(error),
                },
            };
            extra.insert(name.clone(), headers);
            let old = before.and_then(|before| before.routes.get(name));
            if let Some(key) = client_key(route, old.map(AsRef::as_ref), refused, &mut wrong).await? {
                keys.insert(name.clone(), key);
            }
            if let Some(token) = &route.token {
                let formats = formats.entry(token.clone()).or_default();
                if !formats.contains(&route.format) {
                    formats.push(route.format.clone());
                }
            }
        }
        let mut changed = BTreeMap::new();
        for (name, token) in &config.tokens {
            let formats = formats.entry(name.clone()).or_default();
            let old = before.and_then(|before| before.tokens.get(name));
            if old.is_some_and(|old| old.config == *token && old.formats == *formats) {
                continue;
            }
            self.clients.open(token, self.stores.as_ref(), &self.clock).await?;
            let source = self.source(token);
            let with = source.with();
            // The task that runs has the record of its account.
            let goes_on = old.is_some_and(|old| old.config.account() == token.account());
            let restored = if goes_on { Restored::default() } else { self.kept(token, &with.account).await? };
            changed.insert(name.clone(), Opened { source, with, restored });
        }
        Ok(Plan { config, extra, keys, formats, changed, wrong })
    }
}

impl Plan {
    /// The tokens that are new or not what they were, with their accounts.
    pub fn changed(&self) -> Vec<(String, String)> {
        self.changed.iter().map(|(name, opened)| (name.clone(), opened.with.account.clone())).collect()
    }

    /// May other users connect to a Unix socket of these routes, to be judged then?
    pub fn lets_others_in(&self, routes: &[String]) -> bool {
        config::let_others_in(routes.iter().filter_map(|name| self.config.routes.get(name)).map(AsRef::as_ref))
    }

    pub fn limits(&self) -> &config::Limits {
        &self.config.limits
    }

    /// Where operators are answered, by key.
    pub fn operators(&self) -> impl Iterator<Item = (&'static str, &Listen)> {
        self.config.admin.listeners()
    }

    pub fn admin(&self) -> &config::Admin {
        &self.config.admin
    }

    /// Is there a token of that name?
    pub fn has(&self, token: &str) -> bool {
        self.config.tokens.contains_key(token)
    }

    /// Where routes listen, with their names: those that share a listener, and each route on port 0 by itself.
    pub fn listeners(&self) -> Vec<(Place, Vec<String>)> {
        let mut places: BTreeMap<Place, Vec<String>> = BTreeMap::new();
        for route in self.config.routes.values() {
            for (index, listen) in route.listen.iter().enumerate() {
                let free = matches!(listen, Listen::Tcp(address) if address.port() == 0);
                let own = free.then(|| (route.name.clone(), index));
                places.entry(Place { listen: listen.clone(), own }).or_default().push(route.name.clone());
            }
        }
        places.into_iter().collect()
    }
}

/// Which listener it is. On port 0 each route has its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub listen: Listen,
    own: Option<(String, usize)>,
}

/// The values of a route's extra headers.
pub async fn extra_headers(route: &config::Route) -> Result<Headers, AppError> {
    let mut headers = Vec::with_capacity(route.headers.len());
    for (name, source) in &route.headers {
        let at = || (route.name.clone(), name.to_string());
        let secret = source.read().await.map_err(|source| {
            let (route, header) = at();
            AppError::Secret { route, header, source }
        })?;
        let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
            let (route, header) = at();
            AppError::Value { route, header }
        })?;
        value.set_sensitive(true);
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

/// The key that the route demands, read again; the one before where it is the same source, and cannot be read.
async fn client_key(
    route: &config::Route,
    old: Option<&Route>,
    refused: &BTreeSet<String>,
    wrong: &mut Vec<String>,
) -> Result<Option<Arc<Secret>>, AppError> {
    let Some(source) = route.clients.as_ref().and_then(|clients| clients.key.as_ref()) else { return Ok(None) };
    let old = old.filter(|old| old.config.clients.as_ref().is_some_and(|clients| clients.key.as_ref() == Some(source)));
    let old = old.and_then(|old| old.key.load_full());
    if old.is_some() && refused.contains(&format!("route.{}.clients.key", route.name)) {
        return Ok(old);
    }
    match (source.read().await, old) {
        (Ok(key), _) => Ok(Some(Arc::new(key))),
        (Err(source), old) => {
            let error = AppError::ClientKey { route: route.name.clone(), source };
            if old.is_none() {
                return Err(error);
            }
            wrong.push(error.to_string());
            Ok(old)
        }
    }
}
