//! What is promised but not built yet: refused by name, so that nobody mistakes it for working.

/// Keys, by the kind of table they belong to.
pub const KEYS: &[(&str, &[&str])] =
    &[("identity.*", &["p12", "password"]), ("token.*", &["issuer"]), ("route.*", &["http2"])];

/// Values, by key.
pub const VALUES: &[(&str, &[&str])] = &[
    ("token.*.grant", GRANTS),
    ("dialect.*.grant", GRANTS),
    ("token.*.client_auth", CLIENT_AUTHS),
    ("dialect.*.client_auth", CLIENT_AUTHS),
];

const GRANTS: &[&str] = &["device_code", "jwt_bearer", "token_exchange"];
const CLIENT_AUTHS: &[&str] = &["client_secret_jwt", "private_key_jwt"];

/// Is `word` in the row of `table` whose pattern matches the path? `*` stands for any one step.
pub fn has(table: &[(&str, &[&str])], path: &[String], word: &str) -> bool {
    table.iter().any(|(pattern, words)| {
        let steps = pattern.split('.');
        let matches = steps.clone().count() == path.len() && steps.zip(path).all(|(p, step)| p == "*" || p == step);
        matches && words.contains(&word)
    })
}
