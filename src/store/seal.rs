//! What makes a record unreadable to others and unchangeable by them: XChaCha20-Poly1305, with the record's name and
//! version as associated data, so that none can stand in another's place or in that of a later one.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Shorter keys can be guessed.
pub const KEY_MIN: usize = 32;
/// What every record begins with: this format, and its first version.
const MAGIC: &[u8; 8] = b"tkbrkr\0\x01";
const NONCE: usize = 24;
/// The label of HKDF (RFC 5869 §3.2).
const INFO: &[u8] = b"tokenbroker store v1";

/// Seals and opens records.
#[derive(Clone)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
    random: SystemRandom,
}

/// A record cannot be opened: another key made it, or it was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("is damaged, or was sealed with another store key")]
    Damaged,
    #[error("was written by another version of this program")]
    Format,
    #[error("is longer than 1 MiB")]
    Long,
    #[error("the system gives no random numbers")]
    Random,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl Seal {
    /// The encryption key is HKDF-SHA-256 of `key`, whatever that is made of. `None` if it is shorter than [`KEY_MIN`].
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.len() < KEY_MIN {
            return None;
        }
        let mut derived = Zeroizing::new([0; 32]);
        let pseudorandom = Salt::new(HKDF_SHA256, &[]).extract(key);
        pseudorandom.expand(&[INFO], Length).and_then(|okm| okm.fill(&mut *derived)).ok()?;
        let cipher = XChaCha20Poly1305::new_from_slice(&*derived).ok()?;
        Some(Self { cipher, random: SystemRandom::new() })
    }

    /// The record as it is written: magic, nonce, ciphertext with its tag. Nonces are random: 192 bits never repeat.
    pub fn seal(&self, name: &str, version: u64, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE];
        self.random.fill(&mut nonce).map_err(|_| SealError::Random)?;
        let aad = associated(name, version);
        let payload = Payload { msg: plain, aad: &aad };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::Damaged)?;
        Ok([MAGIC.as_slice(), &nonce, &sealed].concat())
    }

    /// What was sealed under that name and version.
    pub fn open(&self, name: &str, version: u64, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (magic, rest) = record.split_at_checked(MAGIC.len()).ok_or(SealError::Damaged)?;
        if magic != MAGIC {
            return Err(if magic[..7] == MAGIC[..7] { SealError::Format } else { SealError::Damaged });
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Damaged)?;
        let aad = associated(name, version);
        let payload = Payload { msg: sealed, aad: &aad };
        let plain = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| SealError::Damaged)?;
        Ok(Zeroizing::new(plain))
    }
}

/// Name and version, unmistakably: a name has no zero byte.
fn associated(name: &str, version: u64) -> Vec<u8> {
    [MAGIC.as_slice(), name.as_bytes(), &[0], &version.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn seal(key: &str) -> Seal {
        Seal::new(key.as_bytes()).unwrap()
    }

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_record_opens_under_its_own_name_version_and_key_only() {
        let record = seal(KEY).seal("token.a", 7, b"secret").unwrap();
        assert_eq!(*seal(KEY).open("token.a", 7, &record).unwrap(), b"secret");
        for (key, name, version) in [
            (KEY, "token.b", 7),
            (KEY, "token.a", 6),
            (KEY, "token.a", 8),
            ("another key, that is long enough", "token.a", 7),
        ] {
            assert_eq!(seal(key).open(name, version, &record), Err(SealError::Damaged));
        }
        assert!(!record.windows(6).any(|window| window == b"secret"));
        assert!(Seal::new(b"short").is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let plain = vec![b'x'; 4096 - MAGIC.len() - NONCE - 16];
        let seal = seal(KEY);
        let record = seal.seal("token.a", 1, &plain).unwrap();
        assert_eq!(record.len(), 4096);
        for at in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(seal.open("token.a", 1, &changed).is_err(), "bit {at}");
        }
        for length in 0..record.len() {
            assert!(seal.open("token.a", 1, &record[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let seal = seal(KEY);
        let mut nonces = HashSet::new();
        for _ in 0..100_000 {
            let record = seal.seal("n", 1, b"").unwrap();
            assert!(nonces.insert(record[MAGIC.len()..MAGIC.len() + NONCE].to_vec()));
        }
    }
}
