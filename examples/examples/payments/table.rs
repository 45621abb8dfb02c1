//! The printed table.

use crate::provider::Charge;
use crate::{Keys, Order, Try};

/// What became of all orders.
pub struct Table {
    right: bool,
}

impl Table {
    pub fn print(keys: Keys, orders: &[Order], charges: &[Charge]) -> Self {
        println!(
            "With {}:\n",
            match keys {
                Keys::PerTry => "a new key for each try, as if there were none",
                Keys::PerOrder => "one key per order",
            }
        );
        println!("{:>5}  {:>7}  {:>7}  tries", "order", "amount", "charged");
        let mut right = true;
        let mut too_often = 0;
        for order in orders {
            let charged = order.times_charged(charges);
            let paid = matches!(order.tries.last(), Some(Try::Paid(_)));
            right &= charged == usize::from(paid) && !order.is_open();
            too_often += charged.saturating_sub(1);
            let tries: Vec<_> = order.tries.iter().map(describe).collect();
            println!(
                "{:>5}  {:>7.2}  {:>7}  {}",
                order.id,
                order.amount as f64 / 100.0,
                charged,
                tries.join(", ")
            );
        }
        println!(
            "\n{} charges, {too_often} of them too many.\n",
            charges.len()
        );
        Self { right }
    }

    /// Each order is paid and was charged once, or is declined and was not charged.
    pub fn is_right(&self) -> bool {
        self.right
    }
}

fn describe(outcome: &Try) -> String {
    match outcome {
        Try::Paid(id) => format!("paid as {}", id.0),
        Try::Declined => "declined".to_owned(),
        Try::NoAnswer(how) => (*how).to_owned(),
    }
}
