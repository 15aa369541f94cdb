//! Which client secret is used: what a rotation brought, or what is configured.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Source, unreadable};
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;

/// A client secret as it is configured.
#[derive(Clone, Debug)]
pub struct Configured {
    pub secret: Secret,
    /// Stands for all values that are configured.
    pub seed: [u8; 32],
    /// Digest of each of them.
    pub each: Vec<[u8; 32]>,
}

/// A client secret, and which of how many it is.
pub(super) struct Chosen {
    pub secret: Option<Secret>,
    /// Stands for the client's own credentials.
    pub proof: Option<Secret>,
    pub age: Option<Duration>,
    pub index: usize,
    pub of: usize,
    pub rotated: bool,
}

impl Source {
    /// The client secret that is wanted, or the other one where it cannot be read. What a rotation brought goes before what is
    /// configured.
    pub(super) async fn client_secret(&self, wanted: usize) -> Result<Chosen, TokenError> {
        let all = self.configured_secrets().await;
        let now = self.clock.now().wall;
        if let Some(instead) = self.secrets.instead(seed(&all), now) {
            let (index, of) = (wanted.min(instead.len() - 1), instead.len());
            let held = &instead[index];
            // Beside another one that works, a young one that is refused is no reason to wait.
            let age = if of == 1 { held.age(now) } else { None };
            let secret = Some(held.secret());
            return Ok(Chosen { proof: secret.clone(), secret, age, index, of, rotated: true });
        }
        let of = all.len();
        let both: Vec<_> = all.iter().flatten().map(Secret::digest).collect();
        let proof = Secret::new(format!("{both:?}"));
        let used = [wanted, 0, 1].into_iter().find(|index| matches!(all.get(*index), Some(Ok(_)))).unwrap_or(0);
        let secret = all.into_iter().nth(used).transpose()?;
        // Whichever of two is tried, the login is the same.
        let proof = if of == 1 { secret.clone() } else { secret.as_ref().map(|_| proof) };
        Ok(Chosen { secret, proof, age: None, index: used, of, rotated: false })
    }

    async fn configured_secrets(&self) -> Vec<Result<Secret, TokenError>> {
        let mut all = Vec::new();
        for source in &self.config.client_secrets {
            all.push(source.read().await.map_err(unreadable));
        }
        all
    }

    pub(super) async fn as_configured(&self) -> Result<Configured, TokenError> {
        let all = self.configured_secrets().await;
        let seed = seed(&all);
        let each = all.iter().flatten().map(Secret::digest).collect();
        let index = self.secret.load(Ordering::Relaxed).min(all.len().saturating_sub(1));
        let none = || TokenError::new(Class::Config, "there is no client secret", "set client_secret");
        let secret = all.into_iter().nth(index).unwrap_or_else(|| Err(none()))?;
        Ok(Configured { secret, seed: seed.ok_or_else(none)?, each })
    }
}

/// Stands for the configured client secrets; `None` while one of them cannot be read.
fn seed(all: &[Result<Secret, TokenError>]) -> Option<[u8; 32]> {
    let digests: Vec<_> = all.iter().map(|one| one.as_ref().ok().map(Secret::digest)).collect::<Option<_>>()?;
    match digests[..] {
        [] => None,
        [one] => Some(one),
        ref several => Some(Secret::new(format!("{several:?}")).digest()),
    }
}
