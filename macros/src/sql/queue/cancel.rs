//! Jobs that are not wanted any more.

use super::*;

impl Queue<'_> {
    /// Gives up the job with this key, whoever has it: a claim that holds it has another fence from then on. One that has ended stays as it is.
    pub(crate) fn cancel(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let fence = quote(&self.fence.name);
        let mut set = format!(
            "{}, {fence} = {}",
            self.becomes(State::Dead, dialect),
            next_fence(&fence, dialect),
        );
        if let Some(error) = self.last_error {
            set.push_str(&format!(", {} = 'cancelled'", quote(&error.name)));
        }
        let text = format!(
            "UPDATE {} SET {set} WHERE {} AND ({} OR {})",
            table(self.model),
            sql.equal(&self.keys),
            self.is(State::Ready),
            self.is(State::Running),
        );
        sql.statement(text)
    }

    /// Looks at the job with this key. Returns its state.
    pub(crate) fn state_of(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let text = format!(
            "SELECT {} FROM {} WHERE {}",
            self.state_name(quote, dialect),
            table(self.model),
            sql.equal(&self.keys),
        );
        sql.statement(text)
    }
}
