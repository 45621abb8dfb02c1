//! Schedules made by hand.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::Type;

use crate::footprint::{Footprint, Touch};
use crate::trace::{Fault, Step, Trace, What};
use crate::wire::{Answer, Column, Param, Statement, Status};

pub(crate) const ANN: usize = 0;
pub(crate) const BOB: usize = 1;
pub(crate) const CAROL: usize = 2;

/// Tables.
pub(crate) const PRODUCTS: u32 = 1;
pub(crate) const DOCTORS: u32 = 2;
pub(crate) const SEATS: u32 = 3;

/// A trace in the making.
pub(crate) struct Play {
    pub(crate) trace: Trace,
    /// The transaction that each actor is in.
    open: HashMap<usize, usize>,
    transactions: usize,
}

impl Play {
    pub(crate) fn new(actors: usize) -> Self {
        let actors: Vec<_> = ["ann", "bob", "carol", "dave"][..actors]
            .iter()
            .map(|&name| name.to_owned())
            .collect();
        let tables = [
            (PRODUCTS, "products"),
            (DOCTORS, "doctors"),
            (SEATS, "seats"),
        ];
        let trace = Trace {
            results: vec![Some("Ok(())".to_owned()); actors.len()],
            relations: tables.map(|(oid, name)| (oid, name.to_owned())).into(),
            actors,
            steps: Vec::new(),
        };
        Self {
            trace,
            open: HashMap::new(),
            transactions: 0,
        }
    }

    /// The next step; BEGIN, COMMIT and ROLLBACK are answered as the server does.
    pub(crate) fn step(&mut self, actor: usize, sql: &str) -> Doing<'_> {
        let first = sql.split_whitespace().next().unwrap();
        let mut answer = Answer::default();
        let mut ends_transaction = false;
        let transaction = self.open.get(&actor).copied().unwrap_or(self.transactions);
        match first {
            "BEGIN" => {
                self.open.insert(actor, transaction);
            }
            "COMMIT" | "ROLLBACK" if !sql.contains(" TO ") => {
                self.open.remove(&actor);
                ends_transaction = true;
            }
            _ => ends_transaction = !self.open.contains_key(&actor),
        }
        self.transactions = self.transactions.max(transaction + 1);
        answer.tags.push(match first {
            "SELECT" => "SELECT 0".to_owned(),
            "UPDATE" | "DELETE" => format!("{first} 1"),
            "INSERT" => "INSERT 0 1".to_owned(),
            _ => first.to_owned(),
        });
        if !ends_transaction {
            answer.status = Status::InTransaction;
        }
        let statement = Statement {
            sql: sql.into(),
            ..Statement::default()
        };
        let at = self.trace.steps.len();
        self.trace.steps.push(Step {
            actor,
            connection: 0,
            what: What::Statements([statement].into()),
            fault: None,
            answer: Some(answer),
            answered_in: Some(at),
            waited_for: Vec::new(),
            waited: Duration::ZERO,
            transaction,
            ends_transaction,
            touched: Footprint::default(),
            footprint: Footprint::default(),
        });
        Doing { play: self, at }
    }

    pub(crate) fn disconnect(&mut self, actor: usize) {
        let mut doing = self.step(actor, "ROLLBACK");
        doing.get().what = What::Disconnect;
        doing.get().answer = None;
    }

    pub(crate) fn returns(mut self, actor: usize, result: Option<&str>) -> Self {
        self.trace.results[actor] = result.map(str::to_owned);
        self
    }
}

/// A step in the making.
pub(crate) struct Doing<'a> {
    play: &'a mut Play,
    at: usize,
}

