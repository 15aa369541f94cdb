//! A response on its way to the client, streamed with the client's back-pressure, and the connection it comes over.

use std::task::{Context, Poll, ready};

use super::upstream::Lease;
use crate::http1::{Body, Client, Out};

/// A response: what is written, and what is still to come.
pub struct Download {
    pub out: Out,
    pub body: Body,
    pub chunked: bool,
    pub lease: Lease,
    /// Bytes that moved.
    pub moved: u64,
}

impl Download {
    /// Moves what can be moved; ready once the client has all of it.
    pub fn poll(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Poll<Result<(), String>> {
        loop {
            let moved = &mut self.moved;
            let written = self.out.poll(cx, &mut client.connection.stream, |bytes| *moved += bytes as u64);
            ready!(written).map_err(|error| format!("the client: {error}"))?;
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            let (upstream, to) = (&mut self.lease.connection, Some(&mut client.connection.stream));
            let read = ready!(self.body.poll_next(cx, upstream, to, &mut self.out, self.chunked, |_| {}));
            read.map_err(|cut| format!("the API: {cut}"))?;
            self.moved += 1;
        }
    }
}
