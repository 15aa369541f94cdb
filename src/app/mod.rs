//! Configuration to running parts: token slots with their refresh tasks, routes with their pools, and which routes each
//! listener serves; and the same again for a changed configuration, with every part kept that did not change. Nothing here
//! listens or sends.

mod clients;
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use jiff::Timestamp;
use tracing::error;

use clients::Clients;
pub use clients::{rank, rotates};
pub use plan::Headers;
use plan::Opened;
pub use plan::{Place, Plan, extra_headers};

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::connect::Dialer;
use crate::oauth::file::Grant;
use crate::oauth::manage::Item;
use crate::oauth::template::Template;
use crate::proxy::{Route, TokenUse, Trouble, Upstream};
use crate::secret::Secret;
use crate::secret::source::{SecretError, SecretSource};
use crate::store::{FileStore, KEY_MIN, RedisStore, Seal, StoreError, Stores};
use crate::telemetry::inspected::{EXCHANGES_MAX, Exchanges};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;
use crate::token::cache::Slot;
use crate::token::clients::Clients as Applications;
use crate::token::keeper::{self, Keeper};
use crate::token::kept::Kept;
use crate::token::refresh::{Ended, Refresher, Rotating, Slots, Task};
use crate::token::schedule::Policy;
use crate::token::secrets::Secrets;
use crate::token::source::{Exchange, Source, With};

/// What lives as long as the process.
#[derive(Clone)]
pub struct App {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    /// The last ones, to be looked at; `None`: they are not kept.
    pub exchanges: Option<Arc<Exchanges>>,
    pub started_at: Timestamp,
    pub stores: Option<Stores>,
    pub dialer: Arc<Dialer>,
    clients: Arc<Clients>,
    slots: Arc<Slots>,
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
    /// Shared by all tokens of the same client.
    pub secrets: Arc<Secrets>,
    /// The ways in which routes write it. They only get more: a request may be on its way with an older list's index.
    formats: Vec<Template>,
}

