//! Names of schedules made by hand, and of random ones that `adya` judges too.

use std::collections::HashMap;
use std::fmt::Write;

use adya::{History, Opts, Valid, Workload};

use super::{Anomaly, Finder};
use crate::story::examples::{self, ANN, BOB, CAROL, DOCTORS, PRODUCTS, Play, SEATS};
use crate::trace::Trace;

const ROW: Option<u8> = Some(7);
const READ: &str = "SELECT stock FROM products WHERE id = $1";
const SET: &str = "UPDATE products SET stock = $2 WHERE id = $1";
const LESS: &str = "UPDATE products SET stock = stock - 1 WHERE id = $1";

fn said(trace: &Trace) -> String {
    Anomaly::of(trace).to_string()
}

fn made(steps: impl FnOnce(&mut Play)) -> String {
    let mut play = Play::new(4);
    steps(&mut play);
    said(&play.trace)
}

const NONE: &str = "none in the dependency graph: each transaction by itself is in order; look at the program between them";

#[test]
fn the_examples() {
    for (name, says) in [
        (
            "oversell",
            "lost update (between statements of no one transaction): ann read a row of products at 1, bob wrote it at 3, \
             and ann wrote it at 4 from what it had read",
        ),
        (
            "lost_update",
            "lost update: ann read a row of products at 3, bob wrote it at 5, and ann wrote it at 6 from what it had read",
        ),
        (
            "write_skew",
            "write skew: ann read a row of doctors at 2, before bob wrote it at 6; \
             bob read a row of doctors at 4, before ann wrote it at 5",
        ),
        (
            "phantom",
            "phantom: ann read seats at 2, before bob inserted into it at 5; \
             bob read seats at 4, before ann inserted into it at 7 \
             (which rows of seats each of these touches is not known)",
        ),
        ("deadlock", NONE),
        ("cut", NONE),
        ("three", NONE),
    ] {
        let (_, trace) = examples::ALL.iter().find(|(is, _)| *is == name).unwrap();
        assert_eq!(said(&trace()), says, "{name}");
    }
}

#[test]
fn one_after_the_other_is_in_order() {
    let says = made(|play| {
        for actor in [ANN, BOB] {
            play.step(actor, READ).reads(PRODUCTS, ROW);
            play.step(actor, SET).writes(PRODUCTS, ROW);
        }
    });
    assert_eq!(says, NONE);
}

#[test]
fn what_is_read_again_is_no_lost_update() {
    let says = made(|play| {
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        play.step(BOB, SET).writes(PRODUCTS, ROW);
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        play.step(ANN, SET).writes(PRODUCTS, ROW);
    });
    assert_eq!(says, NONE);
    // In one transaction it has seen two states.
    let says = made(|play| {
        play.step(ANN, "BEGIN");
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        play.step(BOB, SET).writes(PRODUCTS, ROW);
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        play.step(ANN, SET).writes(PRODUCTS, ROW);
        play.step(ANN, "COMMIT");
    });
    assert_eq!(
        says,
        "non-repeatable read: ann read a row of products at 2, bob wrote it at 3, and ann found it changed at 4"
    );
}

#[test]
fn what_wrote_nothing_is_no_write() {
    let says = made(|play| {
        for actor in [ANN, BOB] {
            play.step(actor, READ).reads(PRODUCTS, ROW);
        }
        play.step(BOB, SET).writes(PRODUCTS, ROW);
        let stale = play.step(
            ANN,
            "UPDATE products SET stock = $2 WHERE id = $1 AND version = $3",
        );
        stale.writes(PRODUCTS, ROW).tag("UPDATE 0");
    });
    assert_eq!(says, NONE);
    // FOR UPDATE locks, and the other one waits for it.
    let says = made(|play| {
        let lock = "SELECT stock FROM products WHERE id = $1 FOR UPDATE";
        play.step(ANN, "BEGIN");
        play.step(BOB, "BEGIN");
        play.step(ANN, lock).writes(PRODUCTS, ROW);
        play.step(BOB, lock).writes(PRODUCTS, ROW).waits(ANN, 6, 1);
        play.step(ANN, SET).writes(PRODUCTS, ROW);
        play.step(ANN, "COMMIT");
        play.step(BOB, SET).writes(PRODUCTS, ROW);
        play.step(BOB, "COMMIT");
    });
    assert_eq!(says, NONE);
}

