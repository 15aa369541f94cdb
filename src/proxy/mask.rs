//! What of a head may be shown to an operator. Security: what could be a secret is not, however useful it were. Rather too
//! much is masked than too little: every value of a query, every field whose name sounds like a credential, every word that
//! looks like a token, and what the broker itself adds.

use super::route::Route;
use crate::telemetry::inspected::Shown;
use crate::token::cache::Credential;

const MASKED: &str = "***";
/// Parts of names.
const TELLING: [&str; 19] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "pass",
    "pwd",
    "key",
    "session",
    "credential",
    "signature",
    "csrf",
    "xsrf",
    "jwt",
    "assertion",
    "otp",
    "sid",
    "cert",
    "ticket",
    "websocket-protocol",
];
/// Fields with such a part in their names, whose values are none.
const HARMLESS: [&str; 4] =
    ["www-authenticate", "sec-websocket-key", "idempotency-key", "access-control-allow-credentials"];
/// A shorter word may stand in a text by chance.
const SECRET_MIN: usize = 8;
/// As long as a random value that is worth something.
const RANDOM_MIN: usize = 32;

/// What must not be shown of the exchanges on a route.
pub struct Mask {
    /// Names in lower case.
    names: Vec<String>,
    secrets: Vec<Vec<u8>>,
}

impl Mask {
    /// With the credential that was sent; the one in use is not shown either.
    pub fn new(route: Option<&Route>, credential: Option<&Credential>) -> Self {
        let now = route.and_then(|route| route.token.as_ref()).and_then(|token| token.slot.credential(token.format));
        let mut secrets: Vec<_> = [credential, now.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|credential| credential.value.as_bytes().split(|byte| *byte == b' '))
            .map(<[u8]>::to_vec)
            .collect();
        let mut names = Vec::new();
        if let Some(route) = route {
            secrets.extend(route.extra.load().iter().map(|(_, value)| value.as_bytes().to_vec()));
            names.extend(route.config.headers.iter().map(|(name, _)| name.as_str().to_owned()));
            names.push(route.config.header.as_str().to_owned());
        }
        secrets.retain(|secret| secret.len() >= SECRET_MIN);
        Self { names, secrets }
    }

    /// A field, its name in lower case.
    pub fn field(&self, name: &[u8], value: &[u8]) -> Shown {
        let name = String::from_utf8_lossy(name).into_owned();
        let plain = name.replace('_', "-");
        let telling = TELLING.iter().any(|part| plain.contains(part)) && !HARMLESS.contains(&plain.as_str());
        if telling || self.names.contains(&plain) || self.holds(value) {
            return Shown { name, value: MASKED.to_owned(), masked: true };
        }
        let text = String::from_utf8_lossy(value);
        let url = ["location", "content-location", "referer"].contains(&plain.as_str());
        let shown = query(&text);
        let shown = words(&login(&if url { parameters(&shown) } else { shown }));
        let masked = shown != *text || matches!(text, std::borrow::Cow::Owned(_));
        Shown { name, value: shown, masked }
    }

    /// Path and query.
    pub fn target(&self, target: &str) -> String {
        if self.holds(target.as_bytes()) { format!("/{MASKED}") } else { words(&parameters(&query(target))) }
    }

    fn holds(&self, value: &[u8]) -> bool {
        self.secrets.iter().any(|secret| value.windows(secret.len()).any(|part| part == secret))
    }
}

/// The values of every query and fragment in a text; a part without a name is a value, also one in base64 that ends in `=`.
fn query(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '>' | '<' | '\'');
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['?', '#']) {
        let (before, after) = rest.split_at(at + 1);
        let (within, behind) = after.split_at(after.find(ends).unwrap_or(after.len()));
        out.push_str(before);
        // What stands between is kept, so that the parts can be told.
        for part in within.split_inclusive(['&', ';', '?', '#']) {
            let end = part.trim_end_matches(['&', ';', '?', '#']);
            match end.split_once('=') {
                Some((name, "")) if name.len() < SECRET_MIN => out.extend([name, "="]),
                Some((name, value)) if value.bytes().any(|byte| byte != b'=') => out.extend([name, "=", MASKED]),
                None if end.is_empty() => {}
                _ => out.push_str(MASKED),
            }
            out.push_str(&part[end.len()..]);
        }
        rest = behind;
    }
    out + rest
}

/// The values of the parameters in a path, such as `/a;jsessionid=…/b`.
fn parameters(text: &str) -> String {
    let (path, behind) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let (mut out, mut within) = (String::new(), false);
    for part in path.split_inclusive(['/', ';']) {
        let end = part.trim_end_matches(['/', ';']);
        match end.split_once('=') {
            Some((name, value)) if within && !value.is_empty() => out.extend([name, "=", MASKED]),
            _ => out.push_str(end),
        }
        out.push_str(&part[end.len()..]);
        within = part.ends_with(';');
    }
    out + behind
}

