//! What a token keeps across restarts, as it stands in its record: tokens, what was refused, when the next try may be. JSON
//! inside the seal.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keeper::Content;
use crate::clock::{Clock, Moment, Now};
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;
use crate::store::{Age, StoreError, Stores};

/// Former refresh tokens of the configuration whose descendants are kept.
pub(super) const OTHERS_MAX: usize = 8;
/// Refreshes that refused tokens may cause in a window.
pub(super) const SUSPECTS: usize = 2;

/// The record of one token.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Stands for everything that the access token was obtained with and for, as hexadecimal.
    pub purpose: String,
    /// Stands for the values of all that an exchange sends.
    pub inputs: String,
    /// When this was saved.
    pub saved: Option<KeptMoment>,
    /// Of the boot that the times since boot are counted from.
    pub boot: String,
    pub access: Option<KeptAccess>,
    /// A person gave up what there was.
    pub given_up: bool,
    pub refresh_token: Option<KeptRefresh>,
    /// The epoch of the last time that a person gave up what there was.
    pub cleared: u64,
    /// Grows with every token that comes or goes; about the second in which what brought it was sent, so that of two states of which
    /// neither knew of the other, the later one has more.
    pub epoch: u64,
    /// Digests of the refresh tokens that it came after, the newest last.
    pub replaced: Vec<[u8; 32]>,
    /// Digest of the configured refresh token that it comes from.
    pub seed: Option<[u8; 32]>,
    /// Those of former seeds.
    pub others: Vec<([u8; 32], KeptRefresh)>,
    pub refused: Vec<KeptRefusal>,
    pub failures: u32,
    pub unclear: u32,
    /// Logins that were about to be sent when the process ended, one after the other.
    pub unanswered: u32,
    pub hold: Option<KeptHold>,
    /// When each request of the vendor's budget stops to count.
    pub spent: Vec<KeptMoment>,
    /// Which of the client secrets is used.
    pub secret: usize,
    pub error: Option<KeptError>,
    /// Tokens that were given up, and that the vendor does not know of yet.
    pub revocations: Vec<KeptRevocation>,
    /// What counts within one process only.
    #[serde(skip)]
    pub process: Option<Process>,
}

/// What of a schedule another task of the same process goes on with.
#[derive(Clone, Copy)]
pub struct Process {
    pub started: Option<Duration>,
    pub suspects: [Option<Duration>; SUSPECTS],
    pub repeated: bool,
}

/// An access token.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptAccess {
    token: Zeroizing<String>,
    pub obtained: KeptMoment,
    pub expires: Option<KeptMoment>,
    pub due: Option<KeptMoment>,
}

/// A refresh token.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptRefresh {
    token: Zeroizing<String>,
    pub expires: Option<KeptMoment>,
}

/// A token that is to be ended at the vendor.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptRevocation {
    pub token: KeptRefresh,
    /// Else it is an access token.
    pub refresh: bool,
    pub tries: u32,
}

/// A time by both clocks, in milliseconds: since 1970, and since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMoment {
    wall: i64,
    boot: u64,
}

/// A password or refresh token that was refused, by its hash.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptRefusal {
    pub what: [u8; 32],
    pub with: [u8; 32],
    pub times: u8,
    pub total: u8,
    pub error: KeptError,
}

/// Why nothing is tried for a while.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct KeptHold {
    /// `None` for ever.
    pub until: Option<KeptMoment>,
    /// From when it was saved, in milliseconds.
    pub length: u64,
    pub mendable: bool,
    pub barred: bool,
}

/// An error, in our words and the vendor's.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptError {
    class: Class,
    problem: String,
    fix: String,
    vendor: Option<String>,
}

impl Kept {
    /// `None` if this version cannot read it.
    pub fn read(plain: &[u8]) -> Option<Self> {
        serde_json::from_slice(plain).ok()
    }

