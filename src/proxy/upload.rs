//! A request body on its way to the upstream: streamed with the upstream's back-pressure, never collected beyond what a
//! replay may need.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::idle::{BodyError, IdleTimer};

/// A reader of a request body. What has passed is held, up to a bound, so that it can be sent once more.
pub struct Upload {
    shared: Option<Arc<Shared>>,
    /// Bytes that this reader has given out, as far as they are held.
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
    /// A copy: the chunks themselves would keep whole read buffers alive, of which they may be a small part.
    held: Vec<u8>,
    /// Bytes that may still be held; `None` once more than that has passed.
    room: Option<usize>,
    /// The client sent all of it.
    done: bool,
    /// The newest reader gave out all of it.
    taken: bool,
    /// The client has to send before anything can move.
    waiting: bool,
    epoch: u32,
    /// Grows with each chunk: a stalled upload shows.
    progress: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Did the newest reader give out the whole body?
    pub fn is_taken(&self) -> bool {
        self.lock().taken
    }

    /// Is it the client that everything waits for?
    pub fn is_waiting(&self) -> bool {
        self.lock().waiting
    }

    pub fn progress(&self) -> u64 {
        self.lock().progress
    }

    /// The body from its beginning, if all that passed is still held. The former reader is cut off.
    pub fn replay(self: &Arc<Self>) -> Option<Upload> {
        let mut state = self.lock();
        state.room?;
        state.epoch += 1;
        (state.taken, state.waiting) = (false, false);
        let (passed, rest) = (state.held.len() as u64, state.body.size_hint());
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
            taken: false,
            waiting: false,
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
            self.waiting = polled.is_pending();
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
        self.room = room.checked_sub(data.len());
        match self.room {
            Some(_) => self.held.extend_from_slice(data),
            None => self.held = Vec::new(),
        }
    }

    /// What is held beyond the first `from` bytes.
    fn rest(&self, from: usize) -> Option<Bytes> {
        let rest = self.held.get(from..)?;
        (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(shared) = &this.shared else { return Poll::Ready(None) };
        let mut state = shared.lock();
        if state.epoch != this.epoch {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let next = match state.rest(this.cursor) {
            Some(rest) => Some(Ok(rest)),
            None if state.done => None,
            None => {
                let next = ready!(state.next(cx));
                if let Some(Ok(data)) = &next {
                    state.hold(data);
                }
                next
            }
        };
        if let Some(Ok(data)) = &next {
            this.cursor += data.len();
        }
        state.taken = state.done && this.cursor >= state.held.len();
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
