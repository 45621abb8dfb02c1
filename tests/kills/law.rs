//! What must hold of each key, whatever broke: what was confirmed is there, what is unknown is there or not, nothing is there twice, and what was
//! refused has changed nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Call, Counter, Event, Told};

/// The highest value of [`Counter::Taken`].
pub(crate) const MOST: i64 = 90;

/// What is in the database at the end.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Rows {
    pub(crate) counters: BTreeMap<(Counter, i64), i64>,
    /// The version, and the calls whose numbers were appended.
    pub(crate) documents: BTreeMap<i64, (i64, Vec<i64>)>,
    /// The ids of the rows of a label.
    pub(crate) labels: BTreeMap<i64, Vec<i64>>,
}

/// What is wrong, each with its key.
pub(crate) fn broken(events: &[Event], rows: &Rows) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut counters, mut documents, mut labels) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for event in events {
        match event.call {
            Call::Add { to, key, .. } => {
                let of_key: &mut Vec<_> = counters.entry((to, key)).or_default();
                of_key.push(*event);
            }
            Call::Update { document, .. } | Call::Load { document } => {
                let of_key: &mut Vec<_> = documents.entry(document).or_default();
                of_key.push(*event);
            }
            Call::FindOrCreate { label } | Call::Find { label } => {
                let of_key: &mut Vec<_> = labels.entry(label).or_default();
                of_key.push(*event);
            }
        }
    }
    for (key, events) in counters {
        let law = of_counter(key.0, &events, rows.counters.get(&key).copied());
        wrong.extend(law.into_iter().map(|law| format!("{key:?}: {law}")));
    }
    for (key, events) in documents {
        let law = match rows.documents.get(&key) {
            Some((version, calls)) => of_document(&events, *version, calls),
            None => vec!["it is gone".to_owned()],
        };
        wrong.extend(law.into_iter().map(|law| format!("document {key}: {law}")));
    }
    for (key, events) in labels {
        let ids = rows.labels.get(&key).map_or(&[][..], Vec::as_slice);
        let law = of_label(&events, ids);
        wrong.extend(law.into_iter().map(|law| format!("label {key}: {law}")));
    }
    wrong
}

/// An addition that was confirmed.
struct Added {
    id: i64,
    delta: i64,
    total: i64,
    begun: usize,
    ended: usize,
}

/// One that only goes up or only goes down, so that each addition has a part of the way for itself.
fn of_counter(counter: Counter, events: &[Event], value: Option<i64>) -> Vec<String> {
    let mut wrong = Vec::new();
    // As if it went up from 0.
    let up = |value: i64| match counter {
        Counter::Views | Counter::Taken => value,
        Counter::Left => MOST - value,
    };
    let delta_of = |event: &Event| match event.call {
        Call::Add { delta, .. } => delta.abs(),
        _ => 0,
    };
    let (mut added, mut possible, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        let (id, delta) = (event.id, delta_of(event));
        match event.told {
            Told::Total(total) => added.push(Added {
                id,
                delta,
                total: up(total),
                begun: event.begun,
                ended: event.ended,
            }),
            Told::Unknown => possible.push(delta),
            Told::Refused(met) if counter != Counter::Views => refused.push((event, up(met))),
            Told::Nothing => {}
            told => wrong.push(format!("call {id} is told {told:?}")),
        }
    }
    added.sort_by_key(|added| added.total);
    let value = match value {
        Some(value) => up(value),
        None if added.is_empty() => return wrong,
        None => {
            wrong.push(format!(
                "there is no row, and {} are confirmed",
                added.len()
            ));
            return wrong;
        }
    };
    let confirmed: i64 = added.iter().map(|added| added.delta).sum();
    let unknown: i64 = possible.iter().sum();
    if !(confirmed..=confirmed + unknown).contains(&value) {
        wrong.push(format!(
            "it is {value}, of which {confirmed} are confirmed and {unknown} unknown"
        ));
    } else if !sums(&possible, unknown).contains(&(value - confirmed)) {
        wrong.push(format!(
            "it is {value}, of which {confirmed} are confirmed, and no sum of {possible:?} is the rest"
        ));
    }
    if counter != Counter::Views && value > MOST {
        wrong.push(format!("it is {value}, out of its bounds"));
    }
    let (mut reached, mut begun) = (0, None);
    for Added {
        id,
        delta,
        total,
        begun: its_begin,
        ended,
    } in &added
    {
        if total - delta < reached {
            wrong.push(format!(
                "call {id} has added {delta} and is told {total}, and another {reached}"
            ));
        }
        if *total > value {
            wrong.push(format!("call {id} is told {total}, and it is {value}"));
        }
        if begun.is_some_and(|begun| *ended < begun) {
            wrong.push(format!(
                "call {id} is told {total}, and one that began later less"
            ));
        }
        reached = *total;
        begun = begun.max(Some(*its_begin));
    }
    for (event, met) in refused {
        let id = event.id;
        if met + delta_of(event) <= MOST {
            wrong.push(format!("call {id} is refused at {met}, and has room"));
        }
        let before = added.iter().filter(|added| added.ended < event.begun);
        let before = before.map(|added| added.total).max().unwrap_or(0);
        if !(before..=value).contains(&met) {
            wrong.push(format!(
                "call {id} is refused at {met}; it was {before} before, and is {value}"
            ));
        }
    }
    wrong
}

