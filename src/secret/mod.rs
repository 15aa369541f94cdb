//! A value that must not be seen: passwords, client secrets, tokens, keys.
//!
//! [`Secret`] is wiped when dropped, prints as nothing, cannot be serialized, and gives its value to whoever calls
//! [`Secret::expose`]: the list of those callers is kept by a test.

pub mod file;
pub mod source;

use std::fmt;

use http::HeaderValue;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text. Copies made by TLS, HTTP and JSON buffers are beyond its reach: exposure is reduced, not ended.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// 256 random bits, in hexadecimal.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 32];
        let none = |_| std::io::Error::other("the system gives no random numbers");
        SystemRandom::new().fill(&mut bytes).map_err(none)?;
        Ok(Self::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The value itself. Security: never into a log, an error, a metric or argv.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// May it stand in a header?
    pub fn fits_a_header(&self) -> bool {
        HeaderValue::from_str(&self.0).is_ok()
    }

    /// How a secret may be named in logs and status.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = digest::digest(&digest::SHA256, self.0.as_bytes());
        let mut first = [0; 4];
        first.copy_from_slice(&hash.as_ref()[..4]);
        Fingerprint(u32::from_be_bytes(first))
    }

    /// [`Self::digest`] in hexadecimal.
    pub fn digest_in_hex(&self) -> String {
        self.digest().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The whole SHA-256, for telling two values apart without keeping either.
    pub fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
        out
    }
}

/// Compared in constant time; the length is not hidden.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The first 8 hex digits of a secret's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u32);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2".into()))), "Some(Secret(…))");
    }

    #[test]
    fn the_fingerprint_is_the_start_of_the_sha_256() {
        let secret = Secret::new("abc".into());
        assert_eq!(secret.fingerprint().to_string(), "ba7816bf");
        assert_eq!(secret.digest()[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
