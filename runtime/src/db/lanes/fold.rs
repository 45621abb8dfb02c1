//! Calls of one operation that wait, and the statement that serves all of them.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Either;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::call::{Addition, Call, Cells as _, of_keys, of_one, statement};
use super::held::{self, HeldRow, HeldRows};
use super::{Inner, Lane, Lanes, PATIENCE};
use crate::db::Backend;
use crate::db::copied::copy;
use crate::db::fault::Fault;
use crate::db::source::{Link, Opened, Source};
use crate::observe;

/// How many calls one statement serves at most.
const CALLS: usize = 1_000;

/// So many calls that wait are worth a second statement beside the one under way, also where a trip is short: 8 callers get half as many calls again
/// through.
const MANY: usize = 4;

/// The statements of an operation whose calls can be one.
#[derive(Clone, Copy)]
pub(crate) struct Fold {
    /// About many rows; the last column of what it returns is the number of the row, from 1, or the last ones are its key.
    pub(super) sql: &'static str,
    /// The same about one row, where that is cheaper: its key and the addition are bound.
    one: Option<&'static str>,
    pub(super) writes: bool,
    /// Says which of many rows another session has locked.
    held: Option<&'static str>,
}

impl Fold {
    pub(crate) fn read(sql: &'static str) -> Self {
        Self {
            sql,
            one: None,
            writes: false,
            held: None,
        }
    }

    pub(crate) fn write(sql: &'static str, held: Option<&'static str>) -> Self {
        Self {
            sql,
            one: None,
            writes: true,
            held,
        }
    }

    pub(crate) fn of_one(self, one: Option<&'static str>) -> Self {
        Self { one, ..self }
    }

    /// Whether what it returns of a row is the key of it.
    fn tells_keys<DB: Backend>(self) -> bool {
        self.writes && DB::Cells::TELLS_KEYS
    }

    fn place(self) -> Address {
        Address(self.sql.as_ptr().addr(), self.sql.len())
    }
}

/// Where the text of a statement is, and its length, which are compared faster than the text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Address(usize, usize);

/// What becomes of a call.
pub(crate) enum Turn<O, T> {
    /// It runs by itself, on this.
    Alone(O),
    /// The same, and a statement about many has just passed over its row.
    PassedOver(O),
    /// It was one of many. After an error nobody knows what became of it.
    Answered(Result<T, sqlx::Error>),
}

/// What the waiting caller gets.
pub(super) enum Word<DB: Backend> {
    /// The row that the statement returned, with a column more.
    Row(DB::Row),
    /// The total after this call's addition, if it is a number.
    Total(Option<i64>),
    /// The statement failed, and may have been executed.
    Failed(sqlx::Error),
    /// Nothing was done for it: it is to call by itself.
    Alone,
    /// The same, and its row may be locked for long: it waits for the lock, and others for it.
    Held(HeldRow<DB>),
    /// No other waits: it runs by itself, on this.
    Free(Lane<DB>),
    /// No connection could be had.
    Unsent(sqlx::Error),
}

/// How the wait of a call ended.
enum Waited<DB: Backend> {
    Free(Result<Lane<DB>, sqlx::Error>),
    Told(Word<DB>),
}

pub(super) struct Waiting<DB: Backend> {
    pub(super) call: Call<DB>,
    pub(super) word: oneshot::Sender<Word<DB>>,
}

/// The calls of one operation.
pub(super) struct Queue<DB: Backend> {
    fold: Fold,
    state: Mutex<State<DB>>,
    /// Such rows cannot be written by a statement about many.
    is_off: AtomicBool,
    /// Most calls are about a few rows: a second statement would only wait for the first.
    is_hot: AtomicBool,
}

pub(super) struct State<DB: Backend> {
    waiting: VecDeque<Waiting<DB>>,
    /// How many statements are under way, or about to be.
    under_way: usize,
    /// How many of them run in the tasks of their callers, who need not look at the answer.
    of_callers: usize,
    /// How often calls that waited were taken.
    takes: u64,
    /// How many they were the last time.
    taken: usize,
    /// How often that was when the watch last looked.
    seen: u64,
    /// Those whose rows were locked wait here.
    pub(super) held: HeldRows<DB>,
}

