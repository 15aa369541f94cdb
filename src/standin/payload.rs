//! What comes back over the wire where a stand-in misbehaves: a body without end, one that drips, or nothing at all.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep};

/// No answer: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the stand-in drops this call")]
pub struct Dropped;

/// A response body that can misbehave.
pub enum Payload {
    Whole(Option<Bytes>),
    /// So many bytes of nothing.
    Endless {
        left: u64,
    },
    /// A byte each second.
    Drip {
        left: u64,
        next: Pin<Box<Sleep>>,
    },
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Whole((!text.is_empty()).then(|| text.into()))
    }
}

impl Payload {
    pub fn endless() -> Self {
        Self::Endless { left: 10 << 30 }
    }

    pub fn drip() -> Self {
        Self::Drip { left: 3600, next: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Endless { left: 0 } | Self::Drip { left: 0, .. } => None,
            Self::Endless { left } => {
                *left -= 65_536;
                Some(Bytes::from_static(&[b' '; 65_536]))
            }
            Self::Drip { left, next } => {
                std::task::ready!(next.as_mut().poll(cx));
                next.as_mut().reset(Instant::now() + Duration::from_secs(1));
                *left -= 1;
                Some(Bytes::from_static(b" "))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Endless { .. } | Self::Drip { .. } => hyper::body::SizeHint::default(),
        }
    }
}