/// User name and password of a URL, and what follows the name of a scheme of authentication.
fn login(text: &str) -> String {
    if let Some((scheme, word)) = text.split_once(' ')
        && ["bearer", "basic", "digest", "negotiate"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
        && !word.contains([' ', '"'])
    {
        return format!("{scheme} {MASKED}");
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let authority = after.split(['/', '?', '#', ' ', '"', '>', ',']).next().unwrap_or_default();
        out.push_str(before);
        rest = after;
        if let Some(end) = authority.rfind('@') {
            out.push_str(MASKED);
            rest = &after[end..];
        }
    }
    out + rest
}

/// Words that look like tokens: a JWT, or long with all kinds of characters.
fn words(text: &str) -> String {
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(within) {
        let (before, after) = rest.split_at(start);
        let (word, behind) = after.split_at(after.find(|c| !within(c)).unwrap_or(after.len()));
        out.push_str(before);
        out.push_str(if is_random(word) { MASKED } else { word });
        rest = behind;
    }
    out + rest
}

fn is_random(word: &str) -> bool {
    let jwt = word.starts_with("eyJ") && word.len() >= 16;
    let longest = word.split('.').max_by_key(|part| part.len()).unwrap_or_default();
    let any = |kind: fn(&u8) -> bool| longest.bytes().any(|byte| kind(&byte));
    jwt || longest.len() >= RANDOM_MIN
        && any(u8::is_ascii_digit)
        && any(u8::is_ascii_lowercase)
        && any(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> Mask {
        Mask { names: vec!["x-own".into()], secrets: vec![b"the-access-token".to_vec()] }
    }

    #[test]
    fn of_a_target_the_path_and_the_names_of_its_query_are_shown() {
        for (target, shown) in [
            ("/", "/"),
            ("/users/17", "/users/17"),
            ("/users?page=2&q=a%20b&empty=&flag", "/users?page=***&q=***&empty=&***"),
            ("/a?x=1;y=2?z=3&&w", "/a?x=***;y=***?z=***&&***"),
            ("/a;b=1?x=1;y=2&zzzzzzzz=&w=", "/a;b=***?x=***;y=***&***&w="),
            ("/the-access-token/a?b=1", "/***"),
            ("/a?the-access-token-1=1", "/***"),
            ("/a?c2VjcmV0LWNhbmFyeTE=", "/a?***"),
            ("/a?dGVzdA==&b=1", "/a?***&b=***"),
            ("/a?eyJhbGciOiJub25lIn0.e30.c2ln=1", "/a?***=***"),
            ("/a;jsessionid=0123456789abcdef0123456789abcdef/b;v=1;w=;x?y=1", "/a;jsessionid=***/b;v=***;w=;x?y=***"),
            ("/a=b/c", "/a=b/c"),
            ("/bot/eyJhbGciOiJub25lIn0.e30.sig/send", "/bot/***/send"),
            ("/f47ac10b-58cc-4372-a567-0e02b2c3d479", "/f47ac10b-58cc-4372-a567-0e02b2c3d479"),
            ("/k/aB3dEfGhIjKlMnOpQrStUvWxYz0123456789", "/k/***"),
            ("*", "*"),
        ] {
            assert_eq!(mask().target(target), shown, "{target}");
        }
    }

    #[test]
    fn of_a_field_nothing_is_shown_that_could_be_a_secret() {
        let shown = |name: &str, value: &str| mask().field(name.as_bytes(), value.as_bytes());
        for (name, value) in [
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("proxy-authorization", "x"),
            ("cookie", "a=b"),
            ("set-cookie", "a=b"),
            ("x-tokenbroker-key", "k"),
            ("x_api_key", "k"),
            ("ok-access-passphrase", "k"),
            ("sec-websocket-protocol", "access_token, abc"),
            ("x-ticket", "k"),
            ("x-own", "whatever"),
            ("x-plain", "of the-access-token, a part"),
        ] {
            assert_eq!(shown(name, value).value, "***", "{name}");
        }
        for (name, value, part) in [
            (
                "location",
                "https://u:p@h/cb?code=abc&state=x#access_token=y",
                "https://***@h/cb?code=***&state=***#access_token=***",
            ),
            ("referer", "https://h/a;jsessionid=abc", "https://h/a;jsessionid=***"),
            ("link", "<https://h/?page=2>; rel=\"next\"", "<https://h/?page=***>; rel=\"next\""),
            ("x-plain", "Bearer abc", "Bearer ***"),
            ("www-authenticate", "Negotiate YWJj==", "Negotiate ***"),
            ("x-plain", "v eyJhbGciOiJub25lIn0.e30.", "v ***"),
        ] {
            assert_eq!(shown(name, value), Shown { name: name.into(), value: part.into(), masked: true });
        }
        for (name, value) in [
            ("accept", "text/html, */*;q=0.8"),
            ("user-agent", "curl/8.5.0"),
            ("etag", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("www-authenticate", "Bearer error=\"invalid_token\""),
            ("content-type", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ] {
            assert_eq!(shown(name, value), Shown { name: name.into(), value: value.into(), masked: false });
        }
    }
}
