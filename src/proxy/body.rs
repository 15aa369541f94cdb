//! Bodies on their way through: streamed in both directions with the back-pressure of the slower side, never collected
//! beyond what a replay may need, and cut when nothing moves for too long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::upstream::Lease;

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
struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl IdleTimer {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, running: false }
    }

    fn watch<T>(&mut self, polled: Poll<T>, cx: &mut Context<'_>) -> Result<Poll<T>, BodyError> {
        if polled.is_ready() {
            self.running = false;
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

/// A request body, on its way to the upstream. What has passed is held, up to a bound, so that it can be sent once more.
pub struct Upload {
    shared: Option<Arc<Shared>>,
    /// Chunks of this reader so far.
    cursor: usize,
    /// Only the newest reader may read.
    epoch: u32,
    hint: SizeHint,
}

/// What the readers of one request body share.
pub struct Shared(Mutex<State>);

struct State {
    body: Incoming,
    idle: IdleTimer,
    held: Vec<Bytes>,
    /// Bytes that may still be held; `None` once more than that has passed.
    room: Option<usize>,
    done: bool,
    epoch: u32,
    /// Grows with each chunk: a stalled upload shows.
    progress: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the whole body been taken?
    pub fn is_done(&self) -> bool {
        self.lock().done
    }

    pub fn progress(&self) -> u64 {
        self.lock().progress
    }

    /// The body from its beginning, if all that passed is still held. The former reader is cut off.
    pub fn replay(self: &Arc<Self>) -> Option<Upload> {
        let mut state = self.lock();
        state.room?;
        state.epoch += 1;
        let (passed, rest) = (state.held.iter().map(Bytes::len).sum::<usize>() as u64, state.body.size_hint());
        let mut hint = SizeHint::new();
        match (state.done, rest.exact()) {
            (true, _) => hint.set_exact(passed),
            (false, Some(rest)) => hint.set_exact(passed + rest),
            (false, None) => {}
        }
        Some(Upload { shared: Some(Arc::clone(self)), cursor: 0, epoch: state.epoch, hint })
    }
}

impl Upload {
    pub fn empty() -> Self {
        Self { shared: None, cursor: 0, epoch: 0, hint: SizeHint::with_exact(0) }
    }

    /// Holds up to `held_max` bytes for a replay; 0 for none.
    pub fn new(body: Incoming, held_max: usize, idle: Duration) -> (Self, Option<Arc<Shared>>) {
        if body.is_end_stream() {
            return (Self::empty(), None);
        }
        let hint = body.size_hint();
        let fits = held_max > 0 && hint.lower() <= held_max as u64;
        let shared = Arc::new(Shared(Mutex::new(State {
            body,
            idle: IdleTimer::new(idle),
            held: Vec::new(),
            room: fits.then_some(held_max),
            done: false,
            epoch: 0,
            progress: 0,
        })));
        (Self { shared: Some(Arc::clone(&shared)), cursor: 0, epoch: 0, hint }, Some(shared))
    }

    /// Is its length unknown, so that it has to be chunked?
    pub fn is_chunked(&self) -> bool {
        self.shared.is_some() && self.hint.exact().is_none()
    }
}

impl State {
    /// The next chunk from the client; trailers end the body and are dropped.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            let frame = match self.idle.watch(polled, cx) {
                Ok(polled) => ready!(polled).transpose(),
                Err(e) => return Poll::Ready(Some(Err(e))),
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Ok(Some(Ok(data))) => {
                    self.progress += 1;
                    self.done = self.body.is_end_stream();
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Some(Err(_trailers))) => {}
                Ok(None) => {
                    self.done = true;
                    return Poll::Ready(None);
                }
                Err(e) => return Poll::Ready(Some(Err(e.into()))),
            }
        }
    }

    fn hold(&mut self, data: &Bytes) {
        let Some(room) = self.room else { return };
        match room.checked_sub(data.len()) {
            Some(left) => {
                self.room = Some(left);
                self.held.push(data.clone());
            }
            None => {
                self.room = None;
                self.held = Vec::new();
            }
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(shared) = &this.shared else { return Poll::Ready(None) };
        let mut state = shared.lock();
        if state.epoch != this.epoch {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = state.held.get(this.cursor) {
            this.cursor += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if state.done {
            return Poll::Ready(None);
        }
        let next = ready!(state.next(cx));
        if let Some(Ok(data)) = &next {
            state.hold(data);
            this.cursor += 1;
        }
        Poll::Ready(next.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let state = shared.lock();
            state.done && self.cursor >= state.held.len()
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// A response body, on its way to the client: ours, or the upstream's with the connection it comes over.
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
        download.finish_if_ended();
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
    fn finish_if_ended(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
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
                    self.finish_if_ended();
                    return Poll::Ready(Some(Ok(frame)));
                }
                // Trailers are dropped: the client was not asked whether it takes them.
                Some(Ok(_)) => {}
                Some(Err(e)) => {
                    self.lease = None;
                    return Poll::Ready(Some(Err(e.into())));
                }
                None => {
                    if let Some(lease) = self.lease.take() {
                        lease.finish();
                    }
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
