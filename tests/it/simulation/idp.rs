//! A strict token server: it replaces refresh tokens, ends the family of one that is used twice, counts requests; and a
//! process's way to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokenbroker::clock::Clock;
use tokenbroker::oauth::file::{ClientAuth, Grant, Op};
use tokenbroker::oauth::inputs::Given;
use tokenbroker::oauth::manage::Item;
use tokenbroker::oauth::request::Inputs;
use tokenbroker::oauth::response::{Access, Answer};
use tokenbroker::oauth::{Class, Outcome, TokenError};
use tokenbroker::secret::Secret;
use tokenbroker::token::secrets::Secrets;
use tokenbroker::token::source::{Configured, Exchange, Prepared, Unmanaged, With};
use tokenbroker::units::Budget;

use super::plan::Scenario;
use super::wire::{Ask, Reply, Wire};
use super::world::{Inner, Who, World};

#[derive(Clone)]
pub struct TokenRequest {
    pub op: Op,
    pub refresh_token: Option<String>,
    pub purpose: String,
    pub secret: String,
    /// Which of [`Idp::calls`] it is.
    pub call: usize,
}

#[derive(Clone)]
pub enum TokenAnswer {
    Tokens {
        access: String,
        lifetime: Duration,
        refresh: Option<String>,
    },
    Refused,
    /// The client secret is none.
    Unknown,
    Busy(Duration),
    Broken,
}

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    Away,
    Slow,
    Broken,
    Busy,
    /// It does what it is asked for, and does not answer.
    Mute,
}

/// An exchange, from its sending on.
#[derive(Clone, Debug)]
pub struct Call {
    pub by: Who,
    /// When the process went about it, and when it sent it.
    pub began: Duration,
    pub sent: Duration,
    pub arrived: Option<Duration>,
    /// What came of it, and when the process had it in its hands.
    pub made: Option<String>,
    pub told: Option<Duration>,
    /// When the process gave up.
    pub gave_up: Option<Duration>,
    /// When the lease was asked for under which it was sent.
    pub granted: Option<Duration>,
}

/// An access token.
#[derive(Clone, Debug)]
pub struct Granted {
    /// By the clock of the server, and by that of the process that asked for it.
    pub ends: Duration,
    pub known: Duration,
    pub purpose: String,
    pub by: Who,
}

/// A refresh token.
#[derive(Clone, Debug)]
pub struct Issued {
    pub family: usize,
    /// By which call; `None` for one that a person got.
    pub by: Option<usize>,
    /// When it was used first, by which call, and what came of it.
    pub used: Option<(Duration, usize, String)>,
}

/// What comes of one login.
#[derive(Clone, Debug)]
pub struct Family {
    pub newest: String,
    pub dead: bool,
    /// Nobody knows the newest any more, and that cannot be held against anybody.
    pub lost: bool,
}

pub struct Idp {
    pub mood: Mood,
    leeway: Duration,
    lifetime: Duration,
    renews: bool,
    pub budget: Option<Budget>,
    pub families: Vec<Family>,
    pub refresh: BTreeMap<String, Issued>,
    pub access: BTreeMap<String, Granted>,
    pub calls: Vec<Call>,
    /// When requests came, for the budget.
    pub came: Vec<Duration>,
}

impl Idp {
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            mood: Mood::Well,
            leeway: scenario.leeway,
            lifetime: scenario.lifetime,
            renews: scenario.grant != Grant::ClientCredentials,
            budget: scenario.limit,
            families: Vec::new(),
            refresh: BTreeMap::new(),
            access: BTreeMap::new(),
            calls: Vec::new(),
            came: Vec::new(),
        }
    }

    /// A person logs in: the first refresh token of a family.
    pub fn login(&mut self, by: Option<usize>) -> String {
        let family = self.families.len();
        let token = format!("rt-{family}-0");
        self.families.push(Family { newest: token.clone(), dead: false, lost: false });
        self.refresh.insert(token.clone(), Issued { family, by, used: None });
        token
    }

    fn issue(&mut self, request: &TokenRequest, refresh: Option<String>, now: Duration) -> TokenAnswer {
        let access = format!("at-{}", self.access.len());
        let Call { by, began, .. } = self.calls[request.call];
        let (ends, known) = (now + self.lifetime, began + self.lifetime);
        let granted = Granted { ends, known, purpose: request.purpose.clone(), by };
        self.access.insert(access.clone(), granted);
        TokenAnswer::Tokens { access, lifetime: self.lifetime, refresh }
    }

    /// The refresh tokens that came of this one, the next first.
    pub fn after<'i>(&'i self, token: &str) -> impl Iterator<Item = &'i String> {
        let next = |token: &str| self.refresh.get(token)?.used.as_ref().map(|(_, _, next)| next);
        std::iter::successors(next(token), move |token| next(token))
    }

    /// Is it good, and who used it before?
    fn standing(&self, token: &str, now: Duration) -> Result<Option<String>, Option<usize>> {
        let issued = self.refresh.get(token).ok_or(None)?;
        if self.families[issued.family].dead {
            return Err(None);
        }
        let Some((at, by, next)) = &issued.used else { return Ok(None) };
        // The answer may have been lost: once more the same, if nothing came of it.
        let again = now < *at + self.leeway && self.refresh[next].used.is_none();
        if again { Ok(Some(next.clone())) } else { Err(Some(*by)) }
    }
}

