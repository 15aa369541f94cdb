//! CamStreamer Cloud, that is Netrex: authorization codes, every parameter in the query of a POST, scopes with commas, errors
//! in free words. The vendor's page has the requests and both answers; the words of errors and their status are assumed.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use serde_json::json;

use super::demo::Vendor;
use super::echo::Echo;
use super::http::Handler;
use super::issuer::Issuer;
use super::login::{Asked, Codes};
use super::message::{Call, Params, Reply};
use super::mint;
use super::quirk::Quirk;
use super::state::State;

const SCOPES: &[&str] = &[
    "read",
    "write",
    "liveview",
    "audiotransmit",
    "liveview_ptz",
    "liveview_light",
    "liveview_audioclip",
    "recordings",
    "recordings_delete",
    "events",
];

/// The cloud: client `acme-cams` / `cams-secret`, user `viewer@acme.example` / `viewer-password`.
pub struct Netrex {
    state: State,
    pub codes: Codes,
    redirect_uris: Mutex<Vec<String>>,
}

impl Deref for Netrex {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Netrex {
    pub const CLIENT_ID: &str = "acme-cams";
    pub const CLIENT_SECRET: &str = "cams-secret";
    pub const USERNAME: &str = "viewer@acme.example";
    pub const PASSWORD: &str = "viewer-password";
    /// The one that is registered.
    pub const REDIRECT_URI: &str = "http://127.0.0.1:8484/callback";

    pub fn new(issuer: Arc<Issuer>) -> Self {
        let redirect_uris = Mutex::new(vec![Self::REDIRECT_URI.to_owned()]);
        Self { state: State::new(issuer), codes: Codes::default(), redirect_uris }
    }

    /// Registers another redirect URI.
    pub fn register(&self, redirect_uri: &str) {
        self.redirect_uris.lock().unwrap_or_else(PoisonError::into_inner).push(redirect_uri.to_owned());
    }

    fn refusal(&self, words: &str) -> Reply {
        let as_200 = self.faults.has(Quirk::ErrorsAs200);
        Reply::json(if as_200 { StatusCode::OK } else { StatusCode::BAD_REQUEST }, json!({ "error": words }))
    }

    fn authorize(&self, call: &Call) -> Result<Reply, Reply> {
        let query = call.query();
        let redirect_uris = match query.get("client_id") {
            Some(Self::CLIENT_ID) => self.redirect_uris.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            _ => Vec::new(),
        };
        let known = query.get("scope").is_none_or(|scope| scope.split(',').all(|one| SCOPES.contains(&one)));
        let is_user = |username: &str, password: &str| (username, password) == (Self::USERNAME, Self::PASSWORD);
        let asked = Asked { redirect_uris, error: (!known).then_some("invalid_scope"), is_user: &is_user };
        self.codes.authorize(self, call, &asked)
    }

    /// The family, and the refresh token to go on with.
    fn grant(&self, query: &Params) -> Result<(u64, Option<String>), &'static str> {
        let secret = query.get("client_secret");
        if query.get("client_id") != Some(Self::CLIENT_ID) || secret.is_some_and(|secret| secret != Self::CLIENT_SECRET)
        {
            return Err("Invalid client");
        }
        let needed = |name| query.get(name).ok_or("Invalid request");
        match query.get("grant_type") {
            Some("authorization_code") => {
                let (code, uri) = (needed("code")?, needed("redirect_uri")?);
                self.codes.redeem(self, code, Self::CLIENT_ID, uri).ok_or("Invalid code")?;
                let family = self.issuer.family();
                // Access that lasts is for those who have a secret.
                let lasts = secret.is_some() && !self.faults.has(Quirk::OneTime);
                Ok((family, lasts.then(|| self.issuer.refresh_token(Some(family)))))
            }
            Some("refresh_token") => {
                let old = needed("refresh_token")?;
                secret.ok_or("Invalid client")?;
                let rotates = self.faults.has(Quirk::Rotates);
                let family = self.issuer.redeem(old, rotates).ok_or("Invalid refresh token")?;
                let next = if rotates { self.issuer.refresh_token(Some(family)) } else { old.to_owned() };
                Ok((family, Some(next)))
            }
            _ => Err("Invalid request"),
        }
    }

    fn token(&self, call: &Call) -> Result<Reply, Reply> {
        let (family, refresh_token) = self.grant(&call.query()).map_err(|words| self.refusal(words))?;
        let (access, lifetime) = (mint::hex(40), self.issuer.lifetime());
        self.issuer.issue(&access, lifetime, Some(family));
        let mut answer = json!({ "access_token": access, "expires_in": lifetime.as_secs() });
        if let Some(token) = refresh_token {
            answer["refresh_token"] = token.into();
        }
        Ok(Reply::json(StatusCode::OK, answer))
    }
}

impl Handler for Netrex {
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        match (call.method.as_str(), call.uri.path()) {
            ("GET" | "POST", "/oauth2/auth" | "/oauth2/auth/") => self.authorize(call),
            ("POST", "/oauth2/token") => self.token(call),
            ("POST", "/oauth2/revoke") => {
                let query = call.query();
                let token = query.get("access_token").ok_or_else(|| self.refusal("Invalid request"))?;
                let was_there = self.issuer.revoke(token);
                if was_there { Ok(Reply::json(StatusCode::OK, json!({}))) } else { Err(self.refusal("Invalid token")) }
            }
            _ => Err(self.refusal("Invalid request")),
        }
    }
}

impl Vendor for Netrex {
    const NAME: &str = "netrex";
    const ABOUT: &str = "CamStreamer Cloud, that is Netrex (a login of a person long ago, then refresh tokens)";

    fn files(&self) -> Vec<(&'static str, String)> {
        let left_by_a_login = self.issuer.refresh_token(None);
        vec![("netrex_secret", Self::CLIENT_SECRET.into()), ("netrex_refresh_token", left_by_a_login)]
    }

    fn config(&self, auth: &str, api: &str) -> String {
        format!(
            r#"# CamStreamer Cloud (Netrex): somebody has logged in, and left a refresh token.
[token.netrex]
dialect = "netrex"
grant = "refresh_token"
base_url = "{auth}"
client_id = "{id}"
client_secret = {{ file = "netrex_secret" }}
refresh_token = {{ file = "netrex_refresh_token" }}

[route.netrex]
listen = "127.0.0.1:0"
upstream = "{api}"
"#,
            id = Self::CLIENT_ID,
        )
    }

    fn api(self: &Arc<Self>) -> Echo {
        Echo::behind(&self.issuer, |issuer, call| {
            let good = call.bearer().is_some_and(|token| issuer.is_good(token));
            let refusal = || Reply::json(StatusCode::UNAUTHORIZED, json!({ "error": "Invalid access token" }));
            if good { Ok(()) } else { Err(refusal()) }
        })
    }
}
