//! What the vendors' pages leave open, as switches: a stand-in does the likelier thing until one is turned on.

/// A lasting way of a server, beside what goes wrong at single calls ([`super::Fault`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    ClockAhead,
    ClockBehind,
    NoRetryAfter,
    Rotates,
    KeepsRefreshToken,
    KeyRefused,
    SecretExpired,
    Malformed,
    Replicas,
    OldNames,
    Created,
    EndsNow,
    OneObject,
    HidesDeleted,
    OneErrorShape,
    SlowDeath,
    TwoSecrets,
    SerialUnknown,
    Milliseconds,
    PlainErrors,
    OtherHeader,
    FreshTokens,
    Jwt,
    BareRefusal,
    ErrorsAs200,
    OneTime,
    Denied,
}

/// Their names for `demo --fault`, and what each does.
pub const NAMES: &[(&str, Quirk, &str)] = &[
    ("clock-ahead", Quirk::ClockAhead, "has a clock that is a day ahead"),
    ("clock-behind", Quirk::ClockBehind, "has a clock that is a day behind"),
    ("no-retry-after", Quirk::NoRetryAfter, "ComAp: does not say when its budget is there again"),
    ("rotates", Quirk::Rotates, "Covata, Netrex: a refresh token can be used once"),
    ("keeps-refresh-token", Quirk::KeepsRefreshToken, "Comodo: a refresh token can be used again and again"),
    ("key-refused", Quirk::KeyRefused, "ComAp: the subscription key has ended"),
    ("secret-expired", Quirk::SecretExpired, "ComAp: every client secret has expired"),
    ("malformed", Quirk::Malformed, "ComAp: as secret-expired, in the broken JSON of the vendor's page"),
    ("replicas", Quirk::Replicas, "ComAp: a new secret works on some connections first"),
    ("old-names", Quirk::OldNames, "ComAp: lists client_id and secretId for clientId and keyId"),
    ("created", Quirk::Created, "ComAp: a new secret is a 201"),
    ("ends-now", Quirk::EndsNow, "ComAp: says of a new secret that it ends now"),
    ("one-object", Quirk::OneObject, "Vanco: lists a single secret without an array around it"),
    ("hides-deleted", Quirk::HidesDeleted, "Vanco: does not list deleted secrets"),
    ("one-error-shape", Quirk::OneErrorShape, "Vanco: 400 looks like 403"),
    ("slow-death", Quirk::SlowDeath, "Vanco: a deleted secret works for another 5 s"),
    ("two-secrets", Quirk::TwoSecrets, "Vanco: refuses a third secret"),
    ("serial-unknown", Quirk::SerialUnknown, "Comodo: another certificate is on file"),
    ("milliseconds", Quirk::Milliseconds, "Comodo: tells expiries in milliseconds"),
    ("plain-errors", Quirk::PlainErrors, "Comodo: errors are plain text"),
    ("other-header", Quirk::OtherHeader, "Comodo: the API wants x-auth-token and x-auth-type"),
    ("fresh-tokens", Quirk::FreshTokens, "Covata: each login brings another token"),
    ("jwt", Quirk::Jwt, "Covata: tokens are JWTs"),
    ("bare-refusal", Quirk::BareRefusal, "Covata: a refused client gets a 401 with nothing in it"),
    ("errors-as-200", Quirk::ErrorsAs200, "Netrex: errors come with status 200"),
    ("one-time", Quirk::OneTime, "Netrex: no refresh tokens"),
    ("denied", Quirk::Denied, "Netrex, Covata: whoever logs in refuses the access"),
];

impl Quirk {
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, ..)| *known == name).map(|(_, quirk, _)| *quirk)
    }
}
