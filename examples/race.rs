//! Makes tasks do the same thing at the same time.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// One call of one task.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Which task, from 0.
    pub task: usize,
    /// Which of its calls, from 0.
    pub round: usize,
    barrier: Arc<Barrier>,
}

impl Turn {
    /// Waits until all tasks of this round are here. Between a read and a write this is the moment in which, on a bad
    /// day, another request of a real server comes between.
    pub async fn everybody_has_read(&self) {
        self.barrier.wait().await;
    }
}

/// Makes the same call from several tasks, `rounds` times each, and returns the sum of what the calls returned.
///
/// The tasks begin each round together. The first error ends the race.
pub async fn race<P, F>(
    tasks: usize,
    rounds: usize,
    pool: &P,
    call: impl Fn(P, Turn) -> F + Clone + Send + 'static,
) -> anyhow::Result<usize>
where
    P: Clone + Send + 'static,
    F: Future<Output = anyhow::Result<usize>> + Send,
{
    let barrier = Arc::new(Barrier::new(tasks));
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let (pool, call, barrier) = (pool.clone(), call.clone(), barrier.clone());
        running.spawn(async move {
            let mut sum = 0;
            for round in 0..rounds {
                barrier.wait().await;
                let turn = Turn {
                    task,
                    round,
                    barrier: barrier.clone(),
                };
                sum += call(pool.clone(), turn).await?;
            }
            anyhow::Ok(sum)
        });
    }
    let mut sum = 0;
    while let Some(finished) = running.join_next().await {
        sum += finished??;
    }
    Ok(sum)
}
