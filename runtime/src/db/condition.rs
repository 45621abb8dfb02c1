//! Conditions that a caller gives on the columns of a row: what they are, and how they are written.

use std::marker::PhantomData;

use crate::db::Backend;
use crate::db::column::{Column, CounterNumber};
use crate::db::statement::{Bind, Compared, Statement};

/// A field of a model as a typed constant: `Token::CONSUMED_AT`. [`Guarded`](derive@crate::Guarded) generates one for each field,
/// [`Queue`](derive@crate::Queue) one for each marked `#[rowlock(filter)]`.
///
/// Its methods make conditions, and [`Set`](crate::row::Set) takes it to write a value. Compare it with a value of the field's type, with the value
/// of an `Option` without `Some`, with a `&str` for a `String`, or with another field of the same type.
///
/// ```
/// use rowlock::Guarded;
///
/// #[derive(sqlx::FromRow, Guarded)]
/// #[rowlock(table = "tokens")]
/// struct Token {
///     #[rowlock(key)]
///     id: i64,
///     owner: String,
///     uses: i32,
///     limit: Option<i32>,
///     consumed_at: Option<i64>,
/// }
///
/// let usable = Token::CONSUMED_AT.is_null()
///     .and(Token::OWNER.eq("ann"))
///     .and(Token::LIMIT.is_null().or(Token::USES.lt(Token::LIMIT)));
/// # let _ = usable;
/// ```
pub struct Field<T, V, A = Settable> {
    index: usize,
    min: i64,
    max: i64,
    of: Of<(T, V, A)>,
}

/// Without one: a field is `Send` and `Sync` whatever it is of.
type Of<T> = PhantomData<fn() -> T>;

/// A [`Field`] that [`Set::set`](crate::row::Set::set) takes.
#[derive(Debug)]
pub enum Settable {}
/// A [`Field`] that is a counter: [`Set::add`](crate::row::Set::add) takes it, within its bounds; `set` does not.
#[derive(Debug)]
pub enum Counted {}
/// A [`Field`] for comparisons only: a key, a version, or a column that the database or another derive writes.
#[derive(Debug)]
pub enum ReadOnly {}

/// A column that `set` writes.
#[diagnostic::on_unimplemented(
    message = "`set` does not write this column",
    label = "this field is `{Self}`",
    note = "a `Counted` field is written by `add`",
    note = "a `ReadOnly` field is the key, the version, or written by the database or by another derive"
)]
#[doc(hidden)]
pub trait TakesSet {}
impl TakesSet for Settable {}

/// A column that `add` writes.
#[diagnostic::on_unimplemented(
    message = "`add` does not write this column",
    label = "this field is `{Self}`",
    note = "`add` is for counters: mark the field with `#[rowlock(counter)]`"
)]
#[doc(hidden)]
pub trait TakesAdd {}
impl TakesAdd for Counted {}

impl<T, V, A> Clone for Field<T, V, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V, A> Copy for Field<T, V, A> {}

impl<T, V, A> std::fmt::Debug for Field<T, V, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Field").field(&self.index).finish()
    }
}

impl<T, V, A> Field<T, V, A> {
    #[doc(hidden)]
    pub const fn new(index: usize) -> Self {
        Self::within(index, i64::MIN, i64::MAX)
    }

    #[doc(hidden)]
    pub const fn within(index: usize, min: i64, max: i64) -> Self {
        Self {
            index,
            min,
            max,
            of: PhantomData,
        }
    }

    pub(crate) fn index(self) -> usize {
        self.index
    }

    pub(crate) fn bounds(self) -> (i64, i64) {
        (self.min, self.max)
    }

    fn compared<R>(self, operator: Operator, right: R) -> Condition<T, Comparison<V>>
    where
        R: Operand<T, V>,
    {
        Condition::new(Comparison {
            left: self.index,
            operator,
            right: right.into_side(),
        })
    }

    /// Equal as `==` in Rust: NULL equals NULL, and nothing else. `IS NOT DISTINCT FROM` on PostgreSQL, `IS` on SQLite.
    pub fn eq(self, right: impl Operand<T, V>) -> Condition<T, Comparison<V>> {
        self.compared(Operator::Same, right)
    }