#[test]
fn a_lock_alone_is_no_write() {
    let says = made(|play| {
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        let lock = format!("{READ} FOR UPDATE");
        play.step(BOB, &lock).writes(PRODUCTS, ROW);
        play.step(ANN, SET).writes(PRODUCTS, ROW);
    });
    assert_eq!(says, NONE);
}

#[test]
fn a_row_of_unknown_key_is_not_the_one_that_was_read() {
    let says = made(|play| {
        play.step(ANN, "BEGIN");
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        let sql = "INSERT INTO products (stock) VALUES ($1)";
        play.step(BOB, sql).writes(PRODUCTS, None);
        let sql = "SELECT count(*) FROM products";
        play.step(ANN, sql).reads(PRODUCTS, None);
        play.step(ANN, "COMMIT");
    });
    assert_eq!(says, NONE);
}

#[test]
fn what_was_read_after_the_write_was_not_its_reason() {
    let says = made(|play| {
        play.step(ANN, READ).reads(PRODUCTS, Some(1));
        play.step(BOB, SET).writes(PRODUCTS, Some(1));
        play.step(BOB, READ).reads(PRODUCTS, Some(2));
        play.step(ANN, SET).writes(PRODUCTS, Some(2));
    });
    assert_eq!(says, NONE);
}

#[test]
fn what_the_client_was_not_told_was_not_its_reason() {
    let first = |sql: &str| {
        made(|play| {
            play.step(ANN, sql).writes(PRODUCTS, ROW);
            play.step(BOB, SET).writes(PRODUCTS, ROW);
            play.step(ANN, SET).writes(PRODUCTS, ROW);
        })
    };
    assert_eq!(first(LESS), NONE);
    assert!(first(&format!("{LESS} RETURNING stock")).starts_with("lost update (between"));
}

#[test]
fn writes_to_unknown_rows_alone_prove_nothing() {
    let says = made(|play| {
        play.step(ANN, "BEGIN");
        play.step(BOB, "BEGIN");
        for actor in [ANN, BOB, ANN] {
            let sql = "UPDATE products SET stock = $2 WHERE name = $1";
            play.step(actor, sql).writes(PRODUCTS, None);
        }
        play.step(ANN, "COMMIT");
        play.step(BOB, "COMMIT");
    });
    assert_eq!(says, NONE);
    // Workers that take the next job, again and again.
    let says = made(|play| {
        for actor in [ANN, BOB, ANN, BOB] {
            let sql = "UPDATE seats SET guest = $1 WHERE id = (SELECT id FROM seats WHERE guest IS NULL \
                LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id";
            play.step(actor, sql).writes(SEATS, None);
        }
    });
    assert_eq!(says, NONE);
}

#[test]
fn read_by_name_and_written_by_key() {
    let both = |write: &str, keys: [u8; 2]| {
        made(|play| {
            for actor in [ANN, BOB] {
                let sql = "SELECT id, stock FROM products WHERE name = $1";
                play.step(actor, sql).reads(PRODUCTS, None);
            }
            for (actor, key) in [BOB, ANN].into_iter().zip(keys) {
                play.step(actor, write).writes(PRODUCTS, Some(key));
            }
        })
    };
    assert_eq!(
        both(SET, [7, 7]),
        "lost update (between statements of no one transaction): ann read products at 1, bob wrote it at 3, \
         and ann wrote it at 4 from what it had read (which rows of products each of these touches is not known)"
    );
    assert!(both(LESS, [7, 7]).starts_with("check-then-act (between"));
    assert!(both(SET, [7, 8]).starts_with("write skew (between"));
}

