//! A vendor's own words, made fit for a log: one line, cut, and without anything that must not come out. Pure.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use form_urlencoded::byte_serialize;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use zeroize::Zeroizing;

use super::request::Inputs;

/// At most this many characters of a message are kept.
const LENGTH_MAX: usize = 200;
/// Shorter secrets would mask ordinary words.
const SECRET_MIN: usize = 4;

/// What looks like a token beside its name, in JSON, a form, or an error message.
static TOKENS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?i)([a-z_]*token\\?"?\s*[:=]\s*\\?"?)[^"\\&\s,;}]{12,}"#).ok());

/// `text` on one line, without our secrets in any usual spelling, without tokens, cut.
pub fn cleaned(text: &str, inputs: &Inputs) -> String {
    let mut text = text.to_owned();
    for spelling in spellings(inputs) {
        text = text.replace(spelling.as_str(), "***");
    }
    if repeats_a_secret(&text, inputs) {
        return "(not shown: it repeats a secret)".to_owned();
    }
    if let Some(tokens) = &*TOKENS {
        text = tokens.replace_all(&text, "${1}***").into_owned();
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LENGTH_MAX).collect()
}

/// Every way in which an answer may repeat what we sent, the longest first.
fn spellings(inputs: &Inputs) -> Vec<Zeroizing<String>> {
    let mut raw: Vec<Zeroizing<String>> =
        inputs.secrets().into_iter().map(|secret| Zeroizing::new(secret.expose().to_owned())).collect();
    if let (Some(id), Some(secret)) = (&inputs.client_id, &inputs.client_secret) {
        let form = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        raw.push(Zeroizing::new(format!("{id}:{}", secret.expose())));
        raw.push(Zeroizing::new(format!("{}:{}", form(id), form(secret.expose()))));
    }
    let mut all = Vec::new();
    for secret in raw.iter().filter(|secret| secret.len() >= SECRET_MIN) {
        let form: String = byte_serialize(secret.as_bytes()).collect();
        let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        let json = serde_json::to_string(secret.as_str()).unwrap_or_default();
        for spelling in [
            secret.as_str(),
            &lower_escapes(&form),
            &lower_escapes(&percent),
            &form,
            &percent,
            json.trim_matches('"'),
            &STANDARD.encode(secret.as_bytes()),
            &STANDARD_NO_PAD.encode(secret.as_bytes()),
            &URL_SAFE.encode(secret.as_bytes()),
            &URL_SAFE_NO_PAD.encode(secret.as_bytes()),
        ] {
            all.push(Zeroizing::new(spelling.to_owned()));
        }
    }
    all.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
    all
}

/// Is there a secret in it once its escapes are undone, in JSON within JSON, too?
fn repeats_a_secret(text: &str, inputs: &Inputs) -> bool {
    let mut text = Zeroizing::new(text.to_owned());
    for _ in 0..3 {
        let plain = Zeroizing::new(unescaped(&text));
        if inputs.secrets().iter().any(|s| s.expose().len() >= SECRET_MIN && plain.contains(s.expose())) {
            return true;
        }
        text = plain;
    }
    false
}

/// The text with the escapes of JSON, HTML and URLs undone.
fn unescaped(text: &str) -> String {
    let hex = |digits: Option<&str>| u32::from_str_radix(digits?, 16).ok();
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut high = None;
    while let Some(first) = rest.chars().next() {
        let (code, length) = match first {
            '\\' if rest[1..].starts_with('u') => (hex(rest.get(2..6)), 6),
            '\\' => (rest[1..].chars().next().map(u32::from), 1 + rest[1..].chars().next().map_or(0, char::len_utf8)),
            '%' => (hex(rest.get(1..3)), 3),
            '&' => entity(rest),
            other => (Some(other.into()), other.len_utf8()),
        };
        let Some(code) = code else {
            push(&mut out, first.into());
            rest = &rest[first.len_utf8()..];
            continue;
        };
        rest = &rest[length..];
        match (high.take(), code) {
            // Half of a character beyond 16 bits, and its other half.
            (_, 0xd800..=0xdbff) => high = Some(code),
            (Some(high), 0xdc00..=0xdfff) => push(&mut out, 0x10000 + ((high - 0xd800) << 10) + (code - 0xdc00)),
            // A byte of UTF-8, by itself.
            (_, 0x80..=0xff) if first == '%' => out.push(u8::try_from(code).unwrap_or(b'?')),
            (_, code) => push(&mut out, code),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn push(out: &mut Vec<u8>, code: u32) {
    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// The character that `&name;` stands for, and how long that is.
fn entity(text: &str) -> (Option<u32>, usize) {
    let end = text.bytes().take(10).position(|byte| byte == b';').unwrap_or(0);
    let code = match text.get(1..end).unwrap_or_default() {
        "amp" => Some('&'.into()),
        "lt" => Some('<'.into()),
        "gt" => Some('>'.into()),
        "quot" => Some('"'.into()),
        "apos" => Some('\''.into()),
        name => match name.strip_prefix('#').map(|n| (n.strip_prefix(['x', 'X']), n)) {
            Some((Some(digits), _)) => u32::from_str_radix(digits, 16).ok(),
            Some((None, digits)) => digits.parse().ok(),
            None => None,
        },
    };
    code.map_or((Some('&'.into()), 1), |code| (Some(code), end + 1))
}

/// `%2F` as `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        out.push('%');
        out.push_str(&digits.to_ascii_lowercase());
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::file::{ClientAuth, Grant};
    use crate::secret::Secret;

    fn shown(text: &str) -> String {
        let inputs = Inputs {
            client_id: Some("app".into()),
            client_secret: Some(Secret::new("top/secret+value".into())),
            username: Some("user".into()),
            password: Some(Secret::new("p\"ass word".into())),
            ..Inputs::new(Grant::Password, ClientAuth::ClientSecretBasic)
        };
        cleaned(text, &inputs)
    }

    #[test]
    fn nothing_that_was_sent_is_repeated_in_any_usual_spelling() {
        let basic = STANDARD.encode("app:top/secret+value");
        for said in [
            "top/secret+value",
            "top%2Fsecret%2Bvalue",
            "top%2fsecret%2bvalue",
            &basic,
            "p\"ass word",
            "p%22ass+word",
            "p%22ass%20word",
            r#"p\"ass word"#,
        ] {
            assert_eq!(shown(&format!("you sent <{said}>")), "you sent <***>", "{said}");
        }
    }

    #[test]
    fn a_message_that_repeats_a_secret_under_escapes_is_not_shown() {
        for said in [
            r#"p\u0022ass word"#,
            r#"p\\u0022ass\\u0020word"#,
            "p&quot;ass word",
            "p&#34;ass&#x20;word",
            r#"top\/secret\u002bvalue"#,
            "top/secret&#43;value",
        ] {
            assert_eq!(shown(&format!("you sent {said}")), "(not shown: it repeats a secret)", "{said}");
        }
        assert_eq!(shown(r#"100% \u00e4 &amp; \ud83d\ude00 & more\"#), r#"100% \u00e4 &amp; \ud83d\ude00 & more\"#);
        assert_eq!(unescaped(r#"100% \u00e4 &amp; \ud83d\ude00 %c3%a4 & more\"#), "100% ä & 😀 ä & more\\");
    }

    #[test]
    fn what_looks_like_a_token_is_not_repeated_either() {
        for said in [
            "access_token=gho_1234567890abcdef&x=1",
            r#"{"access_token":"gho_1234567890abcdef","x":1}"#,
            r#"{"refreshToken" : "gho_1234567890abcdef"}"#,
            "bad token: gho_1234567890abcdef",
        ] {
            assert!(!shown(said).contains("gho_"), "{}", shown(said));
        }
        assert_eq!(shown("the token: expired"), "the token: expired");
    }

    #[test]
    fn a_message_is_one_line_and_short() {
        assert_eq!(shown("a\n\tb\u{7}c"), "a b c");
        assert_eq!(shown(&"x".repeat(500)).len(), 200);
    }
}
