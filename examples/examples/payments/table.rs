//! The printed table.

use std::collections::HashMap;

use crate::provider::Charge;
use crate::{Order, Way};

/// What became of all orders.
pub struct Table {
    right: bool,
}

impl Table {
    pub fn print(
        way: Way,
        orders: &[Order],
        charges: &[Charge],
        bookings: &HashMap<u64, usize>,
    ) -> Self {
        println!(
            "{}\n\n{:>5}  {:>7}  {:>7}  {:>6}",
            match way {
                Way::ByHand => "By hand, each try is a request of its own:",
                Way::Ledger => "With a ledger, each order has one key and one outcome:",
            },
            "order",
            "amount",
            "charged",
            "booked"
        );
        let mut wrong = 0;
        for order in orders {
            let charged = charges
                .iter()
                .filter(|charge| charge.is_of(order.id))
                .count();
            let booked = bookings.get(&order.id).copied().unwrap_or_default();
            let expected = usize::from(order.amount < crate::provider::MOST);
            let right = charged == expected && booked == expected;
            wrong += usize::from(!right);
            println!(
                "{:>5}  {:>7.2}  {:>7}  {:>6}{}",
                order.id,
                order.amount as f64 / 100.0,
                charged,
                booked,
                if right { "" } else { "  WRONG" }
            );
        }
        println!("\n{} charges, {wrong} orders went wrong.\n", charges.len());
        Self { right: wrong == 0 }
    }

    /// Each order that can be paid was charged once and booked once, and the other one neither.
    pub fn is_right(&self) -> bool {
        self.right
    }
}