/// What some of these can be together.
fn sums(of: &[i64], most: i64) -> BTreeSet<i64> {
    let mut sums = BTreeSet::from([0]);
    for one in of {
        // All are there already, as soon as there are enough small ones.
        if i64::try_from(sums.len()).is_ok_and(|count| count > most) {
            break;
        }
        let more: Vec<_> = sums.iter().map(|sum| sum + one).collect();
        sums.extend(more);
    }
    sums
}

/// `calls` are those that have written it, one for each version.
fn of_document(events: &[Event], version: i64, calls: &[i64]) -> Vec<String> {
    let mut wrong = Vec::new();
    if usize::try_from(version) != Ok(calls.len()) {
        wrong.push(format!(
            "its version is {version} after {} updates",
            calls.len()
        ));
    }
    let writer = |version: i64| {
        let place = usize::try_from(version - 1).ok();
        place.and_then(|place| calls.get(place)).copied()
    };
    let is_there: BTreeSet<_> = calls.iter().copied().collect();
    if is_there.len() != calls.len() {
        wrong.push(format!("an update is there twice: {calls:?}"));
    }
    let updates = events.iter().filter_map(|event| match event.call {
        Call::Update { from, .. } => Some((event.id, from, event)),
        _ => None,
    });
    let updates: Vec<_> = updates.collect();
    let mut strangers = is_there.clone();
    let (mut confirmed, mut unknown) = (0, 0);
    for (id, from, event) in updates {
        let there = strangers.remove(&id);
        match event.told {
            Told::Version(told) => {
                confirmed += 1;
                if told != from + 1 || writer(told) != Some(id) {
                    wrong.push(format!(
                        "call {id} has written version {told} from {from}, and {:?} is there",
                        writer(told)
                    ));
                }
            }
            Told::Unknown => unknown += 1,
            Told::Stale(_) | Told::Nothing if there => {
                wrong.push(format!(
                    "call {id} is told {:?}, and it is there",
                    event.told
                ));
            }
            Told::Stale(told) if told <= from => {
                wrong.push(format!("call {id} is stale at {from}, and told {told}"));
            }
            Told::Stale(_) | Told::Nothing => {}
            told => wrong.push(format!("call {id} is told {told:?}")),
        }
    }
    if !strangers.is_empty() {
        wrong.push(format!("updates of nobody: {strangers:?}"));
    }
    if !(confirmed..=confirmed + unknown).contains(&version) {
        wrong.push(format!(
            "its version is {version}, with {confirmed} confirmed and {unknown} unknown"
        ));
    }
    // What somebody was told of it, and when.
    let mut known = Vec::new();
    for event in events {
        let version = match (event.call, event.told) {
            (Call::Load { .. }, Told::Loaded(length, last)) => {
                if length > 0 && writer(length) != Some(last) {
                    wrong.push(format!(
                        "call {} has read version {length} of {last}, and {:?} is there",
                        event.id,
                        writer(length)
                    ));
                }
                length
            }
            (Call::Load { .. }, Told::Nothing | Told::Unknown) => continue,
            (Call::Load { .. }, told) => {
                wrong.push(format!("call {} is told {told:?}", event.id));
                continue;
            }
            (_, Told::Version(version) | Told::Stale(version)) => version,
            _ => continue,
        };
        known.push((event, version));
    }
    wrong.extend(goes_back(known));
    wrong
}