impl Inner {
    fn token(&mut self, who: Who, request: &TokenRequest, now: Duration) -> TokenAnswer {
        self.idp.calls[request.call].arrived = Some(now);
        self.came(request.call, now);
        match self.idp.mood {
            Mood::Broken => return TokenAnswer::Broken,
            Mood::Busy => return TokenAnswer::Busy(Duration::from_secs(2)),
            _ => {}
        }
        if !self.vendor.accepts(&request.secret) {
            self.event(now, format_args!("idp: {who} is not known by {}", request.secret));
            self.count("client secret refused");
            return TokenAnswer::Unknown;
        }
        let Some(token) = request.refresh_token.clone().filter(|_| request.op == Op::Renew) else {
            if request.op == Op::Renew {
                return TokenAnswer::Refused;
            }
            let refresh = self.idp.renews.then(|| self.idp.login(Some(request.call)));
            self.idp.calls[request.call].made.clone_from(&refresh);
            let answer = self.idp.issue(request, refresh.clone(), now);
            self.event(now, format_args!("idp: {who} logs in: {}", refresh.unwrap_or_default()));
            return answer;
        };
        let next = match self.idp.standing(&token, now) {
            Ok(again) => again,
            Err(before) => {
                self.event(now, format_args!("idp: {who} is refused with {token}"));
                if let Some(before) = before {
                    self.twice(&token, before, request.call, now);
                    let family = self.idp.refresh[&token].family;
                    self.idp.families[family].dead = true;
                }
                return TokenAnswer::Refused;
            }
        };
        let repeated = next.is_some();
        let next = next.unwrap_or_else(|| {
            let family = self.idp.refresh[&token].family;
            let (_, number) = token.rsplit_once('-').unwrap();
            let next = format!("rt-{family}-{}", number.parse::<u32>().unwrap() + 1);
            self.idp.refresh.insert(next.clone(), Issued { family, by: Some(request.call), used: None });
            self.idp.families[family].newest.clone_from(&next);
            next
        });
        let issued = self.idp.refresh.get_mut(&token).unwrap();
        if !repeated {
            issued.used = Some((now, request.call, next.clone()));
        }
        if repeated {
            self.count("used again within the leeway");
        }
        self.event(now, format_args!("idp: {who} uses {token}, gets {next}"));
        self.idp.calls[request.call].made = Some(next.clone());
        self.idp.issue(request, Some(next), now)
    }
}

/// The software of the token server's host.
pub async fn answer(world: Arc<World>, who: Who, ask: Ask) -> Option<Reply> {
    let mood = world.lock().idp.mood;
    match (ask, mood) {
        (_, Mood::Away) => None,
        (Ask::Hello, _) => Some(Reply::Hello),
        (Ask::Token(request), _) => {
            let (before, behind) =
                if mood == Mood::Slow { (fastrand::u64(0..6000), fastrand::u64(0..6000)) } else { (0, 0) };
            tokio::time::sleep(Duration::from_millis(before)).await;
            let now = world.now();
            let answer = world.lock().token(who, &request, now);
            tokio::time::sleep(Duration::from_millis(behind)).await;
            (mood != Mood::Mute).then_some(Reply::Token(answer))
        }
        (Ask::Manage(asked), _) => {
            let late = if mood == Mood::Slow { fastrand::u64(0..6000) } else { 0 };
            tokio::time::sleep(Duration::from_millis(late)).await;
            let now = world.now();
            let answer = world.lock().manages(who, &asked, now);
            (mood != Mood::Mute).then_some(Reply::Managed(answer))
        }
        (Ask::Store(_), _) => None,
    }
}

/// A process's way to the token server.
pub struct Client {
    pub wire: Wire,
    pub grant: Grant,
    pub wait: Duration,
    pub clock: Clock,
    /// `None`: the client secret stays what it is.
    pub secrets: Option<Arc<Secrets>>,
}

