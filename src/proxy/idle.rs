//! Cuts a body in which nothing moves for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("nothing moved for {} s", .0.as_secs_f32())]
    Idle(Duration),
    #[error("a replay took the place of this request")]
    Superseded,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Fires when nothing happened for so long. Costs nothing while data is at hand.
pub struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl IdleTimer {
    pub fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, running: false }
    }

    pub fn watch<T>(&mut self, polled: Poll<T>, cx: &mut Context<'_>) -> Result<Poll<T>, BodyError> {
        self.running &= polled.is_pending();
        if polled.is_ready() {
            return Ok(polled);
        }
        let deadline = Instant::now() + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !self.running {
            sleep.as_mut().reset(deadline);
            self.running = true;
        }
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Err(BodyError::Idle(self.limit)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }
}
