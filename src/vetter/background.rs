//! Work nobody waits for is a guest at the registries: a budget per host, and none at a host that says 429. On ten
//! thousand nodes it must never use up the quota that real pulls live on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::trouble::Trouble;
use crate::image::Digest;
use crate::limits;
use crate::registry::{Cause, Credential, FetchError};

/// How long a host that answered 429 is left alone, where it does not say.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// How long a tag is believed to point where it did.
const A_MOMENT: Duration = Duration::from_secs(5);
/// Longest that a host is left alone on its own word.
const LONGEST_ALONE: Duration = Duration::from_secs(6 * 3600);
/// One more request may be sent to a host each time this has passed.
const REFILL: Duration = Duration::from_secs(60 / limits::BACKGROUND_REQUESTS_PER_MINUTE as u64);

/// The budgets of all hosts.
pub struct Background {
    hosts: Mutex<HashMap<String, Host>>,
    /// What tags pointed at a moment ago, by reference and credential.
    tags: Mutex<HashMap<(String, Credential), (Digest, Instant)>>,
    /// Vettings under way at once: the vetter's time belongs to live calls too.
    places: Semaphore,
}

#[derive(Clone, Copy)]
struct Host {
    /// When the budget will be whole again; it is used up when that is further away than a whole budget takes.
    whole_at: Instant,
    alone_until: Option<Instant>,
}

/// What a guest may do next.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Now,
    At(Instant),
    /// The host is left alone.
    No,
}

impl Default for Background {
    fn default() -> Background {
        Background {
            hosts: Mutex::default(),
            tags: Mutex::default(),
            places: Semaphore::new(limits::BACKGROUND_VETTINGS),
        }
    }
}

impl Background {
    /// A place for one vetting.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// What a tag pointed at a moment ago: many pods of one image are asked about one after the other.
    pub fn resolved(&self, reference: &str, credential: &Credential, now: Instant) -> Option<Digest> {
        let tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let (digest, since) = tags.get(&(reference.to_owned(), credential.clone()))?;
        (now.duration_since(*since) < A_MOMENT).then_some(*digest)
    }

    /// Keeps, for a moment, what a tag points at.
    pub fn keep(&self, reference: String, credential: Credential, digest: Digest, now: Instant) {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        tags.retain(|_, (_, since)| now.duration_since(*since) < A_MOMENT);
        if tags.len() < limits::QUESTIONS {
            tags.insert((reference, credential), (digest, now));
        }
    }

    fn turn(&self, host: &str, now: Instant) -> Turn {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= limits::REGISTRY_HOSTS && !hosts.contains_key(host) {
            hosts.retain(|_, host| host.whole_at > now || host.alone_until.is_some_and(|until| until > now));
            if hosts.len() >= limits::REGISTRY_HOSTS {
                return Turn::No;
            }
        }
        let host = hosts.entry(host.to_owned()).or_insert(Host { whole_at: now, alone_until: None });
        if host.alone_until.is_some_and(|until| until > now) {
            return Turn::No;
        }
        let whole = REFILL * limits::BACKGROUND_BURST;
        let then = host.whole_at.max(now) + REFILL;
        if then > now + whole {
            return Turn::At(then - whole);
        }
        host.whole_at = then;
        Turn::Now
    }

    fn told(&self, host: &str, error: &FetchError, now: Instant) {
        let Cause::TooManyRequests { retry_after } = error.cause else { return };
        let alone = retry_after.map_or(LEFT_ALONE, Duration::from_secs).clamp(LEFT_ALONE / 10, LONGEST_ALONE);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get_mut(host) {
            host.alone_until = Some(now + alone);
        }
        tracing::warn!(
            registry = host,
            seconds = alone.as_secs(),
            "429: background work leaves this registry alone"
        );
    }
}

/// Background work at one registry.
#[derive(Clone)]
pub struct Guest {
    background: Arc<Background>,
    host: String,
}

impl Guest {
    /// A guest at `host`.
    pub fn new(background: Arc<Background>, host: &str) -> Guest {
        Guest { background, host: host.to_owned() }
    }

    /// Waits for this guest's next request; to be called before each.
    ///
    /// # Errors
    /// The host is left alone, or the budget is used up beyond `by`.
    pub async fn turn(&self, by: Instant) -> Result<(), Trouble> {
        loop {
            match self.background.turn(&self.host, Instant::now()) {
                Turn::Now => return Ok(()),
                Turn::At(at) if at <= by => sleep_until(at).await,
                Turn::At(_) => {
                    return Err(Trouble::Guest { host: self.host.clone(), why: "its budget is used up" });
                }
                Turn::No => {
                    return Err(Trouble::Guest { host: self.host.clone(), why: "the registry answered 429" });
                }
            }
        }
    }

    /// Takes note of what the registry answered.
    pub fn told(&self, error: &FetchError) {
        self.background.told(&self.host, error, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_many(retry_after: Option<u64>) -> FetchError {
        FetchError { subject: "manifest".to_owned(), cause: Cause::TooManyRequests { retry_after } }
    }

    #[test]
    fn a_host_s_budget_is_used_up_and_comes_back() {
        let (background, now) = (Background::default(), Instant::now());
        for _ in 0..limits::BACKGROUND_BURST {
            assert_eq!(background.turn("a", now), Turn::Now);
        }
        assert_eq!(background.turn("a", now), Turn::At(now + REFILL));
        assert_eq!(background.turn("b", now), Turn::Now);
        assert_eq!(background.turn("a", now + REFILL), Turn::Now);
        assert_eq!(background.turn("a", now + REFILL), Turn::At(now + REFILL * 2));
    }

    #[test]
    fn a_host_that_answers_429_is_left_alone() {
        let (background, now) = (Background::default(), Instant::now());
        assert_eq!(background.turn("a", now), Turn::Now);
        background.told("a", &too_many(Some(120)), now);
        assert_eq!(background.turn("a", now + Duration::from_secs(119)), Turn::No);
        assert_eq!(background.turn("a", now + Duration::from_secs(121)), Turn::Now);
        background.told("a", &too_many(Some(u64::MAX)), now);
        assert_eq!(background.turn("a", now + LONGEST_ALONE), Turn::Now);
    }

    #[test]
    fn other_errors_do_not_close_a_host() {
        let (background, now) = (Background::default(), Instant::now());
        assert_eq!(background.turn("a", now), Turn::Now);
        background.told("a", &FetchError { cause: Cause::Timeout, ..too_many(None) }, now);
        assert_eq!(background.turn("a", now), Turn::Now);
    }
}
