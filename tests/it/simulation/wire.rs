//! Requests and answers over the simulated network: a datagram names what is asked or answered, so that it is lost, late or
//! held like any other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokenbroker::oauth::manage::Item;
use turmoil::net::UdpSocket;

use super::gate::Gate;
use super::idp::{TokenAnswer, TokenRequest};
use super::store::{StoreAnswer, StoreRequest};
use super::vendor::Managed;
use super::world::{Who, World};

pub const PORT: u16 = 1;

#[derive(Clone)]
pub enum Ask {
    /// Is anybody there?
    Hello,
    Store(StoreRequest),
    Token(TokenRequest),
    Manage(Managed),
}

#[derive(Clone)]
pub enum Reply {
    Hello,
    /// And what the clock of the store shows, in ms.
    Store(StoreAnswer, u64),
    Token(TokenAnswer),
    Managed(Result<Vec<Item>, u16>),
}

pub enum Packet {
    Ask(Who, Ask),
    Reply(Reply),
}

/// One process's way to the servers.
#[derive(Clone)]
pub struct Wire {
    pub world: Arc<World>,
    pub who: Who,
    pub gate: Arc<Gate>,
}

impl Wire {
    /// Asks, and waits so long for the answer. A process that does not run neither sends nor hears.
    pub async fn ask(&self, to: &str, ask: Ask, wait: Duration) -> Option<Reply> {
        self.gate.passed().await;
        let to: IpAddr = turmoil::lookup(to);
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)).await.unwrap();
        let id = self.world.lock().post(Packet::Ask(self.who, ask));
        socket.send_to(&id.to_be_bytes(), (to, PORT)).await.ok()?;
        let mut bytes = [0; 8];
        let came = tokio::time::timeout(wait, socket.recv_from(&mut bytes)).await.is_ok();
        self.gate.passed().await;
        // It may have come while nobody looked.
        if !came && socket.try_recv_from(&mut bytes).is_err() {
            return None;
        }
        match self.world.lock().packets.remove(&u64::from_be_bytes(bytes)) {
            Some(Packet::Reply(reply)) => Some(reply),
            _ => None,
        }
    }
}

/// A host that answers, each request by itself: what is slow keeps nobody else waiting.
pub async fn serve<F, Fut>(world: Arc<World>, answer: F) -> turmoil::Result
where
    F: Fn(Arc<World>, Who, Ask) -> Fut,
    Fut: Future<Output = Option<Reply>> + 'static,
{
    let socket = Arc::new(UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?);
    loop {
        let mut bytes = [0; 8];
        let (_, from) = socket.recv_from(&mut bytes).await?;
        let packet = world.lock().packets.remove(&u64::from_be_bytes(bytes));
        let Some(Packet::Ask(who, ask)) = packet else { continue };
        let (answer, socket, world) = (answer(Arc::clone(&world), who, ask), Arc::clone(&socket), Arc::clone(&world));
        tokio::task::spawn_local(async move {
            if let Some(reply) = answer.await {
                let id = world.lock().post(Packet::Reply(reply));
                let _ = socket.send_to(&id.to_be_bytes(), from).await;
            }
        });
    }
}
