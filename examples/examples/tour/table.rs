//! The printed table.

/// An operation that was raced twice: written by hand, and generated.
pub struct Row {
    pub derive: &'static str,
    pub operation: &'static str,
    pub tasks: usize,
    pub calls: usize,
    /// How many calls had no effect, or one too many.
    pub lost_by_hand: usize,
    /// What was lost.
    pub unit: &'static str,
    pub lost_by_rowlock: usize,
    /// What the generated method met in its way.
    pub met: String,
}

/// Prints its rows as they come, and keeps count.
pub struct Table {
    calls: usize,
    lost_by_hand: usize,
    lost_by_rowlock: usize,
    /// Whether each race by hand lost something: else it shows nothing.
    every_row_shows_a_loss: bool,
}

impl Table {
    pub fn begin(database: &str) -> Self {
        println!(
            "The same concurrent calls, written by hand and generated, on {database}.\n\
             By hand, all tasks of a round have read before the first one writes.\n"
        );
        println!(
            "{:<32} {:>5} {:>5}  {:<15}  {:<13}  retries or conflicts",
            "operation", "tasks", "calls", "naive: lost", "rowlock: lost"
        );
        Self {
            calls: 0,
            lost_by_hand: 0,
            lost_by_rowlock: 0,
            every_row_shows_a_loss: true,
        }
    }

    pub fn add(&mut self, row: Row) {
        println!(
            "{:<13}{:<19} {:>5} {:>5}  {:>4} {:<10}  {:>13}  {}",
            row.derive,
            row.operation,
            row.tasks,
            row.calls,
            row.lost_by_hand,
            row.unit,
            row.lost_by_rowlock,
            row.met
        );
        self.calls += row.calls;
        self.lost_by_hand += row.lost_by_hand;
        self.lost_by_rowlock += row.lost_by_rowlock;
        self.every_row_shows_a_loss &= row.lost_by_hand > 0;
    }

    /// Between the rows and the sum.
    pub fn note(&self, text: &str) {
        println!("\n{text}");
    }

    pub fn end(&self) {
        let Self {
            calls,
            lost_by_hand,
            lost_by_rowlock,
            ..
        } = self;
        let verdict = match (self.lost_by_rowlock, self.every_row_shows_a_loss) {
            (0, true) => "rowlock lost nothing",
            (0, false) => "inconclusive, as one race by hand lost nothing either",
            _ => "rowlock LOST something, which is a bug",
        };
        println!(
            "\n{calls} calls each: {lost_by_hand} went wrong by hand, {lost_by_rowlock} with rowlock. Verdict: {verdict}."
        );
    }

    /// Whether every race by hand lost something, and no generated method did.
    pub fn is_convincing(&self) -> bool {
        self.every_row_shows_a_loss && self.lost_by_rowlock == 0
    }
}
