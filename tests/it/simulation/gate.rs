//! A process that does not run for a while, although the world goes on.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// Whether a process runs.
#[derive(Default)]
pub struct Gate {
    shut: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.shut.store(false, Ordering::Relaxed);
        self.waiting.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// Ready when the process runs.
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if !self.is_shut() {
            return Poll::Ready(());
        }
        self.waiting.lock().unwrap().push(context.waker().clone());
        Poll::Pending
    }

    pub async fn passed(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }
}

/// Is polled only while the gate is open.
pub struct Gated<F> {
    pub gate: Arc<Gate>,
    pub inner: Pin<Box<F>>,
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        std::task::ready!(self.gate.poll(context));
        self.inner.as_mut().poll(context)
    }
}
