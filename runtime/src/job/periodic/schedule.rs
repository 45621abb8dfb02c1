//! When a schedule comes.

use std::fmt;

use chrono::{DateTime, Datelike, TimeZone, Utc};
use croner::Cron;
use croner::parser::{CronParser, Year};

use crate::db::Backend;

/// A named time zone: `chrono::Utc`, `chrono::FixedOffset`, `chrono_tz::Tz`. Not `chrono::Local`, which differs between machines.
pub trait Zone: TimeZone<Offset: Send + Sync> + fmt::Display + Send + Sync + 'static {}

impl<Tz: TimeZone<Offset: Send + Sync> + fmt::Display + Send + Sync + 'static> Zone for Tz {}

/// Why there is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The text is no cron expression of five or six fields.
    #[error("{schedule:?} is no schedule: {reason}")]
    Invalid {
        /// The text.
        schedule: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It never comes: on February 30, say.
    #[error("{schedule:?} never comes")]
    Never {
        /// The schedule.
        schedule: String,
    },
}

/// The times of recurring work.
///
/// ```
/// use rowlock::queue::Schedule;
///
/// let nightly = Schedule::cron("0 3 * * *")?.zone(chrono_tz::Europe::Berlin);
/// assert_eq!(nightly.to_string(), "0 3 * * * Europe/Berlin");
/// let next = nightly.after("2026-07-01T12:00:00Z".parse()?)?;
/// assert_eq!(next.to_rfc3339(), "2026-07-02T03:00:00+02:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # When the clock is changed
///
/// Times follow the wall clock of the zone, as in Vixie cron. A schedule with one second, one minute and one hour, such as `30 2 * * *`, comes once a
/// day: if the clock skips its time it comes at the first moment after the gap, and if its time comes twice it comes the first time. A schedule with
/// a list, a range, a step or a `*` in one of these, such as `*/30 * * * *`, follows the wall clock: not in the gap, and twice if the hour comes
/// twice. So two ticks of `*/30 * * * *` are always half an hour apart, and `*/30 2 * * *` does not come on the day without that hour.
#[derive(Clone)]
pub struct Schedule<Tz: Zone = Utc> {
    cron: Cron,
    /// The expression, with one blank between two fields.
    text: String,
    zone: Tz,
}

impl Schedule {
    /// The times of a cron expression, in UTC or in the time zone of [`zone`](Self::zone): minute, hour, day of the month, month and day of the week
    /// (0 and 7 are Sunday), or six fields with the second first. Names (`MON`, `JAN`), lists, ranges, steps, `L`, `W` and `#` are those of the crate
    /// [croner](https://docs.rs/croner), and so are `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`. If both days are given, either is
    /// enough; with a `+` before the day of the week both must match.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Invalid`] for any other text, including one with a year; [`ScheduleError::Never`] for one that never comes.
    pub fn cron(expression: &str) -> Result<Self, ScheduleError> {
        let words: Vec<&str> = expression.split_whitespace().collect();
        let text = words.join(" ");
        // What has a year ends.
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let cron = match parser.parse(&text) {
            Ok(cron) => cron,
            Err(error) => {
                return Err(ScheduleError::Invalid {
                    schedule: text,
                    reason: error.to_string(),
                });
            }
        };
        let schedule = Self {
            cron,
            text,
            zone: Utc,
        };
        // The calendar is the same again after 400 years.
        schedule.after(DateTime::UNIX_EPOCH)?;
        Ok(schedule)
    }

    /// The DDL of the table of schedules, one row each. Put it in a migration; it changes nothing if the table exists.
    ///
    /// `rowlock_schedules (name text PRIMARY KEY, schedule text, next_tick timestamptz)`, on PostgreSQL in the first schema of the `search_path`, on SQLite in
    /// `main` with `next_tick` as a text in UTC. The role that makes ticks needs SELECT, INSERT and UPDATE.
    pub fn ddl<DB: Backend>() -> &'static str {
        DB::SCHEDULE_TABLE
    }
}

