//! The page where a person logs in and lets an application in, and the codes that come of it (RFC 6749 §4.1).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use form_urlencoded::byte_serialize;
use http::StatusCode;
use http::header::{CONTENT_TYPE, LOCATION};

use super::message::{Call, Reply};
use super::mint;
use super::quirk::Quirk;
use super::state::State;
use crate::clock::Moment;

const LIFETIME: Duration = Duration::from_secs(300);

/// Authorization codes: five minutes, one use.
#[derive(Default)]
pub struct Codes(Mutex<HashMap<String, Code>>);

struct Code {
    client_id: String,
    redirect_uri: String,
    username: String,
    ends: Moment,
    uses: u64,
}

/// What a server knows about an authorization request.
pub struct Asked<'a> {
    /// Those of the client; none if there is no such client.
    pub redirect_uris: Vec<String>,
    /// What is wrong with the rest of it.
    pub error: Option<&'static str>,
    pub is_user: &'a dyn Fn(&str, &str) -> bool,
}

impl Codes {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Code>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// GET shows the page; its form comes back as POST with `username`, `password` and `answer` (`allow` or `deny`), and leads
    /// to the client with a code or an error. Where nothing vouches for the client, nothing leads to it.
    pub fn authorize(&self, state: &State, call: &Call, asked: &Asked<'_>) -> Result<Reply, Reply> {
        let query = call.query();
        let (Some(client_id), Some(uri)) = (query.get("client_id"), query.get("redirect_uri")) else {
            return Err(page(StatusCode::BAD_REQUEST, "Invalid request"));
        };
        if !asked.redirect_uris.iter().any(|known| known == uri) {
            return Err(page(StatusCode::BAD_REQUEST, "Invalid client or redirect_uri"));
        }
        let back = |name: &str, value: &str| {
            let mut to = format!("{uri}{}{name}={value}", if uri.contains('?') { '&' } else { '?' });
            if let Some(state) = query.get("state") {
                to.push_str("&state=");
                to.extend(byte_serialize(state.as_bytes()));
            }
            Reply::empty(StatusCode::FOUND).with(LOCATION, &to)
        };
        if query.get("response_type") != Some("code") {
            return Err(back("error", "unsupported_response_type"));
        }
        if let Some(error) = asked.error {
            return Err(back("error", error));
        }
        if call.method == "GET" {
            return Ok(page(StatusCode::OK, FORM));
        }
        let form = call.form();
        let (username, password) = (form.get("username").unwrap_or(""), form.get("password").unwrap_or(""));
        if !(asked.is_user)(username, password) {
            return Err(page(StatusCode::UNAUTHORIZED, &format!("<p>Wrong name or password.</p>{FORM}")));
        }
        if form.get("answer") != Some("allow") || state.faults.has(Quirk::Denied) {
            return Err(back("error", "access_denied"));
        }
        let text = mint::hex(32);
        let code = Code {
            client_id: client_id.to_owned(),
            redirect_uri: uri.to_owned(),
            username: username.to_owned(),
            ends: Moment::after(state.issuer.clock().now(), LIFETIME),
            uses: 0,
        };
        self.lock().insert(text.clone(), code);
        Ok(back("code", &text))
    }

    /// Uses a code up: who logged in. It must have been made for that client and that redirect URI.
    pub fn redeem(&self, state: &State, code: &str, client_id: &str, redirect_uri: &str) -> Option<String> {
        let mut codes = self.lock();
        let code = codes.get_mut(code)?;
        code.uses += 1;
        let fits = code.client_id == client_id && code.redirect_uri == redirect_uri;
        let good = fits && code.uses == 1 && !code.ends.reached(state.issuer.clock().now());
        good.then(|| code.username.clone())
    }

    /// How often a code came after its first use.
    pub fn reused(&self) -> u64 {
        self.lock().values().map(|code| code.uses.saturating_sub(1)).sum()
    }
}

/// Without an action, a form goes back to its own URL, query and all.
const FORM: &str = "<form method=\"post\"><input name=\"username\"><input name=\"password\" type=\"password\">\
                    <button name=\"answer\" value=\"allow\">Allow</button>\
                    <button name=\"answer\" value=\"deny\">Deny</button></form>";

fn page(status: StatusCode, body: &str) -> Reply {
    Reply::text(status, &format!("<!doctype html><title>Log in</title>{body}")).with(CONTENT_TYPE, "text/html")
}
