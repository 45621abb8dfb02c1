use rowlock_tests::postgres::*;

#[path = "spawn.rs"]
mod spawn;

#[path = "round_trips.rs"]
mod round_trips;
