//! `[rotate]` as it is written: what a vendor wants of the rotation of its client secrets.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::{Life, Span};

/// For tokens that do not say.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct RotateFile {
    /// How many secrets a client may have at once; not known when not given.
    #[schemars(range(min = 1, max = 100))]
    pub slots: Option<u8>,
    /// How long a new secret is good; `2y` when not given.
    pub lifetime: Option<Life>,
    /// How a new one is tried before it is used.
    pub verify: VerifyFile,
    /// How long the vendor may take until its list shows what was done; `2s` when not given.
    pub settle: Option<Span>,
}

/// How a new secret is tried before it is used.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct VerifyFile {
    /// So many times with success, one after the other; 3 when not given.
    #[schemars(range(min = 1, max = 20))]
    pub times: Option<u32>,
    /// So far apart; `1s` when not given.
    pub every: Option<Span>,
}
