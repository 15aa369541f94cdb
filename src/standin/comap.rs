//! ComAp Cloud Identity: a gateway that wants a subscription key, behind it Entra ID with its AADSTS numbers. The vendor's page
//! has the expired secret, the list, and how secrets are made and deleted; the rest was found in its API description and in
//! clients, or is what the gateway and Entra ID are known to answer.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};

use super::budget::Budget;
use super::demo::Vendor;
use super::echo::Echo;
use super::entra;
use super::http::Handler;
use super::issuer::Issuer;
use super::message::{Call, Reply, exactly};
use super::mint;
use super::quirk::Quirk;
use super::slots::{self, Slot, Slots};
use super::state::State;

/// An application may have so many.
const SECRETS_MAX: usize = 2;
/// Two years.
const LIFE_MAX: Duration = Duration::from_secs(730 * 24 * 3600);

/// The identity service, with one user who has one application: `CLIENT_ID` / `SECRET`.
pub struct Comap {
    state: State,
    /// Those of people who are logged in; the management operations want one.
    pub users: Issuer,
    pub budget: Budget,
    /// The secrets of the application.
    pub secrets: Slots,
    /// Its id, if there is one.
    client_id: Mutex<Option<String>>,
    /// With [`Quirk::Replicas`]: after so long a new secret works on the first, second, … replica. Connections take turns.
    pub replicas: Mutex<Vec<Duration>>,
}

impl Deref for Comap {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Comap {
    pub const CLIENT_ID: &str = "dcb9c508-0cf2-4fe8-a238-319fc558e61d";
    pub const SECRET: &str = "2M7~first-secret-of-the-application";
    pub const KEY: &str = "0123456789abcdef0123456789abcdef";

    pub fn new(issuer: Arc<Issuer>) -> Self {
        let clock = issuer.clock().clone();
        Self {
            users: Issuer::new(clock.clone(), Duration::from_secs(3600)),
            budget: Budget::new(5, Duration::from_secs(300)),
            secrets: Slots::new(Self::SECRET, clock.now().wall),
            client_id: Mutex::new(Some(Self::CLIENT_ID.to_owned())),
            replicas: Mutex::new([0, 4, 12].map(Duration::from_secs).to_vec()),
            state: State::new(issuer),
        }
    }

