//! Obtains a token once: reads the secrets, builds the request, sends it, reads the answer.
//!
//! A source knows nothing of time, caches or retries; it is what the refresh task calls.

mod exchange;
mod secret;
mod vendor;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;

use secret::Chosen;
pub use secret::Configured;

use super::refusals::Credential;
use super::secrets::Secrets;
use crate::clock::Clock;
use crate::config;
use crate::connect::Dialer;
use crate::oauth::client::Client;
use crate::oauth::file::{Grant, Op};
use crate::oauth::manage::Item;
use crate::oauth::request::{Given, Inputs};
use crate::oauth::response::{self, Answer};
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;
use crate::secret::source::{EXEC_TIMEOUT, SecretError, SecretSource};
use crate::telemetry::trace::Tracer;

/// What the refresh task needs of a source; tests put a script in its place.
pub trait Exchange: Send + Sync + 'static {
    /// The configured refresh token, for the grant `refresh_token`.
    fn seed(&self) -> impl Future<Output = Result<Option<Secret>, TokenError>> + Send;

    /// Reads everything that `op` needs, and nothing else: a password that cannot be read does not keep a refresh token from
    /// being used.
    ///
    /// `secret` is which of the client secrets, from 0.
    fn prepare(&self, op: Op, secret: usize) -> impl Future<Output = Result<Prepared, TokenError>> + Send;

    /// One exchange.
    fn exchange(&self, op: Op, prepared: &Prepared) -> impl Future<Output = Result<Answer, TokenError>> + Send;

    /// The client secret as the configuration has it, whatever a rotation has put in its place.
    fn configured(&self) -> impl Future<Output = Result<Configured, TokenError>> + Send {
        async { Err(TokenError::new(Class::Config, "there is no client secret", "set client_secret")) }
    }

    /// A request of the dialect's `[secrets]` or `[clients]`, such as `secrets.list`, with somebody's access token.
    fn manage(
        &self,
        _what: &str,
        _access: &Secret,
        _values: Vec<(&'static str, Given)>,
    ) -> impl Future<Output = Result<Vec<Item>, Unmanaged>> + Send {
        async { Err(TokenError::new(Class::Config, "the dialect has no such request", "choose another one").into()) }
    }

    /// Ends a token at the vendor. `None`: there is no request for its kind.
    fn revoke(&self, _token: &Secret, _refresh: bool) -> impl Future<Output = Option<Result<(), TokenError>>> + Send {
        async { None }
    }

    /// Changes when a file that holds a secret does.
    fn stamp(&self) -> u64;

    /// Stands for what a token is obtained with now.
    fn with(&self) -> With;
}

/// Stands for what a token is obtained with: digests, as hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct With {
    /// Whose refresh token it is: another account has another record.
    pub account: String,
    /// What the access token is obtained with and for: one with another purpose must not be sent.
    pub purpose: String,
    /// Everything that an exchange sends.
    pub inputs: String,
}

/// Why a vendor did not do what it was asked for beside tokens.
#[derive(Clone, Debug)]
pub struct Unmanaged {
    pub error: TokenError,
    /// Of its answer, if one came.
    pub status: Option<StatusCode>,
}

impl From<TokenError> for Unmanaged {
    fn from(error: TokenError) -> Self {
        Self { error, status: None }
    }
}

/// Everything one exchange needs. The refresh token is put in by the refresh task.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub inputs: Inputs,
    /// The token itself, for the grant `static`.
    pub access_token: Option<Secret>,
    /// Which of the client secrets it is, from 0, and how many there are.
    pub secret: usize,
    pub secrets: usize,
    /// Did a rotation bring it?
    pub rotated: bool,
    /// Stands for the client's own credentials.
    pub proof: Option<Secret>,
}

impl Prepared {
    /// Stands for what the vendor may refuse: the login, or the refresh token.
    pub fn credential(&self, op: Op) -> Credential {
        let inputs = &self.inputs;
        match (op, &inputs.refresh_token, &inputs.password) {
            (Op::Renew, Some(token), _) => Credential::refresh_token(token),
            (Op::Acquire, _, Some(password)) => {
                let nothing = Secret::new(String::new());
                let secret = self.proof.as_ref().unwrap_or(&nothing);
                let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
                Credential::login(&text(&inputs.username), password, &text(&inputs.client_id), secret)
            }
            _ => Credential::none(),
        }
    }
}

/// A configured token source.
pub struct Source {
    config: Arc<config::Token>,
    client: Client,
    clock: Clock,
    tracer: Tracer,
    /// What a rotation put in the place of the configured client secret.
    secrets: Arc<Secrets>,
    /// Which client secret was used last.
    secret: AtomicUsize,
    /// What was sent and what came, the newest last: a server may repeat it later.
    known: Mutex<Vec<Secret>>,
}

/// So many are remembered.
const KNOWN_MAX: usize = 24;

impl Source {
    pub fn new(
        config: Arc<config::Token>,
        dialer: Arc<Dialer>,
        clock: Clock,
        secrets: Arc<Secrets>,
        tracer: Tracer,
    ) -> Self {
        let client = Client {
            dialer,
            tls: config.tls.clone(),
            server_name: config.server_name.clone(),
            certificate: config.identity.as_ref().map(|(name, leaf)| format!("[identity.{name}], {leaf}")),
            timeout: config.timeout,
        };
        Self { config, client, clock, tracer, secrets, secret: AtomicUsize::new(0), known: Mutex::default() }
    }

