//! What a transaction knows of the statements that ran on it.

use crate::db::LooksAtCommit;
use crate::db::copied::CopiedError;
use crate::db::fault::Fault;

/// What happened on a transaction, as the driver reported it.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The error that made the server give the transaction up.
    first: Option<CopiedError>,
    /// How the last statement failed, if it did: worth another run, or not.
    last: Option<Fault>,
    /// A statement's future was dropped before its answer: it took effect, or it did not.
    dropped: bool,
    /// The transaction is over although the closure goes on.
    torn: bool,
    /// The connection was lent out: what happened there was not seen.
    lent: bool,
    /// It was, since the database was asked whether the transaction is open.
    lent_since: bool,
    /// Something else can have been its end since then, on SQLite.
    unasked: bool,
    /// A part of an answer may not have been read.
    unread: bool,
    /// The transaction has a mark that it does not share with one that was begun in its place.
    marked: bool,
    /// The connection was lost, as one of the statements said.
    lost: bool,
    /// The future of a question was dropped: its error would be taken for that of the next statement.
    unanswered: bool,
    /// Something went otherwise than well, or was not seen.
    doubtful: bool,
    /// The savepoint that was dropped, on SQLite: what undoes it was handed over, and nobody saw whether it arrived.
    dropped_savepoint: Option<usize>,
}

/// What is done on the transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Whoever drops its future has to take it for executed.
    Statement,
    /// Nothing is written.
    Savepoint,
}

/// What a savepoint can take back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    failed: bool,
    dropped: bool,
    marked: bool,
}

impl Before {
    pub(crate) fn dropped(self) -> bool {
        self.dropped
    }
}

impl Notes {
    /// A statement is sent. Until [`ended`](Self::ended) nobody knows what becomes of it.
    pub(crate) fn sent(&mut self) -> Sent<'_> {
        Sent {
            notes: self,
            is_open: true,
            has_effect: true,
        }
    }

    /// A question is sent for this call. Dropped before its answer it changes nothing, but for one case: on SQLite it may have begun a
    /// transaction in place of one that is gone, and that is seen only by a mark.
    pub(crate) fn asked(&mut self, call: Call, embedded: bool) -> Sent<'_> {
        let has_effect = call == Call::Statement || embedded && !self.marked;
        Sent {
            notes: self,
            is_open: true,
            has_effect,
        }
    }

    /// Notes how a statement ended. Of a transaction that was given up before, the error that did it.
    pub(crate) fn ended<T>(
        &mut self,
        aborts: bool,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        // Of an error the answer goes on.
        self.unread = matches!(result, Err(sqlx::Error::Database(_)));
        let error = match result {
            Ok(value) => {
                self.last = None;
                self.first = None;
                return Ok(value);
            }
            Err(error) => error,
        };
        let fault = self.told(&error);
        // It says nothing but that there was another one before.
        if aborts && fault == Fault::TransactionAborted {
            return Err(self.first.as_ref().map_or(error, CopiedError::error));
        }
        self.last = Some(fault);
        if aborts && self.first.is_none() {
            self.first = CopiedError::of(&error, fault);
        }
        Err(error)
    }

    /// An error, of whatever was sent.
    pub(crate) fn told(&mut self, error: &sqlx::Error) -> Fault {
        let fault = Fault::of(error);
        self.doubtful = true;
        self.lost |= fault == Fault::ConnectionLost;
        fault
    }

    pub(crate) fn lost(&self) -> bool {
        self.lost
    }

    pub(crate) fn before(&self) -> Before {
        Before {
            failed: self.first.is_some(),
            dropped: self.dropped,
            marked: self.marked,
        }
    }

    /// What was noted since is undone, except that the last statement failed: its reason can be one to run all again.
    pub(crate) fn undo(&mut self, before: Before) {
        if !before.failed {
            self.first = None;
        }
        self.dropped = before.dropped;
        self.marked = before.marked;
    }

    /// A savepoint was ended, which only the transaction that it was set in can do. A mark that was made in it went with it.
    pub(crate) fn has_ended_savepoint(&mut self, before: Before) {
        self.lent_since = false;
        self.marked = before.marked;
    }

    /// Nothing may run outside of the transaction that the closure believes in.
    pub(crate) fn check(&self, depth: usize) -> Result<(), Torn> {
        match (self.torn, depth) {
            (true, _) => Err(Torn::Ended),
            (false, 0) => Err(Torn::Savepoint),
            (false, _) => Ok(()),
        }
    }

    /// Whether a statement may have failed after which the server accepts no other.
    pub(crate) fn may_be_aborted(&self) -> bool {
        self.first.is_some() || self.dropped || self.lent
    }

    pub(crate) fn lend(&mut self) {
        // It is never going to be committed, and without a mark it cannot be told from another one.
        self.torn |= self.dropped && !self.marked || self.unanswered;
        self.lent = true;
        self.lent_since = true;
        self.unasked = true;
        self.doubtful = true;
    }

    /// Whether a mark is missing, and can be made without waiting: not in a transaction that may be another one by now, and on a
    /// server not in one that was given up, nor before all answers are read.
    pub(crate) fn wants_mark(&self, embedded: bool) -> bool {
        let at_once = embedded || self.first.is_none() && !self.unread;
        !self.marked && !self.lent_since && at_once
    }

    pub(crate) fn mark(&mut self) {
        self.marked = true;
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.marked
    }

    /// A part of an answer is not going to be read here.
    pub(crate) fn leave_unread(&mut self) {
        self.unread = true;
        self.unasked = true;
        self.doubtful = true;
    }

    /// The same of a savepoint that is being undone. The error of a statement that was dropped in it would be taken for that of the
    /// next one.
    pub(crate) fn leave_undone(&mut self) {
        self.leave_unread();
        self.lent_since |= self.dropped;
    }

    /// Savepoint `number` was dropped, and is undone once more before the next statement.
    pub(crate) fn drop_savepoint(&mut self, number: usize) {
        self.leave_unread();
        self.dropped_savepoint = Some(number);
    }

    pub(crate) fn dropped_savepoint(&mut self) -> &mut Option<usize> {
        &mut self.dropped_savepoint
    }

    pub(crate) fn is_unread(&self) -> bool {
        self.unread
    }

    /// A savepoint was torn down by something that was not seen: what belongs to it cannot be told any more.
    pub(crate) fn tear(&mut self) {
        self.torn = true;
        self.doubtful = true;
    }

    /// A statement is sent of which nothing is going to be noted.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = true;
    }

    pub(crate) fn looks_at_commit(&self) -> LooksAtCommit {
        match (self.marked, self.doubtful) {
            (true, _) => LooksAtCommit::IfMarked,
            (false, true) => LooksAtCommit::IfOpen,
            (false, false) => LooksAtCommit::No,
        }
    }

    pub(crate) fn lent(&self) -> bool {
        self.lent
    }

    /// Whether something was done that can have been the end of the transaction. `by_errors`: errors can be.
    pub(crate) fn must_ask(&self, by_errors: bool) -> bool {
        self.lent_since || by_errors && self.unasked
    }

    pub(crate) fn last(&self) -> Option<Fault> {
        self.last
    }

    /// The error that made the server give the transaction up, if it was seen.
    pub(crate) fn first(&self) -> Option<(sqlx::Error, Fault)> {
        self.first
            .as_ref()
            .map(|first| (first.error(), first.fault))
    }

    pub(crate) fn dropped(&self) -> bool {
        self.dropped
    }
}