impl<DB: Backend> Queue<DB> {
    /// Of several statements all but one would wait.
    fn has_one_writer(&self) -> bool {
        DB::EMBEDDED && self.fold.writes
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<DB>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the statements of an operation that are under way. Whoever has it serves those who have waited meanwhile.
pub(super) struct Place<DB: Backend> {
    lanes: Arc<Inner<DB>>,
    queue: Arc<Queue<DB>>,
    is_callers: bool,
    is_over: bool,
}

impl<DB: Backend> Drop for Place<DB> {
    fn drop(&mut self) {
        // A call that failed, was dropped or panicked, with others after it.
        if self.is_wanted()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.leave_caller();
            let (lanes, queue) = (Arc::clone(&self.lanes), Arc::clone(&self.queue));
            // Made when it runs: a runtime that ends drops what is spawned, and that must not spawn again.
            runtime.spawn(async move { Self::new(lanes, queue).serve(None).await });
        }
    }
}

impl<DB: Backend> Place<DB> {
    /// It is counted already.
    fn new(lanes: Arc<Inner<DB>>, queue: Arc<Queue<DB>>) -> Self {
        Self {
            lanes,
            queue,
            is_callers: false,
            is_over: false,
        }
    }

    fn of_caller(mut self) -> Self {
        self.queue.state().of_callers += 1;
        self.is_callers = true;
        self
    }

    fn leave_caller(&mut self) {
        if std::mem::take(&mut self.is_callers) {
            self.queue.state().of_callers -= 1;
        }
    }

    /// Whether calls wait. If none does, it is over.
    pub(super) fn is_wanted(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let mut state = self.queue.state();
        if state.waiting.is_empty() {
            state.under_way -= 1;
            drop(state);
            self.leave_caller();
            self.is_over = true;
        }
        !self.is_over
    }

    /// Serves those who wait, until nobody does.
    pub(super) async fn serve(mut self, mut lane: Option<Lane<DB>>) {
        self.leave_caller();
        while self.is_wanted() {
            let mut free = match lane.take() {
                Some(lane) => lane,
                None => match self.lanes.lane().await {
                    Ok(lane) => lane,
                    Err(error) => {
                        unsent_each(self.take(), &error);
                        continue;
                    }
                },
            };
            let mut calls = self.take();
            if self.is_for_one(&calls)
                && let Some(waiting) = calls.pop()
            {
                self.queue.is_hot.store(false, Ordering::Relaxed);
                // If its caller is gone, the lane is dropped, and serves those who wait by then.
                let _ = waiting.word.send(Word::Free(free.with(self.of_caller())));
                return;
            }
            if !calls.is_empty() {
                self.run(calls, &mut free).await;
                // Those who got their answers call again before the next take: else the first of them would go alone, and all others
                // wait for it. Half of the throughput.
                tokio::task::yield_now().await;
            }
            if free.is_clean() && !self.lanes.has_waiting() {
                lane = Some(free);
            }
        }
    }

    fn take(&self) -> Vec<Waiting<DB>> {
        let mut state = self.queue.state();
        let count = state.waiting.len().min(CALLS);
        state.takes += 1;
        state.taken = count;
        let taken = state.waiting.drain(..count);
        // Of the others the callers are gone.
        taken.filter(|waiting| !waiting.word.is_closed()).collect()
    }

    /// Whether a single call runs by itself: a statement about many takes the server twice as long as one about one. It may wait on the lane for the
    /// lock of its row, so it does not where another call has a lane to itself, or rows are known to be locked.
    fn is_for_one(&self, calls: &[Waiting<DB>]) -> bool {
        let mut state = self.queue.state();
        calls.len() == 1 && state.of_callers == 0 && held::is_none(&mut state.held)
    }

