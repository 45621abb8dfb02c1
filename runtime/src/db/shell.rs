//! What of a method knows its model.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project_lite::pin_project! {
    /// The future of a method: work that knows no model, and what makes the method's result of it.
    ///
    /// The work is compiled once for each kind of connection. This is compiled for each model, and so it is no `async` block, which would be
    /// a state machine each time.
    #[must_use = "futures do nothing unless polled"]
    pub(crate) struct Shell<W: Future, K, O> {
        #[pin]
        work: W,
        known: K,
        finish: fn(&K, W::Output) -> O,
    }
}

impl<W: Future, K, O> Shell<W, K, O> {
    pub(crate) fn new(work: W, known: K, finish: fn(&K, W::Output) -> O) -> Self {
        Self {
            work,
            known,
            finish,
        }
    }
}

impl<W: Future, K, O> Future for Shell<W, K, O> {
    type Output = O;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<O> {
        let this = self.project();
        match this.work.poll(context) {
            Poll::Ready(output) => Poll::Ready((this.finish)(this.known, output)),
            Poll::Pending => Poll::Pending,
        }
    }
}