impl Client {
    fn settings(&self) -> (Option<String>, String, u64) {
        let inner = self.wire.world.lock();
        let replica = &inner.replicas[self.wire.who.replica];
        (replica.seed.clone(), replica.purpose.clone(), replica.stamp)
    }

    /// The answer has reached the process.
    fn told(&self, call: usize, answer: Option<&TokenAnswer>) {
        let (world, who) = (&self.wire.world, self.wire.who);
        let now = world.now();
        let mut inner = world.lock();
        match answer {
            Some(answer) => {
                inner.idp.calls[call].told = Some(now);
                if let TokenAnswer::Tokens { access, refresh, .. } = answer {
                    inner.learns(who, &refresh.iter().cloned().collect(), now);
                    inner.count("exchange");
                    inner.event(now, format_args!("{who} has {access} {}", refresh.as_deref().unwrap_or_default()));
                }
            }
            None => {
                inner.idp.calls[call].gave_up = Some(now);
                inner.count("answer of the token server lost");
                inner.event(now, format_args!("{who} waits no longer"));
            }
        }
    }
}

fn error(class: Class, outcome: Outcome) -> TokenError {
    TokenError::new(class, "simulated", "none").of(outcome)
}

impl Exchange for Client {
    async fn seed(&self) -> Result<Option<Secret>, TokenError> {
        Ok(self.settings().0.map(Secret::new))
    }

    async fn prepare(&self, _: Op, secret: usize) -> Result<Prepared, TokenError> {
        let (client_secret, secret, secrets, rotated) = self.secret(secret);
        let client_secret = Some(client_secret);
        let inputs = Inputs {
            client_id: Some("c".to_owned()),
            client_secret: client_secret.clone(),
            username: Some("u".to_owned()),
            password: (self.grant == Grant::Password).then(|| Secret::new("p".to_owned())),
            ..Inputs::new(self.grant, ClientAuth::ClientSecretBasic)
        };
        Ok(Prepared { inputs, access_token: None, secret, secrets, rotated, proof: client_secret })
    }

    async fn exchange(&self, op: Op, prepared: &Prepared) -> Result<Answer, TokenError> {
        let (world, who) = (&self.wire.world, self.wire.who);
        let began = world.now();
        if self.wire.ask("idp", Ask::Hello, self.wait).await.is_none() {
            world.count("token server not reached");
            return Err(error(Class::Transient, Outcome::NotSent));
        }
        let refresh_token = prepared.inputs.refresh_token.as_ref().map(|token| token.expose().to_owned());
        let purpose = self.settings().1;
        let now = world.now();
        let call = world.lock().sends(who, op, refresh_token.as_deref(), (began, now));
        let secret = prepared.inputs.client_secret.as_ref().map_or("", |secret| secret.expose()).to_owned();
        let request = TokenRequest { op, refresh_token, purpose, secret, call };
        let reply = self.wire.ask("idp", Ask::Token(request), self.wait).await;
        let Some(Reply::Token(answer)) = reply else {
            self.told(call, None);
            return Err(error(Class::Transient, Outcome::Lost));
        };
        self.told(call, Some(&answer));
        match answer {
            TokenAnswer::Tokens { access, lifetime, refresh } => Ok(Answer {
                access: Ok(Access { token: Secret::new(access), lifetime: Some(lifetime), warning: None }),
                refresh_token: refresh.map(Secret::new),
                refresh_lifetime: None,
            }),
            TokenAnswer::Refused => Err(error(Class::GrantRejected, Outcome::Refused)),
            TokenAnswer::Unknown => Err(error(Class::ClientRejected, Outcome::Refused)),
            TokenAnswer::Broken => Err(error(Class::Transient, Outcome::NotJudged)),
            TokenAnswer::Busy(wait) => {
                let mut busy = error(Class::RateLimited, Outcome::NotJudged);
                busy.retry_after = Some(wait);
                Err(busy)
            }
        }
    }

    async fn configured(&self) -> Result<Configured, TokenError> {
        Ok(Self::configured_secret())
    }

    async fn manage(
        &self,
        what: &str,
        access: &Secret,
        values: Vec<(&'static str, Given)>,
    ) -> Result<Vec<Item>, Unmanaged> {
        self.asked(what, access, values).await
    }

    fn stamp(&self) -> u64 {
        self.settings().2
    }

    fn with(&self) -> With {
        let (seed, purpose, _) = self.settings();
        With { account: "0123456789abcdef".to_owned(), purpose, inputs: seed.unwrap_or_default() }
    }
}

/// The access token in a record.
pub fn access_token(plain: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(plain);
    text.split_once("\"at-").map(|(_, rest)| format!("at-{}", rest.split('"').next().unwrap()))
}
