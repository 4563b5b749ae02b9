//! Which seeds a simulation runs, and how many a mistake made on purpose has to be caught in.

use std::fmt::Debug;
use std::panic::{RefUnwindSafe, catch_unwind};

/// `TAILKEEP_TEST_ROUNDS` seeds (one without it), from `TAILKEEP_TEST_SEED` on, else fresh ones.
#[allow(clippy::disallowed_methods, reason = "another seed every time")]
pub fn fresh_seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let rounds = number("TAILKEEP_TEST_ROUNDS").unwrap_or(1);
    let first = number("TAILKEEP_TEST_SEED").unwrap_or(now.as_nanos() as u64);
    (first..first + rounds).collect()
}

/// Runs the first `known` seeds, unless one is asked for, and fresh ones; all of those that fail are named.
pub fn assert_sound<T>(known: u64, live: impl Fn(u64) -> T + RefUnwindSafe) {
    let is_asked = std::env::var_os("TAILKEEP_TEST_SEED").is_some();
    let known = if is_asked { 0 } else { known };
    let mut failed = Vec::new();
    for seed in (1..=known).chain(fresh_seeds()) {
        match catch_unwind(|| live(seed)) {
            Ok(_) => println!("SOUND {seed}"),
            Err(_) => {
                println!("FINDING {seed}");
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "TAILKEEP_TEST_SEED repeats one of {failed:?}");
}

/// One of so many seeds must find the mistake.
pub fn assert_caught<T>(canary: impl Debug, rounds: u64, live: impl Fn(u64) -> T + RefUnwindSafe) {
    let caught = (1..=rounds).find(|seed| catch_unwind(|| live(*seed)).is_err());
    println!("{canary:?} is caught by seed {caught:?}");
    assert!(caught.is_some(), "nobody notices {canary:?}");
}