/// Who was told less than what somebody had been told before he began.
fn goes_back(mut known: Vec<(&Event, i64)>) -> Vec<String> {
    let mut ended: Vec<_> = known
        .iter()
        .map(|(event, version)| (event.ended, *version))
        .collect();
    ended.sort_unstable();
    known.sort_by_key(|(event, _)| event.begun);
    let (mut ended, mut least) = (ended.into_iter().peekable(), 0);
    let mut wrong = Vec::new();
    for (event, version) in known {
        while let Some((_, earlier)) = ended.next_if(|(ended, _)| *ended < event.begun) {
            least = least.max(earlier);
        }
        if version < least {
            wrong.push(format!(
                "call {} is told version {version}, and one that had ended before it began {least}",
                event.id
            ));
        }
    }
    wrong
}

fn of_label(events: &[Event], ids: &[i64]) -> Vec<String> {
    let mut wrong = Vec::new();
    if ids.len() > 1 {
        wrong.push(format!("it is there {} times", ids.len()));
    }
    let there = ids.first().copied();
    let (mut created, mut unknown) = (0, 0);
    let mut first_known = usize::MAX;
    for event in events {
        let is_find = matches!(event.call, Call::Find { .. });
        match event.told {
            Told::Created(id) | Told::Found(id) => {
                if there != Some(id) {
                    wrong.push(format!(
                        "call {} is told {:?}, and {there:?} is there",
                        event.id, event.told
                    ));
                }
                first_known = first_known.min(event.ended);
                created += i32::from(matches!(event.told, Told::Created(_)));
            }
            Told::Unknown => unknown += i32::from(!is_find),
            Told::Nothing => {}
            Told::Missing if is_find => {}
            told => wrong.push(format!("call {} is told {told:?}", event.id)),
        }
    }
    let late = events
        .iter()
        .filter(|event| event.told == Told::Missing && event.begun > first_known);
    wrong.extend(late.map(|event| {
        format!(
            "call {} does not find it, and one that had ended before did",
            event.id
        )
    }));
    if created > 1 {
        wrong.push(format!("{created} have created it"));
    }
    if there.is_some() && created == 0 && unknown == 0 {
        wrong.push("it is there, and nobody can have created it".to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls one after the other.
    fn history(calls: &[(Call, Told)]) -> Vec<Event> {
        let event = |(place, (call, told)): (usize, &(Call, Told))| Event {
            id: i64::try_from(place).unwrap() + 1,
            call: *call,
            told: *told,
            begun: 2 * place,
            ended: match told {
                Told::Unknown => usize::MAX,
                _ => 2 * place + 1,
            },
        };
        calls.iter().enumerate().map(event).collect()
    }

    /// The same, all at once.
    fn at_once(calls: &[(Call, Told)]) -> Vec<Event> {
        let mut events = history(calls);
        for event in &mut events {
            (event.begun, event.ended) = (event.begun / 2, event.ended.max(calls.len() * 2));
        }
        events
    }

    fn add(to: Counter, delta: i64) -> Call {
        Call::Add { to, key: 1, delta }
    }

    fn counter(to: Counter, value: i64) -> Rows {
        Rows {
            counters: [((to, 1), value)].into(),
            ..Rows::default()
        }
    }

    fn document(version: i64, calls: &[i64]) -> Rows {
        Rows {
            documents: [(1, (version, calls.to_vec()))].into(),
            ..Rows::default()
        }
    }

    fn label(ids: &[i64]) -> Rows {
        Rows {
            labels: [(1, ids.to_vec())].into(),
            ..Rows::default()
        }
    }

    #[track_caller]
    fn holds(events: &[Event], rows: &Rows) {
        assert_eq!(broken(events, rows), Vec::<String>::new());
    }

    #[track_caller]
    fn breaks(events: &[Event], rows: &Rows, with: &str) {
        let wrong = broken(events, rows);
        assert!(wrong.iter().any(|wrong| wrong.contains(with)), "{wrong:?}");
    }

    const VIEWS: Counter = Counter::Views;

    #[test]
    fn what_is_unknown_is_there_or_not() {
        let calls = [
            (add(VIEWS, 1), Told::Total(1)),
            (add(VIEWS, 3), Told::Unknown),
            (add(VIEWS, 2), Told::Nothing),
        ];
        holds(&history(&calls), &counter(VIEWS, 1));
        holds(&history(&calls), &counter(VIEWS, 4));
        // A part of it, or what was not done.
        breaks(&history(&calls), &counter(VIEWS, 2), "no sum of [3]");
        breaks(&history(&calls), &counter(VIEWS, 3), "no sum of [3]");
        breaks(&history(&calls), &counter(VIEWS, 6), "it is 6, of which 1");
    }

    #[test]
    fn what_was_confirmed_before_its_commit_is_lost() {
        let calls = [
            (add(VIEWS, 1), Told::Total(1)),
            (add(VIEWS, 1), Told::Total(2)),
        ];
        holds(&history(&calls), &counter(VIEWS, 2));
        breaks(&history(&calls), &counter(VIEWS, 1), "it is 1, of which 2");
        breaks(
            &history(&calls),
            &counter(VIEWS, 1),
            "is told 2, and it is 1",
        );
        breaks(&history(&calls), &Rows::default(), "there is no row");
    }

    #[test]
    fn what_was_sent_again_is_there_twice() {
        let calls = [
            (add(VIEWS, 1), Told::Total(1)),
            (add(VIEWS, 1), Told::Total(3)),
        ];
        breaks(&history(&calls), &counter(VIEWS, 3), "it is 3, of which 2");
    }

    #[test]
    fn a_total_is_of_one_caller() {
        let calls = [
            (add(VIEWS, 2), Told::Total(2)),
            (add(VIEWS, 2), Told::Total(3)),
            (add(VIEWS, 3), Told::Unknown),
        ];
        breaks(&history(&calls), &counter(VIEWS, 4), "and another 2");
        breaks(&history(&calls), &counter(VIEWS, 7), "and another 2");
    }

    #[test]
    fn totals_are_in_the_order_of_the_calls() {
        let calls = [
            (add(VIEWS, 1), Told::Total(2)),
            (add(VIEWS, 1), Told::Total(1)),
        ];
        holds(&at_once(&calls), &counter(VIEWS, 2));
        breaks(
            &history(&calls),
            &counter(VIEWS, 2),
            "and one that began later less",
        );
    }

    #[test]
    fn who_is_refused_has_changed_nothing_and_had_no_room() {
        let taken = [
            (add(Counter::Taken, 88), Told::Total(88)),
            (add(Counter::Taken, 3), Told::Refused(88)),
        ];
        holds(&history(&taken), &counter(Counter::Taken, 88));
        breaks(&history(&taken), &counter(Counter::Taken, 91), "out of its");
        let left = [
            (add(Counter::Left, -88), Told::Total(2)),
            (add(Counter::Left, -3), Told::Refused(2)),
        ];
        holds(&history(&left), &counter(Counter::Left, 2));
        breaks(&history(&left), &counter(Counter::Left, -1), "out of its");
        // An older value than he must see, one that never was, and room.
        for (met, with) in [(87, "88 before"), (89, "and is 88"), (80, "has room")] {
            let mut calls = taken;
            calls[1].1 = Told::Refused(met);
            let calls = match met {
                87 => {
                    calls[1].0 = add(Counter::Taken, 4);
                    calls
                }
                _ => calls,
            };
            breaks(&history(&calls), &counter(Counter::Taken, 88), with);
        }
    }

    fn update(from: i64) -> Call {
        Call::Update { document: 1, from }
    }

    const LOAD: Call = Call::Load { document: 1 };

    #[test]
    fn an_update_that_was_confirmed_is_there() {
        let calls = [
            (update(0), Told::Version(1)),
            (update(0), Told::Stale(1)),
            (update(1), Told::Unknown),
            (LOAD, Told::Loaded(1, 1)),
        ];
        holds(&history(&calls), &document(1, &[1]));
        holds(&history(&calls), &document(2, &[1, 3]));
        breaks(&history(&calls), &document(0, &[]), "and None is there");
        breaks(&history(&calls), &document(1, &[3]), "and Some(3) is there");
        breaks(&history(&calls), &document(2, &[1]), "after 1 updates");
        breaks(&history(&calls), &document(3, &[1, 3, 3]), "twice");
        breaks(&history(&calls), &document(2, &[1, 7]), "of nobody");
        breaks(&history(&calls), &Rows::default(), "it is gone");
    }

    #[test]
    fn an_update_that_was_stale_is_not_there() {
        let calls = [
            (update(0), Told::Version(1)),
            (update(0), Told::Stale(1)),
            (update(1), Told::Nothing),
        ];
        breaks(
            &history(&calls),
            &document(2, &[1, 2]),
            "Stale(1), and it is",
        );
        breaks(
            &history(&calls),
            &document(2, &[1, 3]),
            "Nothing, and it is",
        );
        let calls = [(update(3), Told::Stale(3))];
        breaks(&history(&calls), &document(3, &[7, 8, 9]), "is stale at 3");
    }

    #[test]
    fn a_load_is_not_older_than_what_was_confirmed() {
        let calls = [
            (update(0), Told::Version(1)),
            (update(1), Told::Version(2)),
            (LOAD, Told::Loaded(1, 1)),
        ];
        holds(&at_once(&calls), &document(2, &[1, 2]));
        breaks(&history(&calls), &document(2, &[1, 2]), "is told version 1");
        // What another one has read counts as well.
        let calls = [
            (update(0), Told::Unknown),
            (LOAD, Told::Loaded(1, 1)),
            (LOAD, Told::Loaded(0, 0)),
        ];
        breaks(&history(&calls), &document(1, &[1]), "is told version 0");
    }

    const FIND: Call = Call::Find { label: 1 };
    const FIND_OR_CREATE: Call = Call::FindOrCreate { label: 1 };

    #[test]
    fn one_has_created_the_row() {
        let calls = [
            (FIND, Told::Missing),
            (FIND_OR_CREATE, Told::Created(5)),
            (FIND_OR_CREATE, Told::Found(5)),
            (FIND, Told::Found(5)),
        ];
        holds(&history(&calls), &label(&[5]));
        breaks(&history(&calls), &label(&[]), "and None is there");
        breaks(&history(&calls), &label(&[6]), "and Some(6) is there");
        breaks(&history(&calls), &label(&[5, 6]), "2 times");
        let mut twice = calls;
        twice[2].1 = Told::Created(5);
        breaks(&history(&twice), &label(&[5]), "2 have created it");
        let mut missed = calls;
        missed[3].1 = Told::Missing;
        breaks(&history(&missed), &label(&[5]), "does not find it");
    }

    #[test]
    fn nobody_or_an_unknown_one_has_created_it() {
        let calls = [(FIND_OR_CREATE, Told::Nothing), (FIND, Told::Unknown)];
        holds(&history(&calls), &label(&[]));
        breaks(&history(&calls), &label(&[5]), "nobody can have created it");
        let calls = [(FIND_OR_CREATE, Told::Unknown)];
        holds(&history(&calls), &label(&[5]));
        holds(&history(&calls), &label(&[]));
    }
}