/// Something that the configuration names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("route.{route}.headers.{header}: {source}")]
    Secret { route: String, header: String, source: SecretError },
    #[error("route.{route}.clients.key: {source}")]
    ClientKey { route: String, source: SecretError },
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
        let (metrics, dialer) = (Arc::new(Metrics::default()), Arc::new(Dialer::default()));
        let stores = match &config.store {
            Some(store) => {
                let key = store.key.read_bytes().await.map_err(AppError::StoreKey)?;
                Some(self::stores(store, Seal::new(&key).ok_or(AppError::ShortKey)?, &dialer, &clock)?)
            }
            None => None,
        };
        let started_at = clock.now().wall;
        metrics.started.set(started_at.as_second());
        let (clients, slots, tracer) = (Arc::default(), Arc::default(), Tracer::default());
        let exchanges = config.admin.inspector.then(|| Arc::new(Exchanges::new(EXCHANGES_MAX)));
        Ok(Self { clock, metrics, tracer, exchanges, started_at, stores, dialer, clients, slots })
    }

    /// What the store has of that account.
    async fn kept(&self, config: &config::Token, account: &str) -> Result<Restored, StoreError> {
        // A static token is where the configuration says, and nothing about it is learned.
        let Some(stores) = self.stores.as_ref().filter(|_| config.grant != Grant::Static) else {
            return Ok(Restored::default());
        };
        let found = Keeper::open(stores, keeper::record(&config.name, account), &self.clock).await?;
        Ok(Restored { keeper: Some(found.keeper), kept: found.content, saved: found.saved })
    }

    /// One token that the plan makes or changes, and its refresh task, which goes on from what another left of the same account.
    pub async fn token(
        &self,
        plan: &mut Plan,
        name: &str,
        old: Option<&TokenPart>,
        left: Option<Ended>,
    ) -> Option<(TokenPart, Refresher<Source>)> {
        let config = Arc::clone(plan.config.tokens.get(name)?);
        let Opened { source, with, restored } = plan.changed.remove(name)?;
        let formats = plan.formats.remove(name).unwrap_or_default();
        // Security: a request that found the old route must not get a token that is meant for the new one.
        let same = left.as_ref().is_some_and(|left| left.kept.purpose == with.purpose);
        let slot = match old.filter(|_| same) {
            Some(old) => Arc::clone(&old.slot),
            None => Arc::new(Slot::new(self.clock.clone())),
        };
        self.slots.set(name, &slot);
        let secrets = self.clients.known(&config);
        let part = TokenPart { config, slot, secrets, formats };
        let restored = match left {
            Some(left) => left.into(),
            // Of one that ended in a panic, the store has the most.
            None if restored.keeper.is_none() => self.reopened(&part.config, &with).await,
            None => restored,
        };
        let Restored { keeper, kept, saved } = restored;
        let refresher = Refresher::new(source, self.task(&part, keeper), kept, saved);
        Some((part, refresher))
    }

    async fn reopened(&self, config: &config::Token, with: &With) -> Restored {
        self.kept(config, &with.account).await.unwrap_or_else(|error| {
            let shared = self.stores.as_ref().filter(|stores| stores.main.is_shared());
            error!(token = config.name, %error, "nothing of this token is durable: restart the broker");
            // Without its lease, nothing is sent that another replica may send.
            let record = keeper::record(&config.name, &with.account);
            Restored { keeper: shared.map(|stores| Keeper::unread(stores, record, &self.clock)), ..Restored::default() }
        })
    }

    /// The parts of a plan, given its tokens.
    pub fn parts(&self, mut plan: Plan, before: Option<&Parts>, tokens: BTreeMap<String, Arc<TokenPart>>) -> Parts {
        let mut routes = BTreeMap::new();
        for (name, route) in &plan.config.routes {
            let extra = plan.extra.remove(name).unwrap_or_default();
            let secrets = (extra, plan.keys.remove(name));
            let old = before.and_then(|before| before.routes.get(name));
            routes.insert(name.clone(), self.route(route, secrets, &tokens, &plan.config.limits, old));
        }
        self.slots.retain(|name| tokens.contains_key(name));
        clients::elect(&tokens);
        Parts { config: plan.config, tokens, routes }
    }

    /// Asks the vendor about client applications, with an administrator's token or the token's own.
    pub async fn clients(&self, part: &TokenPart, verb: &str, asked: &Applications) -> Result<Vec<Item>, String> {
        let access = match &asked.admin_token {
            Some(token) => Secret::new(token.to_string()),
            None => {
                let found = part.slot.token_within(part.config.row_max()).await;
                let why = || part.slot.snapshot().error.as_ref().map(ToString::to_string);
                found.map_err(|_| why().unwrap_or_else(|| "there is no token".to_owned()))?.secret().clone()
            }
        };
        self.source(&part.config).clients(verb, &access, asked).await.map_err(|error| error.to_string())
    }

    /// A task that goes on from what another left of the same token.
    pub async fn again(&self, part: &TokenPart, left: Option<Ended>) -> Refresher<Source> {
        let source = self.source(&part.config);
        let Restored { keeper, kept, saved } = match left {
            Some(left) => left.into(),
            None => self.reopened(&part.config, &source.with()).await,
        };
        Refresher::new(source, self.task(part, keeper), kept, saved)
    }

    fn source(&self, config: &Arc<config::Token>) -> Source {
        let (dialer, clock) = (Arc::clone(&self.dialer), self.clock.clone());
        Source::new(Arc::clone(config), dialer, clock, self.clients.known(config), self.tracer.clone())
    }

    fn task(&self, part: &TokenPart, keeper: Option<Keeper>) -> Task {
        let rotating = rotates(&part.config).then(|| Rotating {
            secrets: Arc::clone(&part.secrets),
            config: Arc::clone(&part.config),
            slots: Arc::clone(&self.slots),
        });
        Task {
            rotating,
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

    /// The old one, with its connections, if nothing but the values of its extra headers and its clients' key is new.
    fn route(
        &self,
        config: &Arc<config::Route>,
        (extra, key): (Headers, Option<Arc<Secret>>),
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
            old.key.store(key);
            return Arc::clone(old);
        }
        Arc::new(Route {
            upstream: Upstream::new(Arc::clone(config), Arc::clone(&self.dialer), limits, self.clock.clone()),
            token,
            host: HeaderValue::from_str(&config.upstream.authority).unwrap_or(HeaderValue::from_static("localhost")),
            extra: ArcSwap::from_pointee(extra),
            key: ArcSwapOption::new(key),
            metrics: Arc::new(self.metrics.route(&config.name)),
            trouble: Trouble::default(),
            config: Arc::clone(config),
        })
    }
}

/// What a refresh task goes on from.
struct Restored {
    keeper: Option<Keeper>,
    kept: Option<Kept>,
    /// Does the store have that?
    saved: bool,
}

impl Default for Restored {
    fn default() -> Self {
        Self { keeper: None, kept: None, saved: true }
    }
}

impl From<Ended> for Restored {
    fn from(ended: Ended) -> Self {
        Self { keeper: ended.keeper, kept: Some(ended.kept), saved: ended.saved }
    }
}

/// The store, a directory of which is this process's from here on.
pub fn stores(store: &config::Store, seal: Seal, dialer: &Arc<Dialer>, clock: &Clock) -> Result<Stores, StoreError> {
    let files = |directory: &PathBuf| FileStore::open(directory, seal.clone()).map(Arc::new);
    match &store.place {
        config::Place::Directory(directory) => Ok(Stores::directory(files(directory)?)),
        config::Place::Redis(redis, directory) => {
            let files = directory.as_ref().map(files).transpose()?;
            let redis = RedisStore::new(*redis.clone(), seal.clone(), Arc::clone(dialer), clock.clone());
            Ok(Stores::shared(Arc::new(redis), files))
        }
    }
}

fn policy(config: &config::Token) -> Policy {
    Policy {
        grant: config.grant,
        // A server has no reason to give a refresh token for client credentials (RFC 6749 §4.4.3): asking again is as good.
        renews: config.dialect.renew.is_some() && matches!(config.grant, Grant::Password | Grant::AuthorizationCode),
        refresh_at: config.refresh_at,
        default_lifetime: (config.grant != Grant::Static).then_some(config.default_lifetime),
        eager: config.eager,
        rereads: config.secrets().any(SecretSource::is_command),
        secrets: config.client_secrets.len(),
        same_token: config.dialect.answer.same_token,
        limit: config.limit.filter(|_| config.grant != Grant::Static),
        timeout: config.timeout,
    }
}
