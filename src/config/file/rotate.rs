//! A token's `rotate` as a person writes it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::oauth::file::VerifyFile;
use crate::units::{Life, Span};

/// How a client secret is rotated at the vendor.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct RotateFile {
    /// Rotate by itself, so long before the secret ends; only when a person asks, when not given.
    pub before: Option<Span>,
    /// The token whose access token may manage the secrets: a name under `[token]`; this token's own when not given.
    pub admin: Option<String>,
    /// The vendor's id of the configured secret, where its list does not tell which one that is.
    pub current: Option<String>,
    /// How long a new secret is good, in years, months of 30 days or days; the dialect's or `2y` when not given.
    pub lifetime: Option<Life>,
    /// How long the old one is kept beside the new one; `24h` when not given.
    pub grace: Option<Span>,
    /// How a new one is tried before it is used.
    pub verify: VerifyFile,
    /// How long the vendor may take until its list shows what was done; the dialect's or `2s` when not given.
    pub settle: Option<Span>,
    /// A file that a new secret is written to as well, such as that of `client_secret`.
    pub write: Option<PathBuf>,
}
