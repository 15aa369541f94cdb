//! A plain OAuth 2 server: client credentials, password, refresh tokens that can be used once.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::fault::Faults;
use super::http::{Call, Dropped, Handler, Payload};
use super::issuer::Issuer;

/// The server: client `demo-client` / `demo-secret`, user `alice` / `wonderland`.
pub struct OAuth2 {
    pub issuer: Arc<Issuer>,
    pub faults: Faults,
}

impl OAuth2 {
    pub const CLIENT_ID: &str = "demo-client";
    pub const CLIENT_SECRET: &str = "demo-secret";
    pub const USERNAME: &str = "alice";
    pub const PASSWORD: &str = "wonderland";

    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self { issuer, faults: Faults::default() }
    }

    fn token(&self, call: &Call) -> Result<Value, (StatusCode, &'static str)> {
        let params: Vec<(String, String)> = form_urlencoded::parse(&call.body).into_owned().collect();
        let param = |name: &str| params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", Self::CLIENT_ID, Self::CLIENT_SECRET)));
        let by_header = call.headers.get(AUTHORIZATION).is_some_and(|value| value == basic.as_str());
        let by_body = param("client_id") == Self::CLIENT_ID && param("client_secret") == Self::CLIENT_SECRET;
        if !by_header && !by_body {
            return Err((StatusCode::UNAUTHORIZED, "invalid_client"));
        }
        let family = match param("grant_type") {
            "client_credentials" => return Ok(self.answer(None)),
            "password" if param("username") == Self::USERNAME && param("password") == Self::PASSWORD => None,
            "password" => return Err((StatusCode::BAD_REQUEST, "invalid_grant")),
            "refresh_token" => {
                let family = self.issuer.use_refresh_token(param("refresh_token"));
                Some(family.ok_or((StatusCode::BAD_REQUEST, "invalid_grant"))?)
            }
            _ => return Err((StatusCode::BAD_REQUEST, "unsupported_grant_type")),
        };
        Ok(self.answer(Some(self.issuer.refresh_token(family))))
    }

    fn answer(&self, refresh_token: Option<String>) -> Value {
        let mut answer = json!({
            "access_token": self.issuer.access_token(),
            "token_type": "Bearer",
            "expires_in": self.issuer.lifetime().as_secs(),
        });
        if let Some(token) = refresh_token {
            answer["refresh_token"] = token.into();
        }
        answer
    }
}

impl Handler for OAuth2 {
    async fn handle(&self, call: Call) -> Result<Response<Payload>, Dropped> {
        let (status, body) = match self.token(&call) {
            Ok(body) => (StatusCode::OK, body),
            Err((status, code)) => (status, json!({ "error": code })),
        };
        respond(&self.faults, status, &body.to_string()).await
    }
}

/// A JSON answer, or what the faults make of it.
pub(super) async fn respond(faults: &Faults, status: StatusCode, body: &str) -> Result<Response<Payload>, Dropped> {
    let mut answer = Response::new(Payload::from(body.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match faults.next() {
        None => Ok(answer),
        Some(fault) => fault.answer(answer).await,
    }
}
