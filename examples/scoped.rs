//! Borrowed data: `drive` runs the workers inside the caller's own future, so handlers may borrow
//! what lives around them, and nothing has to be `Send`.
//!
//! `cargo run --example scoped`

use std::cell::Cell;

use brigade::{CollectError, Pool};
use futures_lite::future;

fn main() {
    let prices = [("apple", 30), ("pear", 45), ("plum", 20)];
    let lookups = Cell::new(0);

    let price = |name| {
        let (prices, lookups) = (&prices, &lookups);
        async move {
            lookups.set(lookups.get() + 1);
            future::yield_now().await;
            prices
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, price)| *price)
                .ok_or("no such fruit")
        }
    };
    let (pool, workers) = Pool::builder().workers(2).build(price);

    future::block_on(workers.drive(async {
        let basket: Vec<u32> = pool
            .map(["plum", "apple", "plum"])
            .try_collect()
            .await
            .expect("all are known");
        assert_eq!(basket, [20, 30, 20]);
        println!("plum, apple, plum: {}", basket.iter().sum::<u32>());

        let refused = pool
            .map(["pear", "stone"])
            .keep_inputs()
            .try_collect::<Vec<_>>()
            .await;
        let Err(CollectError::Job { input, error, .. }) = refused else {
            panic!("a stone has no price")
        };
        assert_eq!(input, Some("stone"));
        println!("stone: {error}");
    }));

    assert_eq!(lookups.get(), 5);
    println!("{} lookups in {} prices", lookups.get(), prices.len());
}
