//! Obtains a token once: reads the secrets, builds the request, sends it, reads the answer.
//!
//! A source knows nothing of time, caches or retries; it is what the refresh task calls.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::clock::Clock;
use crate::config;
use crate::connect::Dialer;
use crate::oauth::client::Client;
use crate::oauth::file::{Grant, Op};
use crate::oauth::request::{self, Inputs};
use crate::oauth::response::{self, Answer};
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;
use crate::secret::source::{SecretError, SecretSource};

/// What the refresh task needs of a source; tests put a script in its place.
pub trait Exchange: Send + Sync + 'static {
    /// Reads everything an exchange needs, secrets included.
    fn prepare(&self) -> impl Future<Output = Result<Prepared, TokenError>> + Send;

    /// One exchange.
    fn exchange(&self, op: Op, prepared: &Prepared) -> impl Future<Output = Result<Answer, TokenError>> + Send;

    /// Changes when a file that holds a secret does.
    fn stamp(&self) -> u64;
}

/// Everything one exchange needs. `inputs.refresh_token` is the configured one until the schedule puts its own there.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub inputs: Inputs,
    /// The token itself, for the grant `static`.
    pub access_token: Option<Secret>,
}

impl Prepared {
    /// Stands for what the vendor may refuse: the password with its client secret, or the refresh token.
    pub fn digest(&self, op: Op) -> [u8; 32] {
        let inputs = &self.inputs;
        let parts: Vec<&str> = match op {
            Op::Renew => vec![inputs.refresh_token.as_ref().map_or("", |token| token.expose())],
            Op::Acquire => vec![
                inputs.client_id.as_deref().unwrap_or_default(),
                inputs.client_secret.as_ref().map_or("", |secret| secret.expose()),
                inputs.username.as_deref().unwrap_or_default(),
                inputs.password.as_ref().map_or("", |password| password.expose()),
            ],
        };
        Secret::new(parts.join("\0")).digest()
    }
}

/// A configured token source.
pub struct Source {
    config: Arc<config::Token>,
    client: Client,
    clock: Clock,
}

impl Source {
    pub fn new(config: Arc<config::Token>, dialer: Arc<Dialer>, clock: Clock) -> Self {
        let client = Client {
            dialer,
            tls: Arc::clone(&config.tls),
            server_name: config.server_name.clone(),
            timeout: config.timeout,
        };
        Self { config, client, clock }
    }

    fn secret_sources(&self) -> impl Iterator<Item = &SecretSource> {
        let config = &self.config;
        let single = [&config.client_secret, &config.password, &config.refresh_token, &config.access_token];
        single
            .into_iter()
            .flatten()
            .chain(config.params.values())
            .chain(config.headers.iter().map(|(_, source)| source))
    }

    /// What only the configuration can add to an error: whose certificate it is about.
    fn with_certificate(&self, mut error: TokenError) -> TokenError {
        if let (Class::UserAction, Some((name, leaf))) = (error.class, &self.config.identity) {
            error.fix = format!("{}: [identity.{name}], {leaf}", error.fix);
        }
        error
    }
}

impl Exchange for Source {
    async fn prepare(&self) -> Result<Prepared, TokenError> {
        let config = &self.config;
        let mut inputs = Inputs {
            grant: config.grant,
            client_auth: config.client_auth,
            url: config.url.clone(),
            base_url: config.base_url.clone(),
            client_id: config.client_id.clone(),
            client_secret: read(config.client_secret.as_ref()).await?,
            username: config.username.clone(),
            password: read(config.password.as_ref()).await?,
            refresh_token: read(config.refresh_token.as_ref()).await?,
            scope: config.scope.clone(),
            params: Default::default(),
            headers: Vec::new(),
        };
        for (name, source) in &config.params {
            inputs.params.insert(name.clone(), source.read().await.map_err(unreadable)?);
        }
        for (name, source) in &config.headers {
            inputs.headers.push((name.clone(), source.read().await.map_err(unreadable)?));
        }
        Ok(Prepared { inputs, access_token: read(config.access_token.as_ref()).await? })
    }

    async fn exchange(&self, op: Op, prepared: &Prepared) -> Result<Answer, TokenError> {
        if self.config.grant == Grant::Static {
            let token = prepared
                .access_token
                .clone()
                .ok_or_else(|| TokenError::new(Class::Config, "there is no access token", "set access_token"))?;
            return response::handmade(token, self.clock.now().wall);
        }
        let request = request::build(&self.config.dialect, op, &prepared.inputs)?;
        let reply = self.client.send(request).await.map_err(|e| self.with_certificate(e))?;
        let answered = self.clock.now().wall;
        response::read(&self.config.dialect, op, &prepared.inputs, &reply, answered)
            .map_err(|e| self.with_certificate(e))
    }

    fn stamp(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for source in self.secret_sources() {
            source.stamp().hash(&mut hasher);
        }
        hasher.finish()
    }
}

async fn read(source: Option<&SecretSource>) -> Result<Option<Secret>, TokenError> {
    match source {
        Some(source) => source.read().await.map(Some).map_err(unreadable),
        None => Ok(None),
    }
}

fn unreadable(error: SecretError) -> TokenError {
    TokenError::new(Class::Config, error.problem, error.hint)
}
