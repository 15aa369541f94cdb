//! What a seed stands for: how many replicas, which grant, how strict a server, and everything that goes wrong, and when.

use std::time::Duration;

use fastrand::Rng;
use tokenbroker::oauth::file::Grant;
use tokenbroker::oauth::rules::SameToken;
use tokenbroker::token::schedule::Policy;
use tokenbroker::units::Budget;

use super::{idp, store};

const SECOND: Duration = Duration::from_secs(1);
/// A step of the simulation: messages take one at least.
pub const TICK: Duration = Duration::from_millis(100);
/// After the faults there may be a pause for a minute that a server asked for, or that failures made.
const REST: Duration = Duration::from_secs(68);

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// How far a step goes. Runs cost by the step, so most make longer ones.
    pub tick: Duration,
    pub machines: Vec<Machine>,
    pub grant: Grant,
    pub leeway: Duration,
    pub lifetime: Duration,
    pub timeout: Duration,
    pub limit: Option<Budget>,
    /// Is the client secret rotated, when an operator asks?
    pub rotates: bool,
    pub latency: Duration,
    /// How often the link breaks that a message is sent over.
    pub loss: f64,
    /// When, and what.
    pub faults: Vec<(Duration, Fault)>,
    /// From then on all is well, and for how long, before everybody has to serve.
    pub calm: Duration,
    pub rest: Duration,
    /// Break the lock of the store, to see whether the checks see it.
    pub broken_lock: bool,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub journal: bool,
    pub wall_ms: i64,
    pub boot: Duration,
}

/// Where a way leads.
#[derive(Clone, Copy, Debug)]
pub enum To {
    Store,
    Idp,
}

impl To {
    pub fn host(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Idp => "idp",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Crash(usize),
    Start(usize),
    /// The process is told to end, and starts again.
    Restart(usize),
    /// The process does not run, the clocks of its machine do.
    Pause(usize),
    /// Neither do the clocks.
    Freeze(usize),
    Resume(usize),
    Wall(usize, i64),
    Cut(usize, To),
    /// What is sent there arrives; no answer comes back.
    Deaf(usize, To),
    Hold(usize, To),
    Mend(usize, To),
    Release(usize, To),
    Store(store::Mood),
    /// A fail-over: so many of the last changes are forgotten.
    Back(usize),
    Wipe,
    StoreClock(Duration),
    Idp(idp::Mood),
    Refresh(usize),
    Rotate(usize),
    Refused(usize),
    /// A person logs in again, and gives everybody the new refresh token, one after the other.
    Login,
    Seed(usize),
    /// Everything works from now on.
    Over,
    /// A person mends what only a person can.
    Mended,
}

impl Scenario {
    pub fn policy(&self) -> Policy {
        Policy {
            grant: self.grant,
            renews: self.grant != Grant::ClientCredentials,
            refresh_at: 0.75,
            default_lifetime: None,
            eager: true,
            rereads: false,
            secrets: 1,
            same_token: SameToken::Never,
            limit: self.limit,
            timeout: self.timeout,
        }
    }

    /// All that a seed stands for.
    pub fn of(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let mut scenario = Self::quiet(seed, rng);
        if scenario.rotates {
            for _ in 0..rng.usize(1..4) {
                let one = rng.usize(0..scenario.machines.len());
                let at = Duration::from_millis(rng.u64(2000..30_000));
                scenario.faults.push((at, Fault::Rotate(one)));
            }
        }
        if rng.u8(..) < 13 {
            scenario.loss = 0.0;
        } else {
            for _ in 0..rng.usize(1..=24) {
                scenario.add(rng);
            }
        }
        scenario.faults.push((scenario.calm, Fault::Over));
        // What was late may have come only then.
        scenario.faults.push((scenario.calm + Duration::from_secs(20), Fault::Mended));
        scenario.faults.sort_by_key(|(at, _)| *at);
        scenario
    }

    /// Does nothing go wrong?
    pub fn is_quiet(&self) -> bool {
        self.loss == 0.0
            && self.faults.iter().all(|(_, fault)| matches!(fault, Fault::Over | Fault::Mended | Fault::Rotate(_)))
    }

    /// Three replicas that share a refresh token, for a short while, without any fault. An exchange takes place in the first
    /// second, and two more within the time.
    pub fn story(journal: bool) -> Self {
        let mut story = Self::quiet(1, &mut Rng::with_seed(1));
        let machine = |number: i64| Machine { journal, wall_ms: number * 1000, boot: Duration::from_secs(5000) };
        story.machines = (0..3).map(machine).collect();
        (story.grant, story.limit, story.loss, story.rotates) = (Grant::RefreshToken, None, 0.0, false);
        story.tick = TICK;
        (story.leeway, story.lifetime, story.timeout) = (Duration::ZERO, 10 * SECOND, SECOND);
        (story.latency, story.calm, story.rest) = (Duration::from_millis(2), 11 * SECOND, 16 * SECOND);
        story.faults = vec![(story.calm, Fault::Over), (story.calm + 2 * SECOND, Fault::Mended)];
        story
    }