    /// The id of the application.
    pub fn client_id(&self) -> Option<String> {
        self.client_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_client_id(&self, id: Option<String>) {
        *self.client_id.lock().unwrap_or_else(PoisonError::into_inner) = id;
        self.secrets.lock().clear();
    }

    /// The gateway lets nobody in without a key.
    fn check_key(&self, call: &Call) -> Result<(), Reply> {
        let query = call.query();
        let key = call.header("comap-key").or(query.get("comap-key"));
        let text = match key {
            Some(Self::KEY) if !self.faults.has(Quirk::KeyRefused) => return Ok(()),
            Some(_) => {
                "Access denied due to invalid subscription key. \
                 Make sure to provide a valid key for an active subscription."
            }
            None => {
                "Access denied due to missing subscription key. \
                 Make sure to include subscription key when making requests to an API."
            }
        };
        let scheme =
            "AzureApiManagementKey realm=\"https://api.websupervisor.net/identity\",name=\"Comap-Key\",type=\"header\"";
        Err(gateway(StatusCode::UNAUTHORIZED, text).with(WWW_AUTHENTICATE, scheme))
    }

    fn check_budget(&self) -> Result<(), Reply> {
        self.budget.take(self.issuer.clock().now()).map_err(|wait| {
            let seconds = wait.as_secs_f64().ceil();
            let text = format!("Rate limit is exceeded. Try again in {seconds} seconds.");
            let reply = gateway(StatusCode::TOO_MANY_REQUESTS, &text);
            if self.faults.has(Quirk::NoRetryAfter) { reply } else { reply.with(RETRY_AFTER, &seconds.to_string()) }
        })
    }

    fn authenticate(&self, call: &Call) -> Result<Reply, Reply> {
        self.check_budget()?;
        let body = call.json().unwrap_or_default();
        let [client_id, secret] = exactly(&body, ["clientId", "secret"]).ok_or_else(unable)?;
        let now = self.now();
        if self.client_id().as_deref() != Some(client_id) {
            let text = format!("Application with identifier '{client_id}' was not found in the directory 'ComAp'.");
            return Err(entra::refusal(StatusCode::BAD_REQUEST, "unauthorized_client", 700_016, &text, now));
        }
        match self.secrets.find(secret) {
            Some(_) if self.faults.has(Quirk::Malformed) => Err(entra::malformed(client_id, now)),
            Some(slot) if slot.has_expired(now) || self.faults.has(Quirk::SecretExpired) => {
                let text = entra::expired(client_id);
                Err(entra::refusal(StatusCode::UNAUTHORIZED, "invalid_client", entra::EXPIRED, &text, now))
            }
            Some(slot) if self.is_known_here(&slot, call.connection) => Ok(self.token(client_id)),
            _ => {
                let text = format!(
                    "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                     value, not the client secret ID, for a secret added to app '{client_id}'."
                );
                Err(entra::refusal(StatusCode::UNAUTHORIZED, "invalid_client", 7_000_215, &text, now))
            }
        }
    }

    /// Has the secret come to the replica that this connection leads to?
    fn is_known_here(&self, slot: &Slot, connection: usize) -> bool {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = replicas.get(connection % replicas.len().max(1)).copied().unwrap_or_default();
        !self.faults.has(Quirk::Replicas) || slot.age(self.now()) >= delay
    }

    /// The JWT is dated back by five minutes, and `expires_in` is a second less than what is left of it.
    fn token(&self, client_id: &str) -> Reply {
        let (now, lifetime) = (self.now().as_second(), self.issuer.lifetime());
        let expires = now.saturating_add_unsigned(lifetime.as_secs());
        let claims = json!({
            "aud": "4c6d1a3e-6bd2-4d4b-9c0e-7a8f5e2b1d90",
            "iss": "https://login.microsoftonline.com/6b1f9f0e-2f5c-4d3a-8e0b-1c2d3e4f5a6b/v2.0",
            "iat": now - 300, "nbf": now - 300, "exp": expires,
            "azp": client_id, "azpacr": "1", "uti": mint::hex(22), "ver": "2.0",
        });
        let token = mint::jwt(&claims);
        self.issuer.issue(&token, lifetime, None);
        let seconds = lifetime.as_secs().saturating_sub(1);
        Reply::json(
            StatusCode::OK,
            json!({
                "token_type": "Bearer",
                "expires_in": seconds,
                "ext_expires_in": seconds,
                "access_token": token,
            }),
        )
    }

    fn list(&self) -> Result<Reply, Reply> {
        let client_id = self.client_id().ok_or_else(|| refusal(StatusCode::NOT_FOUND))?;
        let old = self.faults.has(Quirk::OldNames);
        let slots = self.secrets.lock();
        let secrets: Vec<_> = slots.iter().map(|slot| listed(slot, old)).collect();
        let body = json!({ (if old { "client_id" } else { "clientId" }): client_id, "secrets": secrets });
        Ok(Reply::json(StatusCode::OK, body).with(CONTENT_TYPE, "application/json; charset=utf-8"))
    }

    /// The `secret` of a management request, which must be about the application.
    fn asked(&self, call: &Call) -> Result<Map<String, Value>, Reply> {
        let body = call.json().unwrap_or_default();
        let client_id = body.get("clientId").and_then(Value::as_str);
        let ours = client_id.is_some() && client_id == self.client_id().as_deref();
        body.get("secret").and_then(Value::as_object).filter(|_| ours).cloned().ok_or_else(unable)
    }

    fn create(&self, call: &Call) -> Result<Reply, Reply> {
        let asked = self.asked(call)?;
        let text = |name, default| match asked.get(name) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(unable),
        };
        let life = slots::life(text("duration", "2y")?).filter(|life| *life <= LIFE_MAX).ok_or_else(unable)?;
        let now = self.now();
        let slot = Slot::new(text("displayName", "")?, now, now.saturating_add(life).ok());
        let mut slots = self.secrets.lock();
        if slots.len() >= SECRETS_MAX {
            return Err(unable());
        }
        slots.push(slot.clone());
        let ends = if self.faults.has(Quirk::EndsNow) { Some(now) } else { slot.ends };
        let body = json!({
            "displayName": slot.name,
            "endDateTime": ends.map(|ends| format!("{ends:.7}")),
            "hint": slot.hint(),
            "secret": slot.value,
            "secretId": slot.id,
        });
        let status = if self.faults.has(Quirk::Created) { StatusCode::CREATED } else { StatusCode::OK };
        Ok(Reply::json(status, body))
    }

