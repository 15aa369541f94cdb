//! Comodo One 3rd-party authentication, as its page and its users describe it: client certificate, Basic, JSON, camelCase,
//! absolute expiries, refresh tokens that can be used once.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::demo::Vendor;
use super::echo::Echo;
use super::http::Handler;
use super::issuer::Issuer;
use super::message::{Call, Reply, exactly};
use super::quirk::Quirk;
use super::state::State;

/// Refresh tokens live a week.
const REFRESH_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The authentication service: client `acme-api` / `acme-secret`, user `svc` / `svc-password`.
pub struct Comodo {
    state: State,
    /// Serial number of the certificate on file.
    serial: String,
}

impl Deref for Comodo {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Comodo {
    pub const CLIENT_ID: &str = "acme-api";
    pub const CLIENT_SECRET: &str = "acme-secret";
    pub const USERNAME: &str = "svc";
    pub const PASSWORD: &str = "svc-password";

    pub fn new(issuer: Arc<Issuer>, serial: &str) -> Self {
        Self { state: State::new(issuer), serial: serial.to_owned() }
    }

    /// A refusal, in JSON or as text.
    fn refusal(&self, status: StatusCode, text: &str) -> Reply {
        if self.faults.has(Quirk::PlainErrors) {
            return Reply::text(status, text);
        }
        Reply::json(status, json!({ "message": text }))
    }

    fn check_client(&self, call: &Call) -> Result<(), Reply> {
        let bad = |text| Err(self.refusal(StatusCode::BAD_REQUEST, text));
        match &call.certificate {
            None => return bad("Certificate is not verified"),
            Some(serial) if *serial != self.serial || self.faults.has(Quirk::SerialUnknown) => {
                return bad("Serial number is not match");
            }
            Some(_) => {}
        }
        let client = call.basic();
        if client != Some((Self::CLIENT_ID.to_owned(), Self::CLIENT_SECRET.to_owned())) {
            return Err(self.refusal(StatusCode::UNAUTHORIZED, "Not authorized"));
        }
        Ok(())
    }

    /// The family of a login.
    fn login(&self, call: &Call) -> Result<u64, Reply> {
        let bad = |text| self.refusal(StatusCode::BAD_REQUEST, text);
        let body = call.json().ok_or_else(|| bad("Invalid request"))?;
        for name in ["username", "password"] {
            if body.get(name).is_none_or(serde_json::Value::is_null) {
                return Err(bad("Login parameters cannot be null"));
            }
        }
        match exactly(&body, ["username", "password"]) {
            Some([Self::USERNAME, Self::PASSWORD]) => Ok(self.issuer.family()),
            Some(_) => Err(bad("Username or passsword is incorrect")),
            None => Err(bad("Invalid request")),
        }
    }

    /// The family of a refresh token, which it uses up.
    fn renew(&self, call: &Call) -> Result<u64, Reply> {
        let body = call.json().unwrap_or_default();
        let Some([token]) = exactly(&body, ["refreshToken"]) else {
            return Err(self.refusal(StatusCode::BAD_REQUEST, "Invalid request"));
        };
        let family = self.issuer.redeem(token, !self.faults.has(Quirk::KeepsRefreshToken));
        family.ok_or_else(|| self.refusal(StatusCode::UNAUTHORIZED, "Not authorized"))
    }

    fn moment(&self, from_now: Duration) -> i64 {
        let seconds = self.now().as_second() + from_now.as_secs() as i64;
        if self.faults.has(Quirk::Milliseconds) { seconds * 1000 } else { seconds }
    }
}

impl Handler for Comodo {
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        self.check_client(call)?;
        let family = match (call.method.as_str(), call.uri.path()) {
            ("POST", "/auth/login") => self.login(call)?,
            ("POST", "/auth/renew") => self.renew(call)?,
            (_, "/auth/login" | "/auth/renew") => return Err(Reply::empty(StatusCode::METHOD_NOT_ALLOWED)),
            _ => return Err(self.refusal(StatusCode::NOT_FOUND, "Not found")),
        };
        let (access, refresh) = (super::mint::hex(40), super::mint::hex(40));
        self.issuer.issue(&access, self.issuer.lifetime(), Some(family));
        self.issuer.issue_refresh(&refresh, Some(REFRESH_LIFETIME), family);
        let answer = json!({
            "tokenType": "bearer",
            "accessToken": access,
            "refreshToken": refresh,
            "accessTokenExpiresAt": self.moment(self.issuer.lifetime()),
            "refreshTokenExpiresAt": self.moment(REFRESH_LIFETIME),
        });
        Ok(Reply::json(StatusCode::OK, answer))
    }
}

impl Vendor for Comodo {
    const NAME: &str = "comodo";
    const ABOUT: &str = "Comodo One (login with client certificate, Basic and password)";

    fn files(&self) -> Vec<(&'static str, String)> {
        vec![("comodo_api_secret", Self::CLIENT_SECRET.into()), ("comodo_password", Self::PASSWORD.into())]
    }

    fn config(&self, auth: &str, api: &str) -> String {
        format!(
            r#"# Comodo One: the login needs a client certificate, HTTP Basic, and a user's password.
[identity.comodo]
cert = "acme-client.pem"
key = "acme-client.key"

[token.comodo]
dialect = "comodo-one"
base_url = "{auth}"
client_id = "{id}"
client_secret = {{ file = "comodo_api_secret" }}
username = "{user}"
password = {{ file = "comodo_password" }}
identity = "comodo"
ca = "ca.pem"

[route.comodo]
listen = "127.0.0.1:0"
upstream = "{api}"
ca = "ca.pem"
"#,
            id = Self::CLIENT_ID,
            user = Self::USERNAME,
        )
    }

    /// In `Authorization`, or in the two fields of older products.
    fn api(self: &Arc<Self>) -> Echo {
        let this = Arc::clone(self);
        Echo::behind(&self.issuer, move |issuer, call| {
            let token = if this.faults.has(Quirk::OtherHeader) {
                call.header("x-auth-token").filter(|_| call.header("x-auth-type") == Some("4"))
            } else {
                call.bearer()
            };
            let good = token.is_some_and(|token| issuer.is_good(token));
            if good { Ok(()) } else { Err(this.refusal(StatusCode::UNAUTHORIZED, "Not authorized")) }
        })
    }
}
