//! `[answer]` of a dialect as a person writes it. A mirror for serde, no logic.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{OneOrMany, Status};
use crate::units::Span;

/// `[answer]` as it is written. A place is `json:PATH` (dots, list indices), `header:NAME`, `cookie:NAME`, `text` for the
/// whole body or `json_string` for a body that is one JSON string; in a list, the first that holds something counts.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct AnswerFile {
    /// Place of the access token; `json:access_token` when not given.
    pub access_token: Option<OneOrMany<String>>,
    /// Place of the refresh token; `json:refresh_token` when not given.
    pub refresh_token: Option<OneOrMany<String>>,
    /// Does a renewal bring a new refresh token?
    pub rotation: Rotation,
    /// When the access token ends; `{ in = "json:expires_in" }` when not given.
    pub expires: Option<ExpiresFile>,
    /// When the refresh token ends; not known when not given.
    pub refresh_expires: Option<ExpiresFile>,
    /// What an answer must be to count as a success, besides holding a token; any 2xx when not given.
    pub success: Option<SuccessFile>,
    /// Does an early request bring the token that is there already?
    pub same_token: Option<SameTokenFile>,
    /// Does a new token end the one before?
    pub exclusive: bool,
    /// Place of the error code; `json:error` when not given.
    pub error_code: Option<OneOrMany<String>>,
    /// Place of the error message; the usual names when not given.
    pub error_message: Option<OneOrMany<String>>,
}

/// Does a renewal bring a new refresh token?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Rotation {
    /// Each time; the old one is dead then.
    Always,
    /// When the answer holds one; else the old one goes on.
    #[default]
    Optional,
    /// Never; one in the answer is not looked at.
    Never,
}

/// `same_token` as it is written: a word, or a table with `until_remaining`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum SameTokenFile {
    Word(SameTokenWord),
    Table(SameTokenTable),
}

/// Does a server give the same token again?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum SameTokenWord {
    /// Each request brings another.
    #[default]
    Never,
    /// As long as it lives.
    UntilExpiry,
}

/// As long as more than this is left of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct SameTokenTable {
    /// What is left of the token when the server makes another.
    pub until_remaining: Span,
}

/// `expires` as it is written: `"jwt"`, or a table with one of `in`, `at` and `fixed`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum ExpiresFile {
    Word(ExpiresWord),
    Table(ExpiresTable),
}

/// The claim `exp` of the token itself.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ExpiresWord {
    Jwt,
}

/// One of `in`, `at` and `fixed`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct ExpiresTable {
    /// Place of a lifetime.
    pub r#in: Option<OneOrMany<String>>,
    /// Place of a moment: a number since 1970, or RFC 3339.
    pub at: Option<OneOrMany<String>>,
    /// The lifetime, where the server does not tell.
    pub fixed: Option<Span>,
    /// What a number counts.
    pub unit: Option<Unit>,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Unit {
    S,
    Ms,
    /// Seconds, or milliseconds if seconds would be thousands of years ahead; for `at`, a small number is a lifetime.
    #[default]
    Auto,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct SuccessFile {
    /// HTTP status.
    pub status: Option<OneOrMany<Status>>,
    /// JSON paths and the values they must have.
    pub equals: BTreeMap<String, Value>,
}
