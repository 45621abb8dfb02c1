//! Whether all ended as it was said.

use std::collections::HashSet;

use rowlock::queue::JobOutcome;

use super::handlers::Seen;
use super::jobs::{LOWERED, MAX, Row};
use super::world::World;

pub(super) fn judge(world: &World, rows: Vec<Row>) {
    let seen = world.seen.lock().unwrap();
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    let left: HashSet<i64> = rows.iter().map(|row| row.id).collect();
    for id in world.ids.difference(&left) {
        let is_done = seen.last_said(*id) == Some(&JobOutcome::Complete);
        assert!(world.purged && is_done, "{id} is gone");
    }
    for [earlier, later] in &seen.together {
        // A handler whose claim holds no more goes on until the next heartbeat; a killed worker does not tell of such claims.
        let is_over = world.cancelled.contains(earlier) || world.lost > 0;
        let is_untold = world.kills > 0 && world.locks > 0;
        assert!(
            is_over || is_untold,
            "{earlier} and {later} of one customer"
        );
    }
    for row in rows {
        judge_row(world, &seen, &row);
    }
}

fn judge_row(world: &World, seen: &Seen, row: &Row) {
    let (starts, said) = (seen.starts(row.id), seen.said((row.id, row.fence)));
    let all_attempts = row.attempts >= if world.lowered { LOWERED } else { MAX };
    let error = row.last_error.as_ref();
    match (row.state.as_str(), said) {
        ("dead", None) if world.cancelled.contains(&row.id) => return,
        ("dead", None) if ["undecodable", "no claim"].contains(&row.what.as_str()) => {
            assert!(starts == 0 && error.is_some(), "{starts} starts: {row:?}");
            return;
        }
        ("dead", None) => {
            // A rescue has ended it, or a claim with the lower limit.
            let excuse = world.kills + world.lost > 0 || world.lowered || row.what == "no done";
            assert!(excuse && all_attempts && error.is_some(), "{row:?}");
        }
        ("dead", Some(JobOutcome::Retry { error: said, .. })) => {
            assert!(all_attempts && error == Some(said), "{said:?} of {row:?}");
        }
        ("dead", Some(JobOutcome::Fail { error: said })) => {
            assert_eq!(error, Some(said), "{row:?}");
        }
        ("done", Some(JobOutcome::Complete)) => {}
        _ => panic!("{said:?} was said of {row:?}"),
    }
    // Killed between the statement that counts and the handler, or asleep there until the lease had ended, a worker has
    // counted for nothing; a row that was never handled has no other attempts.
    let for_nothing = world.kills + world.lost;
    let counted = starts - seen.snoozes(row.id);
    assert!(
        row.attempts <= counted + for_nothing,
        "{counted} of {starts} starts count, {for_nothing} for nothing: {row:?}"
    );
}
