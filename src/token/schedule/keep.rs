//! What of a schedule outlives the process.

use std::time::Duration;

use super::{Hold, REJECTED_RETRY, RefreshToken, Schedule, UNANSWERED_MAX};
use crate::clock::{Moment, Now};
use crate::token::kept::{Kept, KeptHold, KeptMoment, KeptRefresh, Process};
use crate::token::refusals::Refusals;

/// A pause, put aside.
pub struct Paused(Option<Hold>);

impl Schedule {
    /// For the store.
    pub fn keep(&self, now: Now) -> Kept {
        let refresh = |token: &RefreshToken| KeptRefresh::new(&token.secret, token.expires);
        let hold = self.hold.as_ref().map(|hold| {
            let until = (hold.until != Duration::MAX).then(|| Moment::after(now, hold.until.saturating_sub(now.boot)));
            let length = hold.until.saturating_sub(now.boot).as_millis().try_into().unwrap_or(u64::MAX);
            KeptHold { until: until.map(KeptMoment::new), length, mendable: hold.mendable, barred: hold.barred }
        });
        Kept {
            refresh_token: self.refresh_token.as_ref().map(refresh),
            replaced: self.replaced.clone(),
            seed: self.seed,
            others: self.others.iter().map(|(seed, token)| (*seed, refresh(token))).collect(),
            refused: self.refusals.keep(),
            failures: self.failures,
            unclear: self.unclear,
            unanswered: self.unanswered,
            spent: self.spent.keep(now),
            secret: self.secret,
            hold,
            ..Kept::default()
        }
    }

    /// Takes over what must not be forgotten of a state that is not gone on with: what was refused, what was spent, the
    /// pause that a server asked for. True if it knows of more then.
    pub fn learn(&mut self, other: &Kept, same_boot: bool, now: Now) -> bool {
        let refused = self.refusals.learn(&other.refused);
        let spent = self.spent.learn(&other.spent, same_boot, now);
        let asked = other.hold.filter(|hold| !hold.mendable).map(|hold| Hold::restored(hold, same_boot, now));
        let longer = asked.as_ref().map(|hold| hold.until) > self.held_until();
        if longer {
            self.hold = asked;
        }
        refused || spent || longer
    }

    /// What came of other configured refresh tokens, as that state of this boot has it.
    pub fn recall(&mut self, kept: &Kept, now: Now) {
        let token = |token| RefreshToken::restored(token, true, now);
        self.others = kept.others.iter().map(|(seed, kept)| (*seed, token(kept))).collect();
    }

    /// Why nothing is tried now, for [`Self::go_on`].
    pub fn paused(&mut self) -> Paused {
        Paused(self.hold.take())
    }

    /// Goes on with that in the place of one that a person has to end.
    pub fn go_on(&mut self, paused: Paused) {
        if self.hold.as_ref().is_none_or(|hold| hold.mendable) {
            self.hold = paused.0;
        }
    }

    /// For another task of this process.
    pub fn process(&self) -> Process {
        Process { started: self.started, suspects: self.suspects, repeated: self.repeated }
    }

    /// Goes on where another process stopped. No wait that a server asked for is forgotten, none is longer than it was.
    pub fn restore(&mut self, kept: &mut Kept, due: Option<Moment>, same_boot: bool, now: Now) {
        let fixed = self.refresh_token.take().filter(|token| token.fixed).map(|token| token.secret);
        let refresh = |kept: KeptRefresh| {
            let token = RefreshToken::restored(&kept, same_boot, now);
            RefreshToken { fixed: fixed.as_ref() == Some(&token.secret), ..token }
        };
        self.refresh_token = kept.refresh_token.take().map(refresh);
        self.replaced = std::mem::take(&mut kept.replaced);
        self.seed = kept.seed;
        self.others = kept.others.drain(..).map(|(seed, token)| (seed, refresh(token))).collect();
        self.refusals = Refusals::restore(std::mem::take(&mut kept.refused));
        (self.failures, self.unclear) = (kept.failures, kept.unclear);
        self.hold = kept.hold.map(|hold| Hold::restored(hold, same_boot, now));
        self.due = due;
        self.spent.restore(&kept.spent, same_boot, now);
        self.secret = if kept.secret < self.policy.secrets { kept.secret } else { 0 };
        if let Some(Process { started, suspects, repeated }) = kept.process {
            (self.started, self.suspects, self.repeated) = (started, suspects, repeated);
        }
        self.unanswered = kept.unanswered;
        if self.unanswered >= UNANSWERED_MAX {
            let until = now.boot.saturating_add(REJECTED_RETRY);
            let hold = self.hold.take().filter(|hold| hold.until > until);
            self.hold = hold.or(Some(Hold { until, mendable: true, barred: false }));
        }
    }
}

impl Hold {
    fn restored(kept: KeptHold, same_boot: bool, now: Now) -> Self {
        let left =
            kept.until.map(|until| until.moment(same_boot, now).left(now).min(Duration::from_millis(kept.length)));
        let until = left.map_or(Duration::MAX, |left| now.boot.saturating_add(left));
        Self { until, mendable: kept.mendable, barred: kept.barred }
    }
}

impl RefreshToken {
    fn restored(kept: &KeptRefresh, same_boot: bool, now: Now) -> Self {
        let expires = kept.expires.map(|expires| expires.moment(same_boot, now));
        // Whether it is fixed is not known before the next renewal.
        Self { secret: kept.secret(), expires, fixed: false }
    }
}