    async fn run(&self, calls: Vec<Waiting<DB>>, lane: &mut Lane<DB>) {
        let mut parts = vec![calls];
        while let Some(calls) = parts.pop() {
            let mut calls = self.without_held(calls);
            let error = match self.queue.send(&calls, lane).await {
                Ok(words) => {
                    for (waiting, word) in calls.into_iter().zip(words) {
                        let _ = waiting.word.send(word);
                    }
                    continue;
                }
                Err(error) => error,
            };
            let fault = Fault::of(&error);
            if fault.may_have_committed() {
                failed_each(calls, &error);
                // Of these the server has said that it did nothing.
                alone_each(parts.into_iter().flatten());
                return;
            }
            if self.queue.has_one_writer() {
                // It ends within the transaction that was begun for it.
                let _ = DB::unwind(lane).await;
            }
            if fault == Fault::Busy {
                // Each has waited as long as a call by itself.
                failed_each(calls.into_iter().chain(parts.into_iter().flatten()), &error);
                return;
            }
            // Nothing was written. Whatever it is: a call by itself gets its own error.
            if fault == Fault::LockTimeout {
                let (held, others) = self.find_held(calls, lane).await;
                if !held.is_empty() {
                    HeldRow::hold(&self.lanes, &self.queue, held);
                    parts.push(others);
                    continue;
                }
                calls = others;
            }
            if fault == Fault::Schema {
                self.queue.is_off.store(true, Ordering::Relaxed);
            }
            if calls.len() > 1 && may_be_one(fault) {
                calls.sort_by(|a, b| a.call.key().cmp(b.call.key()));
                let others = calls.split_off(calls.len() / 2);
                parts.extend([others, calls]);
                continue;
            }
            match fault {
                // What it waited for may be another table's.
                Fault::LockTimeout => HeldRow::hold(&self.lanes, &self.queue, calls),
                _ => alone_each(calls),
            }
        }
    }

    /// Those whose rows are not known to be locked. The others wait for these.
    fn without_held(&self, calls: Vec<Waiting<DB>>) -> Vec<Waiting<DB>> {
        if held::is_none(&mut self.queue.state().held) {
            return calls;
        }
        let calls = calls.into_iter();
        let others = calls.filter_map(|waiting| HeldRow::join(&self.lanes, &self.queue, waiting));
        others.collect()
    }

    /// Asks which of the rows are locked: their calls, and the others.
    async fn find_held(
        &self,
        calls: Vec<Waiting<DB>>,
        lane: &mut Lane<DB>,
    ) -> (Vec<Waiting<DB>>, Vec<Waiting<DB>>) {
        let Some(held) = self.queue.fold.held else {
            return (Vec::new(), calls);
        };
        let given: Vec<_> = calls.iter().map(|waiting| &waiting.call).collect();
        let statement = of_keys(held, &given);
        // If it fails it says nothing about the calls, which go on without it.
        let found = statement.fetch_all(&mut lane.link()).await;
        let places = found.unwrap_or_default();
        let places: HashSet<usize> = places.iter().map(number::<DB>).collect();
        let (held, others): (Vec<_>, Vec<_>) = calls
            .into_iter()
            .enumerate()
            .partition(|(place, _)| places.contains(place));
        let calls = |part: Vec<(usize, _)>| part.into_iter().map(|(_, waiting)| waiting).collect();
        (calls(held), calls(others))
    }
}

impl<DB: Backend> Queue<DB> {
    /// What the statement says of each call.
    pub(super) async fn send(
        &self,
        calls: &[Waiting<DB>],
        lane: &mut Lane<DB>,
    ) -> Result<Vec<Word<DB>>, sqlx::Error> {
        let mut words: Vec<_> = calls.iter().map(|_| Word::Alone).collect();
        let tells_keys = self.fold.tells_keys::<DB>();
        let rows = rows(calls, tells_keys);
        // All were refused before, or their callers are gone.
        if rows.is_empty() {
            return Ok(words);
        }
        let given: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((&calls.get(*row.calls.first()?)?.call, row.sum)))
            .collect();
        let is_hot = rows.len() < calls.len().div_ceil(2);
        self.is_hot.store(is_hot, Ordering::Relaxed);
        let statement = match (self.fold.one, given.as_slice()) {
            (Some(sql), [(call, Some(sum))]) => of_one(sql, call, *sum),
            _ => statement(self.fold, &given),
        };
        let mut met = vec![0; rows.len()];
        observe::folded(calls.len());
        let returned = statement.fetch_all(&mut lane.link()).await?;
        let mut placed = Vec::with_capacity(returned.len());
        for row in returned {
            let place = match tells_keys {
                true => place_of_key(&given, &row)?,
                false => number::<DB>(&row),
            };
            if let Some(times) = met.get_mut(place) {
                *times += 1;
                placed.push((place, row));
            }
        }
        for (place, returned) in placed {
            // What is met twice is not unique: the call by itself says so.
            let Some(row) = rows.get(place).filter(|_| met.get(place) == Some(&1)) else {
                continue;
            };
            match row.sum {
                None => {
                    if let Some(word) = row.calls.first().and_then(|call| words.get_mut(*call)) {
                        *word = Word::Row(returned);
                    }
                }
                Some(sum) => {
                    let total = DB::get_i64(&returned, 0).ok().flatten();
                    let mut total = total.map(|total| total.wrapping_sub(sum.delta));
                    for call in &row.calls {
                        let addition = calls.get(*call).and_then(|waiting| waiting.call.addition());
                        let delta = addition.map_or(0, |addition| addition.delta);
                        total = total.map(|total| total.wrapping_add(delta));
                        if let Some(word) = words.get_mut(*call) {
                            *word = Word::Total(total);
                        }
                    }
                }
            }
        }
        Ok(words)
    }
}

