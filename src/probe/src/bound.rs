//! How many probes may run against one address at once.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Map = Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>;

/// One semaphore an address, kept only while somebody uses it.
pub(crate) struct Targets {
    map: Map,
    each: usize,
}

/// The right to probe one address; given back when dropped.
pub(crate) struct Turn {
    map: Map,
    address: IpAddr,
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Targets {
    pub(crate) fn new(each: usize) -> Targets {
        Targets { map: Map::default(), each }
    }

    pub(crate) async fn acquire(&self, address: IpAddr) -> Turn {
        let semaphore = {
            let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
        };
        // Made before the wait, so that a cancelled wait cleans up too.
        let mut turn =
            Turn { map: Arc::clone(&self.map), address, semaphore: Arc::clone(&semaphore), permit: None };
        // These semaphores are never closed, so this cannot fail.
        turn.permit = semaphore.acquire_owned().await.ok();
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        // One count is the map's, one is ours: nobody else waits or runs.
        if Arc::strong_count(&self.semaphore) <= 2 {
            map.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_third_probe_of_one_address_waits_and_another_address_does_not() {
        let targets = Targets::new(2);
        let (a, b): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        let first = targets.acquire(a).await;
        let _second = targets.acquire(a).await;
        let _other = targets.acquire(b).await;
        {
            let mut third = std::pin::pin!(targets.acquire(a));
            assert!(futures_poll(third.as_mut()).await, "must wait");
            drop(first);
            drop(third.await);
        }
        drop(_second);
        drop(_other);
        assert!(targets.map.lock().unwrap().is_empty());
    }

    /// True when the future is pending.
    async fn futures_poll<F: Future>(mut f: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(f.as_mut().poll(cx).is_pending())).await
    }
}
