//! A response body on its way to the client: streamed with the client's back-pressure, and with it the connection it comes
//! over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::idle::{BodyError, IdleTimer};
use super::upstream::Lease;

/// A response body: ours, or the upstream's.
pub enum Body {
    Own(Full<Bytes>),
    Upstream(Download),
}

/// The upstream's body. Read to its end, it gives the connection back; dropped before, it closes it.
pub struct Download {
    body: Incoming,
    lease: Option<Lease>,
    idle: IdleTimer,
}

impl Body {
    pub fn upstream(body: Incoming, lease: Lease, idle: Duration) -> Self {
        let mut download = Download { body, lease: Some(lease), idle: IdleTimer::new(idle) };
        if download.body.is_end_stream() {
            download.finish();
        }
        Self::Upstream(download)
    }

    pub fn empty() -> Self {
        Self::Own(Full::default())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Own(Full::new(bytes))
    }
}

impl Download {
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            let frame = match self.idle.watch(polled, cx) {
                Ok(polled) => ready!(polled),
                Err(e) => return Poll::Ready(Some(Err(e))),
            };
            match frame {
                Some(Ok(frame)) if frame.is_data() => {
                    if self.body.is_end_stream() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                // Trailers are dropped: the client was not asked whether it takes them.
                Some(Ok(_)) => {}
                Some(Err(e)) => {
                    self.lease = None;
                    return Poll::Ready(Some(Err(e.into())));
                }
                None => {
                    self.finish();
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(download) => download.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(download) => download.body.size_hint(),
        }
    }
}