/// Each is to call by itself.
pub(super) fn alone_each<DB: Backend>(calls: impl IntoIterator<Item = Waiting<DB>>) {
    for waiting in calls {
        let _ = waiting.word.send(Word::Alone);
    }
}

/// Each is told so.
pub(super) fn failed_each<DB: Backend>(
    calls: impl IntoIterator<Item = Waiting<DB>>,
    error: &sqlx::Error,
) {
    for waiting in calls {
        let _ = waiting.word.send(Word::Failed(copy(error)));
    }
}

/// None was sent.
pub(super) fn unsent_each<DB: Backend>(calls: Vec<Waiting<DB>>, error: &sqlx::Error) {
    for waiting in calls {
        let _ = waiting.word.send(Word::Unsent(copy(error)));
    }
}

/// Whether a part of the calls may have done it, and the others would be served without.
fn may_be_one(fault: Fault) -> bool {
    fault.is_of_a_row()
        || matches!(
            fault,
            Fault::LockTimeout
                | Fault::Deadlock
                | Fault::Serialization
                | Fault::Canceled
                // Types that differ.
                | Fault::Encode
        )
}

/// A row of the statement: the calls that it is for.
struct Row {
    calls: Vec<usize>,
    /// Of additions.
    sum: Option<Addition>,
}

/// In the order of the keys, so that two statements lock in the same order. Additions to the same key become one. `apart`: of other calls with the
/// same key all but the first go alone.
fn rows<DB: Backend>(calls: &[Waiting<DB>], apart: bool) -> Vec<Row> {
    let mut by_key: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (index, waiting) in calls.iter().enumerate() {
        by_key.entry(waiting.call.key()).or_default().push(index);
    }
    let mut rows = Vec::with_capacity(by_key.len());
    for group in by_key.into_values() {
        let additions: Option<Vec<Addition>> = group
            .iter()
            .map(|call| calls.get(*call)?.call.addition())
            .collect();
        match additions {
            None => {
                let most = if apart { 1 } else { group.len() };
                rows.extend(group.into_iter().take(most).map(|call| Row {
                    calls: vec![call],
                    sum: None,
                }));
            }
            Some(additions) => {
                // Refused, or with a sum beyond all numbers: none is in the statement, and each goes alone.
                if let Some(sum) = sum(&additions) {
                    rows.push(Row {
                        calls: group,
                        sum: Some(sum),
                    });
                }
            }
        }
    }
    rows
}

/// What they are one after the other: an old value allows it if each total on the way allows the next.
fn sum(additions: &[Addition]) -> Option<Addition> {
    let (mut delta, mut low, mut high) = (0_i128, i128::MIN, i128::MAX);
    for addition in additions {
        low = low.max(i128::from(addition.low) - delta);
        high = high.min(i128::from(addition.high) - delta);
        delta += i128::from(addition.delta);
    }
    let clamp = |value: i128| {
        let value = value.clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(value).ok()
    };
    if low > high || low > i128::from(i64::MAX) || high < i128::from(i64::MIN) {
        return None;
    }
    Some(Addition {
        delta: i64::try_from(delta).ok()?,
        low: clamp(low)?,
        high: clamp(high)?,
    })
}

/// Which row of the statement it is about: its last column says so, from 1. No error: what was written must not be written again.
fn number<DB: Backend>(row: &DB::Row) -> usize {
    let number = DB::get_i64(row, sqlx::Row::len(row).saturating_sub(1));
    let number = number.ok().flatten();
    let place = number.and_then(|number| usize::try_from(number).ok());
    place.unwrap_or_default().wrapping_sub(1)
}

