mod adverse;
mod cases;
mod desk;
mod lists;
mod vendor;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use tokenbroker::rotation::{
    Action, Asks, Begin, Event, Failure, Held, InUse, Policy, Record, Rotation, State, Style, Which, in_use, may_delete,
};
use tokenbroker::secret::Secret;

use self::vendor::{DAY, Ends, Id, Model, REPLICAS, Vendor};

const START: i64 = 1_770_000_000;
const A: &str = "aaa-the-first";
const B: &str = "bbb-the-second";
const STEPS_MAX: usize = 1500;
const CALLS_MAX: usize = 250;
const PARKS_MAX: usize = 12;
const SEEDS: u64 = 400;
/// Where a vendor never does what it should, the same steps come again and again.
const STEPS_TRIED: usize = 60;

/// What goes wrong with one step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The request does not arrive, and no answer comes.
    Lost,
    /// It is done, and no answer comes.
    AnswerLost,
    /// It is done a while after the answer was given up.
    Late,
    NotSent,
    Busy,
    Refused,
    AdminExpired,
    SaveFails,
    /// For as long as the store is asked.
    StoreFails,
    /// Somebody makes a secret in the vendor's portal.
    Foreign,
    ClockBack,
    ClockAhead,
    /// The list shows the first secret only.
    ListShort,
}

const FAULTS: [Fault; 14] = [
    Fault::None,
    Fault::Lost,
    Fault::AnswerLost,
    Fault::Late,
    Fault::NotSent,
    Fault::Busy,
    Fault::Refused,
    Fault::AdminExpired,
    Fault::SaveFails,
    Fault::StoreFails,
    Fault::Foreign,
    Fault::ClockBack,
    Fault::ClockAhead,
    Fault::ListShort,
];

/// What is there at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    Nothing,
    Foreign,
    Expired,
    Orphan,
}

#[derive(Clone, Copy, Debug)]
struct Scene {
    name: &'static str,
    style: Style,
    model: Model,
    other: Other,
    /// The broker knows the id of its secret.
    known: bool,
    emergency: bool,
    /// The expired secret is not listed any more.
    gone: bool,
}

impl Scene {
    /// Where an id is given again at once, nobody can tell an old list from a new one but by waiting.
    fn fault(&self, fault: Fault) -> Fault {
        if self.model.id == Id::Slot && fault == Fault::ClockAhead { Fault::None } else { fault }
    }
}

const SLOTS: Model = Model {
    slots: Some(2),
    tags: true,
    hints: true,
    id: Id::Told,
    ends: Ends::AsAsked,
    soft: false,
    lag: 30,
    propagation: Some(20),
    death: 0,
};
const BARE: Model = Model { slots: None, tags: false, hints: false, id: Id::NotTold, soft: true, ..SLOTS };
const PLAIN: Scene = Scene {
    name: "two slots, names, ids",
    style: Style::Create,
    model: SLOTS,
    other: Other::Nothing,
    known: true,
    emergency: false,
    gone: false,
};

