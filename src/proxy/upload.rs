//! A request on its way to the upstream, its body streamed with the upstream's back-pressure and never collected beyond what a
//! replay may need.

use std::io;
use std::task::{Context, Poll, ready};

use crate::http1::{Client, Connection, Cut, Out, Request};

/// The body of a request as it comes from the client, whichever try takes it.
pub struct Upload {
    /// Written before the client sends its body.
    leave: Out,
    /// What has passed, so that it can be sent once more.
    held: Vec<u8>,
    /// Bytes that may still be held; `None` once more than that has passed.
    room: Option<usize>,
    /// Has any of it been taken?
    begun: bool,
    pub has_body: bool,
    /// The client has to send before anything can move.
    pub waiting: bool,
}

/// One try to send it, head first.
pub struct Sending {
    out: Out,
    chunked: bool,
    /// Pieces of the body that came.
    pieces: u64,
    pub done: bool,
    /// The upstream takes no more; it may have said why.
    pub broken: Option<io::Error>,
}

impl Sending {
    /// Bytes that went out.
    pub fn written(&self) -> u64 {
        self.out.written
    }

    /// Grows with what moves: a stalled upload shows.
    pub fn moved(&self) -> u64 {
        self.out.written + self.pieces
    }
}

impl Upload {
    /// Holds up to `held_max` bytes for a replay; 0 for none.
    pub fn new(request: &Request, client: &Client, held_max: usize) -> Self {
        let leave = if client.connection.received().is_empty() { request.leave() } else { Out::default() };
        let least = request.body.length().unwrap_or_default();
        let room = (held_max > 0 && least <= held_max as u64).then_some(held_max);
        Self { leave, held: Vec::new(), room, begun: false, has_body: !request.body.is_done(), waiting: false }
    }

    /// A try with that head; `None` if what has passed of the body is not held.
    pub fn begin(
        &mut self,
        head: Vec<u8>,
        request: &mut Request,
        client: &mut Client,
        chunked: bool,
    ) -> Option<Sending> {
        let mut out = Out::new(head);
        if self.begun {
            self.room?;
            out.push(&self.held, chunked);
            if chunked && request.body.is_done() {
                out.end();
            }
        } else if !request.body.is_done() && !client.connection.received().is_empty() {
            // In one write with the head.
            self.begun = true;
            let hold = |data: &[u8]| {
                self.hold(data);
                out.push(data, chunked);
            };
            // What is wrong with it shows again when there should be more.
            if let Ok(taken) = request.body.take(client.connection.received(), hold) {
                client.connection.used(taken);
                if chunked && request.body.is_done() {
                    out.end();
                }
            }
        }
        Some(Sending { out, chunked, pieces: 0, done: false, broken: None })
    }

    /// Takes back the leave to send the body, for an answer has come: what is left of it if the client has a part.
    pub fn take_back_leave(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.leave).rest().to_vec()
    }

    /// Can the body be sent from its beginning?
    pub fn replays(&self) -> bool {
        !self.begun || self.room.is_some()
    }

    fn hold(&mut self, data: &[u8]) {
        let Some(room) = self.room else { return };
        self.room = room.checked_sub(data.len());
        match self.room {
            Some(_) => self.held.extend_from_slice(data),
            None => self.held = Vec::new(),
        }
    }

    /// Moves what can be moved. `Err`: the client's body broke off.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sending: &mut Sending,
        request: &mut Request,
        client: &mut Client,
        upstream: &mut Connection,
    ) -> Poll<Result<(), Cut>> {
        self.waiting = false;
        while !sending.done && sending.broken.is_none() {
            if let Err(error) = ready!(sending.out.poll(cx, &mut upstream.stream)) {
                sending.broken = Some(error);
                break;
            }
            if request.body.is_done() {
                sending.done = true;
                break;
            }
            self.waiting = true;
            if client.connection.received().is_empty() {
                ready!(client.poll_write(cx, &mut self.leave)).map_err(Cut::Io)?;
            }
            self.begun = true;
            let tap = self.room.is_some().then_some(|data: &[u8]| self.hold(data));
            let (from, to) = (&mut client.connection, Some(&mut upstream.stream));
            ready!(request.body.poll_next(cx, from, to, &mut sending.out, sending.chunked, tap))?;
            sending.pieces += 1;
            self.waiting = false;
        }
        Poll::Ready(Ok(()))
    }
}
