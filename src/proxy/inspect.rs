//! What is kept of an exchange to be looked at: its heads, as they may be shown. Where nobody looks, nothing here is called.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use super::mask::Mask;
use super::route::Route;
use crate::config::Listen;
use crate::http1::{Fields, Request};
use crate::telemetry::inspected::{Exchanges, Inspected, Shown};
use crate::telemetry::metrics::Origin;
use crate::token::cache::Credential;

/// Of the fields of a head, and of a target.
const FIELDS_MAX: usize = 8 * 1024;
const TARGET_MAX: usize = 2 * 1024;

/// What one listener's exchanges are kept with.
pub struct Inspector {
    kept: Arc<Exchanges>,
    listen: String,
}

/// Of an answer, and what must not be shown.
pub struct Seen {
    response: Vec<Shown>,
    mask: Mask,
}

impl Seen {
    /// The API's answer to a request with that credential.
    pub fn of(fields: &Fields, route: &Route, credential: Option<&Credential>) -> Self {
        let mask = Mask::new(Some(route), credential);
        Self { response: shown(fields.iter(), &mask), mask }
    }

    /// One of the broker's own, if there was any.
    pub fn own(route: Option<&Route>, fields: Option<&HeaderMap>) -> Self {
        let mask = Mask::new(route, None);
        let fields = fields.into_iter().flatten();
        Self { response: shown(fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())), &mask), mask }
    }
}

impl Inspector {
    pub fn new(kept: &Arc<Exchanges>, listen: &Listen) -> Self {
        Self { kept: Arc::clone(kept), listen: listen.to_string() }
    }

    pub fn keep(
        &self,
        request: &Request,
        route: Option<&Route>,
        seen: Seen,
        answer: Option<(StatusCode, Origin)>,
        (took, retries): (Duration, u32),
    ) {
        let Seen { response, mask } = seen;
        let sent_to = route.filter(|_| answer.is_some_and(|(_, origin)| origin == Origin::Upstream));
        let added = |route: &Route| {
            let extra = route.config.headers.iter().map(|(name, _)| name.as_str());
            let own = route.token.as_ref().map(|_| route.config.header.as_str());
            own.into_iter().chain(extra).map(str::to_owned).collect()
        };
        self.kept.push(Inspected {
            at: Timestamp::now(),
            route: route.map(|route| route.config.name.clone()),
            listen: self.listen.clone(),
            scheme: route.map_or("http", |route| route.config.scheme()),
            method: cut(request.method.as_str(), 64),
            target: cut(&mask.target(request.target()), TARGET_MAX),
            answer,
            took,
            retries,
            has_body: request.fields.has("transfer-encoding")
                || request.fields.get("content-length").is_some_and(|length| length.iter().any(|digit| *digit != b'0')),
            request: shown(request.fields.iter(), &mask),
            added: sent_to.map(added).unwrap_or_default(),
            response,
        });
    }
}

/// As many as there is room for; the last one says that there were more.
fn shown<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, mask: &Mask) -> Vec<Shown> {
    let (mut room, mut out) = (FIELDS_MAX, Vec::new());
    for (name, value) in fields {
        let one = mask.field(name, value);
        match room.checked_sub(one.name.len() + one.value.len()) {
            Some(left) => room = left,
            None => {
                out.push(Shown { name: "…".into(), value: "and more".into(), masked: true });
                break;
            }
        }
        out.push(one);
    }
    out
}

/// The beginning of a text that is longer.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(most)]) }
}