    fn delete(&self, call: &Call) -> Result<Reply, Reply> {
        let asked = self.asked(call)?;
        let id = asked.get("secretId").and_then(Value::as_str).ok_or_else(unable)?;
        let mut slots = self.secrets.lock();
        let at = slots.iter().position(|slot| slot.id == id).ok_or_else(unable)?;
        slots.remove(at);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }

    fn register(&self) -> Result<Reply, Reply> {
        if self.client_id().is_some() {
            return Err(unable());
        }
        let id = mint::uuid();
        self.set_client_id(Some(id.clone()));
        Ok(Reply::json(StatusCode::CREATED, json!({ "client_id": id })))
    }

    fn unregister(&self) -> Result<Reply, Reply> {
        self.client_id().ok_or_else(|| refusal(StatusCode::NOT_FOUND))?;
        self.set_client_id(None);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }
}

impl Handler for Comap {
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        self.check_key(call)?;
        let operation = (call.method.as_str(), call.uri.path().strip_prefix("/identity/application"));
        if operation == ("POST", Some("/authenticate")) {
            return self.authenticate(call);
        }
        let known = matches!(operation, ("GET" | "POST" | "DELETE", Some("")))
            || matches!(operation, ("POST", Some("/createSecret" | "/deleteSecret")));
        if !known {
            return Err(gateway(StatusCode::NOT_FOUND, "Resource not found"));
        }
        check_token(&self.users, call)?;
        match operation {
            ("GET", _) => self.list(),
            ("DELETE", _) => self.unregister(),
            (_, Some("/createSecret")) => self.create(call),
            (_, Some("/deleteSecret")) => self.delete(call),
            _ => self.register(),
        }
    }
}

fn check_token(issuer: &Issuer, call: &Call) -> Result<(), Reply> {
    let good = call.bearer().is_some_and(|token| issuer.is_good(token));
    let refusal = || gateway(StatusCode::UNAUTHORIZED, "Unauthorized. Access token is missing or invalid.");
    if good { Ok(()) } else { Err(refusal()) }
}

/// What the gateway itself says.
fn gateway(status: StatusCode, text: &str) -> Reply {
    Reply::json(status, json!({ "statusCode": status.as_u16(), "message": text }))
}

/// What the service says of everything that it cannot do.
fn refusal(status: StatusCode) -> Reply {
    Reply::json(status, json!({ "errorMessage": "Unable to perform requested operation" }))
}

fn unable() -> Reply {
    refusal(StatusCode::BAD_REQUEST)
}

/// Timestamps come with three and with seven digits.
fn listed(slot: &Slot, old: bool) -> Value {
    json!({
        "customKeyIdentifier": null,
        "displayName": slot.name,
        "endDateTime": slot.ends.map(|ends| format!("{ends:.3}")),
        "hint": slot.hint(),
        (if old { "secretId" } else { "keyId" }): slot.id,
        "secretText": null,
        "startDateTime": format!("{:.7}", slot.starts),
    })
}

impl Vendor for Comap {
    const NAME: &str = "comap";
    const ABOUT: &str =
        "ComAp Cloud Identity (client id and secret as JSON, a subscription key, 5 tokens in 5 minutes)";

    fn files(&self) -> Vec<(&'static str, String)> {
        vec![("comap_secret", Self::SECRET.into()), ("comap_key", Self::KEY.into())]
    }

    fn config(&self, auth: &str, api: &str) -> String {
        format!(
            r#"# ComAp Cloud Identity: the dialect sends the subscription key with each call, too.
[token.comap]
dialect = "comap"
base_url = "{auth}"
client_id = "{id}"
client_secret = {{ file = "comap_secret" }}
headers = {{ Comap-Key = {{ file = "comap_key" }} }}

[route.comap]
listen = "127.0.0.1:0"
upstream = "{api}"
"#,
            id = Self::CLIENT_ID,
        )
    }

    fn api(self: &Arc<Self>) -> Echo {
        let this = Arc::clone(self);
        Echo::behind(&self.issuer, move |issuer, call| {
            this.check_key(call)?;
            check_token(issuer, call)
        })
    }
}
