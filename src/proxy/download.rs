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
    /// Of the body, read.
    pub pieces: u64,
}

impl Download {
    /// Grows with what moves.
    pub fn moved(&self) -> u64 {
        self.out.written + self.pieces
    }

    /// Moves what can be moved; ready once the client has all of it.
    pub fn poll(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Poll<Result<(), String>> {
        if self.pieces == 0 && !self.body.is_done() {
            // What has come already goes in one write with the head. What goes wrong shows again below.
            let _ = self.poll_read(cx, client);
        }
        loop {
            let written = ready!(self.out.poll(cx, &mut client.connection.stream));
            written.map_err(|error| format!("the client: {error}"))?;
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_read(cx, client)).map_err(|cut| format!("the API: {cut}"))?;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Poll<Result<(), Cut>> {
        let (upstream, to) = (&mut self.lease.connection, Some(&mut client.connection.stream));
        let read = ready!(self.body.poll_next(cx, upstream, to, &mut self.out, self.chunked, None::<fn(&[u8])>));
        self.pieces += 1;
        Poll::Ready(read)
    }
}