#[test]
fn what_was_undone_is_left_out() {
    let undone = |how: &[&str]| {
        made(|play| {
            play.step(ANN, READ).reads(PRODUCTS, ROW);
            play.step(BOB, "BEGIN");
            play.step(BOB, "SAVEPOINT one");
            play.step(BOB, SET).writes(PRODUCTS, ROW);
            for sql in how {
                play.step(BOB, sql).tag(sql.split(' ').next().unwrap());
            }
            play.step(ANN, SET).writes(PRODUCTS, ROW);
        })
    };
    assert!(undone(&["COMMIT"]).starts_with("lost update"));
    assert_eq!(undone(&["ROLLBACK"]), NONE);
    assert_eq!(undone(&["ROLLBACK TO SAVEPOINT one", "COMMIT"]), NONE);
    assert!(undone(&["SAVEPOINT two", "ROLLBACK TO SAVEPOINT two", "COMMIT"]).starts_with("lost"));
    // COMMIT of a transaction that an error has aborted.
    let says = made(|play| {
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        play.step(BOB, "BEGIN");
        play.step(BOB, SET).writes(PRODUCTS, ROW);
        play.step(BOB, "COMMIT").tag("ROLLBACK");
        play.step(ANN, SET).writes(PRODUCTS, ROW);
    });
    assert_eq!(says, NONE);
}

#[test]
fn a_decision_on_what_is_no_longer_so() {
    // Nothing is overwritten, and still both have sold the last one.
    let says = made(|play| {
        for actor in [ANN, BOB] {
            play.step(actor, READ).reads(PRODUCTS, ROW);
        }
        for actor in [BOB, ANN] {
            play.step(actor, LESS).writes(PRODUCTS, ROW);
        }
    });
    assert_eq!(
        says,
        "check-then-act (between statements of no one transaction): ann read a row of products at 1, \
         bob wrote it at 3, and ann wrote it at 4 though what it had read was no longer so"
    );
    // A counter that nobody has read.
    let says = made(|play| {
        for actor in [ANN, BOB, ANN, BOB] {
            play.step(actor, LESS).writes(PRODUCTS, ROW);
        }
    });
    assert_eq!(says, NONE);
}

#[test]
fn a_limit_counted_in_another_statement() {
    let says = made(|play| {
        for actor in [ANN, BOB] {
            play.step(actor, "SELECT count(*) FROM seats")
                .reads(SEATS, None);
        }
        for actor in [ANN, BOB] {
            let sql = "INSERT INTO seats (guest) VALUES ($1)";
            play.step(actor, sql).writes(SEATS, None);
        }
    });
    assert_eq!(
        says,
        "phantom (between statements of no one transaction): ann read seats at 1, before bob inserted into it at 4; \
         bob read seats at 2, before ann inserted into it at 3 \
         (which rows of seats each of these touches is not known)"
    );
}

#[test]
fn inserts_alone_are_in_order() {
    let says = made(|play| {
        play.step(ANN, "BEGIN");
        play.step(BOB, "BEGIN");
        for actor in [ANN, BOB, ANN, BOB] {
            play.step(actor, "INSERT INTO seats (guest) VALUES ($1)")
                .writes(SEATS, None);
        }
        play.step(ANN, "COMMIT");
        play.step(BOB, "COMMIT");
    });
    assert_eq!(says, NONE);
}

#[test]
fn half_of_what_another_one_wrote() {
    let says = made(|play| {
        play.step(ANN, "BEGIN");
        play.step(ANN, READ).reads(PRODUCTS, Some(1));
        play.step(BOB, "BEGIN");
        play.step(BOB, SET).writes(PRODUCTS, Some(1));
        play.step(BOB, SET).writes(PRODUCTS, Some(2));
        play.step(BOB, "COMMIT");
        play.step(ANN, READ).reads(PRODUCTS, Some(2));
        play.step(ANN, "COMMIT");
    });
    assert_eq!(
        says,
        "read skew: ann read a row of products at 2, before bob wrote it at 4; \
         ann read a row of products at 7, after bob wrote it at 5"
    );
}

