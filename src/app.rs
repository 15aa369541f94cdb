//! Configuration to running parts: token slots with their refresh tasks, routes with their pools, and which routes each
//! listener serves. Nothing here listens or sends yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock::Clock;
use crate::config::{self, Config, Listen};
use crate::connect::Dialer;
use crate::oauth::file::Grant;
use crate::oauth::template::Template;
use crate::proxy::{Route, TokenUse, Trouble, Upstream};
use crate::secret::Secret;
use crate::secret::source::{SecretError, SecretSource};
use crate::store::{FileStore, KEY_MIN, Seal, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::token::cache::Slot;
use crate::token::keeper::{Keeper, With};
use crate::token::refresh::{Refresher, Task};
use crate::token::schedule::Policy;
use crate::token::source::Source;

/// How often the files of extra headers are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// The parts of a broker.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub started_at: Timestamp,
    pub tokens: BTreeMap<String, Arc<TokenPart>>,
    pub routes: BTreeMap<String, Arc<Route>>,
    pub store: Option<Arc<FileStore>>,
    /// Ready to be spawned, one a token.
    pub refreshers: Vec<Refresher<Source>>,
}

/// One token's configuration and its place in the cache.
pub struct TokenPart {
    pub config: Arc<config::Token>,
    pub slot: Arc<Slot>,
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
    /// Makes the parts. Reads the secrets of extra headers; gets no token yet.
    pub async fn assemble(config: Config, clock: Clock) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::default());
        let dialer = Arc::new(Dialer::default());
        let mut formats: BTreeMap<String, Vec<Template>> = BTreeMap::new();
        let mut tokens = BTreeMap::new();
        for (name, token) in &config.tokens {
            let slot = Arc::new(Slot::new(clock.clone()));
            tokens.insert(name.clone(), Arc::new(TokenPart { config: Arc::clone(token), slot }));
        }
        let mut routes = BTreeMap::new();
        for (name, route) in &config.routes {
            let token = route.token.as_ref().and_then(|token| tokens.get(token)).map(|part| {
                let formats = formats.entry(part.config.name.clone()).or_default();
                TokenUse { slot: Arc::clone(&part.slot), format: index_of(formats, &route.format) }
            });
            let part = Route {
                upstream: Upstream::new(Arc::clone(route), Arc::clone(&dialer), &config.limits, clock.clone()),
                token,
                host: HeaderValue::from_str(&route.upstream.authority).unwrap_or(HeaderValue::from_static("localhost")),
                extra: ArcSwap::from_pointee(extra_headers(route).await?),
                metrics: Arc::new(metrics.route(name)),
                trouble: Trouble::default(),
                config: Arc::clone(route),
            };
            routes.insert(name.clone(), Arc::new(part));
        }
        let store = match &config.store {
            Some(store) => Some(Arc::new(open(store).await?)),
            None => None,
        };
        let mut refreshers = Vec::with_capacity(tokens.len());
        for part in tokens.values() {
            let config = &part.config;
            // A static token is where the configuration says, and nothing about it is learned.
            let store = store.as_ref().filter(|_| config.grant != Grant::Static);
            let (keeper, kept) = match store {
                Some(store) => {
                    let (keeper, kept) = Keeper::open(store, &config.name, &obtained_with(config, &routes).await)?;
                    (Some(keeper), kept)
                }
                None => (None, None),
            };
            let source = Source::new(Arc::clone(config), Arc::clone(&dialer), clock.clone());
            let task = Task {
                name: config.name.clone(),
                policy: policy(config),
                formats: formats.remove(&config.name).unwrap_or_default(),
                slot: Arc::clone(&part.slot),
                clock: clock.clone(),
                rng: fastrand::Rng::new(),
                metrics: Arc::clone(&metrics),
                keeper,
            };
            refreshers.push(Refresher::new(source, task, kept));
        }
        let started_at = clock.now().wall;
        Ok(Self { config, clock, metrics, started_at, tokens, routes, store, refreshers })
    }

    /// Reads the secrets of extra headers again when their files change; a file that cannot be used leaves what was read
    /// before. Ends with `stop`.
    pub async fn watch_headers(routes: Vec<Arc<Route>>, stop: CancellationToken) {
        let stamp = |route: &Route| route.config.headers.iter().map(|(_, source)| source.stamp()).collect::<Vec<_>>();
        let mut known: Vec<_> = routes.iter().map(|route| stamp(route)).collect();
        while stop.run_until_cancelled(tokio::time::sleep(WATCH_EVERY)).await.is_some() {
            for (route, known) in routes.iter().zip(&mut known) {
                let now = stamp(route);
                if *known == now {
                    continue;
                }
                *known = now;
                match extra_headers(&route.config).await {
                    Ok(extra) => {
                        route.extra.store(Arc::new(extra));
                        info!(route = route.config.name, "extra headers read again");
                    }
                    Err(error) => error!(route = route.config.name, %error, "the extra headers stay as they were"),
                }
            }
        }
    }

    /// The routes that share a listener. Routes on port 0 get a port each.
    pub fn listeners(&self) -> Vec<(Listen, Vec<Arc<Route>>)> {
        let mut shared: BTreeMap<Listen, Vec<Arc<Route>>> = BTreeMap::new();
        let mut own = Vec::new();
        for route in self.routes.values() {
            for listen in &route.config.listen {
                match listen {
                    Listen::Tcp(address) if address.port() == 0 => own.push((listen.clone(), vec![Arc::clone(route)])),
                    _ => shared.entry(listen.clone()).or_default().push(Arc::clone(route)),
                }
            }
        }
        shared.into_iter().chain(own).collect()
    }
}

async fn open(store: &config::Store) -> Result<FileStore, AppError> {
    let key = store.key.read().await.map_err(AppError::StoreKey)?;
    Ok(FileStore::open(&store.path, Seal::new(&key).ok_or(AppError::ShortKey)?)?)
}

/// Everything that makes a token what it is.
async fn obtained_with(config: &config::Token, routes: &BTreeMap<String, Arc<Route>>) -> With {
    let hex = |secret: Option<Secret>| format!("{:?}", secret.as_ref().map(Secret::digest));
    let (mut proofs, mut rest) = (String::new(), String::new());
    for source in config.secrets() {
        // These prove who one is to the token server: with another of them, the token is the same.
        let proof = [&config.client_secret, &config.password].into_iter().flatten().any(|p| std::ptr::eq(p, source));
        let of = if proof { &mut proofs } else { &mut rest };
        match source.is_command() {
            // One that cannot be read is none, and another once it can.
            false => of.push_str(&hex(source.read().await.ok())),
            true if proof => {}
            // Nobody knows what it will say this time: as good as changed.
            true => of.push_str(&format!("{}", fastrand::u128(..))),
        }
    }
    let origins: BTreeSet<_> = routes
        .values()
        .filter(|route| route.config.token.as_ref() == Some(&config.name))
        .map(|route| route.config.upstream.origin())
        .collect();
    let purpose = format!("{}\0{origins:?}\0{rest}", config.purpose());
    let inputs = Secret::new(format!("{purpose}\0{proofs}"));
    With { account: Secret::new(config.account()), purpose: Secret::new(purpose), inputs }
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

fn index_of(formats: &mut Vec<Template>, format: &Template) -> usize {
    formats.iter().position(|known| known == format).unwrap_or_else(|| {
        formats.push(format.clone());
        formats.len() - 1
    })
}

async fn extra_headers(route: &config::Route) -> Result<Vec<(http::HeaderName, HeaderValue)>, AppError> {
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
