//! What callers asked for and what they were told, as lines of a file: a process that is killed has said all that it had written.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

/// Which counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Counter {
    /// Without bounds, and a row that need not be there.
    Views,
    /// With a highest value.
    Taken,
    /// With a lowest value.
    Left,
}

/// What a caller asks for. Keys are those of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Add {
        to: Counter,
        key: i64,
        delta: i64,
    },
    /// Appends the number of the call to what the document was at this version.
    Update {
        document: i64,
        from: i64,
    },
    Load {
        document: i64,
    },
    FindOrCreate {
        label: i64,
    },
    Find {
        label: i64,
    },
}

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Total(i64),
    /// It would leave the bounds, and this is the value.
    Refused(i64),
    /// The document that was written has this version.
    Version(i64),
    /// It has been written by another caller, and has this version.
    Stale(i64),
    /// How many numbers are appended, and the last one.
    Loaded(i64, i64),
    Created(i64),
    Found(i64),
    /// There is no such row.
    Missing,
    /// An error that says that nothing was written.
    Nothing,
    /// An error that does not say it; or the caller is gone.
    Unknown,
}

/// A call from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: i64,
    pub(crate) call: Call,
    pub(crate) told: Told,
    /// Of two calls the one has ended before the other began if this is so of these numbers.
    pub(crate) begun: usize,
    pub(crate) ended: usize,
}

/// Where a process writes it down.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    next: AtomicI64,
}

impl Log {
    pub(crate) fn at(path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self {
            file,
            next: AtomicI64::new(1),
        })
    }

    /// Before anything is done for it. Returns its number.
    pub(crate) fn begins(&self, call: Call) -> std::io::Result<i64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.write(&format!("begins {id} {}\n", line_of_call(call)))?;
        Ok(id)
    }

    pub(crate) fn ends(&self, id: i64, told: Told) -> std::io::Result<()> {
        self.write(&format!("ends {id} {}\n", line_of_told(told)))
    }

    /// In one write, so that lines are whole, and in the order in which they were written.
    fn write(&self, line: &str) -> std::io::Result<()> {
        (&self.file).write_all(line.as_bytes())
    }
}

fn line_of_call(call: Call) -> String {
    match call {
        Call::Add { to, key, delta } => {
            let to = match to {
                Counter::Views => "views",
                Counter::Taken => "taken",
                Counter::Left => "left",
            };
            format!("{to} {key} {delta}")
        }
        Call::Update { document, from } => format!("update {document} {from}"),
        Call::Load { document } => format!("load {document}"),
        Call::FindOrCreate { label } => format!("find_or_create {label}"),
        Call::Find { label } => format!("find {label}"),
    }
}

fn line_of_told(told: Told) -> String {
    match told {
        Told::Total(total) => format!("total {total}"),
        Told::Refused(value) => format!("refused {value}"),
        Told::Version(version) => format!("version {version}"),
        Told::Stale(version) => format!("stale {version}"),
        Told::Loaded(length, last) => format!("loaded {length} {last}"),
        Told::Created(id) => format!("created {id}"),
        Told::Found(id) => format!("found {id}"),
        Told::Missing => "missing".to_owned(),
        Told::Nothing => "nothing".to_owned(),
        Told::Unknown => "unknown".to_owned(),
    }
}

fn call(word: &str, mut number: impl FnMut() -> Option<i64>) -> Option<Call> {
    let to = match word {
        "views" => Counter::Views,
        "taken" => Counter::Taken,
        "left" => Counter::Left,
        "update" => {
            return Some(Call::Update {
                document: number()?,
                from: number()?,
            });
        }
        "load" => {
            return Some(Call::Load {
                document: number()?,
            });
        }
        "find_or_create" => return Some(Call::FindOrCreate { label: number()? }),
        "find" => return Some(Call::Find { label: number()? }),
        _ => return None,
    };
    Some(Call::Add {
        to,
        key: number()?,
        delta: number()?,
    })
}

fn told(word: &str, mut number: impl FnMut() -> Option<i64>) -> Option<Told> {
    Some(match word {
        "total" => Told::Total(number()?),
        "refused" => Told::Refused(number()?),
        "version" => Told::Version(number()?),
        "stale" => Told::Stale(number()?),
        "loaded" => Told::Loaded(number()?, number()?),
        "created" => Told::Created(number()?),
        "found" => Told::Found(number()?),
        "missing" => Told::Missing,
        "nothing" => Told::Nothing,
        "unknown" => Told::Unknown,
        _ => return None,
    })
}

/// The calls of which these lines tell. What has no end is unknown. A last line that was cut by a kill was not written: nobody was told what it says.
///
/// # Errors
///
/// A line that cannot be read.
pub(crate) fn read(text: &str) -> Result<Vec<Event>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let (mut events, mut places) = (Vec::new(), HashMap::new());
    for (line, place) in whole.lines().zip(0..) {
        let mut words = line.split(' ');
        let (verb, id, what) = (words.next(), words.next(), words.next());
        let mut number = || words.next()?.parse::<i64>().ok();
        let unreadable = || format!("a line that cannot be read: {line}");
        let id: i64 = id.and_then(|id| id.parse().ok()).ok_or_else(unreadable)?;
        let what = what.ok_or_else(unreadable)?;
        match verb {
            Some("begins") => {
                let call = call(what, &mut number).ok_or_else(unreadable)?;
                places.insert(id, events.len());
                events.push(Event {
                    id,
                    call,
                    told: Told::Unknown,
                    begun: place,
                    ended: usize::MAX,
                });
            }
            Some("ends") => {
                let event = places.get(&id).and_then(|at: &usize| events.get_mut(*at));
                let event = event.ok_or_else(unreadable)?;
                event.told = told(what, &mut number).ok_or_else(unreadable)?;
                event.ended = place;
            }
            _ => return Err(unreadable()),
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = Log::at(&path).unwrap();
        let calls = [
            (
                Call::Add {
                    to: Counter::Left,
                    key: 3,
                    delta: -2,
                },
                Told::Refused(1),
            ),
            (
                Call::Update {
                    document: 4,
                    from: 7,
                },
                Told::Version(8),
            ),
            (Call::Load { document: 4 }, Told::Loaded(8, 2)),
            (Call::FindOrCreate { label: 1 }, Told::Created(9)),
            (Call::Find { label: 1 }, Told::Missing),
        ];
        for (call, told) in calls {
            let id = log.begins(call).unwrap();
            log.ends(id, told).unwrap();
        }
        let events = read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let found: Vec<_> = events
            .iter()
            .map(|event| (event.call, event.told))
            .collect();
        assert_eq!(found, calls);
        assert!(events.windows(2).all(|two| two[0].ended < two[1].begun));
    }

    #[test]
    fn what_was_cut_by_a_kill_is_unknown() {
        let events =
            read("begins 1 views 1 1\nbegins 2 views 1 1\nends 2 total 1\nends 1 tot").unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].told, Told::Unknown);
        assert_eq!(events[1].told, Told::Total(1));
        assert!(read("begins 1 vie").unwrap().is_empty());
        assert!(read("begins 1 vie\n").is_err());
        assert!(read("ends 1 total 1\n").is_err());
    }
}
