//! The operator's listener: probes, metrics, status, and the few things that can be done.
//!
//! It shows states, times and fingerprints, never a token or a secret. Whatever changes something needs a POST with the
//! admin key. Liveness depends on nothing.

mod api;
mod body;
mod clients;
mod curl;
mod dashboard;
pub mod key;
mod live;
mod logins;
mod probes;
mod secrets;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::body::Unread;
pub use self::curl::quoted;
pub use self::live::Live;
pub use self::probes::Probes;
use crate::clock::Now;
use crate::config::{Listen, Token};
use crate::door;
use crate::expiry::{Expiring, Kind};
use crate::http1::{After, Answers, Client, Request};
use crate::oauth::TokenError;
use crate::oauth::manage::Item;
use crate::problem::{Problem, REQUEST_ID, RequestId};
use crate::secret::Secret;
use crate::store::Stores;
use crate::telemetry::inspected::Exchanges;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::token::cache::{Slot, Snapshot};
use crate::token::clients::Clients;
use crate::token::refresh::{Code, LoggedOut};
use crate::token::secrets::Secrets;

type Answer = Response<Bytes>;

const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What the operator's listener shows.
pub struct Admin {
    /// Of this start; `None` where there was no private place to keep it, and then nothing can be done.
    pub key: Option<Secret>,
    pub port: Option<u16>,
    pub now: Box<dyn Fn() -> Now + Send + Sync>,
    pub started_at: jiff::Timestamp,
    pub metrics: Arc<Metrics>,
    /// `None`: it is in memory.
    pub stores: Option<Stores>,
    /// Who carries out what is asked for.
    pub orders: mpsc::Sender<Order>,
    /// Of the configuration in force.
    pub shown: ArcSwap<Shown>,
    /// The last ones, as the inspector shows them; `None`: it is off.
    pub exchanges: Option<Arc<Exchanges>>,
    /// The pages that look.
    pub live: Live,
    /// Cancelled once a drain has begun: not ready any more.
    pub draining: CancellationToken,
}

/// What the configuration in force makes.
pub struct Shown {
    /// The configuration.
    pub file: PathBuf,
    pub loaded_at: jiff::Timestamp,
    /// Why what is on the disk is not what is in force.
    pub error: Option<String>,
    pub tokens: Vec<TokenView>,
    pub routes: Vec<RouteView>,
    /// What ends, as far as the configuration tells.
    pub expiring: Vec<Expiring>,
}

impl Shown {
    /// Everything that ends unless somebody acts, the soonest first.
    pub fn expiring(&self) -> Vec<Expiring> {
        let rotated = |table: &str| {
            let name = table.strip_prefix("token.");
            self.tokens.iter().any(|t| Some(&*t.config.name) == name && t.secrets.expires().is_some())
        };
        // What the configuration says of a secret does not hold for the one that took its place.
        let mut all = self.expiring.clone();
        all.retain(|one| one.kind != Kind::Secret || !rotated(&one.table));
        all.extend(self.tokens.iter().filter_map(TokenView::secret_ends));
        all.extend(self.tokens.iter().filter_map(TokenView::refresh_ends));
        all.sort_by_key(|one| one.when);
        all
    }
}

/// Something that changes the running broker. The answer goes to whoever asked, if anybody waits for it.
pub enum Order {
    /// `Err` has the reasons why what was running goes on.
    Reload(Option<oneshot::Sender<Result<(), Vec<String>>>>),
    /// Forget the records of that name, such as `token.api`: those that there were, or why it cannot be done.
    Forget(String, oneshot::Sender<Result<Vec<String>, String>>),
    /// Exchange the code of a login for that token. `None`: there is no such token.
    Login(String, Code, oneshot::Sender<Option<Result<(), TokenError>>>),
    /// Give up that token, and have the vendor end it. `None`: there is no such token.
    Logout(String, oneshot::Sender<Option<Result<LoggedOut, TokenError>>>),
    /// Ask the vendor of that token to list, register or delete client applications. `None`: there is no such token.
    Clients(String, String, Box<Clients>, oneshot::Sender<Option<Result<Vec<Item>, String>>>),
}

/// A token, as the operator sees it.
#[derive(Clone)]
pub struct TokenView {
    pub config: Arc<Token>,
    pub slot: Arc<Slot>,
    pub secrets: Arc<Secrets>,
}

impl TokenView {
    /// Can requests be served? A token that is obtained on demand is not yet there, and that is as it should be.
    pub fn ready(&self, now: Now) -> bool {
        let snapshot = self.slot.snapshot();
        snapshot.usable(now) || (!self.config.eager && snapshot.finished == 0)
    }

    /// When the client secret in use ends.
    fn secret_expires(&self, snapshot: &Snapshot) -> Option<jiff::Timestamp> {
        let configured = || self.config.secret_expires.get(snapshot.secrets.0).copied();
        self.secrets.expires().unwrap_or_else(configured)
    }

    /// The end of a client secret that a rotation brought.
    fn secret_ends(&self) -> Option<Expiring> {
        let end = self.secrets.expires()??;
        let which = self.secrets.progress().in_use.clone().unwrap_or_default();
        let table = format!("token.{}", self.config.name);
        Some(Expiring::new(Kind::Secret, &table, "the client secret", which, end))
    }