#[test]
fn the_write_that_was_overwritten_is_the_one_that_is_told() {
    let says = made(|play| {
        play.step(ANN, "BEGIN");
        let sql = "SELECT * FROM products";
        play.step(ANN, sql).reads(PRODUCTS, None);
        play.step(BOB, "BEGIN");
        play.step(BOB, SET).writes(PRODUCTS, Some(1));
        play.step(BOB, SET).writes(PRODUCTS, Some(2));
        play.step(BOB, "COMMIT");
        play.step(ANN, SET).writes(PRODUCTS, Some(2));
        play.step(ANN, "COMMIT");
    });
    assert!(
        says.contains("bob wrote it at 5, and ann wrote it at 7"),
        "{says}"
    );
}

#[test]
fn a_circle_of_three() {
    let says = made(|play| {
        let actors = [ANN, BOB, CAROL];
        for (actor, key) in actors.into_iter().zip([1, 2, 3]) {
            play.step(actor, "BEGIN");
            play.step(actor, "SELECT").reads(DOCTORS, Some(key));
        }
        for (actor, key) in actors.into_iter().zip([2, 3, 1]) {
            play.step(actor, "UPDATE doctors SET on_call = false")
                .writes(DOCTORS, Some(key));
        }
        for actor in actors {
            play.step(actor, "COMMIT");
        }
    });
    assert_eq!(
        says,
        "write skew: ann read a row of doctors at 2, before carol wrote it at 9; \
         carol read a row of doctors at 6, before bob wrote it at 8; \
         bob read a row of doctors at 4, before ann wrote it at 7"
    );
}

#[test]
fn what_nobody_knows_is_said() {
    let says = made(|play| {
        play.step(ANN, READ).reads(PRODUCTS, ROW);
        play.step(BOB, "SELECT do_it()").anything();
        play.step(ANN, SET).writes(PRODUCTS, ROW);
    });
    assert_eq!(
        says,
        "none in the dependency graph: what step 2 touches is not known, and the others make no cycle"
    );
}

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

/// What a transaction of a random schedule still has to do, and what it has seen.
struct Doing {
    todo: Vec<(bool, u8)>,
    begun: bool,
    snapshot: Option<HashMap<u8, usize>>,
    wrote: HashMap<u8, usize>,
    operations: Vec<String>,
}

/// What a transaction writes to a row: it writes once.
fn version(actor: usize, key: u8) -> usize {
    1_000 * (actor + 1) + usize::from(key)
}