    fn remember<'s>(&self, secrets: impl IntoIterator<Item = &'s Secret>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets {
            if !known.contains(secret) {
                known.push(secret.clone());
            }
        }
        let over = known.len().saturating_sub(KNOWN_MAX);
        known.drain(..over);
    }

    /// Everything that a server may repeat: what is configured, what was sent, and what came.
    fn known(&self) -> Vec<Secret> {
        let configured = self.config.secrets().filter_map(|source| source.look().ok());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        configured.chain(known.iter().cloned()).collect()
    }

    async fn read_all(&self, op: Op, secret: usize) -> Result<Prepared, TokenError> {
        let config = &self.config;
        let login = config.password.as_ref().filter(|_| op == Op::Acquire);
        let chosen = self.client_secret(secret).await?;
        self.secret.store(chosen.index, Ordering::Relaxed);
        let mut inputs = Inputs {
            url: config.url.clone(),
            base_url: config.base_url.clone(),
            client_id: config.client_id.clone(),
            client_secret: chosen.secret,
            secret_age: chosen.age,
            username: config.username.clone(),
            password: read(login).await?,
            scope: config.scope.clone(),
            vars: config.vars.clone(),
            ..Inputs::new(config.grant, config.client_auth)
        };
        for (name, source) in &config.params {
            inputs.params.insert(name.clone(), source.read().await.map_err(unreadable)?);
        }
        for (name, source) in &config.headers {
            inputs.headers.push((name.clone(), source.read().await.map_err(unreadable)?));
        }
        for (name, url) in [("authorize_url", &config.authorize_url), ("revoke_url", &config.revoke_url)] {
            inputs.values.extend(url.clone().map(|url| (name, Given::text(url))));
        }
        self.remember(inputs.secrets());
        inputs.known = self.known();
        let Chosen { index: secret, of: secrets, rotated, proof, .. } = chosen;
        Ok(Prepared {
            inputs,
            access_token: read(config.access_token.as_ref()).await?,
            secret,
            secrets,
            rotated,
            proof,
        })
    }
}

impl Exchange for Source {
    async fn seed(&self) -> Result<Option<Secret>, TokenError> {
        read(self.config.refresh_token.as_ref()).await
    }

    async fn prepare(&self, op: Op, secret: usize) -> Result<Prepared, TokenError> {
        let late = || {
            TokenError::new(
                Class::Transient,
                "the secrets could not be read within 10 s",
                "see why their commands take so long",
            )
        };
        tokio::time::timeout(EXEC_TIMEOUT, self.read_all(op, secret)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn exchange(&self, op: Op, prepared: &Prepared) -> Result<Answer, TokenError> {
        if self.config.grant == Grant::Static {
            let token = prepared.access_token.clone();
            let none = || TokenError::new(Class::Config, "there is no access token", "set access_token");
            return response::handmade(token.ok_or_else(none)?, self.clock.now().wall);
        }
        self.ask(op, prepared).await
    }

    async fn configured(&self) -> Result<Configured, TokenError> {
        self.as_configured().await
    }

    async fn manage(
        &self,
        what: &str,
        access: &Secret,
        values: Vec<(&'static str, Given)>,
    ) -> Result<Vec<Item>, Unmanaged> {
        self.asked(what, access, values).await
    }

    async fn revoke(&self, token: &Secret, refresh: bool) -> Option<Result<(), TokenError>> {
        self.end(token, refresh).await
    }

    fn stamp(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for source in self.config.secrets() {
            source.stamp().hash(&mut hasher);
        }
        hasher.finish()
    }

    fn with(&self) -> With {
        let config = &self.config;
        let (mut proofs, mut rest) = (String::new(), String::new());
        for source in config.secrets() {
            // These prove who one is to the token server: with another of them, the token is the same.
            let proof = config.client_secrets.iter().chain(&config.password).any(|proof| std::ptr::eq(proof, source));
            let of = if proof { &mut proofs } else { &mut rest };
            match source.is_command() {
                false => of.push_str(&told(source)),
                true if proof => {}
                // Nobody knows what it will say this time: as good as changed.
                true => of.push_str(&format!("{}", fastrand::u128(..))),
            }
        }
        if let Some((_, leaf)) = &config.identity {
            proofs.push_str(&leaf.to_string());
        }
        let hex = |text: String| Secret::new(text).digest_in_hex();
        let purpose = format!("{}\0{rest}", config.purpose());
        let inputs = hex(format!("{purpose}\0{proofs}"));
        With { account: hex(config.account()), purpose: hex(purpose), inputs }
    }
}

async fn read(source: Option<&SecretSource>) -> Result<Option<Secret>, TokenError> {
    match source {
        Some(source) => source.read().await.map(Some).map_err(unreadable),
        None => Ok(None),
    }
}

/// Stands for the value of a secret, as far as that can be had without running a command.
fn told(source: &SecretSource) -> String {
    // One that cannot be read is none, and another once it can.
    format!("{:?}", source.look().ok().map(|secret| secret.digest()))
}

/// A command that failed may work a second later; anything else has to be mended.
fn unreadable(error: SecretError) -> TokenError {
    let class = if error.passing { Class::Transient } else { Class::Config };
    TokenError::new(class, error.problem, error.hint)
}
