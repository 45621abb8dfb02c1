//! Which tick is to be made, and which were missed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Schedule, ScheduleError, Zone};

/// So many missed ticks are looked at.
const MOST: usize = 1000;

/// A tick is always a little late: with less than this none might ever be made.
const SHORTEST: Duration = Duration::from_secs(10);

/// What to do about ticks that nobody made in time, because no process ran or none could reach the database.
///
/// It applies to the schedule in the table: when the schedule changes, the ticks that the old one missed are forgotten. [`Tick::missed`] tells how
/// many were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Missed {
    /// Make the latest one, however old it is. The default.
    #[default]
    Once,
    /// Make the latest one unless it is older than this; minimum ten seconds. Kubernetes calls it `startingDeadlineSeconds`.
    Within(Duration),
    /// Make each of them, in order, one transaction after the other.
    Each {
        /// At most the latest so many; 1 to 1,000.
        most: u16,
    },
}

/// A time of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick<Tz: Zone = Utc> {
    at: DateTime<Tz>,
    missed: u64,
}

impl<Tz: Zone> Tick<Tz> {
    /// The scheduled time, not the time at which the tick is made: the same in each attempt, however late. If `next_tick` was set by hand, that time.
    pub fn time(&self) -> DateTime<Utc> {
        self.at.to_utc()
    }

    /// The same in the schedule's zone.
    pub fn local(&self) -> &DateTime<Tz> {
        &self.at
    }

    /// How many earlier ticks were skipped; counts to 1,000.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due<Tz: Zone> {
    /// The tick to be made; `None` if all are too old.
    pub(super) tick: Option<Tick<Tz>>,
    /// How many are not made, and will not be.
    pub(super) missed: u64,
    /// The tick after it.
    pub(super) next: DateTime<Utc>,
}

impl Missed {
    /// `first` is the first tick that was not made, and not after `now`.
    pub(super) fn due<Tz: Zone>(
        self,
        schedule: &Schedule<Tz>,
        first: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Due<Tz>, ScheduleError> {
        // From the latest to the earliest.
        let mut ticks = Vec::new();
        let mut until = now;
        while ticks.len() < MOST
            && let Some(tick) = schedule.until(until)
            && tick > first
        {
            ticks.push(tick);
            until = tick - chrono::TimeDelta::seconds(1);
        }
        if ticks.len() < MOST {
            ticks.push(first);
        }
        let place = match self {
            Self::Once | Self::Within(_) => 0,
            Self::Each { most } => ticks.len().min(most.into()).saturating_sub(1),
        };
        let latest = ticks.get(place).copied().unwrap_or(first);
        let next = match place.checked_sub(1).and_then(|after| ticks.get(after)) {
            Some(next) => *next,
            None => schedule.after(latest)?.to_utc(),
        };
        let is_too_old = match self {
            Self::Within(limit) => (now - latest)
                .to_std()
                .is_ok_and(|age| age > limit.max(SHORTEST)),
            Self::Once | Self::Each { .. } => false,
        };
        let before = (ticks.len() - place).saturating_sub(1) as u64;
        let tick = (!is_too_old).then(|| Tick {
            at: schedule.local(latest),
            missed: before,
        });
        Ok(Due {
            tick,
            missed: before + u64::from(is_too_old),
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> DateTime<Utc> {
        format!("2026-06-01T{time}Z").parse().unwrap()
    }

    /// What is made, how many it stands for, and what is next.
    fn due(missed: Missed, first: &str, now: &str) -> (Option<DateTime<Utc>>, u64, DateTime<Utc>) {
        let hourly = Schedule::cron("0 * * * *").unwrap();
        let due = missed.due(&hourly, at(first), at(now)).unwrap();
        let before = due.tick.as_ref().map_or(due.missed, Tick::missed);
        assert_eq!(before, due.missed);
        (due.tick.map(|tick| tick.time()), due.missed, due.next)
    }

    #[test]
    fn the_latest_of_those_that_were_missed() {
        let latest = |tick, missed, next| (Some(at(tick)), missed, at(next));
        let once = |first, now| due(Missed::Once, first, now);
        assert_eq!(
            once("03:00:00", "03:00:00"),
            latest("03:00:00", 0, "04:00:00")
        );
        assert_eq!(
            once("03:00:00", "03:59:59"),
            latest("03:00:00", 0, "04:00:00")
        );
        assert_eq!(
            once("03:00:00", "04:00:00"),
            latest("04:00:00", 1, "05:00:00")
        );
        assert_eq!(
            once("03:00:00", "08:15:00"),
            latest("08:00:00", 5, "09:00:00")
        );
        // A time that was set by hand is one as well.
        assert_eq!(
            once("03:10:00", "03:20:00"),
            latest("03:10:00", 0, "04:00:00")
        );
        assert_eq!(
            once("03:10:00", "04:20:00"),
            latest("04:00:00", 1, "05:00:00")
        );
    }

    #[test]
    fn none_that_is_too_old() {
        let within = |seconds| Missed::Within(Duration::from_secs(seconds));
        let made = (Some(at("08:00:00")), 5, at("09:00:00"));
        assert_eq!(due(within(900), "03:00:00", "08:15:00"), made);
        assert_eq!(
            due(within(899), "03:00:00", "08:15:00"),
            (None, 6, at("09:00:00"))
        );
        assert_eq!(
            due(within(0), "08:00:00", "08:00:10"),
            (Some(at("08:00:00")), 0, at("09:00:00"))
        );
        assert_eq!(
            due(within(0), "08:00:00", "08:00:11"),
            (None, 1, at("09:00:00"))
        );
    }

    #[test]
    fn each_of_them() {
        let each = |most, first, now| due(Missed::Each { most }, first, now);
        let tick = |tick, missed, next| (Some(at(tick)), missed, at(next));
        assert_eq!(
            each(9, "03:00:00", "05:15:00"),
            tick("03:00:00", 0, "04:00:00")
        );
        assert_eq!(
            each(3, "03:00:00", "05:15:00"),
            tick("03:00:00", 0, "04:00:00")
        );
        assert_eq!(
            each(2, "03:00:00", "05:15:00"),
            tick("04:00:00", 1, "05:00:00")
        );
        assert_eq!(
            each(1, "03:00:00", "05:15:00"),
            tick("05:00:00", 2, "06:00:00")
        );
        assert_eq!(
            each(0, "03:00:00", "05:15:00"),
            tick("05:00:00", 2, "06:00:00")
        );
        assert_eq!(
            each(9, "05:00:00", "05:15:00"),
            tick("05:00:00", 0, "06:00:00")
        );
        assert_eq!(
            each(9, "03:10:00", "05:15:00"),
            tick("03:10:00", 0, "04:00:00")
        );
    }

    /// A pause of years costs no more than one of minutes.
    #[test]
    fn so_many_are_counted() {
        let schedule = Schedule::cron("* * * * * *").unwrap();
        let (first, now) = (DateTime::UNIX_EPOCH, at("03:00:00"));
        let once = Missed::Once.due(&schedule, first, now).unwrap();
        let tick = once.tick.unwrap();
        assert_eq!((tick.time(), tick.missed()), (now, 999));
        let each = Missed::Each { most: u16::MAX };
        let each = each.due(&schedule, first, now).unwrap();
        let tick = each.tick.unwrap();
        assert_eq!((tick.time(), tick.missed()), (at("02:43:21"), 0));
        assert_eq!(each.next, at("02:43:22"));
    }
}