/// The same where the last columns are the key: `given` is in the order of the keys.
///
/// The statement writes only rows that have one of them, as it was given. If it did not, nobody could say whose that row is, and what became of the
/// others.
fn place_of_key<DB: Backend>(
    given: &[(&Call<DB>, Option<Addition>)],
    row: &DB::Row,
) -> Result<usize, sqlx::Error> {
    let key = given.first().and_then(|(call, _)| call.key_of(row));
    let place = key.and_then(|key| {
        let place = given.binary_search_by(|(call, _)| call.key().cmp(&key));
        place.ok()
    });
    place.ok_or_else(|| sqlx::Error::Protocol("a row was written that nobody asked for".into()))
}

/// What a call runs on. Or, if that is [`Lanes`] and others wait, what one statement says for it: `sql` is about many rows, `call` says of this
/// one what is bound.
pub(crate) async fn take<'c, DB: Backend, A: Source<'c, DB>>(
    db: A,
    fold: Option<Fold>,
    call: impl FnOnce() -> Option<Call<DB>> + Send,
) -> Result<Turn<OnLane<A::Opened, DB>, DB::Row>, sqlx::Error> {
    let (Some(lanes), Some(fold)) = (db.lanes(), fold) else {
        return db.open().await.map(Either::Left).map(Turn::Alone);
    };
    match lanes.wait(fold, call).await {
        Waited::Free(lane) => alone(lane),
        Waited::Told(Word::Row(row)) => Ok(Turn::Answered(Ok(row))),
        Waited::Told(word) => lanes.other(word).await,
    }
}

/// The same of an addition, which yields its total.
pub(crate) async fn take_to_add<'c, DB: Backend, A: Source<'c, DB>>(
    db: A,
    fold: Option<Fold>,
    call: impl FnOnce() -> Option<Call<DB>> + Send,
) -> Result<Turn<OnLane<A::Opened, DB>, Option<i64>>, sqlx::Error> {
    let (Some(lanes), Some(fold)) = (db.lanes(), fold) else {
        return db.open().await.map(Either::Left).map(Turn::Alone);
    };
    match lanes.wait(fold, call).await {
        Waited::Free(lane) => alone(lane),
        Waited::Told(Word::Total(total)) => Ok(Turn::Answered(Ok(total))),
        Waited::Told(word) => lanes.other(word).await,
    }
}

/// A call for which no other waited.
fn alone<O, DB: Backend, T>(
    lane: Result<Lane<DB>, sqlx::Error>,
) -> Result<Turn<OnLane<O, DB>, T>, sqlx::Error> {
    observe::folded(1);
    lane.map(Either::Right).map(Turn::Alone)
}

/// A lane, or what else a method runs on.
pub(crate) type OnLane<O, DB> = Either<O, Lane<DB>>;

impl<DB: Backend, O: Opened<DB>> Opened<DB> for OnLane<O, DB> {
    fn link(&mut self) -> Link<'_, DB> {
        match self {
            Self::Left(opened) => opened.link(),
            Self::Right(lane) => lane.link(),
        }
    }
}

impl<DB: Backend> Lanes<DB> {
    /// A call that no statement has served.
    async fn other<O, T>(&self, word: Word<DB>) -> Result<Turn<OnLane<O, DB>, T>, sqlx::Error> {
        let lane = match word {
            Word::Failed(error) => return Ok(Turn::Answered(Err(error))),
            Word::Unsent(error) => return Err(error),
            Word::Held(row) => row.lane().await,
            Word::Free(lane) => {
                observe::folded(1);
                Ok(lane)
            }
            Word::Alone | Word::Row(_) | Word::Total(_) => {
                let lane = self.0.lane().await;
                return lane.map(Either::Right).map(Turn::PassedOver);
            }
        };
        lane.map(Either::Right).map(Turn::Alone)
    }

