//! The client secret of a client, where a rotation has put another in the place of the configured one. All tokens of that
//! client share it; the task of one of them makes the steps.

mod shown;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{MutexGuard, oneshot};
use zeroize::Zeroizing;

pub use shown::{KeptSecrets, Progress};

use super::cache::Slot;
use super::keeper::{Content, Keeper, News};
use crate::clock::Clock;
use crate::config;
use crate::rotation::{Event, Held, Problem, Rotation, State};
use crate::secret::Secret;
use crate::store::{StoreError, Stores};

/// What was asked for and is not yet begun.
const ORDERS_MAX: usize = 4;

/// Something that a person asks of the vendor, about the secrets of a client.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// The access token of a person who may do that.
    pub admin_token: Option<Zeroizing<String>>,
    /// The vendor's id of the secret in use.
    pub current: Option<String>,
    /// That of one that may be deleted to make room.
    pub remove: Option<String>,
    /// That of one whose value was lost when it was made.
    pub ours: Option<String>,
    /// That of the one to delete, or of the one that is brought.
    pub id: Option<String>,
    /// The one that is brought.
    pub secret: Option<Zeroizing<String>>,
    /// Its end.
    pub expires: Option<Timestamp>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    List,
    Rotate,
    Import,
    Delete,
}

/// Security: what may hold the only client secret that works is not to be forgotten. A record that cannot be opened is of no use
/// to anybody.
pub async fn may_be_forgotten(stores: &Stores, record: &str) -> Result<(), StoreError> {
    if !record.starts_with("secret.") {
        return Ok(());
    }
    match stores.main.load(record).await {
        Ok(Some(found)) if found.plain.as_slice() != b"null" => Err(StoreError::Kept(record.to_owned())),
        Ok(_) | Err(StoreError::Record { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the record of a token's client is called in the store: the same for all tokens of that client.
pub fn record(token: &config::Token) -> String {
    format!("secret.{}", &Secret::new(token.client()).digest_in_hex()[..16])
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Rotate => "rotate",
            Self::Import => "import",
            Self::Delete => "delete",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::List, Self::Rotate, Self::Import, Self::Delete].into_iter().find(|verb| verb.as_str() == name)
    }
}

/// What came of it; `Err` is for the person.
pub type Reply = Result<Value, String>;

pub(super) struct Order {
    pub verb: Verb,
    pub asked: Asked,
    pub reply: oneshot::Sender<Reply>,
}

/// One client's.
#[derive(Default)]
pub struct Secrets {
    kept: ArcSwapOption<KeptSecrets>,
    /// Whoever makes the steps holds it.
    work: tokio::sync::Mutex<Work>,
    orders: Mutex<VecDeque<Order>>,
    /// The token whose task makes the steps, and how to wake it.
    driver: ArcSwapOption<(String, Arc<Slot>)>,
    progress: ArcSwap<Progress>,
    /// So often was the new one refused, and the old one was not.
    refused: AtomicU32,
    /// For the operator: is what is configured in use, and not what is here?
    overruled: AtomicBool,
}

/// What the steps are made with.
#[derive(Default)]
pub(super) struct Work {
    /// `None`: nothing outlives the process, so nothing is rotated.
    pub keeper: Option<Keeper>,
    pub machine: Option<Rotation>,
    pub kept: Option<KeptSecrets>,
    /// Given by hand; it is not kept over a longer pause.
    pub admin: Option<Secret>,
    /// What the vendor last said.
    pub said: Option<String>,
    /// What the machine was made with.
    pub config: Option<Arc<config::Token>>,
    /// Stands for what is configured, as it was last read.
    pub seen: Option<[u8; 32]>,
    /// The end of that as the vendor's list tells.
    pub learned: Option<([u8; 32], Timestamp)>,
    /// An unattended rotation is not thought of, and not tried, before: seconds since 1970.
    pub look_at: Option<i64>,
    pub retry_at: Option<i64>,
    /// Is the file written that the operator wants it in? If not, it is tried then.
    pub written: bool,
    pub write_at: Option<i64>,
    /// What cannot go on without a person, though the record does not say so.
    pub parked: Option<Problem>,
    pub told: Option<String>,
    /// When the shared store is looked at next, since boot.
    pub follow_at: Duration,
    /// No step is made before, unless somebody asks or another replica made one: since boot.
    pub step_at: Duration,
    /// The shared store has forgotten what is here.
    pub unsaved: bool,
    /// The directory of this process does not have what another has saved.
    pub uncopied: bool,
}

impl Work {
    /// Gives the lease back: another replica may be asked for something.
    pub async fn release(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.release().await;
        }
    }

    /// Gives up what is not durable yet.
    pub fn forgo(&mut self, durable: Option<KeptSecrets>, why: &str, fix: &str) {
        (self.kept, self.machine) = (durable, None);
        self.parked = Some(Problem { why: why.to_owned(), what_to_do: fix.to_owned(), asks: None });
    }
}

impl Secrets {
    /// As the store has them under that name.
    pub async fn open(stores: Option<&Stores>, record: String, clock: &Clock) -> Result<Self, StoreError> {
        let mut unsaved = false;
        let (keeper, kept) = match stores {
            None => (None, None),
            Some(stores) => {
                let found = Keeper::open(stores, record, clock).await?;
                unsaved = !found.saved;
                (Some(found.keeper), found.content)
            }
        };
        let kept: Option<KeptSecrets> = kept;
        let this = Self {
            kept: ArcSwapOption::from(kept.clone().map(Arc::new)),
            work: tokio::sync::Mutex::new(Work { keeper, kept: kept.clone(), unsaved, ..Work::default() }),
            ..Self::default()
        };
        this.show(&kept.map_or_else(Progress::none, |kept| Progress::of(&kept.record)));
        Ok(this)
    }

    /// Those to use in the place of the configured ones, the best first; `None` if those are to be used. `seed` stands for
    /// their values, `None` if they cannot be read now.
    pub fn instead(&self, seed: Option<[u8; 32]>, now: Timestamp) -> Option<Vec<Held>> {
        let kept = self.kept.load();
        let kept = kept.as_ref()?;
        let overruled = seed.is_some_and(|seed| kept.is_overruled(&seed));
        self.overruled.store(overruled, Ordering::Relaxed);
        if overruled {
            return None;
        }
        let fallback = kept.record.fallback(now);
        // Of two that are configured, the other one is there for the one in use.
        (kept.is_rotated() || fallback.is_some())
            .then(|| [Some(kept.record.serving()), fallback].into_iter().flatten().cloned().collect())
    }

    /// The task of that token makes the steps from now on.
    pub fn drive(&self, token: &str, slot: &Arc<Slot>) {
        self.driver.store(Some(Arc::new((token.to_owned(), Arc::clone(slot)))));
        slot.look();
    }

    /// The secret in use was refused, and the one before it was not.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn progress(&self) -> Arc<Progress> {
        self.progress.load_full()
    }

    /// The end of the secret in use, if that is one that a rotation brought.
    pub fn expires(&self) -> Option<Option<Timestamp>> {
        let kept = self.kept.load();
        let kept = kept.as_ref().filter(|kept| kept.is_rotated() && !self.overruled.load(Ordering::Relaxed))?;
        Some(kept.record.serving().ends())
    }

    /// Asks for something; the answer comes when the token's task has done it.
    pub fn ask(&self, verb: Verb, asked: Asked) -> Result<oneshot::Receiver<Reply>, &'static str> {
        let (reply, answer) = oneshot::channel();
        {
            let mut orders = self.waiting();
            if orders.len() >= ORDERS_MAX {
                return Err("what was asked for before is not done yet: ask again later");
            }
            orders.push_back(Order { verb, asked, reply });
        }
        if let Some(driver) = &*self.driver.load() {
            driver.1.look();
        }
        Ok(answer)
    }

    /// Is there something that a person asked for?
    pub(super) fn is_asked(&self) -> bool {
        !self.waiting().is_empty()
    }

    pub(super) fn next_order(&self) -> Option<Order> {
        self.waiting().pop_front()
    }

    /// What was asked for by those who still wait: the others were told so.
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Order>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.retain(|order| !order.reply.is_closed());
        orders
    }

    /// `None`: another token's task makes the steps.
    pub(super) fn steps(&self, token: &str) -> Option<MutexGuard<'_, Work>> {
        self.driver.load().as_ref().filter(|driver| driver.0 == token)?;
        self.work.try_lock().ok()
    }

    /// Tells the machine what happened to requests.
    pub(super) fn report(&self, machine: &mut Rotation, now: Timestamp) {
        for _ in 0..self.refused.swap(0, Ordering::Relaxed) {
            machine.on(Event::ServingRefused, now);
        }
    }

    /// Does what the driver's token is configured with win over what is here?
    pub(super) fn is_overruled(&self, work: &Work) -> bool {
        let overruled = work.kept.as_ref().zip(work.seen).is_some_and(|(kept, seen)| kept.is_overruled(&seen));
        self.overruled.store(overruled, Ordering::Relaxed);
        overruled
    }

    /// Is a rotation under way, as the store has it?
    pub(super) fn has_begun(&self) -> bool {
        self.kept.load().as_ref().is_some_and(|kept| kept.record.state != State::Stable)
    }

    /// As the store has it.
    pub(super) fn durable(&self) -> Option<KeptSecrets> {
        self.kept.load().as_deref().cloned()
    }

    /// It is durable: it is used from now on.
    pub(super) fn keep(&self, kept: KeptSecrets) {
        self.kept.store(Some(Arc::new(kept)));
    }

    /// Another replica has saved that: it is gone on with.
    fn adopt(&self, work: &mut Work, kept: KeptSecrets) {
        self.keep(kept.clone());
        (work.kept, work.machine) = (Some(kept), None);
        (work.unsaved, work.uncopied, work.step_at) = (false, true, Duration::ZERO);
        (work.written, work.parked) = (false, None);
    }

    /// What another replica has made of it, or what the store has forgotten.
    pub(super) fn hear(&self, work: &mut Work, news: News<KeptSecrets>) {
        match news {
            News::None => {}
            News::Theirs(theirs) if !work.kept.as_ref().is_some_and(|ours| ours.is_newer_than(&theirs)) => {
                self.adopt(work, theirs);
            }
            News::Theirs(_) | News::Gone => work.unsaved = work.kept.is_some(),
        }
    }

    pub(super) fn show(&self, progress: &Progress) {
        self.progress.store(Arc::new(progress.clone()));
    }
}
