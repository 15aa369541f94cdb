//! The software of a replica: the real refresh task, and an application that asks for its token.

use std::sync::Arc;
use std::time::Duration;

use tokenbroker::oauth::template::Template;
use tokenbroker::store::{Store, StoreTime, Stores};
use tokenbroker::token::cache::Slot;
use tokenbroker::token::keeper::{Keeper, record};
use tokenbroker::token::kept::Kept;
use tokenbroker::token::refresh::{Refresher, Rotating, Task};
use tokenbroker::token::secrets::{Asked, Secrets, Verb};
use tokio_util::sync::CancellationToken;

use super::gate::Gated;
use super::idp::Client;
use super::remote::{Local, Remote};
use super::vendor::ROTATED;
use super::wire::Wire;
use super::world::{Order, Who, World};

pub const ACCOUNT: &str = "0123456789abcdef";
/// How long an application waits for a token.
const PATIENCE: Duration = Duration::from_secs(3);

/// One process after the other, each until it is told to stop; a crash ends it anywhere.
pub async fn software(world: Arc<World>, replica: usize) -> turmoil::Result {
    let gate = Arc::clone(&world.lock().replicas[replica].gate);
    let inner = Box::pin(async move {
        loop {
            live(&world, replica).await;
        }
    });
    Gated { gate, inner }.await
}

async fn live(world: &Arc<World>, replica: usize) {
    let stop = CancellationToken::new();
    let clock = world.clock(replica);
    let slot = Arc::new(Slot::new(clock.clone()));
    let (who, gate, journal, ordered) = world.lock().begins(replica, world.now(), &slot, &stop);
    let wire = Wire { world: Arc::clone(world), who, gate };
    let copy = journal.map(|journal| Arc::new(Local { journal, wire: wire.clone() }) as Arc<dyn Store>);
    let stores = Stores {
        main: Arc::new(Remote { wire: wire.clone(), time: StoreTime::new(clock.clone()) }),
        copy,
        files: None,
    };
    let found = match Keeper::open::<Kept>(&stores, record("t", ACCOUNT), &clock).await {
        Ok(found) => found,
        Err(error) => {
            world.event(format_args!("{who} cannot start: {error}"));
            return tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let scenario = &world.scenario;
    let secrets = match Secrets::open(Some(&stores).filter(|_| scenario.rotates), "secret.c".to_owned(), &clock).await {
        Ok(secrets) => Some(Arc::new(secrets)).filter(|_| scenario.rotates),
        Err(error) => {
            world.event(format_args!("{who} cannot start: {error}"));
            return tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let rotating = secrets.clone().map(|secrets| {
        secrets.drive("t", &slot);
        Rotating { secrets, config: Arc::clone(&ROTATED), slots: Arc::default() }
    });
    let task = Task {
        name: "t".to_owned(),
        policy: scenario.policy(),
        formats: vec![Template::parse("{access_token}", &["access_token"]).unwrap()],
        slot: Arc::clone(&slot),
        clock: clock.clone(),
        rng: fastrand::Rng::with_seed(fastrand::u64(..)),
        metrics: Arc::clone(&world.metrics),
        keeper: Some(found.keeper),
        rotating,
    };
    let exchange = Client { wire, grant: scenario.grant, wait: scenario.timeout, clock, secrets: secrets.clone() };
    let refresher = Refresher::new(exchange, task, found.content, found.saved);
    let application = application(world, who, &slot, &ordered, secrets.as_deref());
    tokio::select! {
        biased;
        ended = refresher.run(stop.clone(), stop.clone()) => {
            world.event(format_args!("{who} has stopped, saved: {}", ended.saved));
        }
        () = application => {}
    }
    let now = world.now();
    world.lock().ends(who, now);
}

/// Asks now and then, and does what the harness orders.
async fn application(
    world: &Arc<World>,
    who: Who,
    slot: &Slot,
    ordered: &tokio::sync::Notify,
    secrets: Option<&Secrets>,
) {
    loop {
        let wait = Duration::from_millis(fastrand::u64(500..6000));
        let _ = tokio::time::timeout(wait, ordered.notified()).await;
        let orders = std::mem::take(&mut world.lock().replicas[who.replica].orders);
        for order in orders {
            match order {
                Order::Refresh => drop(slot.refresh(PATIENCE).await),
                Order::Rotate => {
                    let asked = secrets.and_then(|secrets| secrets.ask(Verb::Rotate, Asked::default()).ok());
                    if let Some(answer) = asked {
                        let said = tokio::time::timeout(4 * PATIENCE, answer).await;
                        world.event(format_args!("{who} was asked to rotate: {said:?}"));
                    }
                }
                Order::Refused => {
                    let generation = slot.snapshot().generation;
                    let _ = slot.replacement(0, generation, PATIENCE).await;
                }
            }
        }
        let _ = slot.credential_within(0, PATIENCE).await;
    }
}
