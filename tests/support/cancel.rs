//! Cancelling a future at a chosen await point.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Drives `future`, but drops it once `limit` polls have returned `Pending`.
///
/// Gives the output if the future finished before that, else `None`. A test
/// calls it with the limits 1, 2, 3 … until it gets `Some`: by then the
/// operation was cancelled once at each of its await points.
pub async fn polled<F: Future>(limit: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut pending = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            pending += 1;
            if pending >= limit {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::polled;

    #[tokio::test]
    async fn every_await_point_is_cut_once() {
        let mut reached = Vec::new();
        for limit in 1.. {
            let mut steps = 0;
            let finished = polled(limit, async {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                    steps += 1;
                }
            });
            let finished = finished.await.is_some();
            reached.push(steps);
            if finished {
                break;
            }
        }
        assert_eq!(reached, [0, 1, 2, 3]);
    }
}
