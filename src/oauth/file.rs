//! The language of dialects as a person writes it: in a built-in file or under `[dialect.NAME]`. A mirror for serde, no
//! logic; `dialect` compiles it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

pub use answer::{AnswerFile, ExpiresFile, ExpiresTable, ExpiresWord, Rotation, SameTokenFile, SameTokenWord, Unit};
pub use rotate::{RotateFile, VerifyFile};

use super::error::Class;
use crate::units::{Budget, Span};

mod answer;
mod rotate;

/// RFC 6749 grant types, and `static` for a token that was made by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Grant {
    ClientCredentials,
    Password,
    AuthorizationCode,
    RefreshToken,
    Static,
}

impl Grant {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Password => "password",
            Self::AuthorizationCode => "authorization_code",
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

/// What is asked of a vendor. The first three bring a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Op {
    /// With the long-lived credentials: a login.
    Acquire,
    /// With a refresh token.
    Renew,
    /// With the code that an interactive login brought.
    Exchange,
    /// Ends a token.
    Revoke,
    /// Of client secrets and client applications, by an administrator's access token.
    Manage,
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
    /// The vendor's request budget, such as `5 per 5m`, for tokens that name none.
    pub limit: Option<Budget>,
    /// Values of the dialect's own names in templates, where the token has none.
    pub vars: BTreeMap<String, String>,
    /// Fraction of the lifetime at which the background refresh starts.
    #[schemars(range(min = 0.1, max = 0.95))]
    pub refresh_at: Option<f64>,
    /// The login.
    pub acquire: Option<OperationFile>,
    /// The renewal with a refresh token.
    pub renew: Option<OperationFile>,
    /// The exchange of a code for a token, after an interactive login.
    pub exchange: Option<OperationFile>,
    /// The request that ends a token.
    pub revoke: Option<OperationFile>,
    /// Where a person logs in with a browser.
    pub authorize: Option<AuthorizeFile>,
    /// The vendor's requests on client secrets: `list`, `create`, `delete`, `replace`.
    pub secrets: BTreeMap<String, ManagedFile>,
    /// How client secrets are rotated, for tokens that do not say.
    pub rotate: RotateFile,
    /// The vendor's requests on client applications: `list`, `register`, `delete`.
    pub clients: BTreeMap<String, ManagedFile>,
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

/// `[authorize]` as it is written: the URL that a browser opens.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct AuthorizeFile {
    /// The page; a token's own `authorize_url` wins.
    pub url: Option<String>,
    /// Its query. A parameter whose template names a value that is not set is left out.
    pub params: BTreeMap<String, String>,
}

/// A management request as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct ManagedFile {
    /// `POST` when not given.
    pub method: Option<String>,
    /// Values are percent-encoded; `{url}` and `{base_url}` stand as they are.
    pub url: Option<String>,
    /// Where the parameters go.
    pub encoding: Encoding,
    /// A template that is one name alone keeps the value's type: a number, a list.
    pub params: BTreeMap<String, Value>,
    /// A header whose template names a value that is not set is left out.
    pub headers: BTreeMap<String, String>,
    /// What the answer holds, and where: `items` for a list, the others in each of its items, or in the answer itself.
    pub answer: BTreeMap<String, OneOrMany<String>>,
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
    /// What to do about it, for the operator; the class says when not given.
    pub fix: Option<String>,
}

/// The condition of an error rule as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct WhenFile {
    /// Only at this request; at all when not given.
    pub op: Option<Op>,
    /// HTTP status.
    pub status: Option<OneOrMany<Status>>,
    /// The answer's error code.
    pub code: Option<OneOrMany<String>>,
    /// A regular expression, without regard to case, on the answer's message, or on its text where it does not parse.
    pub message: Option<String>,
    /// The client secret was made less than this before; does not hold where nobody knows when.
    pub secret_younger_than: Option<Span>,
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
    /// Extra request headers, unless the route sets them itself; such as `{headers.X-Key}`, the token's own.
    pub headers: BTreeMap<String, String>,
}
