//! How often somebody may fail to sign in, by address and by name. Pure but for its lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Seconds in which failures count.
const WINDOW_S: i64 = 300;
/// Failures from one address.
const PER_ADDRESS: u32 = 10;
/// Failures for one name, from anywhere. Higher, because it also shuts out its owner.
const PER_NAME: u32 = 30;
/// Entries kept; beyond, the oldest go.
const ENTRIES: usize = 10_000;

/// Counts failures.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    failures: Mutex<HashMap<String, (i64, u32)>>,
}

fn keys(address: &str, name: &str) -> [(String, u32); 2] {
    let name: String = name.chars().take(150).collect();
    [(format!("a {address}"), PER_ADDRESS), (format!("n {name}"), PER_NAME)]
}

impl Limiter {
    /// `Err(seconds)`: too many failures; wait so long. Counts this try as a failure until [`succeeded`](Self::succeeded),
    /// so that many tries at once do not slip through.
    pub(crate) fn begin(&self, address: &str, name: &str, now: i64) -> Result<(), i64> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys(address, name);
        for (key, most) in &keys {
            if let Some((since, n)) = failures.get(key)
                && now - since < WINDOW_S
                && n >= most
            {
                return Err((WINDOW_S - (now - since)).max(1));
            }
        }
        if failures.len() + 2 > ENTRIES {
            failures.retain(|_, (since, _)| now - *since < WINDOW_S);
        }
        if failures.len() + 2 > ENTRIES {
            // A flood of addresses: forgetting all is better than growing, and each address starts from zero anyway.
            failures.clear();
        }
        for (key, _) in keys {
            let entry = failures.entry(key).or_insert((now, 0));
            if now - entry.0 >= WINDOW_S {
                *entry = (now, 0);
            }
            entry.1 += 1;
        }
        Ok(())
    }

    /// The try said nothing about the password: a database that moves must lock nobody out.
    pub(crate) fn said_nothing(&self, address: &str, name: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, _) in keys(address, name) {
            if let Some((_, tries)) = failures.get_mut(&key) {
                *tries = tries.saturating_sub(1);
            }
        }
    }

    /// The password was right.
    pub(crate) fn succeeded(&self, address: &str, name: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, _) in keys(address, name) {
            failures.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_that_said_nothing_lock_nobody_out() {
        let limiter = Limiter::default();
        for _ in 0..PER_NAME * 2 {
            assert_eq!(limiter.begin("1.2.3.4", "admin", 1000), Ok(()));
            limiter.said_nothing("1.2.3.4", "admin");
        }
        limiter.said_nothing("1.2.3.4", "nobody");
    }

    #[test]
    fn an_address_and_a_name_are_held_back_and_let_in_again() {
        let limiter = Limiter::default();
        for _ in 0..PER_ADDRESS {
            assert_eq!(limiter.begin("1.2.3.4", "admin", 1000), Ok(()));
        }
        assert_eq!(limiter.begin("1.2.3.4", "other", 1010), Err(290));
        assert_eq!(limiter.begin("1.2.3.5", "admin", 1010), Ok(()));
        assert_eq!(limiter.begin("1.2.3.4", "admin", 1300), Ok(()));
        for i in 0..PER_NAME {
            let _ = limiter.begin(&format!("10.0.0.{i}"), "root", 2000);
        }
        assert_eq!(limiter.begin("10.0.1.1", "root", 2001), Err(299));
        limiter.succeeded("10.0.1.1", "root");
        assert_eq!(limiter.begin("10.0.1.1", "root", 2001), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::default();
        for i in 0..3 * ENTRIES {
            let _ = limiter.begin(&i.to_string(), &i.to_string(), 5);
        }
        assert!(limiter.failures.lock().unwrap().len() <= ENTRIES);
    }
}