/// A statement under way.
pub(crate) struct Sent<'n> {
    notes: &'n mut Notes,
    is_open: bool,
    has_effect: bool,
}

impl Sent<'_> {
    pub(crate) fn ended<T>(
        mut self,
        aborts: bool,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.is_open = false;
        self.notes.ended(aborts, result)
    }
}

impl Sent<'_> {
    /// The statement was the question whether the transaction is still the same. Whether it was answered.
    pub(crate) fn answered(mut self, aborts: bool, is_ours: Result<bool, sqlx::Error>) -> bool {
        self.is_open = false;
        let notes = &mut *self.notes;
        let fault = is_ours.as_ref().err().map(Fault::of);
        match is_ours {
            // Of what was given up and not marked, nobody who sees it can make it well again.
            Ok(true) => notes.torn |= notes.first.take().is_some() && !notes.marked,
            Ok(false) => notes.torn = true,
            Err(error) => {
                // That of a savepoint which ended with the transaction.
                notes.torn |= fault == Some(Fault::NoTransaction);
                drop(notes.ended::<()>(aborts, Err(error)));
                if fault != Some(Fault::TransactionAborted) {
                    return false;
                }
            }
        }
        (notes.lent_since, notes.unasked, notes.unanswered) = (false, false, false);
        true
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        self.notes.leave_unread();
        match self.has_effect {
            true => self.notes.dropped = true,
            false => {
                self.notes.lent_since = true;
                self.notes.unanswered = true;
            }
        }
    }
}

/// Why nothing of a transaction can be trusted any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Torn {
    #[error("a statement's future was dropped before its answer")]
    Dropped,
    #[error("a savepoint was begun and not ended, or torn down together with the transaction")]
    Savepoint,
    #[error("the transaction was ended inside of the closure")]
    Ended,
}

impl Torn {
    pub(crate) fn is(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::Configuration(error) if error.is::<Self>())
    }
}

impl From<Torn> for sqlx::Error {
    fn from(torn: Torn) -> Self {
        Self::Configuration(Box::new(torn))
    }
}