impl Doing<'_> {
    fn get(&mut self) -> &mut Step {
        &mut self.play.trace.steps[self.at]
    }

    fn answer(&mut self) -> &mut Answer {
        self.get().answer.as_mut().unwrap()
    }

    fn touch(mut self, relation: u32, key: Option<u8>, writes: bool) -> Self {
        let key = key.map(|key| vec![key]);
        self.get().touched.touches.insert(Touch {
            relation,
            key,
            writes,
        });
        self
    }

    /// One row if it has a key, else all of the table.
    pub(crate) fn reads(self, relation: u32, key: Option<u8>) -> Self {
        self.touch(relation, key, false)
    }

    pub(crate) fn writes(self, relation: u32, key: Option<u8>) -> Self {
        self.touch(relation, key, true)
    }

    pub(crate) fn anything(mut self) -> Self {
        self.get().touched = Footprint::everything();
        self
    }

    pub(crate) fn params(mut self, values: &[i64]) -> Self {
        let params = values.iter().map(|value| Param {
            oid: Type::INT8.oid(),
            binary: true,
            value: Some(Bytes::copy_from_slice(&value.to_be_bytes())),
        });
        let params = params.collect();
        let What::Statements(statements) = &self.get().what else {
            return self;
        };
        let mut statement = statements[0].clone();
        statement.params = params;
        self.get().what = What::Statements([statement].into());
        self
    }

    /// A row of numbers, as text.
    pub(crate) fn row(mut self, row: &[(&str, i64)]) -> Self {
        let answer = self.answer();
        answer.columns = row
            .iter()
            .map(|(name, _)| Column {
                name: (*name).to_owned(),
                oid: Type::INT8.oid(),
            })
            .collect();
        let values = row.iter().map(|(_, value)| Some(value.to_string().into()));
        answer.rows.push(values.collect());
        answer.row_count += 1;
        if answer.tags[0].starts_with("SELECT") {
            answer.tags[0] = format!("SELECT {}", answer.row_count);
        }
        self
    }

    pub(crate) fn tag(mut self, tag: &str) -> Self {
        self.answer().tags = vec![tag.to_owned()];
        self
    }

    pub(crate) fn error(mut self, code: &str, message: &str) -> Self {
        let answer = self.answer();
        answer.tags.clear();
        answer.error = Some((code.to_owned(), message.to_owned()));
        self
    }

    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.get().fault = Some(fault);
        self
    }

    pub(crate) fn connection(mut self, connection: usize) {
        self.get().connection = connection;
    }

    pub(crate) fn no_answer(mut self) -> Self {
        self.get().answer = None;
        self.get().answered_in = None;
        self
    }

    /// It waits for an actor until that one's step, counted from 1.
    pub(crate) fn waits(mut self, actor: usize, until: usize, millis: u64) -> Self {
        let step = self.get();
        step.waited_for = vec![actor];
        step.waited = Duration::from_millis(millis);
        step.answered_in = Some(until - 1);
        self
    }
}

const READ: &str = "SELECT stock FROM products WHERE id = $1";
const WRITE: &str = "UPDATE products SET stock = $2 WHERE id = $1";

/// Both take the last one, each statement by itself.
pub(crate) fn oversell() -> Trace {
    let mut play = Play::new(2);
    for actor in [ANN, BOB] {
        let read = play.step(actor, READ).params(&[7]);
        read.reads(PRODUCTS, Some(7)).row(&[("stock", 1)]);
    }
    for actor in [BOB, ANN] {
        let write = play.step(actor, WRITE).params(&[7, 0]);
        write.writes(PRODUCTS, Some(7));
    }
    play.returns(ANN, Some("Ok(Sold)"))
        .returns(BOB, Some("Ok(Sold)"))
        .trace
}

/// The same in transactions: the second writer waits for the first, and overwrites it.
pub(crate) fn lost_update() -> Trace {
    let mut play = Play::new(2);
    play.step(ANN, "BEGIN");
    play.step(BOB, "BEGIN");
    for actor in [ANN, BOB] {
        let read = play.step(actor, READ).params(&[7]);
        read.reads(PRODUCTS, Some(7)).row(&[("stock", 1)]);
    }
    let write = play.step(BOB, WRITE).params(&[7, 0]);
    write.writes(PRODUCTS, Some(7));
    let write = play.step(ANN, WRITE).params(&[7, 0]);
    write.writes(PRODUCTS, Some(7)).waits(BOB, 7, 12);
    play.step(BOB, "COMMIT");
    play.step(ANN, "COMMIT");
    play.trace
}

/// Each doctor goes off call because the other one is on call.
pub(crate) fn write_skew() -> Trace {
    let mut play = Play::new(2);
    for actor in [ANN, BOB] {
        play.step(actor, "BEGIN ISOLATION LEVEL REPEATABLE READ")
            .tag("BEGIN");
        let read = play.step(
            actor,
            "SELECT id FROM doctors WHERE on_call AND id IN ($1, $2)",
        );
        let read = read.params(&[1, 2]);
        let read = read.reads(DOCTORS, Some(1)).reads(DOCTORS, Some(2));
        read.row(&[("id", 1)]).row(&[("id", 2)]);
    }
    for (actor, id) in [(ANN, 1), (BOB, 2)] {
        let write = play.step(actor, "UPDATE doctors SET on_call = false WHERE id = $1");
        write.params(&[id]).writes(DOCTORS, Some(id as u8));
    }
    play.step(ANN, "COMMIT");
    play.step(BOB, "COMMIT");
    play.trace
}