    /// Forgets the records of that name, or below it, for a person. Those that there were.
    pub async fn forget(stores: &Stores, name: &str, now: Timestamp) -> Result<Vec<String>, StoreError> {
        stores.forget_all(name, |record, held| Self::forgotten(record, held, now)).await
    }

    /// What takes the place of a record that a person had forgotten, where others would put it back.
    fn forgotten(record: &str, plain: Option<&[u8]>, now: Timestamp) -> Vec<u8> {
        if record.starts_with("secret.") {
            return b"null".to_vec();
        }
        let epoch = next_epoch(plain.and_then(Self::read).map_or(0, |kept| kept.epoch), now);
        serde_json::to_vec(&Self { epoch, cleared: epoch, ..Self::default() }).unwrap_or_else(|_| b"null".to_vec())
    }

    /// The same as a list of what the vendor is to end.
    pub fn to_revoke(&self) -> Self {
        let refresh = self.refresh_token.clone().map(|token| KeptRevocation { token, refresh: true, tries: 0 });
        let access = self.access.as_ref().map(|access| KeptRefresh::new(&access.secret(), None));
        let access = access.map(|token| KeptRevocation { token, refresh: false, tries: 0 });
        Self { revocations: refresh.into_iter().chain(access).collect(), ..Self::default() }
    }

    /// Did this one's refresh token come after the other's?
    fn follows(&self, other: &Self) -> bool {
        let digest = other.refresh_token.as_ref().map(|token| token.secret().digest());
        digest.is_some_and(|digest| self.replaced.contains(&digest))
    }
}

impl Content for Kept {
    /// Security: what a person gave up does not come back. Else by what the refresh token comes from; else by the order in which
    /// tokens came and went.
    fn is_newer_than(&self, other: &Self) -> bool {
        if self.cleared != other.cleared {
            return self.cleared > other.cleared;
        }
        let (follows, followed) = (self.follows(other), other.follows(self));
        if follows == followed { self.epoch > other.epoch } else { follows }
    }

    /// What came of refresh tokens that are configured elsewhere, or once were: none of those may be sent itself. Security: unless
    /// a person gave it up.
    fn recall(&mut self, other: &Self) -> bool {
        let newest = other.seed.zip(other.refresh_token.as_ref());
        let same_boot = self.boot == other.boot;
        let mut more = false;
        for (seed, token) in other.others.iter().map(|(seed, token)| (*seed, token)).chain(newest) {
            let known = self.others.iter().position(|(known, _)| *known == seed);
            let after = |at: usize| other.replaced.contains(&self.others[at].1.secret().digest());
            let token = || KeptRefresh { expires: token.expires.filter(|_| same_boot), ..token.clone() };
            match known {
                _ if self.cleared != other.cleared || self.seed == Some(seed) => continue,
                Some(at) if newest.is_some_and(|(newest, _)| newest == seed) && after(at) => {
                    self.others[at].1 = token();
                }
                None if self.others.len() < OTHERS_MAX => self.others.push((seed, token())),
                _ => continue,
            }
            more = true;
        }
        more
    }

    fn rebase(&mut self, age: Age, now: Now, clock: &Clock) {
        // Those of this boot are this machine's.
        let (Some(saved), false) = (self.saved, clock.is_of(&self.boot)) else { return };
        clock.boot().clone_into(&mut self.boot);
        let refresh = self.refresh_token.iter_mut().chain(self.others.iter_mut().map(|(_, token)| token));
        let tokens = refresh.filter_map(|token| token.expires.as_mut());
        let access = self.access.iter_mut();
        let access = access.flat_map(|access| {
            [Some(&mut access.obtained), access.expires.as_mut(), access.due.as_mut()].into_iter().flatten()
        });
        tokens.chain(access).chain(&mut self.saved).for_each(|moment| *moment = moment.seen(saved, age.most, now));
        // What somebody waits for must not come too early.
        let hold = self.hold.iter_mut().filter_map(|hold| hold.until.as_mut());
        hold.chain(&mut self.spent).for_each(|moment| *moment = moment.waited_for(saved, age.least, now));
    }
}

