//! A response on its way to the client, streamed with the client's back-pressure, and the connection it comes over.

use std::task::{Context, Poll, ready};

use super::upstream::Lease;
use crate::http1::{Body, Client, Cut, Out};

/// A response: what is written, and what is still to come.
pub struct Download {
    pub out: Out,
    pub body: Body,
    pub chunked: bool,
    pub lease: Lease,
    /// Pieces of the body that came.
    pub pieces: u64,
    /// Why no more of it comes: told once the client has what came before.
    pub cut: Option<Cut>,
}

impl Download {
    /// Grows with what moves.
    pub fn moved(&self) -> u64 {
        self.out.written + self.pieces
    }

    /// Moves what can be moved; ready once the client has all of it.
    pub fn poll(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Poll<Result<(), String>> {
        if let (0, None, Body::Length(_)) = (self.pieces, &self.cut, &self.body) {
            // What has come already goes with the head.
            if let Poll::Ready(Err(cut)) = self.poll_read(cx, client) {
                self.cut = Some(cut);
            }
        }
        loop {
            let written = ready!(self.out.poll(cx, &mut client.connection.stream));
            written.map_err(|error| format!("the client: {error}"))?;
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            let read = self.cut.take().map_or_else(|| self.poll_read(cx, client), |cut| Poll::Ready(Err(cut)));
            ready!(read).map_err(|cut| format!("the API: {cut}"))?;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Poll<Result<(), Cut>> {
        let (upstream, to) = (&mut self.lease.connection, Some(&mut client.connection.stream));
        ready!(self.body.poll_next(cx, upstream, to, &mut self.out, self.chunked, None::<fn(&[u8])>))?;
        self.pieces += 1;
        Poll::Ready(Ok(()))
    }
}