    fn refresh_ends(&self) -> Option<Expiring> {
        let snapshot = self.slot.snapshot();
        let end = snapshot.refresh_expires_at.filter(|_| snapshot.refresh_ends)?;
        let table = format!("token.{}", self.config.name);
        Some(Expiring::new(Kind::RefreshToken, &table, "the refresh token", String::new(), end))
    }
}

/// A route, as the operator sees it.
pub struct RouteView {
    pub name: String,
    pub listen: Vec<Listen>,
    pub upstream: String,
    pub token: Option<String>,
    pub metrics: Arc<RouteMetrics>,
}

/// Answers the requests of the operator's listener.
pub struct Operator {
    pub admin: Arc<Admin>,
    wrong_keys: key::WrongKeys,
}

impl Operator {
    pub fn new(admin: Arc<Admin>) -> Self {
        Self { admin, wrong_keys: key::WrongKeys::default() }
    }
}

impl Answers for Operator {
    async fn answer(&self, client: &mut Client, mut request: Request) -> After {
        let id = |request: &Request| RequestId::new(request.fields.get(REQUEST_ID));
        if live::is_asked_for(&request) {
            match self.admin.admit(&request).and_then(|()| self.admin.live.join()) {
                Ok(place) => return live::stream(&self.admin, client, &request, place).await,
                Err(problem) => {
                    let answer = dashboard::guarded(problem.response(&id(&request)));
                    return client.respond(request, answer).await;
                }
            }
        }
        let answer = self.admin.answer(client, &mut request).await;
        let answer = dashboard::guarded(answer.unwrap_or_else(|problem| problem.response(&id(&request))));
        if answer.status() == StatusCode::UNAUTHORIZED {
            tokio::time::sleep(self.wrong_keys.count((self.admin.now)().boot)).await;
        }
        client.respond(request, answer).await
    }
}

impl Admin {
    async fn answer(&self, client: &mut Client, request: &mut Request) -> Result<Answer, Problem> {
        self.admit(request)?;
        let path = request.path().to_owned();
        let reads = request.method == Method::GET || request.method == Method::HEAD;
        match (path.as_str(), api::post(&path)) {
            (_, Some(asked)) if request.method == Method::POST => {
                self.authorize(request)?;
                self.act(asked, Unread { client, request }).await
            }
            (_, Some(_)) => Err(method_refused("POST")),
            ("/livez", _) if reads => Ok(plain(StatusCode::OK, "ok\n".into())),
            ("/readyz" | "/healthz", _) if reads => Ok(self.readiness(request.query())),
            ("/metrics", _) if reads => Ok(self.scrape(request.fields.text("accept"))),
            ("/api/status", _) if reads => Ok(json(StatusCode::OK, &self.status())),
            ("/api/requests", _) if reads => Ok(json(StatusCode::OK, &self.requests())),
            ("/api/events", _) => Err(method_refused("GET")),
            ("/livez" | "/readyz" | "/healthz" | "/metrics" | "/api/status" | "/api/requests", _) => {
                Err(method_refused("GET, HEAD"))
            }
            (path, _) => match dashboard::file(path) {
                Some(page) if reads => Ok(page),
                Some(_) => Err(method_refused("GET, HEAD")),
                None => Err(nothing_here()),
            },
        }
    }

    /// The same door as a route's, and nothing that came through another proxy.
    fn admit(&self, head: &Request) -> Result<(), Problem> {
        let host = door::host(head)?;
        let names = LOCAL_HOSTS.map(str::to_owned);
        if host.as_ref().is_some_and(|host| !door::is_ours(host, &names, self.port)) {
            return Err(door::host_refused());
        }
        door::origin(&head.fields, "http", host.as_ref(), &[])?;
        if head.fields.iter().any(|(name, _)| crate::fields::is_forwarding(name) || name == b"via") {
            let detail = "what came through another proxy is refused here: ask this listener directly";
            return Err(Problem { close: true, ..Problem::new(StatusCode::FORBIDDEN, "client_refused", detail) });
        }
        Ok(())
    }

    /// Security: compared in constant time; the key is taken from `Authorization` alone.
    fn authorize(&self, head: &Request) -> Result<(), Problem> {
        let sent = head.fields.text("authorization");
        let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).map(|key| Secret::new(key.to_owned()));
        match (&self.key, sent) {
            (Some(key), Some(sent)) if *key == sent => Ok(()),
            _ => {
                let detail = "this needs the admin key: Authorization: Bearer KEY; the log says where it is kept";
                Err(Problem::new(StatusCode::UNAUTHORIZED, "admin_key_required", detail))
            }
        }
    }
}

fn method_refused(allow: &str) -> Problem {
    let detail = "this path does not take this method: see Allow";
    let allow = Some(allow.to_owned());
    Problem { allow, ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_refused", detail) }
}

fn nothing_here() -> Problem {
    let detail = "nothing is served under this path; see / (the dashboard), /api/status, /metrics, /livez and /readyz";
    Problem::new(StatusCode::NOT_FOUND, "no_route", detail)
}

fn plain(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Answer {
    answer(status, "application/json", format!("{body:#}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
