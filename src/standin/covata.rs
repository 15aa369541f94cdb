//! Covata Platform access-service: its pages describe the client applications and the token endpoint, whose words are those of
//! Spring Security OAuth. A login is answered with the token that is there; a refresh ends it.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};

use super::clientapps::{self, has_grant};
use super::demo::Vendor;
use super::echo::Echo;
use super::http::Handler;
use super::issuer::{Issuer, Standing};
use super::login::{Asked, Codes};
use super::message::{Call, Params, Reply};
use super::mint;
use super::quirk::Quirk;
use super::state::State;

/// The service: client `acme-share` / `share-secret`, user `svc@acme.example` / `svc-password`, and an administrator.
pub struct Covata {
    state: State,
    pub codes: Codes,
    clients: Mutex<Vec<Map<String, Value>>>,
    sessions: Mutex<Vec<Session>>,
}

/// A user who is logged in with a client.
struct Session {
    client_id: String,
    username: String,
    family: u64,
    /// The access token, or its id where it is a JWT.
    jti: String,
    access: String,
    refresh: Option<String>,
}

impl Deref for Covata {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Covata {
    pub const CLIENT_ID: &str = "acme-share";
    pub const CLIENT_SECRET: &str = "share-secret";
    pub const USERNAME: &str = "svc@acme.example";
    pub const PASSWORD: &str = "svc-password";
    /// Has the role of a System administrator.
    pub const ADMIN: &str = "admin@acme.example";
    pub const ADMIN_PASSWORD: &str = "admin-password";
    pub const REDIRECT_URI: &str = "http://127.0.0.1:8484/callback";

    pub fn new(issuer: Arc<Issuer>) -> Self {
        let client = json!({
            "id": mint::uuid(),
            "clientId": Self::CLIENT_ID,
            "clientSecret": Self::CLIENT_SECRET,
            "appName": "Acme Share",
            "authorizedGrantTypes": ["password", "authorization_code", "refresh_token"],
            "registeredRedirectUris": [Self::REDIRECT_URI],
            "accessTokenValiditySeconds": 43_200,
            "refreshTokenValiditySeconds": 2_592_000,
            "enabled": true,
        });
        let clients = Mutex::new(client.as_object().cloned().into_iter().collect());
        Self { state: State::new(issuer), codes: Codes::default(), clients, sessions: Mutex::default() }
    }

    /// The client applications as they are listed; tests may change them as they like.
    pub fn clients(&self) -> MutexGuard<'_, Vec<Map<String, Value>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, client_id: &str) -> Option<Map<String, Value>> {
        self.clients().iter().find(|client| client["clientId"] == client_id).cloned()
    }

    fn is_user(username: &str, password: &str) -> bool {
        [(Self::USERNAME, Self::PASSWORD), (Self::ADMIN, Self::ADMIN_PASSWORD)].contains(&(username, password))
    }

    fn authorize(&self, call: &Call) -> Result<Reply, Reply> {
        let client = call.query().get("client_id").and_then(|id| self.client(id)).unwrap_or_default();
        let redirect_uris = clientapps::texts(&client, "registeredRedirectUris");
        let allowed = has_grant(&client, "authorization_code");
        let error = (!allowed).then_some("unauthorized_client");
        self.codes.authorize(self, call, &Asked { redirect_uris, error, is_user: &Self::is_user })
    }

    fn authenticate(&self, call: &Call) -> Result<Map<String, Value>, Reply> {
        let challenge = "Basic realm=\"access-service\"";
        let Some((id, secret)) = call.basic() else {
            return Err(unauthorized().with(WWW_AUTHENTICATE, challenge));
        };
        let client = self.client(&id).filter(|client| client["clientSecret"] == secret && client["enabled"] == true);
        client.ok_or_else(|| {
            let bare = self.faults.has(Quirk::BareRefusal);
            let refusal = spring(StatusCode::UNAUTHORIZED, "invalid_client", "Bad client credentials");
            if bare { Reply::empty(StatusCode::UNAUTHORIZED) } else { refusal }.with(WWW_AUTHENTICATE, challenge)
        })
    }