    /// As a seed has it, without any fault.
    pub fn quiet(seed: u64, rng: &mut Rng) -> Self {
        let replicas = match rng.u8(0..100) {
            0..10 => 1,
            10..40 => 2,
            40..70 => 3,
            70..93 => rng.usize(4..=7),
            _ => rng.usize(8..=20),
        };
        let journals = rng.u8(0..3);
        let machines = (0..replicas).map(|_| Machine {
            journal: journals == 1 || (journals == 2 && rng.bool()),
            wall_ms: if rng.bool() { rng.i64(-7_200_000..7_200_000) } else { rng.i64(-500..500) },
            boot: Duration::from_millis(rng.u64(1_000_000..9_000_000_000)),
        });
        let machines = machines.collect();
        let grant = match rng.u8(0..100) {
            0..50 => Grant::RefreshToken,
            50..85 => Grant::Password,
            _ => Grant::ClientCredentials,
        };
        let leeway = Duration::from_secs(if rng.u8(0..3) == 0 { rng.u64(1..20) } else { 0 });
        let lifetime = Duration::from_secs(rng.u64(15..60));
        let per = Duration::from_secs(rng.u64(20..40));
        let limit = (rng.u8(0..5) == 0).then(|| Budget { max: rng.u32(3..8), per });
        let loss = if rng.u8(0..3) == 0 { rng.f64() * 0.01 } else { 0.0 };
        let latency = Duration::from_millis(rng.u64(2..300));
        let timeout = Duration::from_secs(rng.u64(1..4));
        let calm = Duration::from_secs(rng.u64(30..90));
        let tick = if rng.u8(0..3) == 0 { TICK } else { 2 * TICK };
        let faults = Vec::new();
        let rotates = rng.u8(0..3) == 0;
        let broken_lock = false;
        let rest = REST;
        Self {
            seed,
            tick,
            machines,
            grant,
            leeway,
            lifetime,
            timeout,
            limit,
            rotates,
            latency,
            loss,
            faults,
            calm,
            rest,
            broken_lock,
        }
    }

    /// One more thing that goes wrong, and when it is over.
    fn add(&mut self, rng: &mut Rng) {
        let one = rng.usize(0..self.machines.len());
        let calm = u64::try_from(self.calm.as_millis()).unwrap();
        let at = Duration::from_millis(rng.u64(0..calm));
        let long = if rng.u8(0..4) == 0 { 30_000 } else { 6_000 };
        let end = at + Duration::from_millis(rng.u64(200..long));
        let to = if rng.bool() { To::Store } else { To::Idp };
        let store_moods = [store::Mood::Away, store::Mood::Slow, store::Mood::ReadOnly, store::Mood::Mute];
        let idp_moods = [idp::Mood::Away, idp::Mood::Slow, idp::Mood::Broken, idp::Mood::Busy, idp::Mood::Mute];
        let (begin, over) = match rng.u8(0..100) {
            0..16 => (Fault::Crash(one), Some(Fault::Start(one))),
            16..22 => (Fault::Restart(one), None),
            22..31 => (Fault::Pause(one), Some(Fault::Resume(one))),
            31..34 => (Fault::Freeze(one), Some(Fault::Resume(one))),
            34..39 => {
                let by = if rng.bool() { rng.i64(-3_600_000..3_600_000) } else { rng.i64(-5_000..5_000) };
                (Fault::Wall(one, by), None)
            }
            39..46 => (Fault::Cut(one, to), Some(Fault::Mend(one, to))),
            46..52 => (Fault::Deaf(one, to), Some(Fault::Mend(one, to))),
            52..56 => (Fault::Hold(one, to), Some(Fault::Release(one, to))),
            56..66 => (Fault::Store(*rng.choice(&store_moods).unwrap()), Some(Fault::Store(store::Mood::Well))),
            66..73 => (Fault::Back(rng.usize(1..4)), None),
            73..75 => (Fault::Wipe, None),
            75..76 => (Fault::StoreClock(Duration::from_secs(rng.u64(1..100))), None),
            76..88 => (Fault::Idp(*rng.choice(&idp_moods).unwrap()), Some(Fault::Idp(idp::Mood::Well))),
            88..92 => (Fault::Refresh(one), None),
            92..97 => (Fault::Refused(one), None),
            _ => (Fault::Login, None),
        };
        self.faults.push((at, begin));
        if let Some(over) = over {
            self.faults.push((end, over));
        }
        if matches!(begin, Fault::Login) {
            self.everybody_gets_it(at, rng);
        }
    }

    fn everybody_gets_it(&mut self, at: Duration, rng: &mut Rng) {
        for replica in 0..self.machines.len() {
            let at = at + Duration::from_millis(rng.u64(0..3000));
            self.faults.push((at, Fault::Seed(replica)));
        }
    }
}
