//! Vanco's Identity Service with its Key Rotation API. Its page has the paths and both error shapes; the token endpoint is
//! assumed to be that of its likely framework, OpenIddict.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::demo::Vendor;
use super::echo::Echo;
use super::http::Handler;
use super::issuer::Issuer;
use super::message::{Call, Reply};
use super::mint;
use super::quirk::Quirk;
use super::slots::{Slot, Slots};
use super::state::State;

const SCOPES: &[&str] = &["email", "phone", "profile"];

/// With [`Quirk::SlowDeath`].
const DEATH: Duration = Duration::from_secs(5);

/// The service: the tenant `acme` with two applications, one that is let in at the API, one that manages both.
pub struct Vanco {
    state: State,
    /// The tokens of the application that manages.
    pub admins: Issuer,
    /// The secrets of the other one.
    pub secrets: Slots,
}

impl Deref for Vanco {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Vanco {
    pub const TENANT: &str = "acme";
    pub const CLIENT_ID: &str = "acme-app";
    pub const SECRET: &str = "first-secret-of-the-application";
    pub const ADMIN_ID: &str = "acme-admin";
    pub const ADMIN_SECRET: &str = "secret-of-the-one-that-manages";

    pub fn new(issuer: Arc<Issuer>) -> Self {
        let clock = issuer.clock().clone();
        Self {
            admins: Issuer::new(clock.clone(), issuer.lifetime()),
            secrets: Slots::new(Self::SECRET, clock.now().wall),
            state: State::new(issuer),
        }
    }

    fn token(&self, call: &Call) -> Result<Reply, Reply> {
        if call.method != "POST" {
            return Err(oauth(StatusCode::BAD_REQUEST, "invalid_request", "The specified HTTP method is not valid."));
        }
        let form = call.form();
        let basic = call.basic();
        let by_form = form.get("client_id").zip(form.get("client_secret"));
        let (id, secret) = match (&basic, by_form) {
            (Some(_), Some(_)) => {
                let text = "Multiple client credentials cannot be specified.";
                return Err(oauth(StatusCode::BAD_REQUEST, "invalid_request", text));
            }
            (Some((id, secret)), None) => (id.as_str(), secret.as_str()),
            (None, by_form) => by_form.unwrap_or_default(),
        };
        let issuer = match id {
            Self::ADMIN_ID if secret == Self::ADMIN_SECRET => &self.admins,
            Self::CLIENT_ID if self.is_good(secret) => &self.issuer,
            _ => {
                let text = "The specified client credentials are invalid.";
                let refusal = oauth(StatusCode::UNAUTHORIZED, "invalid_client", text);
                return Err(if basic.is_some() { refusal.with(WWW_AUTHENTICATE, "Basic") } else { refusal });
            }
        };
        let wrong = |error, text| Err(oauth(StatusCode::BAD_REQUEST, error, text));
        match form.get("grant_type") {
            Some("client_credentials") => {}
            Some("authorization_code" | "refresh_token") => {
                return wrong("unauthorized_client", "This client application is not allowed to use this grant type.");
            }
            Some(_) => return wrong("unsupported_grant_type", "The specified 'grant_type' is not supported."),
            None => return wrong("invalid_request", "The mandatory 'grant_type' parameter is missing."),
        }
        if form.get("scope").is_some_and(|scope| !scope.split(' ').all(|one| SCOPES.contains(&one))) {
            return wrong("invalid_scope", "The specified 'scope' is invalid.");
        }
        let seconds = issuer.lifetime().as_secs();
        let answer = json!({ "access_token": issuer.access_token(), "token_type": "Bearer", "expires_in": seconds });
        Ok(Reply::json(StatusCode::OK, answer).with(CACHE_CONTROL, "no-store"))
    }

    fn is_good(&self, secret: &str) -> bool {
        let now = self.now();
        self.secrets.find(secret).is_some_and(|slot| {
            let dead = slot.deleted.is_some_and(|deleted| {
                let delay = if self.faults.has(Quirk::SlowDeath) { DEATH } else { Duration::ZERO };
                deleted.saturating_add(delay).is_ok_and(|death| death <= now)
            });
            !dead && !slot.has_expired(now)
        })
    }

    /// 400, and with a quirk in the shape of 403.
    fn bad(&self, detail: &str) -> Reply {
        let status = StatusCode::BAD_REQUEST;
        if self.faults.has(Quirk::OneErrorShape) {
            return coded(status, detail);
        }
        let body = json!({
            "type": "https://tools.ietf.org/html/rfc9110#section-15.5.1",
            "title": "Bad Request",
            "status": 400,
            "detail": detail,
            "instance": null,
        });
        Reply::json(status, body).with(CONTENT_TYPE, "application/problem+json")
    }

    fn check_admin(&self, call: &Call) -> Result<(), Reply> {
        match call.bearer() {
            Some(token) if self.admins.is_good(token) => Ok(()),
            Some(token) if self.issuer.is_good(token) => {
                Err(coded(StatusCode::FORBIDDEN, "The caller lacks the role ids:app_admin."))
            }
            _ => Err(Reply::empty(StatusCode::UNAUTHORIZED).with(WWW_AUTHENTICATE, "Bearer")),
        }
    }

    fn list(&self) -> Reply {
        let hides = self.faults.has(Quirk::HidesDeleted);
        let slots = self.secrets.lock();
        let listed: Vec<_> = slots.iter().filter(|slot| !(hides && slot.deleted.is_some())).map(listed).collect();
        match listed.as_slice() {
            [one] if self.faults.has(Quirk::OneObject) => Reply::json(StatusCode::OK, one),
            _ => Reply::json(StatusCode::OK, Value::from(listed)),
        }
    }

