//! Comodo One 3rd-party authentication, as its page and its users describe it: client certificate, Basic, JSON, camelCase,
//! absolute expiries, refresh tokens that can be used once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::fault::Faults;
use super::http::{Call, Dropped, Handler, Payload};
use super::issuer::Issuer;
use super::oauth2::respond;
use crate::clock::Clock;

/// Refresh tokens live a week.
const REFRESH_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The authentication service: client `acme-api` / `acme-secret`, user `svc` / `svc-password`.
pub struct Comodo {
    pub issuer: Arc<Issuer>,
    pub faults: Faults,
    /// Expiries in milliseconds.
    pub milliseconds: AtomicBool,
    /// Errors as plain text.
    pub plain_errors: AtomicBool,
    clock: Clock,
    /// Serial number of the certificate on file.
    serial: String,
}

impl Comodo {
    pub const CLIENT_ID: &str = "acme-api";
    pub const CLIENT_SECRET: &str = "acme-secret";
    pub const USERNAME: &str = "svc";
    pub const PASSWORD: &str = "svc-password";

    pub fn new(issuer: Arc<Issuer>, clock: Clock, serial: &str) -> Self {
        Self {
            issuer,
            faults: Faults::default(),
            milliseconds: AtomicBool::new(false),
            plain_errors: AtomicBool::new(false),
            clock,
            serial: serial.to_owned(),
        }
    }

    fn answer(&self, call: &Call) -> Result<Value, (StatusCode, &'static str)> {
        let bad = |text| (StatusCode::BAD_REQUEST, text);
        match &call.certificate {
            None => return Err(bad("Certificate is not verified")),
            Some(serial) if *serial != self.serial => return Err(bad("Serial number is not match")),
            Some(_) => {}
        }
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", Self::CLIENT_ID, Self::CLIENT_SECRET)));
        if call.headers.get(AUTHORIZATION).is_none_or(|value| value != basic.as_str()) {
            return Err((StatusCode::UNAUTHORIZED, "Not authorized"));
        }
        let body: Value = serde_json::from_slice(&call.body).map_err(|_| bad("Invalid request"))?;
        let field = |name: &str| body.get(name).and_then(Value::as_str);
        let family = match call.uri.path() {
            "/auth/login" => {
                let (Some(username), Some(password)) = (field("username"), field("password")) else {
                    return Err(bad("Login parameters cannot be null"));
                };
                if (username, password) != (Self::USERNAME, Self::PASSWORD) {
                    return Err(bad("Username or passsword is incorrect"));
                }
                None
            }
            "/auth/renew" => {
                let token = field("refreshToken").ok_or(bad("Invalid request"))?;
                Some(self.issuer.use_refresh_token(token).ok_or((StatusCode::UNAUTHORIZED, "Not authorized"))?)
            }
            _ => return Err((StatusCode::NOT_FOUND, "Not found")),
        };
        Ok(json!({
            "tokenType": "bearer",
            "accessToken": self.issuer.access_token(),
            "refreshToken": self.issuer.refresh_token(family),
            "accessTokenExpiresAt": self.moment(self.issuer.lifetime()),
            "refreshTokenExpiresAt": self.moment(REFRESH_LIFETIME),
        }))
    }

    fn moment(&self, from_now: Duration) -> i64 {
        let seconds = self.clock.now().wall.as_second() + from_now.as_secs() as i64;
        if self.milliseconds.load(Ordering::Relaxed) { seconds * 1000 } else { seconds }
    }
}

impl Handler for Comodo {
    async fn handle(&self, call: Call) -> Result<Response<Payload>, Dropped> {
        match self.answer(&call) {
            Ok(body) => respond(&self.faults, StatusCode::OK, &body.to_string()).await,
            Err((status, text)) if self.plain_errors.load(Ordering::Relaxed) => {
                respond(&self.faults, status, text).await
            }
            Err((status, text)) => respond(&self.faults, status, &json!({ "message": text }).to_string()).await,
        }
    }
}
