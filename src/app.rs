//! Configuration to running parts: token slots with their refresh tasks, routes with their pools, and which routes each
//! listener serves; and the same again for a changed configuration, with every part kept that did not change. Nothing here
//! listens or sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::{self, Config, Listen};
use crate::connect::Dialer;
use crate::oauth::file::Grant;
use crate::oauth::template::Template;
use crate::proxy::{Route, TokenUse, Trouble, Upstream};
use crate::secret::source::{SecretError, SecretSource};
use crate::store::{FileStore, KEY_MIN, Seal, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::token::cache::Slot;
use crate::token::keeper::Keeper;
use crate::token::kept::Kept;
use crate::token::refresh::{Ended, Refresher, Task};
use crate::token::schedule::Policy;
use crate::token::source::{Exchange, Source, With};

/// What lives as long as the process.
pub struct App {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub started_at: Timestamp,
    pub store: Option<Arc<FileStore>>,
    dialer: Arc<Dialer>,
}

/// What one configuration makes. Never changes; another configuration makes other parts.
pub struct Parts {
    pub config: Config,
    pub tokens: BTreeMap<String, Arc<TokenPart>>,
    pub routes: BTreeMap<String, Arc<Route>>,
}

/// One token's configuration and its place in the cache.
pub struct TokenPart {
    pub config: Arc<config::Token>,
    pub slot: Arc<Slot>,
    /// The ways in which routes write it. They only get more: a request may be on its way with an older list's index.
    formats: Vec<Template>,
}

/// A configuration of which everything is read that may not be there. What is left to do cannot fail.
pub struct Plan {
    config: Config,
    extra: BTreeMap<String, Headers>,
    /// By token.
    formats: BTreeMap<String, Vec<Template>>,
    /// Tokens that are new or not what they were.
    changed: BTreeMap<String, Opened>,
    /// What could not be read although it could before, and stays as it was.
    pub wrong: Vec<String>,
}

type Headers = Vec<(HeaderName, HeaderValue)>;

/// A token before its task starts.
struct Opened {
    source: Source,
    with: With,
    keeper: Option<Keeper>,
    kept: Option<Kept>,
}

/// Something that the configuration names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("route.{route}.headers.{header}: {source}")]
    Secret { route: String, header: String, source: SecretError },
    #[error("store.key: {0}")]
    StoreKey(SecretError),
    #[error("store.key: is shorter than {KEY_MIN} bytes; make one with: openssl rand -base64 32")]
    ShortKey,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("route.{route}.headers.{header}: the value has bytes that no header may have; check the secret")]
    Value { route: String, header: String },
}