    /// The opposite of [`eq`](Self::eq).
    pub fn ne(self, right: impl Operand<T, V>) -> Condition<T, Comparison<V>> {
        self.compared(Operator::Other, right)
    }

    /// `<`, as the database orders the values. Not met if one of the two is NULL.
    pub fn lt(self, right: impl Operand<T, V>) -> Condition<T, Comparison<V>> {
        self.compared(Operator::Less, right)
    }

    /// `<=`. Not met if one of the two is NULL.
    pub fn le(self, right: impl Operand<T, V>) -> Condition<T, Comparison<V>> {
        self.compared(Operator::AtMost, right)
    }

    /// `>`. Not met if one of the two is NULL.
    pub fn gt(self, right: impl Operand<T, V>) -> Condition<T, Comparison<V>> {
        self.compared(Operator::Greater, right)
    }

    /// `>=`. Not met if one of the two is NULL.
    pub fn ge(self, right: impl Operand<T, V>) -> Condition<T, Comparison<V>> {
        self.compared(Operator::AtLeast, right)
    }

    /// Equal to one of these values, as [`eq`](Self::eq). Not met if there are none. Each number of values is a statement of its own.
    pub fn one_of<R>(self, values: impl IntoIterator<Item = R>) -> Condition<T, OneOf<V>>
    where
        R: Operand<T, V>,
    {
        let values = values.into_iter().map(Operand::into_side).collect();
        Condition::new(OneOf {
            left: self.index,
            values,
        })
    }
}

impl<T, V, A> Field<T, V, A> {
    /// `IS NULL`, of a field that is an `Option`.
    pub fn is_null(self) -> Condition<T, Nullness>
    where
        V: MayBeNull,
    {
        Condition::new(Nullness {
            field: self.index,
            null: true,
        })
    }

    /// `IS NOT NULL`, of a field that is an `Option`.
    pub fn is_not_null(self) -> Condition<T, Nullness>
    where
        V: MayBeNull,
    {
        Condition::new(Nullness {
            field: self.index,
            null: false,
        })
    }
}

/// A field that can be NULL.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` is never NULL",
    label = "only an `Option` can be",
    note = "if the column is nullable, make the field an `Option`"
)]
#[doc(hidden)]
pub trait MayBeNull {}
impl<V> MayBeNull for Option<V> {}

/// What a [`Field`] of the model `T` with values `V` can be compared with: a `V`, for `Option<V>` also a `V`, for `String` also `&str`, or
/// another field.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no value of a field of type `{V}`",
    label = "expected `{V}`, or a field of that type"
)]
pub trait Operand<T, V> {
    #[doc(hidden)]
    fn into_side(self) -> Side<V>;
}

/// The right side of a comparison.
#[doc(hidden)]
#[derive(Debug)]
pub enum Side<V> {
    Value(V),
    Field(usize),
}

impl<T, V> Operand<T, V> for V {
    fn into_side(self) -> Side<V> {
        Side::Value(self)
    }
}

impl<T, V> Operand<T, Option<V>> for V {
    fn into_side(self) -> Side<Option<V>> {
        Side::Value(Some(self))
    }
}

impl<T> Operand<T, String> for &str {
    fn into_side(self) -> Side<String> {
        Side::Value(self.to_owned())
    }
}

impl<T> Operand<T, Option<String>> for &str {
    fn into_side(self) -> Side<Option<String>> {
        Side::Value(Some(self.to_owned()))
    }
}

impl<T, V, A> Operand<T, V> for Field<T, V, A> {
    fn into_side(self) -> Side<V> {
        Side::Field(self.index)
    }
}

impl<T, V, A> Operand<T, Option<V>> for Field<T, V, A> {
    fn into_side(self) -> Side<Option<V>> {
        Side::Field(self.index)
    }
}

impl<T, V, A> Operand<T, V> for Field<T, Option<V>, A> {
    fn into_side(self) -> Side<V> {
        Side::Field(self.index)
    }
}

/// A condition on a row of the model `T`, part of the statement that writes it. Values are bound; none of the caller's text gets into the SQL.
///
/// Made by the methods of [`Field`]. A condition that is NULL is not met, as in every WHERE.
#[derive(Debug)]
#[must_use = "a condition is checked by the statement that it is given to"]
pub struct Condition<T, E> {
    expression: E,
    of: Of<T>,
}

