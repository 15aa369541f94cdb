//! Tokens at work: how one is obtained, kept fresh and handed to requests.
//!
//! One task a token (`refresh`) owns everything that changes; it publishes snapshots (`cache`) that requests read without
//! a lock.

pub mod absence;
pub mod backoff;
pub mod budget;
pub mod cache;
pub mod clients;
pub mod keeper;
pub mod kept;
pub mod refresh;
pub mod refusals;
pub mod schedule;
pub mod secrets;
pub mod source;

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use crate::clock::{Moment, Now};
use crate::oauth::template::Template;
use crate::secret::{Fingerprint, Secret};

/// An access token in use, written out ready for each of the formats that routes send it in.
#[derive(Debug)]
pub struct Token {
    pub fingerprint: Fingerprint,
    pub obtained_at: Timestamp,
    /// `None`: it does not expire.
    pub expires: Option<Moment>,
    secret: Secret,
    values: Vec<HeaderValue>,
}

impl Token {
    /// `sent` is when the request for it was sent: its life is counted from there. `None` if it cannot stand in a header.
    pub fn new(secret: &Secret, formats: &[Template], sent: Now, lifetime: Option<Duration>) -> Option<Self> {
        Self::restored(secret, formats, sent.wall, lifetime.map(|lifetime| Moment::after(sent, lifetime)))
    }

    /// One that was obtained before.
    pub fn restored(
        secret: &Secret,
        formats: &[Template],
        obtained_at: Timestamp,
        expires: Option<Moment>,
    ) -> Option<Self> {
        let written = |format: &Template| {
            let text = format.render(|_| Some(Cow::Borrowed(secret.expose())))?;
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Self {
            fingerprint: secret.fingerprint(),
            obtained_at,
            expires,
            secret: secret.clone(),
            values: formats.iter().map(written).collect::<Option<_>>()?,
        })
    }

    pub fn usable(&self, now: Now) -> bool {
        self.expires.is_none_or(|expires| !expires.reached(now))
    }

    /// As it is written in that format.
    pub fn value(&self, format: usize) -> Option<&HeaderValue> {
        self.values.get(format)
    }

    pub fn is(&self, other: &Self) -> bool {
        self.secret == other.secret
    }

    /// For whoever asked for the token itself.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}
