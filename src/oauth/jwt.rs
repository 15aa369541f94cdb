//! The one thing the broker reads in a JWT: when it ends. Signatures are the API's business.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The `exp` claim in Unix seconds (RFC 7519 §4.1.4), if `token` looks like a JWT that has one.
pub fn expiry(token: &str) -> Option<i64> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    let exp = claims.get("exp")?;
    #[expect(clippy::cast_possible_truncation, reason = "NumericDate may carry a fraction; `as` saturates")]
    exp.as_i64().or_else(|| exp.as_f64().map(|seconds| seconds as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn the_expiry_is_read_as_a_number_of_seconds() {
        assert_eq!(expiry(&jwt(r#"{"exp":1767225600}"#)), Some(1_767_225_600));
        assert_eq!(expiry(&jwt(r#"{"exp":1767225600.75}"#)), Some(1_767_225_600));
    }

    #[test]
    fn what_is_no_jwt_or_says_nothing_has_no_expiry() {
        for token in ["opaque", "a.b", "a.b.c.d", &jwt("{}"), &jwt(r#"{"exp":"soon"}"#), &jwt("not json")] {
            assert_eq!(expiry(token), None, "{token}");
        }
    }
}
