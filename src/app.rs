//! Configuration to running parts: token slots with their refresh tasks, routes with their pools, and which routes each
//! listener serves. Nothing here listens or sends yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::{self, Config, Listen};
use crate::connect::Dialer;
use crate::oauth::file::Grant;
use crate::oauth::template::Template;
use crate::proxy::{Route, TokenUse, Trouble, Upstream};
use crate::secret::source::{SecretError, SecretSource};
use crate::telemetry::metrics::Metrics;
use crate::token::cache::Slot;
use crate::token::refresh::{Refresher, Task};
use crate::token::schedule::Policy;
use crate::token::source::Source;

/// The parts of a broker.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub started_at: Timestamp,
    pub tokens: BTreeMap<String, Arc<TokenPart>>,
    pub routes: BTreeMap<String, Arc<Route>>,
    /// Ready to be spawned, one a token.
    pub refreshers: Vec<Refresher<Source>>,
}

/// One token's configuration and its place in the cache.
pub struct TokenPart {
    pub config: Arc<config::Token>,
    pub slot: Arc<Slot>,
}

/// A route's extra header could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("route.{route}.headers.{header}: {source}")]
    Secret { route: String, header: String, source: SecretError },
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
                extra: extra_headers(route).await?,
                metrics: Arc::new(metrics.route(name)),
                trouble: Trouble::default(),
                config: Arc::clone(route),
            };
            routes.insert(name.clone(), Arc::new(part));
        }
        let refreshers = tokens
            .values()
            .map(|part| {
                let config = &part.config;
                Refresher::new(
                    Source::new(Arc::clone(config), Arc::clone(&dialer), clock.clone()),
                    Task {
                        name: config.name.clone(),
                        policy: policy(config),
                        formats: formats.remove(&config.name).unwrap_or_default(),
                        slot: Arc::clone(&part.slot),
                        clock: clock.clone(),
                        rng: fastrand::Rng::new(),
                        metrics: Arc::clone(&metrics),
                    },
                )
            })
            .collect();
        let started_at = clock.now().wall;
        Ok(Self { config, clock, metrics, started_at, tokens, routes, refreshers })
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