    fn token(&self, call: &Call) -> Result<Reply, Reply> {
        let bad = |error, text: &str| spring(StatusCode::BAD_REQUEST, error, text);
        let client = self.authenticate(call)?;
        if call.method != "POST" {
            let text = format!("Request method '{}' not supported", call.method);
            return Err(spring(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &text));
        }
        let form = call.form();
        let grant = form.get("grant_type").ok_or_else(|| bad("invalid_request", "Missing grant type"))?;
        if !["password", "authorization_code", "refresh_token"].contains(&grant) {
            return Err(bad("unsupported_grant_type", &format!("Unsupported grant type: {grant}")));
        }
        if !has_grant(&client, grant) {
            return Err(spring(
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                &format!("Unauthorized grant type: {grant}"),
            ));
        }
        match grant {
            "password" => {
                let username = form.get("username").unwrap_or("");
                if !Self::is_user(username, form.get("password").unwrap_or("")) {
                    return Err(bad("invalid_grant", "Bad credentials"));
                }
                Ok(self.login(&client, username))
            }
            "authorization_code" => {
                let code = form.get("code");
                let code = code.ok_or_else(|| bad("invalid_request", "An authorization code must be supplied."))?;
                let (id, uri) = (client["clientId"].as_str().unwrap_or(""), form.get("redirect_uri").unwrap_or(""));
                let username = self.codes.redeem(self, code, id, uri);
                let invalid = || bad("invalid_grant", &format!("Invalid authorization code: {code}"));
                Ok(self.login(&client, &username.ok_or_else(invalid)?))
            }
            _ => self.refresh(&client, &form),
        }
    }

    /// The token of that client and user, as it is there; or a new one, beside the refresh token that is there.
    fn login(&self, client: &Map<String, Value>, username: &str) -> Reply {
        let mut sessions = self.sessions();
        let same = |session: &&mut Session| client["clientId"] == session.client_id && username == session.username;
        if let Some(session) = sessions.iter_mut().find(same)
            && !self.faults.has(Quirk::FreshTokens)
        {
            if self.issuer.left(&session.access).is_none() {
                self.mint_access(client, session);
                if session
                    .refresh
                    .as_ref()
                    .is_some_and(|token| self.issuer.standing(token) != Standing::Good(session.family))
                {
                    self.mint_refresh(client, session);
                }
            }
            return self.answer_with(session);
        }
        let mut session = Session {
            client_id: client["clientId"].as_str().unwrap_or_default().to_owned(),
            username: username.to_owned(),
            family: self.issuer.family(),
            jti: String::new(),
            access: String::new(),
            refresh: None,
        };
        self.mint_access(client, &mut session);
        if has_grant(client, "refresh_token") {
            self.mint_refresh(client, &mut session);
        }
        sessions.insert(0, session);
        self.answer_with(&sessions[0])
    }

    /// Ends the old access token at once.
    fn refresh(&self, client: &Map<String, Value>, form: &Params) -> Result<Reply, Reply> {
        let bad = |error, text: &str| spring(StatusCode::BAD_REQUEST, error, text);
        let token = form.get("refresh_token").ok_or_else(|| bad("invalid_request", "Missing refresh token"))?;
        if self.issuer.standing(token) == Standing::Expired {
            let text = format!("Invalid refresh token (expired): {token}");
            return Err(spring(StatusCode::UNAUTHORIZED, "invalid_token", &text));
        }
        let rotates = self.faults.has(Quirk::Rotates);
        let mut sessions = self.sessions();
        let session = sessions.iter_mut().find(|session| session.refresh.as_deref() == Some(token));
        if session.as_ref().is_some_and(|session| client["clientId"] != session.client_id.as_str()) {
            return Err(bad("invalid_grant", &format!("Wrong client for this refresh token: {token}")));
        }
        let family = self.issuer.redeem(token, rotates);
        let (Some(session), Some(family)) = (session, family) else {
            return Err(bad("invalid_grant", &format!("Invalid refresh token: {token}")));
        };
        self.issuer.supersede(family);
        self.mint_access(client, session);
        if rotates {
            self.mint_refresh(client, session);
        }
        Ok(self.answer_with(session))
    }

    fn mint_access(&self, client: &Map<String, Value>, session: &mut Session) {
        let lifetime = clientapps::seconds(client, "accessTokenValiditySeconds").min(self.issuer.lifetime());
        session.jti = mint::uuid();
        session.access = self.mint(&session.jti, session, lifetime);
        self.issuer.issue(&session.access, lifetime, Some(session.family));
    }

