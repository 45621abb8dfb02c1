//! Jobs that are not wanted any more.

use std::future::Future;

use super::QueueState;
use super::batch::dropped;
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::db::fault::Fault;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Statement};

/// What `cancel` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a job that has ended was not cancelled"]
pub enum Cancelled {
    /// The job was ready or running, and is [`QueueState::Dead`] now. What a handler has done of it up to then is done.
    Now,
    /// It had ended already, as done or dead, and stays as it is.
    Ended,
    /// There is no such job. It may have been done, if jobs that are done are deleted.
    NotFound,
}

/// The key as a caller gives it, for [`Model`].
#[derive(Debug)]
pub struct Given;

/// The statements about one job by its key, which nobody has claimed here.
pub trait CancelSql<DB: Backend>: Model<Given> {
    /// Key.
    const CANCEL: &'static str;
    /// The state of the job: key.
    const STATE_OF: &'static str;

    /// Binds the key as `$1…`.
    fn bind_given(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
}

/// Gives up the job with this key, unless it has ended.
pub fn cancel<'c, DB: Backend, T: CancelSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<Cancelled, DatabaseError>> + Send {
    T::observed::<DB, _>("cancel", async move {
        let at = || T::operation("cancel", &key);
        let mut opened = acquire(db, &at).await?;
        let failed = |error| DatabaseError::new(at(), error);
        let mut connection = opened.link();
        let cancelled = try_cancel::<DB, T>(&key, &mut connection).await;
        let cancelled = match cancelled.map_err(failed)? {
            None => try_cancel::<DB, T>(&key, &mut connection).await,
            found => Ok(found),
        };
        let dropped = || failed(dropped()).with_fault(Fault::Raised);
        cancelled.map_err(failed)?.ok_or_else(dropped)
    })
}

/// `None` if nothing was written, and the job has not ended: it was made ready just now, or a trigger drops the write.
async fn try_cancel<DB: Backend, T: CancelSql<DB>>(
    key: &T::Key<'_>,
    connection: &mut Link<'_, DB>,
) -> Result<Option<Cancelled>, sqlx::Error> {
    let about = |sql| {
        let mut statement = Statement::<DB>::literal(sql);
        T::bind_given(key, &mut Compared(&mut statement));
        statement
    };
    if about(T::CANCEL).execute(connection).await? > 0 {
        return Ok(Some(Cancelled::Now));
    }
    let Some(row) = about(T::STATE_OF).fetch_all(connection).await?.pop() else {
        return Ok(Some(Cancelled::NotFound));
    };
    let state = DB::get_text(&row, 0)?;
    let open = [QueueState::Ready, QueueState::Running];
    let is_open = open.iter().any(|open| state == open.as_str());
    Ok((!is_open).then_some(Cancelled::Ended))
}