impl<Tz: Zone> Schedule<Tz> {
    /// The same schedule in another time zone.
    pub fn zone<Z: Zone>(self, zone: Z) -> Schedule<Z> {
        Schedule {
            cron: self.cron,
            text: self.text,
            zone,
        }
    }

    /// The first tick after this time.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Never`] if there is none before the year 5000.
    pub fn after(&self, time: DateTime<Utc>) -> Result<DateTime<Tz>, ScheduleError> {
        // At its end, a time has no local one.
        let next = match time.year() {
            ..5000 => self
                .cron
                .find_next_occurrence(&self.local(time), false)
                .ok(),
            _ => None,
        };
        next.ok_or_else(|| ScheduleError::Never {
            schedule: self.to_string(),
        })
    }

    /// The last tick at or before this time.
    pub(super) fn until(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let last = self.cron.find_previous_occurrence(&self.local(time), true);
        last.ok().map(|last| last.to_utc())
    }

    pub(super) fn local(&self, time: DateTime<Utc>) -> DateTime<Tz> {
        time.with_timezone(&self.zone)
    }
}

impl<Tz: Zone> fmt::Display for Schedule<Tz> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone)
    }
}

impl<Tz: Zone> fmt::Debug for Schedule<Tz> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Australia::Lord_Howe;
    use chrono_tz::Europe::Berlin;
    use chrono_tz::Tz;
    use proptest::prelude::*;

    use super::*;

    fn in_zone(expression: &str, zone: Tz) -> Schedule<Tz> {
        Schedule::cron(expression).unwrap().zone(zone)
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The ticks after one time and up to another, by the clock of the zone.
    fn ticks(schedule: &Schedule<Tz>, after: &str, until: &str) -> Vec<String> {
        let (mut at, until) = (time(after), time(until));
        let mut ticks = Vec::new();
        loop {
            let next = schedule.after(at).unwrap();
            at = next.to_utc();
            if at > until {
                return ticks;
            }
            ticks.push(next.format("%d. %H:%M %:z").to_string());
        }
    }

    #[test]
    fn berlin_skips_an_hour() {
        // At 02:00 it is 03:00.
        let night = |expression| {
            let schedule = in_zone(expression, Berlin);
            ticks(&schedule, "2026-03-28T22:00:00Z", "2026-03-29T22:00:00Z")
        };
        assert_eq!(night("30 2 * * *"), ["29. 03:00 +02:00"]);
        assert_eq!(night("0 3 * * *"), ["29. 03:00 +02:00"]);
        assert_eq!(night("30 1 * * *"), ["29. 01:30 +01:00"]);
        assert!(night("*/30 2 * * *").is_empty());
        assert!(night("0,30 2 * * *").is_empty());
        assert_eq!(
            night("*/30 1-3 * * *"),
            [
                "29. 01:00 +01:00",
                "29. 01:30 +01:00",
                "29. 03:00 +02:00",
                "29. 03:30 +02:00"
            ]
        );
    }

    #[test]
    fn berlin_has_an_hour_twice() {
        // At 03:00 it is 02:00.
        let night = |expression| {
            let schedule = in_zone(expression, Berlin);
            ticks(&schedule, "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z")
        };
        assert_eq!(night("30 2 * * *"), ["25. 02:30 +02:00"]);
        assert_eq!(night("0 3 * * *"), ["25. 03:00 +01:00"]);
        assert_eq!(
            night("*/30 2 * * *"),
            [
                "25. 02:00 +02:00",
                "25. 02:30 +02:00",
                "25. 02:00 +01:00",
                "25. 02:30 +01:00"
            ]
        );
    }

    #[test]
    fn lord_howe_moves_by_half_an_hour() {
        // At 02:00 it is 02:30, on October 4; at 02:00 it is 01:30, on April 5.
        let spring = |expression| {
            let schedule = in_zone(expression, Lord_Howe);
            ticks(&schedule, "2026-10-03T13:30:00Z", "2026-10-04T12:00:00Z")
        };
        assert_eq!(spring("15 2 * * *"), ["04. 02:30 +11:00"]);
        assert_eq!(
            spring("*/15 2 * * *"),
            ["04. 02:30 +11:00", "04. 02:45 +11:00"]
        );
        let autumn = |expression| {
            let schedule = in_zone(expression, Lord_Howe);
            ticks(&schedule, "2026-04-04T13:00:00Z", "2026-04-05T12:00:00Z")
        };
        assert_eq!(autumn("45 1 * * *"), ["05. 01:45 +11:00"]);
        assert_eq!(
            autumn("*/15 1 * * *"),
            [
                "05. 01:00 +11:00",
                "05. 01:15 +11:00",
                "05. 01:30 +11:00",
                "05. 01:45 +11:00",
                "05. 01:30 +10:30",
                "05. 01:45 +10:30"
            ]
        );
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "nightly",
            "0 3 * *",
            "60 * * * *",
            "0 0 1 1 * 2027 7",
            "0 0 0 1 1 * 2027",
            "@reboot",
            "0 3 * * * Europe/Berlin",
            "\u{0}",
        ] {
            let error = Schedule::cron(text).unwrap_err();
            assert!(
                matches!(error, ScheduleError::Invalid { .. }),
                "{text:?}: {error:?}"
            );
        }
        for text in ["0 0 30 2 *", "0 0 31 4,6 *"] {
            let error = Schedule::cron(text).unwrap_err();
            assert!(
                matches!(error, ScheduleError::Never { .. }),
                "{text:?}: {error:?}"
            );
        }
        let tokyo = in_zone("0 3 * * *", Tz::Asia__Tokyo);
        assert!(tokyo.after(DateTime::<Utc>::MAX_UTC).is_err());
        assert!(tokyo.after(time("4999-12-30T00:00:00Z")).is_ok());
        // Once in 28 years, or in 40.
        assert!(Schedule::cron("0 0 29 2 +SUN").is_ok());
    }

    #[test]
    fn its_text_has_the_zone() {
        let text = |expression| Schedule::cron(expression).unwrap().to_string();
        assert_eq!(text(" 0  3 * *\tMON "), "0 3 * * MON UTC");
        assert_eq!(text("@daily"), "@daily UTC");
        let zone = chrono::FixedOffset::east_opt(3600).unwrap();
        let schedule = Schedule::cron("0 3 * * *").unwrap().zone(zone);
        assert_eq!(schedule.to_string(), "0 3 * * * +01:00");
    }

    fn field(most: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (2..most).prop_map(|step| format!("*/{step}")),
            (0..=most).prop_map(|value| value.to_string()),
            (0..=most, 0..=most).prop_map(|(one, other)| format!("{one},{other}")),
        ]
    }

    proptest! {
        #[test]
        fn any_text_is_a_schedule_or_none(text in "[-0-9A-Z*/,#+@? ]{0,20}") {
            let _ = Schedule::cron(&text);
        }

        /// Backwards there are the same ticks as forwards, also where a clock is changed.
        #[test]
        fn until_is_the_opposite_of_after(
            minute in field(59),
            hour in field(23),
            zone in prop_oneof![Just(Berlin), Just(Lord_Howe), Just(Tz::America__Sao_Paulo), Just(Tz::UTC)],
            change in prop_oneof![Just("2026-03-29T01:00:00Z"), Just("2026-10-25T01:00:00Z"), Just("2026-10-03T15:30:00Z"), Just("2026-04-04T15:00:00Z")],
            seconds in -90_000_i64..90_000,
        ) {
            let schedule = in_zone(&format!("{minute} {hour} * * *"), zone);
            let start = time(change) + chrono::TimeDelta::seconds(seconds);
            let tick = schedule.after(start).unwrap().to_utc();
            prop_assert!(tick > start);
            prop_assert_eq!(schedule.until(tick), Some(tick));
            let next = schedule.after(tick).unwrap().to_utc();
            prop_assert!(next > tick);
            prop_assert_eq!(schedule.until(next - chrono::TimeDelta::seconds(1)), Some(tick));
        }
    }
}