    /// The answer has the new secret, and not its id.
    fn create(&self, call: &Call) -> Result<Reply, Reply> {
        if !call.is("application/json") {
            return Err(Reply::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let body = call.json().ok_or_else(|| self.bad("The body is no JSON object."))?;
        if let Some(other) = body.keys().find(|key| *key != "expirationDate") {
            return Err(self.bad(&format!("The member '{other}' is not known.")));
        }
        let now = self.now();
        let ends = match body.get("expirationDate") {
            None | Some(Value::Null) => None,
            Some(date) => {
                let date = date.as_str().and_then(|date| date.parse::<Timestamp>().ok());
                Some(date.ok_or_else(|| self.bad("The field expirationDate is no date."))?)
            }
        };
        if ends.is_some_and(|ends| ends <= now) {
            return Err(self.bad("The field expirationDate is in the past."));
        }
        let mut slots = self.secrets.lock();
        let live = slots.iter().filter(|slot| slot.deleted.is_none()).count();
        if live >= 2 && self.faults.has(Quirk::TwoSecrets) {
            return Err(Reply::empty(StatusCode::CONFLICT));
        }
        let slot = Slot::new("", now, ends);
        slots.push(slot.clone());
        Ok(application(Some(&slot.value)))
    }

    fn delete(&self, id: &str) -> Result<Reply, Reply> {
        let mut slots = self.secrets.lock();
        let slot = slots.iter_mut().find(|slot| slot.id == id).ok_or_else(|| Reply::empty(StatusCode::NOT_FOUND))?;
        if slot.deleted.is_some() {
            return Err(self.bad("The client secret is deleted already."));
        }
        slot.deleted = Some(self.now());
        Ok(application(None))
    }
}

impl Handler for Vanco {
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        let segments = call.segments();
        let secrets = match segments.as_slice() {
            ["connect", "token"] => return self.token(call),
            ["api", "tenants", tenant, "applications", id, "secrets", rest @ ..] if rest.len() < 2 => {
                self.check_admin(call)?;
                if (*tenant, *id) != (Self::TENANT, Self::CLIENT_ID) {
                    return Err(Reply::empty(StatusCode::NOT_FOUND));
                }
                rest
            }
            _ => return Err(Reply::empty(StatusCode::NOT_FOUND)),
        };
        match (call.method.as_str(), secrets) {
            ("GET", []) => Ok(self.list()),
            ("POST", []) => self.create(call),
            ("DELETE", [id]) => self.delete(id),
            _ => Err(Reply::empty(StatusCode::METHOD_NOT_ALLOWED)),
        }
    }
}

fn oauth(status: StatusCode, error: &str, description: &str) -> Reply {
    Reply::json(status, json!({ "error": error, "error_description": description })).with(CACHE_CONTROL, "no-store")
}

/// The shape of 403.
fn coded(status: StatusCode, message: &str) -> Reply {
    let body = json!({
        "type": "error",
        "identifier": mint::uuid(),
        "message": message,
        "responseCode": status.as_str(),
        "errors": [],
    });
    Reply::json(status, body)
}

fn listed(slot: &Slot) -> Value {
    json!({
        "clientSecretId": slot.id,
        "clientSecretExpirationDate": slot.ends.map(|ends| format!("{ends:.0}")),
        "deleted": slot.deleted.is_some(),
    })
}

fn application(secret: Option<&str>) -> Reply {
    let body = json!({
        "displayName": "Acme",
        "clientId": Vanco::CLIENT_ID,
        "clientSecret": secret,
        "theme": null,
        "redirectUris": [],
        "postLogoutRedirectUris": [],
        "consentType": "implicit",
        "type": "confidential",
        "grantTypes": ["client_credentials"],
        "endpoints": ["token"],
        "scopes": SCOPES,
        "homepageUrl": null,
        "sampleHomepageUrl": null,
        "allowUnregisteredUsersToSignIn": false,
        "hideTenantDisplayNameDuringLogIn": false,
        "allowRegister": false,
        "disableLoginAlerts": false,
        "appSwitcherProductId": null,
        "additionalLinks": null,
        "tenant": Vanco::TENANT,
        "definedRoles": [],
        "roles": [],
        "tenants": [],
    });
    Reply::json(StatusCode::OK, body)
}

impl Vendor for Vanco {
    const NAME: &str = "vanco";
    const ABOUT: &str = "Vanco Identity Service (client credentials)";

    fn files(&self) -> Vec<(&'static str, String)> {
        vec![("vanco_secret", Self::SECRET.into())]
    }

    fn config(&self, auth: &str, api: &str) -> String {
        format!(
            r#"# Vanco Identity Service: the vendor tells each customer the token URL.
[token.vanco]
dialect = "vanco"
url = "{auth}/connect/token"
base_url = "{auth}"
vars = {{ tenant = "{tenant}" }}
client_id = "{id}"
client_secret = {{ file = "vanco_secret" }}

[route.vanco]
listen = "127.0.0.1:0"
upstream = "{api}"
"#,
            tenant = Self::TENANT,
            id = Self::CLIENT_ID,
        )
    }

    fn api(self: &Arc<Self>) -> Echo {
        Echo::behind(&self.issuer, |issuer, call| {
            let good = call.bearer().is_some_and(|token| issuer.is_good(token));
            let refusal = || Reply::empty(StatusCode::UNAUTHORIZED).with(WWW_AUTHENTICATE, "Bearer");
            if good { Ok(()) } else { Err(refusal()) }
        })
    }
}
