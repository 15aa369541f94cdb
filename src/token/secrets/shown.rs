//! What the store has of a client's secrets, and what is shown of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Now};
use crate::rotation::{Record, State};
use crate::store::Age;
use crate::token::keeper::Content;

/// What the store has of a client's secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptSecrets {
    /// Digests of what was configured, and of what was brought here since: anything else that is configured wins over what is
    /// here. The oldest goes first.
    pub superseded: Vec<[u8; 32]>,
    /// Digest of each secret that was configured when the first rotation began.
    pub configured: Vec<[u8; 32]>,
    /// For the names of what is made at the vendor: no other store has it.
    pub instance: String,
    pub record: Record,
    /// An unattended rotation that failed is not tried again before: seconds since 1970.
    pub retry_at: Option<i64>,
    /// Grows with every step; about the second in which it was made.
    #[serde(default)]
    pub epoch: u64,
}

/// So many values are known for former ones.
const SUPERSEDED_MAX: usize = 16;

impl KeptSecrets {
    /// Was another value configured since? `seed` stands for what is configured now.
    pub fn is_overruled(&self, seed: &[u8; 32]) -> bool {
        !self.held().contains(seed) && !self.superseded.contains(seed)
    }

    /// Digests of the secrets that the rotation is about.
    fn held(&self) -> Vec<[u8; 32]> {
        let held = [Some(&self.record.old), self.record.new.as_ref()];
        held.into_iter().flatten().map(|held| held.secret().digest()).collect()
    }

    /// Is the secret in use one that a rotation brought?
    pub fn is_rotated(&self) -> bool {
        !self.configured.contains(&self.record.serving().secret().digest())
    }

    /// Remembers what it has, so that it is no other value where it is configured.
    pub fn supersedes(&mut self) {
        for digest in self.held() {
            if !self.superseded.contains(&digest) {
                self.superseded.push(digest);
            }
        }
        // What was configured at first stays.
        let over = self.superseded.len().saturating_sub(SUPERSEDED_MAX);
        self.superseded.drain(1..=over.min(self.superseded.len() - 1)).for_each(drop);
    }
}

impl Content for KeptSecrets {
    fn is_newer_than(&self, other: &Self) -> bool {
        self.epoch > other.epoch
    }

    fn recall(&mut self, _other: &Self) -> bool {
        false
    }

    /// Its times are days, by the vendor's clock.
    fn rebase(&mut self, _age: Age, _now: Now, _clock: &Clock) {}
}

/// How a rotation stands, without any secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// `none` before the first one.
    pub state: String,
    /// In a row, and how often it has to be.
    pub verified: u32,
    pub verify_times: u32,
    /// Why it waits for a person, or why the last one changed nothing.
    pub problem: Option<String>,
    pub fix: Option<String>,
    /// What the vendor last said to that.
    pub said: Option<String>,
    /// The vendor's id of the secret in use, where that is known.
    pub in_use: Option<String>,
    /// Is it one that a rotation brought?
    pub rotated: bool,
    pub expires_at: Option<Timestamp>,
    /// When the secret before it is deleted.
    pub old_goes_at: Option<Timestamp>,
    /// When the next step is made.
    pub next_at: Option<Timestamp>,
}

impl Progress {
    pub fn none() -> Self {
        Self { state: "none".to_owned(), ..Self::default() }
    }

    /// As the record tells.
    pub fn of(record: &Record) -> Self {
        let serving = record.serving();
        let (state, verified) = match &record.state {
            State::Stable => ("stable", 0),
            State::Planned => ("planned", 0),
            State::Creating => ("creating", 0),
            State::Created => ("created", 0),
            State::Verifying { passed } => ("verifying", *passed),
            State::Swapped { .. } => ("swapped", 0),
            State::Deleting => ("deleting", 0),
            State::Aborting(_) => ("aborting", 0),
        };
        let problem = record.problem.as_ref();
        Self {
            state: state.to_owned(),
            verified,
            problem: problem.map(|problem| problem.why.clone()),
            fix: problem.map(|problem| problem.what_to_do.clone()),
            in_use: serving.id.clone(),
            expires_at: serving.ends(),
            ..Self::default()
        }
    }
}
