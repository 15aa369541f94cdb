//! What is made up: tokens, ids, secrets.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// So many random hexadecimal digits.
pub fn hex(digits: usize) -> String {
    (0..digits).map(|_| char::from(b"0123456789abcdef"[fastrand::usize(..16)])).collect()
}

/// A random UUID (RFC 9562 §5.4).
pub fn uuid() -> String {
    let variant = ['8', '9', 'a', 'b'][fastrand::usize(..4)];
    format!("{}-{}-4{}-{variant}{}-{}", hex(8), hex(4), hex(3), hex(3), hex(12))
}

/// A JWT with these claims; nobody here checks its signature.
pub fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signature: String = URL_SAFE_NO_PAD.encode(hex(64));
    format!("{}.{}.{signature}", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(claims))
}