fn scenes() -> Vec<Scene> {
    let slow = Model { propagation: Some(900), death: 600, ..SLOTS };
    let never = |model| Model { propagation: None, ..model };
    vec![
        PLAIN,
        Scene { name: "a foreign one in the second slot", other: Other::Foreign, ..PLAIN },
        Scene { name: "an expired one in the second slot", other: Other::Expired, ..PLAIN },
        Scene { name: "an orphan in the second slot", other: Other::Orphan, ..PLAIN },
        Scene { name: "found by its hint", known: false, other: Other::Expired, ..PLAIN },
        Scene { name: "slow replicas, late death", model: slow, ..PLAIN },
        Scene { name: "never works", model: never(SLOTS), ..PLAIN },
        Scene { name: "the answer's id is another", model: Model { id: Id::Other, ..SLOTS }, ..PLAIN },
        Scene { name: "ids are slots", model: Model { id: Id::Slot, ..SLOTS }, other: Other::Expired, ..PLAIN },
        Scene { name: "ids are slots, deleted shown", model: Model { id: Id::Slot, soft: true, ..SLOTS }, ..PLAIN },
        Scene { name: "no id, deleted ones shown", model: BARE, ..PLAIN },
        Scene { name: "no id, deleted ones hidden", model: Model { soft: false, ..BARE }, ..PLAIN },
        Scene { name: "no id, never works", model: never(BARE), ..PLAIN },
        Scene { name: "no id, a foreign one", model: BARE, other: Other::Foreign, known: false, ..PLAIN },
        Scene { name: "no id, ends to the day", model: Model { ends: Ends::Rounded, ..BARE }, ..PLAIN },
        Scene { name: "no id, no ends", model: Model { ends: Ends::Hidden, ..BARE }, ..PLAIN },
        Scene { name: "ids, no names", model: Model { id: Id::Told, ends: Ends::Hidden, ..BARE }, ..PLAIN },
        Scene { name: "expired, slots full", emergency: true, other: Other::Foreign, ..PLAIN },
        Scene { name: "expired and gone", emergency: true, gone: true, ..PLAIN },
        Scene { name: "expired, no id", emergency: true, model: BARE, ..PLAIN },
        Scene { name: "in place", style: Style::Replace, ..PLAIN },
        Scene { name: "in place, slow", style: Style::Replace, model: slow, ..PLAIN },
        Scene { name: "in place, never", style: Style::Replace, model: never(SLOTS), ..PLAIN },
        Scene { name: "import", style: Style::Import, ..PLAIN },
        Scene { name: "import, never works", style: Style::Import, model: never(SLOTS), ..PLAIN },
    ]
}

fn policy(scene: &Scene) -> Policy {
    Policy {
        instance: "here".into(),
        current: None,
        slots: scene.model.slots,
        lifetime: Duration::from_secs(180 * DAY as u64),
        grace: Duration::from_secs(3600),
        times: 3,
        every: Duration::from_secs(60),
        settle: Duration::from_secs(120),
    }
}

fn begin(style: Style) -> Begin {
    match style {
        Style::Create => Begin::Create,
        Style::Replace => Begin::Replace(Secret::new(B.into())),
        Style::Import => Begin::Import(Held::new(&Secret::new(B.into()), None)),
    }
}

/// What goes wrong, and when.
#[derive(Clone, Debug, Default)]
struct Plan {
    faults: BTreeMap<usize, Fault>,
    /// Before or after a step is done.
    crashes: BTreeMap<usize, bool>,
}

struct Sim {
    scene: Scene,
    vendor: Vendor,
    rng: Rng,
    t: i64,
    /// The broker's clock less the vendor's.
    skew: i64,
    plan: Plan,
    store_fails: bool,
    /// What was saved last, and the values that it holds.
    record: Record,
    old: String,
    new: Option<String>,
    /// Successes of the new one in a row, by which it came into use; and has it worked since its rival is to be deleted?
    worked: u32,
    checked: bool,
    machine: Rotation,
    /// What arrives later: a creation or a replacement.
    late: Option<(i64, Action)>,
    step: usize,
    calls: usize,
    parks: usize,
    /// Each step, where it is to be shown.
    log: Option<Vec<String>>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Rotated,
    /// The old one serves, and a person was told.
    AsBefore,
    /// A person is asked, again and again.
    Parked,
}

impl Sim {
    fn new(scene: Scene, plan: Plan, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut vendor = Vendor::new(scene.model, rng.fork());
        let end = if scene.emergency { START - 2 * 3600 } else { START + 400 * DAY };
        let mut id = None;
        if !scene.gone && scene.style != Style::Import {
            id = Some(vendor.has(A, Some("tb/here/0000"), end, false)).filter(|_| scene.known);
        } else if scene.style == Style::Import {
            vendor.has(A, None, end, false);
            vendor.create("", START + 180 * DAY, START, false);
            vendor.made[1].value = B.into();
        } else {
            id = Some("id-gone".into());
        }
        match scene.other {
            Other::Nothing => {}
            Other::Foreign => drop(vendor.has("fff-foreign", None, START + 300 * DAY, true)),
            Other::Expired => drop(vendor.has("eee-expired", None, START - DAY, true)),
            Other::Orphan => drop(vendor.has("ooo-orphan", Some("tb/here/0001"), START + 90 * DAY, false)),
        }
        let record = Record::new(Held::new(&Secret::new(A.into()), id));
        let mut machine = Rotation::resume(policy(&scene), record.clone(), rng.fork());
        assert!(machine.begin(begin(scene.style), scene.emergency));
        Self {
            scene,
            vendor,
            rng,
            t: START,
            skew: 0,
            plan,
            store_fails: false,
            old: value(&record.old),
            new: None,
            record,
            worked: 0,
            checked: false,
            machine,
            late: None,
            step: 0,
            calls: 0,
            parks: 0,
            log: None,
        }
    }