impl<T, E> Condition<T, E> {
    pub(crate) fn new(expression: E) -> Self {
        Self {
            expression,
            of: PhantomData,
        }
    }

    /// Both.
    pub fn and<F>(self, other: Condition<T, F>) -> Condition<T, And<E, F>> {
        Condition::new(And(self.expression, other.expression))
    }

    /// One of the two, or both.
    pub fn or<F>(self, other: Condition<T, F>) -> Condition<T, Or<E, F>> {
        Condition::new(Or(self.expression, other.expression))
    }

    pub(crate) fn write<DB: Backend>(&self, to: &mut Statement<DB>)
    where
        T: Names<DB>,
        E: Expression<DB>,
    {
        self.write_of("", to);
    }

    /// The same where a column's name alone could be that of another row: `table` stands before each, with its dot.
    pub(crate) fn write_of<DB: Backend>(&self, table: &'static str, to: &mut Statement<DB>)
    where
        T: Names<DB>,
        E: Expression<DB>,
    {
        self.write_in(T::NAMES, table, to);
    }

    /// The same, with the names of another derive.
    pub(crate) fn write_in<DB: Backend>(
        &self,
        names: &'static [&'static str],
        table: &'static str,
        to: &mut Statement<DB>,
    ) where
        E: Expression<DB>,
    {
        self.expression.write(&mut Writer {
            statement: to,
            table,
            names,
        });
    }
}

/// The columns of a model as a database writes their names, in the order of [`Field`]'s index.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not derive `Guarded` for `{DB}`",
    label = "this needs the columns of `{Self}` as constants",
    note = "add it: `#[derive(Guarded, ...)]`"
)]
#[doc(hidden)]
pub trait Names<DB: Backend> {
    const NAMES: &'static [&'static str];
}

/// What a condition is made of.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no condition for `{DB}`",
    label = "a value in this condition cannot be stored in a `{DB}` column"
)]
#[doc(hidden)]
pub trait Expression<DB: Backend>: Send + Sync {
    fn write(&self, to: &mut Writer<'_, DB>);
}

/// Where a condition is written to.
#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct Writer<'s, DB: Backend> {
    statement: &'s mut Statement<DB>,
    table: &'static str,
    names: &'static [&'static str],
}

