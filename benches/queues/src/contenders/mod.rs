//! The contenders, a file each.

pub(crate) mod apalis;
pub(crate) mod by_hand;
pub(crate) mod graphile_worker;
pub(crate) mod rowlock;
pub(crate) mod sqlxmq;
pub(crate) mod underway;