/// A schedule as PostgreSQL would run it, and the same as a history of what was read and written, for `adya`;
/// `None` where a transaction would have failed.
fn random_schedule(random: &mut Random, snapshots: bool) -> Option<(Trace, String)> {
    let count = 2 + random.below(3);
    let mut play = Play::new(count);
    let mut all: Vec<Doing> = (0..count)
        .map(|_| {
            let mut todo = Vec::new();
            for _ in 0..1 + random.below(4) {
                let step = (random.below(2) == 0, random.below(3) as u8);
                // The first read of a row is the only one, and comes before its writes.
                let late = todo
                    .iter()
                    .any(|&(writes, key)| key == step.1 && (writes || !step.0));
                if !late {
                    todo.push(step);
                }
            }
            todo.reverse();
            Doing {
                todo,
                begun: false,
                snapshot: None,
                wrote: HashMap::new(),
                operations: Vec::new(),
            }
        })
        .collect();
    let mut committed: HashMap<u8, usize> = HashMap::new();
    let (mut history, mut open) = (String::new(), (0..count).collect::<Vec<_>>());
    for (process, doing) in all.iter().enumerate() {
        let asked = doing.todo.iter().rev().map(|&(writes, key)| match writes {
            true => format!("[\"w\",{key},{}]", version(process, key)),
            false => format!("[\"r\",{key},null]"),
        });
        let asked = asked.collect::<Vec<_>>().join(",");
        writeln!(
            history,
            "{{\"type\":\"invoke\",\"process\":{process},\"value\":[{asked}]}}"
        )
        .unwrap();
    }
    while !open.is_empty() {
        let locked = |all: &[Doing], actor: usize| {
            let next = all[actor].todo.last();
            let Some(&(true, key)) = next else {
                return false;
            };
            open.iter()
                .any(|&other| other != actor && all[other].wrote.contains_key(&key))
        };
        let free: Vec<_> = open
            .iter()
            .copied()
            .filter(|&actor| !locked(&all, actor))
            .collect();
        if free.is_empty() {
            return None;
        }
        let actor = free[random.below(free.len())];
        let doing = &mut all[actor];
        if !doing.begun {
            doing.begun = true;
            let level = if snapshots {
                "BEGIN ISOLATION LEVEL REPEATABLE READ"
            } else {
                "BEGIN"
            };
            play.step(actor, level).tag("BEGIN");
            continue;
        }
        let Some((writes, key)) = doing.todo.pop() else {
            committed.extend(doing.wrote.drain());
            play.step(actor, "COMMIT");
            let done = doing.operations.join(",");
            writeln!(
                history,
                "{{\"type\":\"ok\",\"process\":{actor},\"value\":[{done}]}}"
            )
            .unwrap();
            open.retain(|&other| other != actor);
            continue;
        };
        if snapshots && doing.snapshot.is_none() {
            doing.snapshot = Some(committed.clone());
        }
        let state = doing.snapshot.as_ref().unwrap_or(&committed);
        if writes {
            // The first to commit wins.
            if state.get(&key) != committed.get(&key) {
                return None;
            }
            let version = version(actor, key);
            doing.wrote.insert(key, version);
            doing.operations.push(format!("[\"w\",{key},{version}]"));
            play.step(actor, SET).writes(PRODUCTS, Some(key));
        } else {
            let read = state.get(&key).map_or("null".to_owned(), usize::to_string);
            doing.operations.push(format!("[\"r\",{key},{read}]"));
            play.step(actor, READ).reads(PRODUCTS, Some(key));
        }
    }
    Some((play.trace, history))
}

#[test]
fn adya_finds_a_cycle_where_one_is_named() {
    let (mut random, mut judged) = (Random(11), HashMap::<String, usize>::new());
    for round in 0..2_000 {
        let Some((trace, text)) = random_schedule(&mut random, round % 2 == 0) else {
            continue;
        };
        let history = History::from_json(&text).unwrap();
        let count = trace.actors.len() as u64;
        let options = Opts {
            models: vec!["serializable".into()],
            // They are written down as they commit.
            transaction_order: Some((count..2 * count).map(|at| (at, at as i64)).collect()),
            ..Opts::default()
        };
        let report = adya::check(&history, Workload::RwRegister, &options);
        let named = Finder {
            trace: &trace,
            history: super::History::of(&trace),
        }
        .between_transactions(true);
        let kinds = report.anomaly_types.join(" ");
        let shown = format!("{named:?}\n{kinds}\n{text}{trace}");
        assert_eq!(report.valid == Valid::False, named.is_some(), "{shown}");
        let Some(named) = named else {
            continue;
        };
        let expected: &[&str] = match named.name.as_str() {
            "lost update" => &["lost-update", "G-single-item"],
            "read skew" | "non-repeatable read" => &["G-single-item"],
            "write skew" | "serialization anomaly" => {
                &["G-single-item", "G-nonadjacent-item", "G2-item"]
            }
            _ => &[],
        };
        assert!(expected.iter().any(|kind| kinds.contains(kind)), "{shown}");
        *judged.entry(named.name).or_default() += 1;
    }
    for name in ["lost update", "read skew", "write skew"] {
        assert!(
            judged.get(name).is_some_and(|&count| count > 20),
            "{judged:?}"
        );
    }
}
