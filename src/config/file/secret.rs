//! A secret as a person writes it: where it is read from.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::secret::Secret;
use crate::secret::source::SecretSource;

/// A secret as it is written: `{ file = "…" }`, `{ env = "…" }`, `{ exec = ["…"] }`, `{ credential = "…" }`, or bare text.
#[derive(Clone, Debug)]
pub struct SecretFile(pub SecretSource);

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Inline(String),
            Source(Source),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Source {
            File(PathBuf),
            Env(String),
            Exec(Vec<String>),
            Credential(String),
        }
        // Security: serde's own error would quote the value; the shape was checked before.
        let written = Written::deserialize(deserializer).map_err(|_| serde::de::Error::custom("not a secret"))?;
        Ok(Self(match written {
            Written::Inline(text) => SecretSource::Inline(Secret::new(text)),
            Written::Source(Source::File(path)) => SecretSource::File(path),
            Written::Source(Source::Env(name)) => SecretSource::Env(name),
            Written::Source(Source::Exec(mut argv)) => {
                if argv.is_empty() {
                    return Err(serde::de::Error::custom("an empty command"));
                }
                SecretSource::Exec(argv.remove(0), argv)
            }
            Written::Source(Source::Credential(name)) => SecretSource::Credential(name),
        }))
    }
}

impl JsonSchema for SecretFile {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a secret is read from. A bare string is accepted with a warning.",
            "anyOf": [
                { "type": "string", "writeOnly": true },
                {
                    "type": "object",
                    "properties": {
                        "file": { "type": "string", "description": "A file; one trailing newline is stripped." },
                        "env": { "type": "string", "description": "An environment variable." },
                        "exec": {
                            "type": "array",
                            "items": { "type": "string" },
                            "minItems": 1,
                            "description": "A command, without a shell; 10 s, 64 KiB."
                        },
                        "credential": { "type": "string", "description": "A systemd credential (LoadCredential=)." }
                    },
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1
                }
            ]
        })
    }
}
