//! The words between the machine and what drives it: how rotation is configured, what is to be done, what came of it.

use std::time::Duration;

use jiff::Timestamp;

use super::{Entry, Held, Problem};
use crate::secret::Secret;

/// What does not change: how rotation is configured.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A name that no other store has, for the tags of what is created.
    pub instance: String,
    /// The vendor's id of the configured secret, where its list cannot tell. It says nothing of one that came later.
    pub current: Option<String>,
    /// How many secrets the vendor allows at once.
    pub slots: Option<usize>,
    pub lifetime: Duration,
    /// How long the old one is kept beside the new one; taken literally.
    pub grace: Duration,
    /// So many successes in a row, this far apart, before a new one is used.
    pub times: u32,
    pub every: Duration,
    /// After so long, the vendor's list shows what was done before.
    pub settle: Duration,
}

/// What a rotation begins with.
pub enum Begin {
    Create,
    /// With a value that was made up here.
    Replace(Secret),
    Import(Held),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record durably.
    Save,
    /// Ask the vendor which secrets there are.
    List,
    /// Ask it for another one, with this name, that ends then.
    Create {
        tag: String,
        expires: Timestamp,
    },
    /// Give it the new one's value.
    Replace,
    /// Get a token with it, over a new connection.
    Verify(Which),
    /// Use [`serving`](super::Record::serving) from now on.
    Swap,
    Delete {
        id: String,
    },
    Wait(Timestamp),
    /// Nothing until a person has acted.
    Park(Problem),
    Done,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Old,
    New,
}

/// What came of it, or of something else.
pub enum Event {
    Saved,
    SaveFailed,
    Listed(Vec<Entry>),
    Created {
        id: Option<String>,
        secret: Secret,
    },
    Replaced,
    Accepted,
    Refused,
    Deleted,
    Swapped,
    Failed(Failure),
    /// The new one serves, and was refused where the old one was not.
    ServingRefused,
    /// A person has acted. Where they were shown what may be ours and named none, none is.
    Resume,
    /// A day has passed: what a person has not mended may have mended itself.
    Daily,
    /// A person chose what a [`Problem`] asks for.
    Chosen(String),
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may have been done or not: no answer, half of one, or one of a server in trouble.
    Lost,
    /// It did not leave.
    NotSent,
    /// It was not done, in the vendor's words.
    Refused(String),
    /// It was not done; again after that.
    Busy(Duration),
    /// The management token is not valid any more.
    AdminExpired,
}