impl KeptAccess {
    pub fn new(token: &Secret, obtained: Now, expires: Option<Moment>, due: Option<Moment>) -> Self {
        let token = Zeroizing::new(token.expose().to_owned());
        Self {
            token,
            obtained: KeptMoment::at(obtained),
            expires: expires.map(KeptMoment::new),
            due: due.map(KeptMoment::new),
        }
    }

    /// The same with its times by the clocks of this boot.
    pub fn at(self, expires: Option<Moment>, due: Option<Moment>) -> Self {
        Self { expires: expires.map(KeptMoment::new), due: due.map(KeptMoment::new), ..self }
    }

    pub fn secret(&self) -> Secret {
        Secret::new(self.token.as_str().to_owned())
    }
}

impl KeptRefresh {
    pub fn new(token: &Secret, expires: Option<Moment>) -> Self {
        Self { token: Zeroizing::new(token.expose().to_owned()), expires: expires.map(KeptMoment::new) }
    }

    pub fn secret(&self) -> Secret {
        Secret::new(self.token.as_str().to_owned())
    }
}

impl KeptMoment {
    pub fn new(moment: Moment) -> Self {
        Self { wall: moment.wall.as_millisecond(), boot: moment.boot.as_millis().try_into().unwrap_or(u64::MAX) }
    }

    pub fn at(now: Now) -> Self {
        Self::new(Moment { wall: now.wall, boot: now.boot })
    }

    /// The same by the clocks of now, where `saved` was so long ago. Either clock may have been set between the two: the earlier
    /// end counts.
    fn seen(self, saved: Self, age: Duration, now: Now) -> Self {
        Self::after(self.wall.saturating_sub(saved.wall).min(self.since(saved)), age, now)
    }

    /// As [`Self::seen`], of what may not end too early: nobody sets the clock that counts since boot.
    fn waited_for(self, saved: Self, age: Duration, now: Now) -> Self {
        Self::after(self.since(saved), age, now)
    }

    /// Since boot, in ms.
    fn since(self, saved: Self) -> i64 {
        i64::try_from(i128::from(self.boot) - i128::from(saved.boot)).unwrap_or(i64::MAX)
    }

    /// So many ms after what was so long ago.
    fn after(left: i64, age: Duration, now: Now) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let left = left.saturating_sub(millis(age));
        let boot = millis(now.boot).saturating_add(left).max(0);
        Self { wall: now.wall.as_millisecond().saturating_add(left), boot: boot.unsigned_abs() }
    }

    /// Is that later than now, by the wall clock?
    pub fn is_ahead(self, now: Now) -> bool {
        self.wall > now.wall.as_millisecond()
    }

    /// After another boot only the wall clock tells; a time that it takes for past is now.
    pub fn moment(self, same_boot: bool, now: Now) -> Moment {
        let wall = Timestamp::from_millisecond(self.wall).unwrap_or(Timestamp::MIN);
        let left = Duration::try_from(wall.duration_since(now.wall)).unwrap_or(Duration::ZERO);
        let boot = if same_boot { Duration::from_millis(self.boot) } else { now.boot.saturating_add(left) };
        Moment { wall, boot }
    }
}

impl From<&TokenError> for KeptError {
    fn from(error: &TokenError) -> Self {
        let TokenError { class, problem, fix, vendor, .. } = error.clone();
        Self { class, problem, fix, vendor }
    }
}

impl From<KeptError> for TokenError {
    fn from(kept: KeptError) -> Self {
        let mut error = Self::new(kept.class, kept.problem, kept.fix);
        error.vendor = kept.vendor;
        error
    }
}

/// After that one, and about the second that it is.
pub fn next_epoch(epoch: u64, now: Timestamp) -> u64 {
    epoch.saturating_add(1).max(now.as_second().try_into().unwrap_or(0))
}
