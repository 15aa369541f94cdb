//! Which passwords and refresh tokens were refused, and how often: a vendor locks an account that is asked too often. Pure.

use super::kept::KeptRefusal;
use crate::oauth::TokenError;
use crate::secret::Secret;

/// A refused value is sent at most this often with the same client credentials …
const TIMES_MAX: u8 = 2;
/// … and at most this often whatever they are, until a person acts.
const TOTAL_MAX: u8 = 6;
/// Said with the last refusal.
const NOT_AGAIN: &str =
    "; it was refused repeatedly and is not sent again until it changes or a person asks for a refresh";
/// Values that are remembered; the oldest goes first.
const ENTRIES_MAX: usize = 64;

/// What stands for a credential without being one: hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Of user name and password, or of the refresh token.
    what: [u8; 32],
    /// Of the client's own credentials: with others, a login is worth another try.
    with: [u8; 32],
}

impl Credential {
    pub fn login(username: &str, password: &Secret, client_id: &str, client_secret: &Secret) -> Self {
        let hash = |parts: [&str; 2]| Secret::new(parts.join("\0")).digest();
        Self { what: hash([username, password.expose()]), with: hash([client_id, client_secret.expose()]) }
    }

    pub fn refresh_token(token: &Secret) -> Self {
        Self { what: token.digest(), with: [0; 32] }
    }

    /// Nothing that could be refused.
    pub fn none() -> Self {
        Self { what: [0; 32], with: [0; 32] }
    }
}

struct Entry {
    credential: Credential,
    times: u8,
    total: u8,
    error: TokenError,
}

/// The memory.
#[derive(Default)]
pub struct Refusals(Vec<Entry>);

impl Refusals {
    /// Why this one may not be sent any more.
    pub fn barred(&self, credential: &Credential) -> Option<&TokenError> {
        let entry = self.0.iter().find(|entry| entry.credential.what == credential.what)?;
        let same = entry.credential.with == credential.with && entry.times >= TIMES_MAX;
        (same || entry.total >= TOTAL_MAX).then_some(&entry.error)
    }

    /// It was refused; for good if `finally`.
    pub fn note(&mut self, credential: Credential, error: &TokenError, finally: bool) {
        let at = self.0.iter().position(|entry| entry.credential.what == credential.what);
        let mut entry = match at {
            Some(at) => self.0.remove(at),
            None => Entry { credential, times: 0, total: 0, error: error.clone() },
        };
        if entry.credential.with != credential.with {
            (entry.credential, entry.times) = (credential, 0);
        }
        entry.times = if finally { TIMES_MAX } else { entry.times.saturating_add(1) };
        entry.total = entry.total.saturating_add(1);
        entry.error = error.clone();
        if !finally && (entry.times >= TIMES_MAX || entry.total >= TOTAL_MAX) {
            entry.error.fix.push_str(NOT_AGAIN);
        }
        if self.0.len() >= ENTRIES_MAX {
            self.0.remove(0);
        }
        self.0.push(entry);
    }

    /// It was accepted.
    pub fn forget(&mut self, credential: &Credential) {
        self.0.retain(|entry| entry.credential.what != credential.what);
    }

    /// For the store.
    pub fn keep(&self) -> Vec<KeptRefusal> {
        let kept = |entry: &Entry| KeptRefusal {
            what: entry.credential.what,
            with: entry.credential.with,
            times: entry.times,
            total: entry.total,
            error: (&entry.error).into(),
        };
        self.0.iter().map(kept).collect()
    }

    /// From the store.
    pub fn restore(kept: Vec<KeptRefusal>) -> Self {
        let entry = |kept: KeptRefusal| Entry {
            credential: Credential { what: kept.what, with: kept.with },
            times: kept.times,
            total: kept.total,
            error: kept.error.into(),
        };
        Self(kept.into_iter().take(ENTRIES_MAX).map(entry).collect())
    }

    /// From another's record, of which nothing else is gone on with. True if it knows of more.
    pub fn learn(&mut self, kept: &[KeptRefusal]) -> bool {
        let (mut new, mut more) = (Vec::new(), false);
        for kept in kept {
            match self.0.iter_mut().find(|entry| entry.credential.what == kept.what) {
                Some(entry) => {
                    let same = entry.credential.with == kept.with;
                    more |= entry.total < kept.total || (same && entry.times < kept.times);
                    entry.times = if same { entry.times.max(kept.times) } else { entry.times };
                    entry.total = entry.total.max(kept.total);
                }
                None => new.push(kept.clone()),
            }
        }
        let room = ENTRIES_MAX - self.0.len().min(ENTRIES_MAX);
        let before = self.0.len();
        self.0.extend(Self::restore(new).0.into_iter().take(room));
        more || self.0.len() > before
    }

    /// A person asked: everything may be tried again.
    pub fn pardon(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::Class;

    fn login(password: &str, client_secret: &str) -> Credential {
        let secret = |text: &str| Secret::new(text.to_owned());
        Credential::login("u", &secret(password), "c", &secret(client_secret))
    }

    #[test]
    fn a_password_is_barred_after_two_refusals_and_after_six_whatever_the_client_secret() {
        let error = TokenError::new(Class::ClientRejected, "no", "none");
        let mut refusals = Refusals::default();
        for secret in ["a", "b", "c"] {
            for _ in 0..2 {
                assert!(refusals.barred(&login("p", secret)).is_none());
                refusals.note(login("p", secret), &error, false);
            }
            let barred = refusals.barred(&login("p", secret)).unwrap();
            assert_eq!(barred.fix, format!("{}{NOT_AGAIN}", error.fix));
        }
        assert!(refusals.barred(&login("p", "d")).is_some(), "six times in all");
        assert!(refusals.barred(&login("q", "d")).is_none(), "another password");
        refusals.pardon();
        assert!(refusals.barred(&login("p", "a")).is_none());
    }

    #[test]
    fn success_forgets_and_a_final_refusal_bars_at_once() {
        let error = TokenError::new(Class::GrantRejected, "no", "none");
        let mut refusals = Refusals::default();
        refusals.note(login("p", "a"), &error, false);
        refusals.forget(&login("p", "a"));
        refusals.note(login("p", "a"), &error, false);
        assert!(refusals.barred(&login("p", "a")).is_none());
        let token = Credential::refresh_token(&Secret::new("rt".into()));
        refusals.note(token, &error, true);
        assert!(refusals.barred(&token).is_some());
    }

    #[test]
    fn the_memory_is_bounded() {
        let error = TokenError::new(Class::ClientRejected, "no", "none");
        let mut refusals = Refusals::default();
        for n in 0..1000 {
            refusals.note(login(&n.to_string(), "a"), &error, true);
        }
        assert_eq!(refusals.0.len(), ENTRIES_MAX);
        assert!(refusals.barred(&login("999", "a")).is_some());
    }
}