impl<DB: Backend> Writer<'_, DB> {
    fn push(&mut self, sql: &'static str) {
        self.statement.push(sql);
    }

    /// A field, the operator and what it is compared with.
    fn compared<V: Column<DB>>(&mut self, left: usize, operator: Operator, right: &Side<V>) {
        let [before, after] = DB::compared_as(&V::type_info()).unwrap_or_default();
        self.push(before);
        self.name(left);
        self.push(after);
        self.push(operator.sql::<DB>());
        self.push(before);
        self.side(right);
        self.push(after);
    }

    fn name(&mut self, index: usize) {
        self.statement.push(self.table);
        self.statement.push(self.names[index]);
    }

    fn side<V: Column<DB>>(&mut self, side: &Side<V>) {
        match side {
            Side::Field(index) => self.name(*index),
            Side::Value(value) => {
                self.statement.push_parameter();
                Compared(self.statement).bind(0, value);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Operator {
    Same,
    Other,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Operator {
    fn sql<DB: Backend>(self) -> &'static str {
        match self {
            Self::Same => DB::SAME,
            Self::Other => DB::NOT_SAME,
            Self::Less => " < ",
            Self::AtMost => " <= ",
            Self::Greater => " > ",
            Self::AtLeast => " >= ",
        }
    }
}

/// A field and a value, or two fields.
#[doc(hidden)]
#[derive(Debug)]
pub struct Comparison<V> {
    left: usize,
    operator: Operator,
    right: Side<V>,
}

impl<DB: Backend, V: Column<DB> + Send> Expression<DB> for Comparison<V> {
    fn write(&self, to: &mut Writer<'_, DB>) {
        to.compared(self.left, self.operator, &self.right);
    }
}

/// A field and some values.
#[doc(hidden)]
#[derive(Debug)]
pub struct OneOf<V> {
    left: usize,
    values: Vec<Side<V>>,
}

impl<DB: Backend, V: Column<DB> + Send> Expression<DB> for OneOf<V> {
    fn write(&self, to: &mut Writer<'_, DB>) {
        self.any_of(&self.values, to);
    }
}

impl<V> OneOf<V> {
    /// In halves: SQLite takes no expression that is a thousand levels deep.
    fn any_of<DB: Backend>(&self, values: &[Side<V>], to: &mut Writer<'_, DB>)
    where
        V: Column<DB>,
    {
        match values {
            [] => to.push("FALSE"),
            [value] => to.compared(self.left, Operator::Same, value),
            several => {
                let (some, others) = several.split_at(several.len() / 2);
                to.push("(");
                self.any_of(some, to);
                to.push(" OR ");
                self.any_of(others, to);
                to.push(")");
            }
        }
    }
}

/// Whether a field is NULL.
#[doc(hidden)]
#[derive(Debug)]
pub struct Nullness {
    field: usize,
    null: bool,
}

impl<DB: Backend> Expression<DB> for Nullness {
    fn write(&self, to: &mut Writer<'_, DB>) {
        to.name(self.field);
        to.push(if self.null {
            " IS NULL"
        } else {
            " IS NOT NULL"
        });
    }
}

/// What every row meets.
#[doc(hidden)]
#[derive(Debug)]
pub(crate) struct Always;

impl<DB: Backend> Expression<DB> for Always {
    fn write(&self, to: &mut Writer<'_, DB>) {
        to.push("TRUE");
    }
}

#[doc(hidden)]
#[derive(Debug)]
pub struct And<E, F>(E, F);

#[doc(hidden)]
#[derive(Debug)]
pub struct Or<E, F>(E, F);

fn joined<DB: Backend>(
    to: &mut Writer<'_, DB>,
    one: &impl Expression<DB>,
    word: &'static str,
    other: &impl Expression<DB>,
) {
    to.push("(");
    one.write(to);
    to.push(word);
    other.write(to);
    to.push(")");
}

impl<DB: Backend, E: Expression<DB>, F: Expression<DB>> Expression<DB> for And<E, F> {
    fn write(&self, to: &mut Writer<'_, DB>) {
        joined(to, &self.0, " AND ", &self.1);
    }
}

impl<DB: Backend, E: Expression<DB>, F: Expression<DB>> Expression<DB> for Or<E, F> {
    fn write(&self, to: &mut Writer<'_, DB>) {
        joined(to, &self.0, " OR ", &self.1);
    }
}

/// An addition that a write makes: it goes through only if the sum is within these bounds, and no overflow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addition {
    field: usize,
    delta: i64,
    min: i64,
    max: i64,
}

impl Addition {
    pub(crate) fn new<T, V: CounterNumber, A>(field: Field<T, V, A>, delta: i64) -> Self {
        let (min, max) = field.bounds();
        Self {
            field: field.index(),
            delta,
            min: min.max(V::MIN),
            max: max.min(V::MAX),
        }
    }

    /// `"n" = "n" + $1`
    pub(crate) fn assign<DB: Backend>(self, names: &[&'static str], to: &mut Statement<DB>) {
        to.push(names[self.field]);
        to.push(" = ");
        self.sum(names, to);
    }

    fn sum<DB: Backend>(self, names: &[&'static str], to: &mut Statement<DB>) {
        to.push(names[self.field]);
        to.push(" + ");
        to.push_parameter();
        to.bind_i64(self.delta);
    }

    /// ` AND "n" BETWEEN $1 AND $2`: with bounds that no sum of integers leaves, whatever the database makes of one.
    pub(crate) fn write<DB: Backend>(self, names: &[&'static str], to: &mut Statement<DB>) {
        to.push(" AND ");
        to.push(names[self.field]);
        to.push(" BETWEEN ");
        to.push_parameter();
        // A value outside of its bounds can only come back: only the bound that the addition moves to counts.
        to.bind_i64(if self.delta < 0 {
            self.min.saturating_sub(self.delta)
        } else {
            i64::MIN
        });
        to.push(" AND ");
        to.push_parameter();
        to.bind_i64(if self.delta > 0 {
            self.max.saturating_sub(self.delta)
        } else {
            i64::MAX
        });
    }
}