    fn fail(&self, what: &str) -> ! {
        let log = self.log.as_ref().map(|log| log.join("\n")).unwrap_or_default();
        std::panic::resume_unwind(Box::new(format!("{what}\n{log}")));
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.t + self.skew).unwrap()
    }

    /// The value of one of the two that the durable record holds.
    fn held(&self, held: &Held) -> &str {
        if std::ptr::eq(held, &raw const self.record.old) { &self.old } else { self.new.as_deref().unwrap() }
    }

    fn serving(&self) -> &str {
        self.held(self.record.serving())
    }

    fn fallback(&self) -> Option<&str> {
        self.record.fallback(self.now()).map(|held| self.held(held))
    }

    fn holds(&self, value: &str) -> bool {
        self.old == value || self.new.as_deref() == Some(value)
    }

    /// What must hold at any instant, even if the process ends now.
    fn check(&self) {
        if self.scene.emergency {
            return;
        }
        let (serving, fallback) = (self.serving(), self.fallback());
        for replica in 0..REPLICAS {
            let works = |value: &str| self.vendor.accepts(value, replica, self.t);
            if !works(&self.old) && !self.new.as_deref().is_some_and(works) {
                self.fail("nothing that is held works");
            }
            if !works(serving) && !fallback.is_some_and(works) {
                self.fail("nothing that is used works");
            }
        }
    }

    fn advance(&mut self, seconds: i64) {
        let until = self.t + seconds.max(1);
        while self.t < until {
            let slice = self.t + self.rng.i64(60..1200);
            let late = self.late.as_ref().map_or(i64::MAX, |(at, _)| (*at).max(self.t));
            self.t = slice.min(until).min(late);
            self.arrive();
            self.check();
            self.serve();
        }
    }

    fn arrive(&mut self) {
        if let Some((_, action)) = self.late.take_if(|(at, _)| *at <= self.t) {
            self.effect(&action);
        }
    }

    /// A request of the data path.
    fn serve(&mut self) {
        let replica = self.vendor.replica();
        let accepted = |value: &str| self.vendor.accepts(value, replica, self.t);
        if !accepted(self.serving()) && self.fallback().is_some_and(accepted) {
            self.machine.on(Event::ServingRefused, self.now());
        }
    }

    fn restart(&mut self) {
        if let Some(log) = &mut self.log {
            log.push("crash".into());
        }
        (self.store_fails, self.checked) = (false, false);
        // What was not written is forgotten.
        self.worked = if matches!(self.record.state, State::Swapped { .. }) { 3 } else { 0 };
        self.record = serde_json::from_slice(&serde_json::to_vec(&self.record).unwrap()).unwrap();
        let pause = [0, 1, 30, 700, 4000][self.rng.usize(0..5)];
        let record = &self.record;
        // What was not even begun is begun again by whoever began it.
        let again = record.state == State::Stable && record.problem.is_none() && self.old == A;
        self.machine = Rotation::resume(policy(&self.scene), record.clone(), self.rng.fork());
        if again {
            self.machine.begin(begin(self.scene.style), self.scene.emergency);
        }
        self.advance(pause);
    }

    /// Does at the vendor what an action asks for.
    fn effect(&mut self, action: &Action) -> Event {
        let t = self.t;
        match action {
            Action::List => {
                self.check_commands();
                Event::Listed(self.vendor.list(t))
            }
            Action::Create { tag, expires } => match self.vendor.create(tag, expires.as_second(), t, false) {
                Some((id, value)) => Event::Created { id, secret: Secret::new(value) },
                None => Event::Failed(Failure::Refused("no slot".into())),
            },
            Action::Replace => {
                self.vendor.replace(B, t);
                Event::Replaced
            }
            Action::Verify(which) => {
                let record = self.machine.record();
                let held = if *which == Which::New { record.new.as_ref().unwrap() } else { &record.old };
                let (replica, value) = (self.vendor.replica(), value(held));
                let accepted = self.vendor.accepts(&value, replica, t);
                if accepted { Event::Accepted } else { Event::Refused }
            }
            Action::Delete { id } => {
                self.judge(id);
                if self.vendor.delete(id, t) {
                    Event::Deleted
                } else {
                    Event::Failed(Failure::Refused("unknown".into()))
                }
            }
            _ => self.fail("no call"),
        }
    }

    /// May that be deleted?
    fn judge(&self, id: &str) {
        let Some(one) = self.vendor.made.iter().find(|one| one.id == id && one.lives(self.t)) else { return };
        if one.foreign && !one.given_up {
            self.fail(&format!("{id} is foreign, and deleted"));
        }
        if self.serving() == one.value && !self.scene.emergency {
            self.fail(&format!("{id} is in use, and deleted"));
        }
        if self.fallback() == Some(&one.value) {
            self.fail(&format!("{id} is the fallback, and deleted"));
        }
        // An old one goes when its successor has proved to work, and has just done so again.
        let enough = if self.scene.emergency { 1 } else { 3 };
        if self.old == one.value && (self.worked < enough || !self.checked) {
            self.fail(&format!("{id} is deleted, and what follows it was not tried enough"));
        }
        if self.new.as_deref() == Some(&one.value) && !matches!(self.record.state, State::Aborting(_)) {
            self.fail(&format!("{id} is deleted, and was just made"));
        }
    }

    /// What the commands of a person would be told: nothing untrue, and nothing that does harm.
    fn check_commands(&self) {
        let (entries, policy, now) = (self.vendor.list(self.t), policy(&self.scene), self.now());
        let lives = |id: &str| self.vendor.made.iter().find(|one| one.id == id && one.deleted.is_none());
        for (entry, said) in entries.iter().zip(in_use(&self.record, &policy, &entries, now)) {
            let Some(one) = lives(&entry.id) else { continue };
            let fine = match said {
                InUse::Yes => one.value == self.serving(),
                InUse::No => entry.deleted || one.value != self.serving(),
                InUse::Unknown => true,
            };
            let may = may_delete(&self.record, &policy, &entries, &entry.id, now).is_ok();
            if !fine || may && !entry.deleted && self.holds(&one.value) {
                self.fail(&format!("of {} it is said: {said:?}, {may}", entry.id));
            }
        }
    }

    /// What is changed at the vendor stands in the durable record before.
    fn check_intent(&self, action: &Action) {
        if !matches!(action, Action::Create { .. } | Action::Replace | Action::Delete { .. }) {
            return;
        }
        let durable = serde_json::to_value(&self.record).unwrap();
        let fine = match action {
            Action::Create { tag, .. } => {
                durable["state"] == "Creating"
                    && durable["marks"].as_array().unwrap().iter().any(|mark| mark["tag"] == tag.as_str())
            }
            Action::Replace => durable["state"] == "Creating" && !durable["new"].is_null(),
            // What could not be saved is cleaned up by the record before.
            Action::Delete { id } => durable["doomed"] == id.as_str() || durable["state"] == "Creating",
            _ => true,
        };
        if !fine {
            self.fail("the intent is not durable");
        }
    }

    fn call(&mut self, action: &Action, fault: Fault) -> Event {
        self.calls += 1;
        self.check_intent(action);
        let takes = self.rng.i64(0..5);
        self.t += takes;
        let changes = matches!(action, Action::Create { .. } | Action::Replace);
        match fault {
            Fault::Lost => Event::Failed(Failure::Lost),
            Fault::AnswerLost => {
                self.effect(action);
                self.t += 10;
                Event::Failed(Failure::Lost)
            }
            Fault::Late if changes && self.late.is_none() => {
                self.late = Some((self.t + self.rng.i64(1..60), action.clone()));
                Event::Failed(Failure::Lost)
            }
            Fault::Late => Event::Failed(Failure::Lost),
            Fault::NotSent => Event::Failed(Failure::NotSent),
            Fault::Busy => Event::Failed(Failure::Busy(Duration::from_secs(self.rng.u64(1..500)))),
            Fault::Refused if matches!(action, Action::Verify(_)) => Event::Refused,
            Fault::Refused => Event::Failed(Failure::Refused("no".into())),
            Fault::AdminExpired => Event::Failed(Failure::AdminExpired),
            Fault::ListShort if *action == Action::List => {
                Event::Listed(self.vendor.list(self.t).into_iter().take(1).collect())
            }
            _ => self.effect(action),
        }
    }

    /// What an operator does who knows the truth.
    fn operator(&mut self, asks: Option<Asks>) {
        self.advance(600);
        self.store_fails = false;
        if self.rng.u8(0..3) == 0 {
            return self.machine.on(Event::Daily, self.now());
        }
        let t = self.t;
        let (old, new, serving) = (self.old.clone(), self.new.clone(), self.serving().to_owned());
        let mut made = self.vendor.made.iter_mut().filter(|one| one.deleted.is_none());
        let event = match asks {
            Some(Asks::Current) => made.find(|one| one.value == serving).map(|one| Event::Chosen(one.id.clone())),
            Some(Asks::Room) => made.find(|one| one.foreign).map(|one| {
                one.given_up = true;
                Event::Chosen(one.id.clone())
            }),
            Some(Asks::Ours) => made
                .find(|one| !one.foreign && one.value != old && Some(&one.value) != new.as_ref() && one.lives(t))
                .map(|one| Event::Chosen(one.id.clone())),
            None => None,
        };
        self.machine.on(event.unwrap_or(Event::Resume), self.now());
    }

    fn drive(&mut self) -> End {
        loop {
            self.step += 1;
            if self.step > STEPS_MAX || self.calls > CALLS_MAX {
                self.fail("it does not end");
            }
            self.arrive();
            self.check();
            let mut fault = self.plan.faults.get(&self.step).copied().unwrap_or(Fault::None);
            let crash = self.plan.crashes.get(&self.step).copied();
            match fault {
                Fault::StoreFails => self.store_fails = true,
                Fault::Foreign => drop(self.vendor.create("by hand", START + self.rng.i64(1..99) * DAY, self.t, true)),
                Fault::ClockBack => self.skew -= 2 * 3600,
                Fault::ClockAhead => self.skew += 1800,
                _ => {}
            }
            let action = self.machine.next(self.now());
            let state = self.machine.record().state.clone();
            if let Some(log) = &mut self.log {
                log.push(format!("{} +{} {state:?}: {action:?} {fault:?} {crash:?}", self.step, self.t - START));
            }
            if crash == Some(false) {
                self.restart();
                continue;
            }
            if self.store_fails {
                fault = if action == Action::Save { Fault::SaveFails } else { fault };
            }
            let event = match &action {
                Action::Wait(until) => {
                    self.advance(until.as_second() - self.t - self.skew);
                    None
                }
                Action::Save if fault == Fault::SaveFails => Some(Event::SaveFailed),
                Action::Save => {
                    self.record = self.machine.record().clone();
                    (self.old, self.new) = (value(&self.record.old), self.record.new.as_ref().map(value));
                    Some(Event::Saved)
                }
                Action::Swap => {
                    if value(self.machine.record().serving()) != self.serving() {
                        self.fail("it is used before it is saved");
                    }
                    Some(Event::Swapped)
                }
                Action::Done => break End::Rotated,
                Action::Park(problem) => {
                    assert!(!problem.why.is_empty() && !problem.what_to_do.is_empty());
                    self.parks += 1;
                    let durable = &self.record;
                    if durable.state == State::Stable && state == State::Stable && durable.problem.is_some() {
                        break End::AsBefore;
                    }
                    if self.parks > PARKS_MAX {
                        break End::Parked;
                    }
                    self.operator(problem.asks);
                    None
                }
                call => Some(self.call(call, fault)),
            };
            if crash == Some(true) {
                self.restart();
            } else if let Some(event) = event {
                self.count(&action, &event);
                self.machine.on(event, self.now());
            }
        }
    }

    /// What the broker has seen of the new one.
    fn count(&mut self, action: &Action, event: &Event) {
        match (action, event) {
            (Action::Verify(Which::New), Event::Accepted) => {
                self.worked += 1;
                self.checked = self.machine.record().state == State::Deleting;
            }
            (Action::Verify(Which::New), Event::Refused) => (self.worked, self.checked) = (0, false),
            _ => {}
        }
    }

    fn run(mut self) -> (End, usize) {
        let end = self.drive();
        let step = self.step;
        self.at_the_end(&end);
        (end, step)
    }

    /// Made by us, alive, and nobody knows its value.
    fn left(&self) -> Option<String> {
        let left = |one: &&vendor::Made| !one.foreign && one.lives(self.t) && !self.holds(&one.value);
        self.vendor.made.iter().find(left).map(|one| one.id.clone())
    }

    fn at_the_end(&mut self, end: &End) {
        self.advance(7200);
        if *end == End::Rotated && self.old == A {
            self.fail("nothing was rotated");
        }
        if *end == End::Rotated && (0..REPLICAS).any(|replica| !self.vendor.accepts(self.serving(), replica, self.t)) {
            self.fail("what serves does not work");
        }
        if *end == End::AsBefore && (self.old != A || self.new.is_some()) {
            self.fail("it is not as before");
        }
        if *end != End::Parked && self.scene.style == Style::Create && self.left().is_some() {
            self.once_more();
        }
    }

    /// What is left behind is remembered, and the next rotation deletes it.
    fn once_more(&mut self) {
        let works = (0..REPLICAS).all(|replica| self.vendor.accepts(self.serving(), replica, self.t));
        let left = self.left();
        (self.plan, self.calls, self.step, self.parks, self.worked) = (Plan::default(), 0, 0, 0, 0);
        if let Some(log) = &mut self.log {
            log.push(format!("once more, for {left:?}"));
        }
        self.store_fails = false;
        self.machine.begin(Begin::Create, !works);
        self.drive();
        self.advance(7200);
        if left == self.left() {
            self.fail(&format!("{left:?} is left behind"));
        }
    }
}