/// Two bookings of the last seat: each counts before the other one inserts.
pub(crate) fn phantom() -> Trace {
    let mut play = Play::new(2);
    for actor in [ANN, BOB] {
        play.step(actor, "BEGIN");
        let read = play.step(actor, "SELECT count(*) FROM seats WHERE show = $1");
        read.params(&[4]).reads(SEATS, None).row(&[("count", 9)]);
    }
    for actor in [BOB, ANN] {
        let write = play.step(actor, "INSERT INTO seats (show, guest) VALUES ($1, $2)");
        write.params(&[4, 70 + actor as i64]).writes(SEATS, None);
        play.step(actor, "COMMIT");
    }
    play.trace
}

/// Each waits for the other one's row, and the server ends the wait.
pub(crate) fn deadlock() -> Trace {
    let mut play = Play::new(2);
    let sql = "UPDATE products SET stock = stock - 1 WHERE id = $1";
    play.step(ANN, "BEGIN");
    play.step(BOB, "BEGIN");
    play.step(ANN, sql).params(&[1]).writes(PRODUCTS, Some(1));
    play.step(BOB, sql).params(&[2]).writes(PRODUCTS, Some(2));
    let waits = play.step(ANN, sql).params(&[2]).writes(PRODUCTS, Some(2));
    waits.waits(BOB, 6, 1_004);
    let dies = play.step(BOB, sql).params(&[1]).writes(PRODUCTS, Some(1));
    dies.error("40P01", "deadlock detected");
    play.step(ANN, "COMMIT");
    play.step(BOB, "ROLLBACK");
    play.returns(BOB, Some("Err(Deadlock)")).trace
}

/// The client does not hear that its statement was done, and does it again.
pub(crate) fn cut() -> Trace {
    let mut play = Play::new(1);
    let sql = "UPDATE products SET stock = stock - 1 WHERE id = $1 RETURNING stock";
    let first = play.step(ANN, sql).params(&[7]).writes(PRODUCTS, Some(7));
    first.row(&[("stock", 4)]).fault(Fault::CutAfter);
    let again = play.step(ANN, sql).params(&[7]).writes(PRODUCTS, Some(7));
    again.row(&[("stock", 3)]);
    play.step(ANN, "SELECT 1")
        .no_answer()
        .fault(Fault::CutBefore);
    play.disconnect(ANN);
    play.returns(ANN, None).trace
}

/// Three in a circle, with a statement that is too long for its column.
pub(crate) fn three() -> Trace {
    let mut play = Play::new(3);
    let long = "UPDATE products\n   SET stock = stock - 1, changed_at = now(), changed_by = current_user, \
        price = CASE WHEN stock < 3 THEN price * 1.2 ELSE price END, \
        note = 'taken' WHERE id = $1 AND stock > 0 AND NOT withdrawn RETURNING stock, price";
    let first = play.step(ANN, long).params(&[7]).writes(PRODUCTS, Some(7));
    first.row(&[("stock", 1), ("price", 120)]);
    let none = play.step(BOB, "SELECT id FROM products WHERE stock = $1");
    none.params(&[100]).reads(PRODUCTS, None);
    let rows = play.step(CAROL, "SELECT id FROM products");
    let rows = (1..=5).fold(rows.reads(PRODUCTS, None), |rows, id| {
        rows.row(&[("id", id)])
    });
    rows.tag("SELECT 8").more(3);
    play.disconnect(CAROL);
    play.trace
}

impl Doing<'_> {
    /// Rows that were not kept.
    fn more(mut self, count: usize) {
        self.answer().row_count += count;
    }
}

/// A name, and how the schedule is made.
type Example = (&'static str, fn() -> Trace);

pub(crate) const ALL: [Example; 7] = [
    ("oversell", oversell),
    ("lost_update", lost_update),
    ("write_skew", write_skew),
    ("phantom", phantom),
    ("deadlock", deadlock),
    ("cut", cut),
    ("three", three),
];
