//! `/api/…`: status as JSON, and what an operator can ask for.

use std::path::Path;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::body::Unread;
use super::clients::VERBS;
use super::{Admin, Answer, Order, RouteView, TokenView, curl, nothing_here, secrets};
use crate::clock::{Now, rfc3339};
use crate::expiry::Expiring;
use crate::oauth::Class;
use crate::oauth::file::Grant;
use crate::problem::Problem;
use crate::secret::source::SecretSource;
use crate::telemetry::metrics::{LATENCIES_MS, Origin};
use crate::token::cache::State;
use crate::token::secrets::Verb;

/// What a POST asks for.
pub(super) enum Asked<'p> {
    /// `/api/reload`
    Reload,
    /// `/api/tokens/NAME/refresh`
    Refresh(&'p str),
    /// `/api/store/NAME/forget`
    Forget(&'p str),
    /// `/api/login/NAME`
    Login(&'p str),
    /// `/api/clients/NAME/list`, and so on
    Clients(&'p str, &'p str),
    /// `/api/secrets/NAME/rotate`, and so on
    Secrets(&'p str, Option<Verb>),
    /// `/api/tokens/NAME/revoke`
    Revoke(&'p str),
    /// `/api/tokens/NAME/access_token`
    AccessToken(&'p str),
}

/// `None` for a path that takes no POST.
pub(super) fn post(path: &str) -> Option<Asked<'_>> {
    let (table, rest) = path.strip_prefix("/api/")?.split_once('/').unwrap_or(("", &path[5..]));
    let (name, verb) = rest.split_once('/').unwrap_or(("", rest));
    match (table, name, verb) {
        ("login", "", name) if !name.is_empty() => Some(Asked::Login(name)),
        ("", "", "reload") => Some(Asked::Reload),
        ("tokens", name, "refresh") if !name.is_empty() => Some(Asked::Refresh(name)),
        ("clients", name, verb) if !name.is_empty() && VERBS.contains(&verb) => Some(Asked::Clients(name, verb)),
        ("secrets", name, verb) if !name.is_empty() => Some(Asked::Secrets(name, secrets::verb(verb)?)),
        ("tokens", name, "revoke") if !name.is_empty() => Some(Asked::Revoke(name)),
        ("tokens", name, "access_token") if !name.is_empty() => Some(Asked::AccessToken(name)),
        ("store", name, "forget") if !name.is_empty() => Some(Asked::Forget(name)),
        _ => None,
    }
}

impl Admin {
    pub(super) fn status(&self) -> Value {
        let (now, shown) = ((self.now)(), self.shown.load());
        let token = |token: &TokenView| {
            let mut status = token_status(token, now);
            status["login"] = login(&shown.file, token, now).into();
            (token.config.name.clone(), status)
        };
        let tokens: Map<_, _> = shown.tokens.iter().map(token).collect();
        let routes: Map<_, _> = shown.routes.iter().map(|route| (route.name.clone(), route_status(route))).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": rfc3339(self.started_at),
            "now": rfc3339(now.wall),
            "inspector": self.exchanges.is_some(),
            "config": {
                "file": shown.file.to_string_lossy(),
                "loaded_at": rfc3339(shown.loaded_at),
                "error": shown.error,
            },
            "store": self.store_status(),
            "tokens": tokens,
            "routes": routes,
            "latencies_ms": LATENCIES_MS,
            "expiring": shown.expiring().iter().map(|one| expiring(one, now)).collect::<Vec<_>>(),
        })
    }

    fn store_status(&self) -> Value {
        let kind = self.stores.as_ref().map(|stores| if stores.main.is_shared() { "redis" } else { "file" });
        let error = self.stores.as_ref().and_then(|stores| stores.main.trouble());
        json!({ "kind": kind.unwrap_or("memory"), "error": error })
    }

    pub(super) async fn act(&self, asked: Asked<'_>, body: Unread<'_>) -> Result<Answer, Problem> {
        match asked {
            Asked::Login(name) => self.login(name, body).await,
            Asked::Clients(name, verb) => self.clients(name, verb, body).await,
            Asked::Secrets(name, verb) => self.secrets(name, verb, body).await,
            Asked::Revoke(name) => self.logout(name).await,
            Asked::AccessToken(name) => self.access_token(name).await,
            Asked::Refresh(name) => self.refresh(name).await,
            Asked::Reload => {
                let done = self.order(|reply| Order::Reload(Some(reply))).await?;
                let refused = |lines: Vec<String>| {
                    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "config_refused", lines.join("\n"))
                };
                done.map_err(refused)?;
                Ok(super::json(StatusCode::OK, &json!({ "reloaded": true })))
            }
            Asked::Forget(name) => {
                let done = self.order(|reply| Order::Forget(name.to_owned(), reply)).await?;
                let forgotten =
                    done.map_err(|text| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", text))?;
                if forgotten.is_empty() {
                    return Err(Problem::new(
                        StatusCode::NOT_FOUND,
                        "no_record",
                        "there is no such record in the store",
                    ));
                }
                Ok(super::json(StatusCode::OK, &json!({ "forgotten": forgotten })))
            }
        }
    }

    /// Has it carried out, after what was asked for before.
    pub(super) async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Problem> {
        let not_now = |code, detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        let ending = || not_now("draining", "the broker is about to end");
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(order(reply)).map_err(|error| match error {
            TrySendError::Full(_) => not_now("busy", "what was asked for before is not done yet: ask again later"),
            TrySendError::Closed(_) => ending(),
        })?;
        answer.await.map_err(|_| ending())
    }

    /// An exchange now, whatever is planned; even a refused password is tried again, because a person asked.
    pub(super) async fn refresh(&self, name: &str) -> Result<Answer, Problem> {
        let shown = self.shown.load_full();
        let token = shown.tokens.iter().find(|token| token.config.name == name).ok_or_else(nothing_here)?;
        let snapshot = token.slot.refresh(token.config.row_max()).await;
        let failed = snapshot.exchanging || snapshot.error.is_some();
        let status = if failed { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        Ok(super::json(status, &token_status(token, (self.now)())))
    }
}

pub(super) fn token_status(token: &TokenView, now: Now) -> Value {
    let snapshot = token.slot.snapshot();
    let current = snapshot.token.as_ref();
    let error = snapshot.error.as_ref();
    json!({
        "state": snapshot.state(now).as_str(),
        "class": error.map(|error| error.class.as_str()),
        "dialect": token.config.dialect.name,
        "fingerprint": current.map(|token| token.fingerprint.to_string()),
        "obtained_at": current.map(|token| rfc3339(token.obtained_at)),
        "expires_at": current.and_then(|token| token.expires).map(|expires| rfc3339(expires.wall)),
        "refreshes_at": snapshot.refreshes_at.map(rfc3339),
        "refresh_expires_at": snapshot.refresh_expires_at.map(rfc3339),
        "secret_expires_at": token.secret_expires(&snapshot).map(rfc3339),
        "certificate_expires_at": token.config.identity.as_ref().map(|(_, leaf)| rfc3339(leaf.not_after)),
        "last_error": error.map(std::string::ToString::to_string),
        "attempts": snapshot.attempts,
        "exchanging": snapshot.exchanging,
        "client_secrets": client_secrets(token, snapshot.secrets),
        "rotation": *token.secrets.progress(),
    })
}

/// The command by which a person brings a token that waits for one.
fn login(file: &Path, token: &TokenView, now: Now) -> Option<String> {
    let waits = token.slot.snapshot().state(now) == State::NeedsLogin;
    let name = token.config.name.as_str();
    let command = || ["tokenbroker", "-c", &file.to_string_lossy(), "login", name].map(curl::quoted).join(" ");
    let named = !file.as_os_str().is_empty();
    (waits && named && token.config.grant == Grant::AuthorizationCode).then(command)
}

fn expiring(one: &Expiring, now: Now) -> Value {
    json!({
        "table": one.table,
        "what": one.what,
        "which": one.which,
        "expires_at": rfc3339(one.when),
        "days_left": one.days_left(now.wall),
        "said": one.said(now.wall),
        "fix": one.fix,
    })
}

/// Where each is read from, which is used, and why each was last refused.
fn client_secrets(token: &TokenView, (used, refused): (usize, [Option<Class>; 2])) -> Value {
    let sources = token.config.client_secrets.iter().zip(refused).enumerate();
    let rotated = token.secrets.expires().is_some();
    let one = |(index, (source, refused)): (usize, (&SecretSource, Option<Class>))| {
        let in_use = !rotated && index == used;
        json!({ "source": source.described(), "in_use": in_use, "refused": refused.map(Class::as_str) })
    };
    sources.map(one).collect()
}

fn route_status(route: &RouteView) -> Value {
    let (requests, errors) = route.metrics.totals();
    let answers = |origin| route.metrics.answers(origin);
    json!({
        "listen": route.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "upstream": route.upstream,
        "token": route.token,
        "requests": requests,
        "errors": errors,
        "answers": { "upstream": answers(Origin::Upstream), "broker": answers(Origin::Broker) },
        "latencies": route.metrics.latencies(),
    })
}