impl App {
    /// What the process needs before anything runs. The store is this process's from here on.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, AppError> {
        let store = match &config.store {
            Some(store) => Some(Arc::new(open(store).await?)),
            None => None,
        };
        let (metrics, dialer) = (Arc::new(Metrics::default()), Arc::new(Dialer::default()));
        let started_at = clock.now().wall;
        Ok(Self { clock, metrics, started_at, store, dialer })
    }

    /// Reads what the parts need and finds what is not as it was. Changes nothing, gets no token yet.
    pub async fn plan(&self, config: Config, before: Option<&Parts>) -> Result<Plan, AppError> {
        let (mut extra, mut wrong) = (BTreeMap::new(), Vec::new());
        let mut formats: BTreeMap<String, Vec<Template>> = BTreeMap::new();
        for (name, part) in before.iter().flat_map(|before| &before.tokens) {
            formats.insert(name.clone(), part.formats.clone());
        }
        for (name, route) in &config.routes {
            let old =
                before.and_then(|before| before.routes.get(name)).filter(|old| old.config.headers == route.headers);
            let headers = match (extra_headers(route).await, old) {
                (Ok(headers), _) => headers,
                (Err(error), Some(old)) => {
                    wrong.push(error.to_string());
                    old.extra.load().to_vec()
                }
                (Err(error), None) => return Err(error),
            };
            extra.insert(name.clone(), headers);
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
            let same = |part: &&Arc<TokenPart>| part.config == *token && part.formats == *formats;
            if before.and_then(|before| before.tokens.get(name)).filter(same).is_none() {
                changed.insert(name.clone(), self.open_token(token)?);
            }
        }
        Ok(Plan { config, extra, formats, changed, wrong })
    }

    fn open_token(&self, config: &Arc<config::Token>) -> Result<Opened, AppError> {
        let source = self.source(config);
        let with = source.with();
        // A static token is where the configuration says, and nothing about it is learned.
        let store = self.store.as_ref().filter(|_| config.grant != Grant::Static);
        let (keeper, kept) = match store {
            Some(store) => {
                let (keeper, kept) = Keeper::open(store, &config.name, &with.account)?;
                (Some(keeper), kept)
            }
            None => (None, None),
        };
        Ok(Opened { source, with, keeper, kept })
    }

    /// The parts of a plan, and the refresh tasks to start. `ended` is what the tasks left that the plan had to be stopped for.
    pub fn build(
        &self,
        mut plan: Plan,
        before: Option<&Parts>,
        mut ended: BTreeMap<String, Ended>,
    ) -> (Parts, Vec<Refresher<Source>>) {
        let (mut tokens, mut refreshers) = (BTreeMap::new(), Vec::new());
        for (name, config) in &plan.config.tokens {
            let old = before.and_then(|before| before.tokens.get(name));
            let Some(opened) = plan.changed.remove(name) else {
                tokens.extend(old.map(|old| (name.clone(), Arc::clone(old))));
                continue;
            };
            let formats = plan.formats.remove(name).unwrap_or_default();
            let ended = ended.remove(name).filter(|ended| ended.account == opened.with.account);
            // Security: a request that found the old route must not get a token that is meant for the new one.
            let same = ended.as_ref().is_some_and(|ended| ended.kept.purpose == opened.with.purpose);
            let slot = match old.filter(|_| same) {
                Some(old) => Arc::clone(&old.slot),
                None => Arc::new(Slot::new(self.clock.clone())),
            };
            let part = TokenPart { config: Arc::clone(config), slot, formats };
            let (keeper, kept, saved) = match ended {
                Some(ended) => (ended.keeper, Some(ended.kept), ended.saved),
                None => (opened.keeper, opened.kept, true),
            };
            refreshers.push(Refresher::new(opened.source, self.task(&part, keeper), kept, saved));
            tokens.insert(name.clone(), Arc::new(part));
        }
        let mut routes = BTreeMap::new();
        for (name, route) in &plan.config.routes {
            let extra = plan.extra.remove(name).unwrap_or_default();
            let old = before.and_then(|before| before.routes.get(name));
            routes.insert(name.clone(), self.route(route, extra, &tokens, &plan.config.limits, old));
        }
        (Parts { config: plan.config, tokens, routes }, refreshers)
    }

    /// A task that goes on from what another left of the same token.
    pub fn again(&self, part: &TokenPart, ended: Option<Ended>) -> Refresher<Source> {
        let (keeper, kept, saved) = ended.map_or((None, None, true), |e| (e.keeper, Some(e.kept), e.saved));
        Refresher::new(self.source(&part.config), self.task(part, keeper), kept, saved)
    }

    fn source(&self, config: &Arc<config::Token>) -> Source {
        Source::new(Arc::clone(config), Arc::clone(&self.dialer), self.clock.clone())
    }

    fn task(&self, part: &TokenPart, keeper: Option<Keeper>) -> Task {
        Task {
            name: part.config.name.clone(),
            policy: policy(&part.config),
            formats: part.formats.clone(),
            slot: Arc::clone(&part.slot),
            clock: self.clock.clone(),
            rng: fastrand::Rng::new(),
            metrics: Arc::clone(&self.metrics),
            keeper,
        }
    }

    /// The old one, with its connections, if nothing but the values of its extra headers is new.
    fn route(
        &self,
        config: &Arc<config::Route>,
        extra: Headers,
        tokens: &BTreeMap<String, Arc<TokenPart>>,
        limits: &config::Limits,
        old: Option<&Arc<Route>>,
    ) -> Arc<Route> {
        let token = config.token.as_ref().and_then(|token| tokens.get(token)).map(|part| {
            let format = part.formats.iter().position(|format| *format == config.format);
            TokenUse { slot: Arc::clone(&part.slot), format: format.unwrap_or(usize::MAX) }
        });
        if let Some(old) = old.filter(|old| old.config == *config && old.token == token) {
            if **old.extra.load() != extra {
                old.extra.store(Arc::new(extra));
            }
            return Arc::clone(old);
        }
        Arc::new(Route {
            upstream: Upstream::new(Arc::clone(config), Arc::clone(&self.dialer), limits, self.clock.clone()),
            token,
            host: HeaderValue::from_str(&config.upstream.authority).unwrap_or(HeaderValue::from_static("localhost")),
            extra: ArcSwap::from_pointee(extra),
            metrics: Arc::new(self.metrics.route(&config.name)),
            trouble: Trouble::default(),
            config: Arc::clone(config),
        })
    }
}

impl Plan {
    /// The tokens whose tasks have to end before the plan is built.
    pub fn ends<'p>(&'p self, before: &'p Parts) -> impl Iterator<Item = &'p String> {
        let gone = |name: &&String| self.changed.contains_key(*name) || !self.config.tokens.contains_key(*name);
        before.tokens.keys().filter(gone)
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

async fn open(store: &config::Store) -> Result<FileStore, AppError> {
    let key = store.key.read_bytes().await.map_err(AppError::StoreKey)?;
    Ok(FileStore::open(&store.path, Seal::new(&key).ok_or(AppError::ShortKey)?)?)
}

fn policy(config: &config::Token) -> Policy {
    Policy {
        grant: config.grant,
        // A server has no reason to give a refresh token for client credentials (RFC 6749 §4.4.3): asking again is as good.
        renews: config.dialect.renew.is_some() && config.grant == Grant::Password,
        refresh_at: config.refresh_at,
        default_lifetime: (config.grant != Grant::Static).then_some(config.default_lifetime),
        eager: config.eager,
        rereads: config.secrets().any(SecretSource::is_command),
    }
}

async fn extra_headers(route: &config::Route) -> Result<Headers, AppError> {
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