    fn mint_refresh(&self, client: &Map<String, Value>, session: &mut Session) {
        let lifetime = clientapps::seconds(client, "refreshTokenValiditySeconds");
        let token = self.mint(&mint::uuid(), session, lifetime);
        self.issuer.issue_refresh(&token, Some(lifetime), session.family);
        session.refresh = Some(token);
    }

    fn mint(&self, jti: &str, session: &Session, lifetime: Duration) -> String {
        if !self.faults.has(Quirk::Jwt) {
            return jti.to_owned();
        }
        let expires = self.now().as_second().saturating_add_unsigned(lifetime.as_secs());
        mint::jwt(&json!({ "exp": expires, "user_name": session.username, "jti": jti }))
    }

    fn answer_with(&self, session: &Session) -> Reply {
        let left = self.issuer.left(&session.access).unwrap_or_default();
        let mut answer = json!({
            "access_token": session.access,
            "token_type": "bearer",
            "expires_in": left.as_secs_f64().round() as u64,
            "scope": "read write",
        });
        if let Some(token) = &session.refresh {
            answer["refresh_token"] = token.as_str().into();
        }
        if self.faults.has(Quirk::Jwt) {
            answer["jti"] = session.jti.as_str().into();
        }
        Reply::json(StatusCode::OK, answer).with(CACHE_CONTROL, "no-store")
    }

    /// Only an administrator manages clients.
    fn check_admin(&self, call: &Call) -> Result<(), Reply> {
        check_token(&self.issuer, call)?;
        let ours = |session: &Session| call.bearer() == Some(&session.access) && session.username == Self::ADMIN;
        let denied = || spring(StatusCode::FORBIDDEN, "access_denied", "Access is denied");
        if self.sessions().iter().any(ours) { Ok(()) } else { Err(denied()) }
    }
}

impl Handler for Covata {
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        match call.segments().as_slice() {
            ["api", "oauth", "token"] => self.token(call),
            ["api", "oauth", "authorize"] => self.authorize(call),
            ["api", "v1", "clientapps", rest @ ..] if rest.len() < 2 => {
                self.check_admin(call)?;
                clientapps::manage(&mut self.clients(), call, rest.first().copied())
            }
            _ => Err(spring(StatusCode::NOT_FOUND, "not_found", "No message available")),
        }
    }
}

/// The broken token stands in the words, as Spring has it.
fn check_token(issuer: &Issuer, call: &Call) -> Result<(), Reply> {
    let challenge = |error: &str| format!("Bearer realm=\"access-service\", error=\"{error}\"");
    let Some(token) = call.bearer() else {
        return Err(unauthorized().with(WWW_AUTHENTICATE, &challenge("unauthorized")));
    };
    let text = match (issuer.is_good(token), issuer.has_expired(token)) {
        (true, _) => return Ok(()),
        (_, true) => format!("Access token expired: {token}"),
        _ => format!("Invalid access token: {token}"),
    };
    let refusal = spring(StatusCode::UNAUTHORIZED, "invalid_token", &text);
    Err(refusal.with(WWW_AUTHENTICATE, &challenge("invalid_token")))
}

fn unauthorized() -> Reply {
    spring(StatusCode::UNAUTHORIZED, "unauthorized", "Full authentication is required to access this resource")
}

fn spring(status: StatusCode, error: &str, description: &str) -> Reply {
    Reply::json(status, json!({ "error": error, "error_description": description })).with(CACHE_CONTROL, "no-store")
}

impl Vendor for Covata {
    const NAME: &str = "covata";
    const ABOUT: &str = "Covata access-service (Basic and password, then refresh tokens)";

    fn files(&self) -> Vec<(&'static str, String)> {
        vec![("covata_secret", Self::CLIENT_SECRET.into()), ("covata_password", Self::PASSWORD.into())]
    }

    fn config(&self, auth: &str, api: &str) -> String {
        format!(
            r#"# Covata access-service: a user logs in with a client application.
[token.covata]
dialect = "covata"
base_url = "{auth}"
client_id = "{id}"
client_secret = {{ file = "covata_secret" }}
username = "{user}"
password = {{ file = "covata_password" }}

[route.covata]
listen = "127.0.0.1:0"
upstream = "{api}"
"#,
            id = Self::CLIENT_ID,
            user = Self::USERNAME,
        )
    }

    fn api(self: &Arc<Self>) -> Echo {
        Echo::behind(&self.issuer, check_token)
    }
}