    async fn wait(&self, fold: Fold, call: impl FnOnce() -> Option<Call<DB>> + Send) -> Waited<DB> {
        if let Err(error) = self.0.is_open() {
            return Waited::Free(Err(error));
        }
        let queue = self.queue(fold);
        if queue.is_off.load(Ordering::Relaxed) {
            return Waited::Free(self.0.lane().await);
        }
        if let Some(place) = self.place(&queue, None) {
            let place = place.of_caller();
            let lane = self.0.lane().await;
            return Waited::Free(lane.map(|lane| lane.with(place)));
        }
        // What it binds is encoded here, where a panic is the caller's.
        let Some(call) = call() else {
            return Waited::Free(self.0.lane().await);
        };
        let (word, told) = oneshot::channel();
        if let Some(waiting) = HeldRow::join(&self.0, &queue, Waiting { call, word })
            && let Some(place) = self.place(&queue, Some(waiting))
        {
            tokio::spawn(place.serve(None));
        }
        // Nobody answers when the runtime ends.
        let gone = || Word::Failed(sqlx::Error::Io(io::ErrorKind::ConnectionAborted.into()));
        Waited::Told(told.await.unwrap_or_else(|_| gone()))
    }

    /// A place, if one may be under way beside those that are. Else who waits is one of those who wait.
    fn place(&self, queue: &Arc<Queue<DB>>, waiting: Option<Waiting<DB>>) -> Option<Place<DB>> {
        let mut state = queue.state();
        let is_alone = waiting.is_none();
        // Where rows are locked, only what it binds tells whether one of them is its row.
        if is_alone && !(state.waiting.is_empty() && held::is_none(&mut state.held)) {
            return None;
        }
        state.waiting.extend(waiting);
        let is_worth_two = !queue.is_hot.load(Ordering::Relaxed)
            && match is_alone {
                // Else those that are about to be answered will call again, and had better wait for each other.
                true => state.taken < MANY,
                false => state.waiting.len() >= MANY,
            };
        let most = match (self.0.is_near, is_worth_two) {
            _ if queue.has_one_writer() => 1,
            (true, false) => 1,
            (true, true) => self.0.count.min(2),
            (false, _) => self.0.count,
        };
        if state.under_way >= most {
            drop(state);
            if !is_alone {
                self.watch();
            }
            return None;
        }
        state.under_way += 1;
        drop(state);
        Some(Place::new(Arc::clone(&self.0), Arc::clone(queue)))
    }

    fn queue(&self, fold: Fold) -> Arc<Queue<DB>> {
        let queues = self.0.queues.read();
        let queues = queues.unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&fold.place()) {
            return Arc::clone(queue);
        }
        drop(queues);
        let queues = self.0.queues.write();
        let mut queues = queues.unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(fold.place()).or_insert_with(|| {
            Arc::new(Queue {
                fold,
                state: Mutex::new(State {
                    waiting: VecDeque::new(),
                    under_way: 0,
                    of_callers: 0,
                    takes: 0,
                    taken: 0,
                    seen: 0,
                    held: HeldRows::default(),
                }),
                is_off: AtomicBool::new(false),
                is_hot: AtomicBool::new(false),
            })
        });
        Arc::clone(queue)
    }

    /// Looks after those who wait, as long as there are any: a statement that waits for a lock must not stop the others.
    fn watch(&self) {
        if !self.0.is_watched.swap(true, Ordering::SeqCst) {
            tokio::spawn(watch(Arc::clone(&self.0)));
        }
    }
}

async fn watch<DB: Backend>(lanes: Arc<Inner<DB>>) {
    loop {
        sleep(PATIENCE).await;
        let queues = lanes.queues.read();
        let queues: Vec<_> = queues
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        let mut is_quiet = true;
        for queue in &queues {
            let mut state = queue.state();
            let is_stuck = state.takes == state.seen && !state.waiting.is_empty();
            // Where there is one writer, a second statement would only be in the way of one that comes to its end.
            let is_stuck =
                is_stuck && !(queue.has_one_writer() && state.under_way > state.of_callers);
            is_quiet &= state.takes == state.seen && state.waiting.is_empty();
            state.seen = state.takes;
            if is_stuck {
                state.under_way += 1;
                drop(state);
                let place = Place::new(Arc::clone(&lanes), Arc::clone(queue));
                tokio::spawn(place.serve(None));
            }
        }
        if is_quiet {
            lanes.is_watched.store(false, Ordering::SeqCst);
            // A call may have come since, and have seen that there is a watch.
            let is_wanted = |queue: &Arc<Queue<DB>>| !queue.state().waiting.is_empty();
            if !queues.iter().any(is_wanted) || lanes.is_watched.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}
