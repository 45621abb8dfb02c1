//! Many calls to one service.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use rowlock::fan_out;

use super::CALLS;
use crate::table::Row;

/// A service that refuses whoever is one too many.
struct Service {
    busy: AtomicUsize,
}

impl Service {
    const PLACES: usize = 8;

    async fn call(&self) -> std::result::Result<(), &'static str> {
        let before = self.busy.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        if before < Self::PLACES {
            Ok(())
        } else {
            Err("429 Too Many Requests")
        }
    }
}

/// No database: the calls are to somebody else's service.
pub async fn call_all() -> Result<Row> {
    let service = Service {
        busy: AtomicUsize::new(0),
    };
    // All of them at once.
    let naive = futures_util::future::join_all((0..CALLS).map(|_| service.call())).await;

    let limit = NonZero::new(Service::PLACES).unwrap_or(NonZero::<usize>::MIN);
    let calls = fan_out(limit)
        .call_timeout(Duration::from_secs(60))
        .collect((0..CALLS).map(|_| service.call()))
        .await;
    Ok(Row {
        derive: "fan_out",
        operation: "collect",
        tasks: 1,
        calls: CALLS,
        lost_by_hand: naive.iter().filter(|call| call.is_err()).count(),
        unit: "refused",
        lost_by_rowlock: calls.iter().filter(|call| call.outcome.is_err()).count(),
        met: format!("{limit} at a time"),
    })
}
