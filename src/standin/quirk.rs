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

/// Their names for `demo --fault`, whose they are (none named: everybody's), and what each does.
pub const NAMES: &[(&str, Quirk, &[&str], &str)] = &[
    ("clock-ahead", Quirk::ClockAhead, &[], "has a clock that is a day ahead"),
    ("clock-behind", Quirk::ClockBehind, &[], "has a clock that is a day behind"),
    ("no-retry-after", Quirk::NoRetryAfter, &["comap"], "does not say when its budget is there again"),
    ("rotates", Quirk::Rotates, &["covata", "netrex"], "lets a refresh token be used once"),
    ("keeps-refresh-token", Quirk::KeepsRefreshToken, &["comodo"], "lets a refresh token be used again and again"),
    ("key-refused", Quirk::KeyRefused, &["comap"], "says that the subscription key has ended"),
    ("secret-expired", Quirk::SecretExpired, &["comap"], "says that every client secret has expired"),
    ("malformed", Quirk::Malformed, &["comap"], "says the same in the broken JSON of the vendor's page"),
    ("replicas", Quirk::Replicas, &["comap"], "knows a new secret on some connections first"),
    ("old-names", Quirk::OldNames, &["comap"], "lists client_id and secretId for clientId and keyId"),
    ("created", Quirk::Created, &["comap"], "answers 201 to a new secret"),
    ("ends-now", Quirk::EndsNow, &["comap"], "says of a new secret that it ends now"),
    ("one-object", Quirk::OneObject, &["vanco"], "lists a single secret without an array around it"),
    ("hides-deleted", Quirk::HidesDeleted, &["vanco"], "does not list deleted secrets"),
    ("one-error-shape", Quirk::OneErrorShape, &["vanco"], "answers 400 in the shape of 403"),
    ("slow-death", Quirk::SlowDeath, &["vanco"], "takes a deleted secret for another 5 s"),
    ("two-secrets", Quirk::TwoSecrets, &["vanco"], "refuses a third secret"),
    ("serial-unknown", Quirk::SerialUnknown, &["comodo"], "has another certificate on file"),
    ("milliseconds", Quirk::Milliseconds, &["comodo"], "tells expiries in milliseconds"),
    ("plain-errors", Quirk::PlainErrors, &["comodo"], "tells errors as plain text"),
    ("other-header", Quirk::OtherHeader, &["comodo"], "has an API that wants x-auth-token and x-auth-type"),
    ("fresh-tokens", Quirk::FreshTokens, &["covata"], "answers each login with another token"),
    ("jwt", Quirk::Jwt, &["covata"], "has JWTs for tokens"),
    ("bare-refusal", Quirk::BareRefusal, &["covata"], "refuses a client with a 401 that has nothing in it"),
    ("errors-as-200", Quirk::ErrorsAs200, &["netrex"], "tells errors with status 200"),
    ("one-time", Quirk::OneTime, &["netrex"], "gives no refresh tokens to who logs in"),
    ("denied", Quirk::Denied, &["covata", "netrex"], "has people who log in and refuse the access"),
];

impl Quirk {
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, ..)| *known == name).map(|(_, quirk, ..)| *quirk)
    }
}
