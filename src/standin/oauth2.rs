//! A plain OAuth 2 server: client credentials, password, refresh tokens that can be used once.

use std::ops::Deref;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::demo::Vendor;
use super::http::Handler;
use super::issuer::Issuer;
use super::message::{Call, Reply};
use super::state::State;

/// The server: client `demo-client` / `demo-secret`, user `alice` / `wonderland`.
pub struct OAuth2 {
    state: State,
}

impl Deref for OAuth2 {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl OAuth2 {
    pub const CLIENT_ID: &str = "demo-client";
    pub const CLIENT_SECRET: &str = "demo-secret";
    pub const USERNAME: &str = "alice";
    pub const PASSWORD: &str = "wonderland";

    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self { state: State::new(issuer) }
    }

    fn token(&self, refresh_token: Option<String>) -> Value {
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
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        let refusal = |status, code| Reply::json(status, json!({ "error": code }));
        let params = call.form();
        let param = |name: &str| params.get(name).unwrap_or("");
        let given = call.basic().unwrap_or_else(|| (param("client_id").to_owned(), param("client_secret").to_owned()));
        if (given.0.as_str(), given.1.as_str()) != (Self::CLIENT_ID, Self::CLIENT_SECRET) {
            return Err(refusal(StatusCode::UNAUTHORIZED, "invalid_client"));
        }
        let family = match param("grant_type") {
            "client_credentials" => return Ok(Reply::json(StatusCode::OK, self.token(None))),
            "password" if param("username") == Self::USERNAME && param("password") == Self::PASSWORD => None,
            "password" => return Err(refusal(StatusCode::BAD_REQUEST, "invalid_grant")),
            "refresh_token" => {
                let family = self.issuer.use_refresh_token(param("refresh_token"));
                Some(family.ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "invalid_grant"))?)
            }
            _ => return Err(refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type")),
        };
        Ok(Reply::json(StatusCode::OK, self.token(Some(self.issuer.refresh_token(family)))))
    }
}

impl Vendor for OAuth2 {
    const NAME: &str = "oauth2";
    const ABOUT: &str = "OAuth 2 (client credentials)";

    fn files(&self) -> Vec<(&'static str, String)> {
        vec![("client_secret", Self::CLIENT_SECRET.into())]
    }

    fn config(&self, auth: &str, api: &str) -> String {
        format!(
            r#"# A plain OAuth 2 server.
[token.oauth2]
url = "{auth}/token"
client_id = "{id}"
client_secret = {{ file = "client_secret" }}

[route.oauth2]
listen = "127.0.0.1:0"
upstream = "{api}"
"#,
            id = Self::CLIENT_ID,
        )
    }
}
