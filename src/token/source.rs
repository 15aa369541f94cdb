//! Obtains a token once: reads the secrets, builds the request, sends it, reads the answer.
//!
//! A source knows nothing of time, caches or retries; it is what the refresh task calls.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::refusals::Credential;
use crate::clock::Clock;
use crate::config;
use crate::connect::Dialer;
use crate::oauth::client::Client;
use crate::oauth::file::{Grant, Op};
use crate::oauth::request::{self, Inputs};
use crate::oauth::response::{self, Answer};
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;
use crate::secret::source::{EXEC_TIMEOUT, SecretError, SecretSource};

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

/// Everything one exchange needs. The refresh token is put in by the refresh task.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub inputs: Inputs,
    /// The token itself, for the grant `static`.
    pub access_token: Option<Secret>,
    /// Which of the client secrets it is, from 0.
    pub secret: usize,
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
}

impl Source {
    pub fn new(config: Arc<config::Token>, dialer: Arc<Dialer>, clock: Clock) -> Self {
        let client = Client {
            dialer,
            tls: config.tls.clone(),
            server_name: config.server_name.clone(),
            certificate: config.identity.as_ref().map(|(name, leaf)| format!("[identity.{name}], {leaf}")),
            timeout: config.timeout,
        };
        Self { config, client, clock }
    }

    async fn read_all(&self, op: Op, secret: usize) -> Result<Prepared, TokenError> {
        let config = &self.config;
        let login = config.password.as_ref().filter(|_| op == Op::Acquire);
        let (client_secret, secret, proof) = self.client_secret(secret).await?;
        let mut inputs = Inputs {
            url: config.url.clone(),
            base_url: config.base_url.clone(),
            client_id: config.client_id.clone(),
            client_secret,
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
        Ok(Prepared { inputs, access_token: read(config.access_token.as_ref()).await?, secret, proof })
    }

    /// The client secret that is wanted, or the other one where it cannot be read; which one it is; and what stands for both:
    /// whichever is tried, the login is the same.
    async fn client_secret(&self, wanted: usize) -> Result<(Option<Secret>, usize, Option<Secret>), TokenError> {
        let mut all = Vec::new();
        for source in &self.config.client_secrets {
            all.push(read(Some(source)).await);
        }
        let both: Vec<_> = all.iter().flatten().flatten().map(Secret::digest).collect();
        let proof = Secret::new(format!("{both:?}"));
        let used = [wanted, 0, 1].into_iter().find(|index| matches!(all.get(*index), Some(Ok(_)))).unwrap_or(0);
        match (all.len(), all.into_iter().nth(used)) {
            (_, None) => Ok((None, 0, None)),
            (_, Some(Err(error))) => Err(error),
            (1, Some(Ok(secret))) => Ok((secret.clone(), 0, secret)),
            (_, Some(Ok(secret))) => Ok((secret, used, Some(proof))),
        }
    }

    /// What only this side can add to an answer's error: who gave it, and to whose certificate.
    fn told(&self, mut error: TokenError, by: &str) -> TokenError {
        error.problem = format!("{by}: {}", error.problem);
        if let (Class::UserAction, Some(certificate)) = (error.class, &self.client.certificate) {
            error.fix = format!("{}: {certificate}", error.fix);
        }
        error
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
        let request = request::build(&self.config.dialect, op, &prepared.inputs)?;
        // Security: no path and no query, which may hold credentials.
        let server = request.uri().authority().map_or_else(String::new, |authority| authority.host().to_owned());
        let reply = self.client.send(request).await?;
        let answered = self.clock.now().wall;
        response::read(&self.config.dialect, op, &prepared.inputs, &reply, answered).map_err(|e| self.told(e, &server))
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
        let hex =
            |text: String| Secret::new(text).digest().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
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
