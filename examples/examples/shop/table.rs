//! The printed table.

use crate::Way;

/// What became of one product.
pub struct Sale {
    pub buyers: usize,
    pub units: usize,
    /// How many rows `reservations` has for it.
    pub sold: usize,
    /// How many units `skus` says are left.
    pub left: i64,
    pub retries: usize,
}

impl Sale {
    /// As many reservations as there were units, or buyers; and both tables agree.
    fn is_right(&self) -> bool {
        self.sold == self.units.min(self.buyers) && self.left == (self.units - self.sold) as i64
    }
}

/// Prints its rows as they come, and keeps count.
pub struct Table {
    right: bool,
}

impl Table {
    pub fn begin(database: &str) -> Self {
        println!("Many buyers, few units, on {database}.\n");
        println!(
            "{:<12}  {:>6}  {:>5}  {:>4}  {:>4}  {:>8}  {:>7}  round trips per sale on PostgreSQL, the pool's own left out",
            "way", "buyers", "units", "sold", "left", "oversold", "retries"
        );
        Self { right: true }
    }

    pub fn add(&mut self, name: &str, way: Way, sale: &Sale) {
        println!(
            "{name:<12}  {:>6}  {:>5}  {:>4}  {:>4}  {:>8}  {:>7}  {}",
            sale.buyers,
            sale.units,
            sale.sold,
            sale.left,
            sale.sold.saturating_sub(sale.units),
            sale.retries,
            round_trips(way)
        );
        // The naive way is there to be wrong.
        self.right &= way == Way::Naive || sale.is_right();
    }

    pub fn end(&self) {
        let verdict = if self.right {
            "what rowlock sold, it had"
        } else {
            "rowlock sold too much or too little, which is a bug"
        };
        println!("\nVerdict: {verdict}.");
    }

    pub fn is_right(&self) -> bool {
        self.right
    }
}

fn round_trips(way: Way) -> &'static str {
    match way {
        Way::Naive => "three, nothing is locked in between",
        Way::RowLock => "six, four of them with the row locked",
        Way::Guarded => "five, two of them with the row locked",
        Way::Serializable => "six, two of them with the row locked; all again if it lost",
    }
}
