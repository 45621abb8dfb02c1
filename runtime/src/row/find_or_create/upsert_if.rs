//! An upsert that overwrites the row only if it meets a condition.

use std::future::Future;

use sqlx::Row as _;

use super::create::{insert, insert_new};
use super::upsert::{Refused, bind_upsert, has_created, in_the_way, one_of, read_written};
use super::{ROUNDS, UniqueKeySql, UpsertError, Upserted, met_elsewhere};
use crate::db::Backend;
use crate::db::condition::{Condition, Expression, Names};
use crate::db::error::{Operation, WriteFailure};
use crate::db::model::acquire;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Compared, Fetched, Statement};

/// Creates the row, or overwrites the one that has the key if that meets the condition.
pub fn upsert_if<'c, DB, const N: usize, T, E>(
    db: impl Source<'c, DB>,
    new: T::New,
    condition: Condition<T, E>,
) -> impl Future<Output = Result<Upserted<T>, UpsertError>> + Send
where
    DB: Backend,
    T: UniqueKeySql<DB, N> + Names<DB>,
    E: Expression<DB>,
{
    T::observed::<DB, _>(T::METHODS[5], async move {
        let operation = || T::operation(T::METHODS[5], &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(UpsertError::Database)?;
        let mut connection = opened.link();
        let call = Call {
            new: &new,
            condition: &condition,
            operation: &operation,
        };
        let (mut violated, mut taken) = (false, false);
        for _ in 0..ROUNDS {
            let outcome = call.overwrite::<DB, N>(&mut connection).await;
            // Once: a row that would violate another index does so each time.
            if !violated
                && met_elsewhere::<DB, N, T>(outcome.as_ref().err(), &new, &mut connection).await
            {
                violated = true;
                continue;
            }
            if let Some(row) =
                one_of::<DB, N, T>(outcome, &new, &operation, &mut connection).await?
            {
                return call.upserted::<DB, N>(&row);
            }
            let met = call.look::<DB, N>(&mut connection).await?;
            taken = T::GENERATED && matches!(met, Met::Nothing);
            match met {
                Met::Refused(row) => return Ok(Upserted::Refused(row)),
                // A concurrent writer changed the row since, or something drops the write.
                Met::Holds => {}
                // It deleted the row, or the upsert cannot create one.
                Met::Nothing if DB::UPSERT_TELLS => {}
                Met::Nothing => {
                    let created = insert_new::<DB, T>(T::INSERT, &new, &mut connection).await;
                    let error = created.as_ref().err();
                    if met_elsewhere::<DB, N, T>(error, &new, &mut connection).await {
                        continue;
                    }
                    let created =
                        one_of::<DB, N, T>(created, &new, &operation, &mut connection).await?;
                    if let Some(row) = created {
                        return read_written(&row, &operation).map(Upserted::Created);
                    }
                }
            }
        }
        Err(if taken {
            UpsertError::KeyTaken(operation())
        } else {
            UpsertError::Ignored(operation())
        })
    })
}

/// What a look found after an upsert that wrote nothing.
enum Met<T> {
    Refused(T),
    /// Nothing is in the way of the upsert by now.
    Holds,
    Nothing,
}

struct Call<'c, T, New, E> {
    new: &'c New,
    condition: &'c Condition<T, E>,
    operation: &'c (dyn Fn() -> Operation + Sync),
}

impl<T, New, E> Call<'_, T, New, E> {
    async fn overwrite<DB, const N: usize>(
        &self,
        connection: &mut Link<'_, DB>,
    ) -> Result<Fetched<DB::Row>, sqlx::Error>
    where
        DB: Backend,
        T: UniqueKeySql<DB, N, New = New> + Names<DB>,
        New: Sync,
        E: Expression<DB>,
    {
        let statement = || {
            let [head, tail] = T::UPSERT_IF;
            let mut statement = Statement::composed(head);
            bind_upsert::<DB, T>(self.new, &mut statement);
            self.condition.write_of(T::THERE, &mut statement);
            statement.push(tail);
            statement
        };
        insert(&statement, connection).await
    }

    /// The row that was written.
    fn upserted<DB, const N: usize>(&self, row: &DB::Row) -> Result<Upserted<T>, UpsertError>
    where
        DB: Backend,
        T: UniqueKeySql<DB, N, New = New>,
    {
        let created = has_created::<DB>(row, self.operation)?;
        let row = read_written(row, self.operation)?;
        Ok(if created {
            Upserted::Created(row)
        } else {
            Upserted::Updated(row)
        })
    }

    /// Reads the row and whether it meets the condition, in one statement.
    async fn look<DB, const N: usize>(
        &self,
        connection: &mut Link<'_, DB>,
    ) -> Result<Met<T>, UpsertError>
    where
        DB: Backend,
        T: UniqueKeySql<DB, N, New = New> + Names<DB>,
        New: Sync,
        E: Expression<DB>,
    {
        let mut look = Statement::composed(T::LOOK[0]);
        T::bind_key(&T::key_of(self.new), &mut Compared(&mut look));
        self.condition.write_of(T::THERE, &mut look);
        look.push(T::LOOK[1]);
        let met = match look.fetch_one(connection).await {
            Ok(Fetched::One(row)) => self.met::<DB, N>(&row),
            Ok(Fetched::None) => return Ok(Met::Nothing),
            Ok(Fetched::Several) => return Err(UpsertError::NotUnique((self.operation)())),
            Err(error) => Err(error),
        };
        match met {
            Ok(Ok(met)) => Ok(met),
            Ok(Err(refused)) => Err(refused.of((self.operation)())),
            // A read: whatever happens to it, nothing was written.
            Err(error) => Err(WriteFailure::new((self.operation)(), error, true).into()),
        }
    }

    fn met<DB, const N: usize>(&self, row: &DB::Row) -> Result<Result<Met<T>, Refused>, sqlx::Error>
    where
        DB: Backend,
        T: UniqueKeySql<DB, N, New = New>,
    {
        if DB::get_i64(row, row.len() - 1)? != Some(1) {
            return (T::ROW)(row).map(|row| Ok(Met::Refused(row)));
        }
        Ok(match in_the_way::<DB, T>(self.new, row)? {
            Some(refused) => Err(refused),
            None => Ok(Met::Holds),
        })
    }
}
