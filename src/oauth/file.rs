//! The language of dialects as a person writes it: in a built-in file or under `[dialect.NAME]`. A mirror for serde, no
//! logic; `dialect` compiles it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use super::error::Class;
use crate::units::Span;

/// RFC 6749 grant types, and `static` for a token that was made by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Grant {
    ClientCredentials,
    Password,
    RefreshToken,
    Static,
}

impl Grant {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
            Self::Static => "static",
        }
    }
}

/// How the client proves who it is; the names of the OpenID registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ClientAuth {
    ClientSecretBasic,
    ClientSecretPost,
    TlsClientAuth,
    SelfSignedTlsClientAuth,
    None,
}

/// How id and secret are written into HTTP Basic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum BasicEncoding {
    /// As they are.
    Raw,
    /// Form-encoded first (RFC 6749 §2.3.1).
    #[default]
    Rfc6749,
}

/// Where the parameters go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Encoding {
    #[default]
    Form,
    Json,
    Query,
    None,
}

/// The two exchanges that bring a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Op {
    /// With the long-lived credentials: a login.
    Acquire,
    /// With a refresh token.
    Renew,
}

/// One value or a list of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum OneOrMany<T> {
    One(T),
    Many(#[schemars(length(min = 1))] Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// An HTTP status.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub struct Status(pub u16);

impl JsonSchema for Status {
    fn schema_name() -> Cow<'static, str> {
        "Status".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 100, "maximum": 599 })
    }
}

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

/// A dialect as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct DialectFile {
    /// What this is, in a line.
    pub about: Option<String>,
    /// The built-in that this one changes; what is not said here is as there.
    pub extends: Option<String>,
    /// Keys of a token that must be set, such as `identity` or `headers.X-Key`.
    pub needs: Vec<String>,
    /// The vendor's base URL, `{base_url}` in templates.
    pub base_url: Option<String>,
    /// The grant when the token names none.
    pub grant: Option<Grant>,
    /// The client authentication when the token names none.
    pub client_auth: Option<ClientAuth>,
    /// How id and secret are written into HTTP Basic.
    pub basic_encoding: BasicEncoding,
    /// Between the scopes; a space when not given.
    pub scope_separator: Option<String>,
    /// Fraction of the lifetime at which the background refresh starts.
    #[schemars(range(min = 0.1, max = 0.95))]
    pub refresh_at: Option<f64>,
    /// The login.
    pub acquire: Option<OperationFile>,
    /// The renewal with a refresh token.
    pub renew: Option<OperationFile>,
    /// Where the token and its expiry are in an answer.
    pub answer: AnswerFile,
    /// What a refusal means; the first rule that matches decides.
    pub error: Vec<RuleFile>,
    /// How the token is sent to the API.
    pub inject: InjectFile,
    /// Worked examples: tests of a built-in, ignored by the program.
    pub example: Vec<Value>,
}

/// A token request as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct OperationFile {
    /// `POST` when not given.
    pub method: Option<String>,
    /// Values are percent-encoded; `{url}` and `{base_url}` stand as they are.
    pub url: Option<String>,
    /// Where the parameters go.
    pub encoding: Encoding,
    /// A parameter whose template names a value that is not set is left out.
    pub params: BTreeMap<String, Value>,
    /// A header whose template names a value that is not set is left out.
    pub headers: BTreeMap<String, String>,
}

/// An error rule as it is written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct RuleFile {
    /// All that is given must hold.
    #[serde(default)]
    pub when: WhenFile,
    /// What it means.
    pub class: Class,
}

/// The condition of an error rule as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct WhenFile {
    /// Only at this exchange; at both when not given.
    pub op: Option<Op>,
    /// HTTP status.
    pub status: Option<OneOrMany<Status>>,
    /// The answer's error code.
    pub code: Option<OneOrMany<String>>,
    /// A regular expression, without regard to case, on the answer's message, or on its text where it does not parse.
    pub message: Option<String>,
}

/// `[inject]` as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct InjectFile {
    /// `Authorization` when not given.
    pub header: Option<String>,
    /// `Bearer {access_token}` when not given.
    pub format: Option<String>,
}
