//! One fetch for many waiters: two hundred creates of one new image cause one verification.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Work that is under way, by key. The key holds the credential: what one is told is not another's answer.
pub struct Flights<K, V> {
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Flights { under_way: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// Joins the work under this key, or starts it. The work goes on when nobody waits any more, so that the
    /// next try finds it done; `None` if it is not done by `deadline`, or broke.
    pub async fn join(
        &self,
        key: K,
        deadline: Instant,
        work: impl Future<Output = V> + Send + 'static,
    ) -> Option<V> {
        let mut landed = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            match under_way.get(&key) {
                Some(landed) => landed.clone(),
                None => {
                    let (land, landed) = watch::channel(None);
                    under_way.insert(key.clone(), landed.clone());
                    let gone = Gone { under_way: Arc::clone(&self.under_way), key };
                    tokio::spawn(async move {
                        let value = work.await;
                        // Whoever comes from now on starts anew.
                        drop(gone);
                        land.send_replace(Some(value));
                    });
                    landed
                }
            }
        };
        let value = timeout_at(deadline, landed.wait_for(Option::is_some)).await.ok()?.ok()?;
        value.clone()
    }
}

/// Takes work off the list when it ends, also when it panics.
struct Gone<K: Eq + Hash, V> {
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Gone<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn many_waiters_cause_one_flight() {
        let (flights, started) = (Flights::default(), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let started = Arc::clone(&started);
            async move {
                started.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                7
            }
        };
        let waiters = (0..200).map(|_| flights.join("a", soon(), work()));
        assert_eq!(futures_util::future::join_all(waiters).await, vec![Some(7); 200]);
        assert_eq!(started.load(Ordering::Relaxed), 1);
        assert_eq!(flights.join("a", soon(), work()).await, Some(7));
        assert_eq!(started.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn other_keys_are_other_flights() {
        let flights = Flights::default();
        let both = futures_util::future::join(
            flights.join("a", soon(), async { 1 }),
            flights.join("b", soon(), async { 2 }),
        );
        assert_eq!(both.await, (Some(1), Some(2)));
    }

    #[tokio::test]
    async fn a_flight_that_panics_leaves_nothing_behind() {
        let flights = Flights::default();
        assert_eq!(flights.join("a", soon(), async { panic!("a bug") }).await, None::<u8>);
        assert_eq!(flights.join("a", soon(), async { 1 }).await, Some(1));
    }

    #[tokio::test]
    async fn a_waiter_s_deadline_does_not_end_the_flight() {
        let flights = Flights::default();
        let soon_over = Instant::now() + Duration::from_millis(1);
        let slow = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            1
        };
        assert_eq!(flights.join("a", soon_over, slow).await, None);
        assert_eq!(flights.join("a", soon(), async { 2 }).await, Some(1));
    }
}
