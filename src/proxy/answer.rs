//! The wait for the head of an answer.

use std::io;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::time::Instant;

use super::error::ProxyError;
use crate::http1::{Bounds, Connection, Response};

/// Interim answers (1xx) to one request.
const INTERIM_MAX: u32 = 64;

/// Why there is no answer.
pub enum Unanswered {
    Failed(ProxyError),
    /// The connection broke.
    Cut(io::Error),
}

impl From<ProxyError> for Unanswered {
    fn from(error: ProxyError) -> Self {
        Self::Failed(error)
    }
}

/// When something last moved. Costs a look at the clock each time that something had moved.
#[derive(Default)]
pub struct Pace {
    moved: u64,
    since: Option<Instant>,
}

impl Pace {
    /// Since when nothing has moved, now that so much has.
    pub fn since(&mut self, moved: u64) -> Instant {
        if self.moved != moved {
            (self.moved, self.since) = (moved, None);
        }
        *self.since.get_or_insert_with(Instant::now)
    }
}

/// An answer that is waited for.
#[derive(Default)]
pub struct Waiting {
    /// Bytes in which no head has ended.
    looked: usize,
    /// Bytes of empty lines.
    empty: usize,
    /// Interim answers that came.
    interim: u32,
    /// Has anything come?
    any: bool,
    pub pace: Pace,
}

impl Waiting {
    /// Has nothing come yet?
    pub fn is_quiet(&self) -> bool {
        !self.any
    }

    /// Reads the head of the final answer; interim ones are passed over.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut Connection,
        bounds: Bounds,
    ) -> Poll<Result<Response, Unanswered>> {
        loop {
            // Empty lines before a head are passed over (RFC 9112 §2.2).
            let empty = upstream.received().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if self.looked == 0 && empty > 0 {
                upstream.used(empty);
                self.empty += empty;
                if self.empty > bounds.bytes {
                    return Poll::Ready(Err(
                        ProxyError::Protocol("the API sends nothing but empty lines".into()).into()
                    ));
                }
            }
            if let Some(end) = Response::end(upstream.received(), self.looked).filter(|end| *end <= bounds.bytes) {
                debug_assert!(end > 0);
                let response = Response::parse(upstream.take(), bounds).map_err(ProxyError::Protocol)?;
                if !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(response));
                }
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Poll::Ready(Err(
                        ProxyError::Protocol("the API sent more than 64 interim answers".into()).into()
                    ));
                }
                upstream.put_back(response.behind());
                self.looked = 0;
                continue;
            }
            self.looked = upstream.received().len();
            if self.looked >= bounds.bytes {
                let error = ProxyError::Protocol("the head of the API's answer is longer than limits.head".into());
                return Poll::Ready(Err(error.into()));
            }
            match ready!(upstream.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(Unanswered::Cut(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => self.any = true,
                Err(error) => return Poll::Ready(Err(Unanswered::Cut(error))),
            }
        }
    }
}