fn value(held: &Held) -> String {
    held.secret().expose().to_owned()
}

/// `Err`: what went wrong, with the seed and every step; the first of each scene is shown.
fn tried(scene: Scene, plan: &Plan, seed: u64) -> Result<(End, usize), String> {
    let run = |log| {
        let mut sim = Sim::new(scene, plan.clone(), seed);
        sim.log = log;
        std::panic::catch_unwind(AssertUnwindSafe(|| sim.run()))
    };
    run(None).map_err(|_| {
        let why = run(Some(vec![format!("{scene:?} {plan:?} seed {seed}")])).unwrap_err();
        why.downcast::<String>().map_or_else(|_| format!("{scene:?} {plan:?} seed {seed}"), |why| *why)
    })
}

/// How often each scene came to which end.
#[derive(Default)]
struct Matrix(BTreeMap<&'static str, Row>, Vec<String>);

#[derive(Default)]
struct Row {
    runs: usize,
    crashes: usize,
    ends: BTreeMap<End, usize>,
    failed: bool,
}

impl Matrix {
    /// The first run of each scene that goes wrong is shown.
    fn run(&mut self, scene: Scene, plan: &Plan, seed: u64) {
        let row = self.0.entry(scene.name).or_default();
        match tried(scene, plan, seed) {
            Ok((end, _)) => {
                (row.runs, row.crashes) = (row.runs + 1, row.crashes + plan.crashes.len());
                *row.ends.entry(end).or_default() += 1;
            }
            Err(why) if !row.failed => {
                row.failed = true;
                self.1.push(why);
            }
            Err(_) => {}
        }
    }

    fn show(&self) {
        println!("{:>32} {:>7} {:>8} {:>8} {:>10} {:>7}", "", "runs", "crashes", "rotated", "as before", "parked");
        let all = |count: &dyn Fn(&Row) -> usize| self.0.values().map(count).sum::<usize>();
        let line = |name: &str, runs, crashes, end: &dyn Fn(End) -> usize| {
            let (rotated, before, parked) = (end(End::Rotated), end(End::AsBefore), end(End::Parked));
            println!("{name:>32} {runs:>7} {crashes:>8} {rotated:>8} {before:>10} {parked:>7}");
        };
        for (name, row) in &self.0 {
            line(name, row.runs, row.crashes, &|end| row.ends(&end));
        }
        line("all", all(&|row| row.runs), all(&|row| row.crashes), &|end| all(&|row| row.ends(&end)));
        assert!(self.1.is_empty(), "{}", self.1.join("\n\n"));
    }

    /// What is possible is done nearly always; what is not is told, and nothing else comes of it.
    fn judge(&self) {
        for scene in scenes() {
            let row = &self.0[scene.name];
            let (rotated, before, parked) = (row.ends(&End::Rotated), row.ends(&End::AsBefore), row.ends(&End::Parked));
            let works = scene.model.propagation.is_some();
            if works {
                assert!(rotated * 100 > row.runs * 75, "{}: {rotated} of {}", scene.name, row.runs);
                assert!(parked * 100 < row.runs * 3, "{}: {parked} of {}", scene.name, row.runs);
            } else {
                assert_eq!(before + parked, row.runs, "{}", scene.name);
            }
            if !works && scene.style == Style::Replace {
                assert!(parked * 100 > row.runs * 75, "{}: {parked} of {}", scene.name, row.runs);
            } else if !works {
                assert_eq!(parked, 0, "{}", scene.name);
            }
        }
    }
}

impl Row {
    fn ends(&self, end: &End) -> usize {
        self.ends.get(end).copied().unwrap_or(0)
    }
}

#[test]
fn every_crash_with_every_fault_loses_nothing_deletes_nothing_foreign_and_ends() {
    let mut matrix = Matrix::default();
    let mut steps_of_all = 0;
    for scene in scenes() {
        let (_, steps) = Sim::new(scene, Plan::default(), 0).run();
        let steps = steps.min(STEPS_TRIED);
        steps_of_all += steps;
        for step in 1..=steps {
            for (index, fault) in FAULTS.into_iter().enumerate() {
                let seed = (step * 100 + index) as u64;
                let mut rng = Rng::with_seed(seed);
                let fault = scene.fault(fault);
                matrix.run(scene, &Plan { faults: BTreeMap::from([(step, fault)]), ..Plan::default() }, seed);
                // A crash before or after the step is done; the fault with it, soon after, or anywhere.
                let at = [step, step, step + rng.usize(1..4), rng.usize(1..=steps + 4)][rng.usize(0..4)];
                let crashes = BTreeMap::from([(step, (step + index) % 2 == 0)]);
                matrix.run(scene, &Plan { faults: BTreeMap::from([(at, fault)]), crashes }, seed);
            }
        }
    }
    matrix.show();
    matrix.judge();
    let runs = matrix.0.values().map(|row| row.runs).sum::<usize>();
    assert_eq!(runs, steps_of_all * FAULTS.len() * 2);
    assert!(scenes().len() >= 25 && steps_of_all > 25 * 20, "{steps_of_all}");
}

#[test]
fn many_crashes_and_faults_in_one_rotation_do_no_more_harm_than_one() {
    let mut matrix = Matrix::default();
    for seed in 0..SEEDS {
        for scene in scenes() {
            let mut rng = Rng::with_seed(seed);
            let mut plan = Plan::default();
            for step in 1..80 {
                if rng.u8(0..100) < 12 && plan.faults.len() < 12 {
                    plan.faults.insert(step, scene.fault(FAULTS[rng.usize(0..FAULTS.len())]));
                }
                if rng.u8(0..100) < 8 && plan.crashes.len() < 6 {
                    plan.crashes.insert(step, rng.bool());
                }
            }
            matrix.run(scene, &plan, seed);
        }
    }
    matrix.show();
    matrix.judge();
}
