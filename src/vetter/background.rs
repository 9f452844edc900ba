//! Work nobody waits for is a guest at the registries: a budget per host, spread at the start, and none at a host that
//! says 429 to anybody on this node. On ten thousand nodes it must never use up the quota that real pulls live on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::trouble::Trouble;
use crate::image::{Digest, ImageName};
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
/// How long a budget that is used up takes to be whole again.
const WHOLE: Duration = REFILL.saturating_mul(limits::BACKGROUND_BURST);

/// The budgets of all hosts.
pub struct Background {
    hosts: Mutex<Hosts>,
    /// What tags pointed at a moment ago, by reference and credential.
    tags: Mutex<HashMap<(String, Credential), (Digest, Instant)>>,
    /// Vettings under way at once.
    places: Arc<Semaphore>,
    /// Until then each host gets no more than [`limits::BACKGROUND_AT_START`]: nodes start together.
    opens: Instant,
}

struct Host {
    /// Requests sent before the budgets opened.
    at_start: u32,
    /// Vettings under way at once at this host.
    places: Arc<Semaphore>,
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

/// A place for one vetting, given back when dropped.
pub struct Place {
    _at_host: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Background {
    /// Budgets that open at a moment of their own after `start`, within [`limits::BACKGROUND_SPREAD_SECONDS`].
    pub fn starting(start: Instant) -> Background {
        let mut random = [0; 8];
        // Without randomness all the same: then this node opens at once.
        let _ = SystemRandom::new().fill(&mut random);
        let spread = limits::BACKGROUND_SPREAD_SECONDS * 1000;
        Background::opening(start + Duration::from_millis(u64::from_le_bytes(random) % spread))
    }

    fn opening(opens: Instant) -> Background {
        let places = Arc::new(Semaphore::new(limits::BACKGROUND_VETTINGS));
        Background { hosts: Mutex::default(), tags: Mutex::default(), places, opens }
    }

    /// A place for the vetting of an image of this name. One host that hangs holds up its own images only.
    pub async fn place(&self, reference: &str) -> Place {
        let host = match ImageName::parse(reference) {
            Ok(ImageName::Reference(reference)) => reference.registry().to_owned(),
            _ => String::new(),
        };
        let at_host =
            self.hosts().host(&host, self.opens, Instant::now()).map(|host| Arc::clone(&host.places));
        let at_host = match at_host {
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        let of_all = Arc::clone(&self.places).acquire_owned().await.ok();
        Place { _at_host: at_host, _of_all: of_all }
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut hosts = self.hosts();
        let Some(host) = hosts.host(host, self.opens, now) else { return Turn::No };
        if host.alone_until.is_some_and(|until| until > now) {
            return Turn::No;
        }
        if now < self.opens {
            if host.at_start == limits::BACKGROUND_AT_START {
                return Turn::At(self.opens);
            }
            host.at_start += 1;
            return Turn::Now;
        }
        let then = host.whole_at.max(now) + REFILL;
        if then > now + WHOLE {
            return Turn::At(then - WHOLE);
        }
        host.whole_at = then;
        Turn::Now
    }

    /// Takes note of what a registry answered, to a guest or to a live vetting.
    pub fn told(&self, host: &str, error: &FetchError, now: Instant) {
        let Cause::TooManyRequests { retry_after } = error.cause else { return };
        let alone = retry_after.map_or(LEFT_ALONE, Duration::from_secs).clamp(LEFT_ALONE / 10, LONGEST_ALONE);
        if let Some(host) = self.hosts().host(host, self.opens, now) {
            host.alone_until = Some(now + alone);
        }
        tracing::warn!(
            registry = host,
            seconds = alone.as_secs(),
            "429: background work leaves this registry alone"
        );
    }
}

/// The hosts there is something to be said about.
#[derive(Default)]
struct Hosts(HashMap<String, Host>);

impl Hosts {
    /// A host's budget; `None` if there are too many hosts (limits::REGISTRY_HOSTS).
    fn host(&mut self, name: &str, opens: Instant, now: Instant) -> Option<&mut Host> {
        if self.0.len() >= limits::REGISTRY_HOSTS && !self.0.contains_key(name) {
            self.0.retain(|_, host| {
                let alone = host.alone_until.is_some_and(|until| until > now);
                host.whole_at > now || alone || Arc::strong_count(&host.places) > 1
            });
            if self.0.len() >= limits::REGISTRY_HOSTS {
                return None;
            }
        }
        Some(self.0.entry(name.to_owned()).or_insert_with(|| Host {
            at_start: 0,
            places: Arc::new(Semaphore::new(limits::BACKGROUND_VETTINGS_PER_HOST)),
            // Empty when the budgets open, and fills from then on.
            whole_at: now.max(opens + WHOLE),
            alone_until: None,
        }))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_many(retry_after: Option<u64>) -> FetchError {
        FetchError {
            subject: "manifest".to_owned(),
            cause: Cause::TooManyRequests { retry_after },
            tried: Vec::new(),
        }
    }

    /// Budgets that opened long ago, and are whole.
    fn long_open() -> (Background, Instant) {
        let opens = Instant::now();
        (Background::opening(opens), opens + WHOLE)
    }

    #[test]
    fn at_the_start_a_host_gets_a_few_requests_and_the_others_when_the_budget_opens() {
        let now = Instant::now();
        let opens = now + Duration::from_secs(60);
        let background = Background::opening(opens);
        for _ in 0..limits::BACKGROUND_AT_START {
            assert_eq!(background.turn("a", now), Turn::Now);
        }
        assert_eq!(background.turn("a", now), Turn::At(opens));
        assert_eq!(background.turn("b", now), Turn::Now);
        assert_eq!(background.turn("a", opens), Turn::At(opens + REFILL));
        assert_eq!(background.turn("a", opens + REFILL), Turn::Now);
        assert_eq!(background.turn("a", opens + REFILL), Turn::At(opens + REFILL * 2));
    }

    #[test]
    fn nodes_that_start_together_open_at_moments_of_their_own() {
        let now = Instant::now();
        let opens: Vec<_> = (0..20).map(|_| Background::starting(now).opens.duration_since(now)).collect();
        let (least, most) = (opens.iter().min().unwrap(), opens.iter().max().unwrap());
        assert!(*most < Duration::from_secs(limits::BACKGROUND_SPREAD_SECONDS) && least != most, "{opens:?}");
    }

    #[tokio::test]
    async fn registries_that_hang_hold_up_no_other_s_images() {
        let background = Background::starting(Instant::now());
        let mut held = Vec::new();
        for host in ["a", "b", "c", "d"] {
            for _ in 0..limits::BACKGROUND_VETTINGS_PER_HOST {
                held.push(background.place(&format!("{host}.example/app:1")).await);
            }
        }
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, background.place("a.example/app:1")).await.is_err());
        let other = tokio::time::timeout(Duration::from_secs(5), background.place("e.example/app:1")).await;
        assert!(other.is_ok());
        drop(held);
        assert!(
            tokio::time::timeout(Duration::from_secs(5), background.place("a.example/app:1")).await.is_ok()
        );
    }

    #[test]
    fn a_host_s_budget_is_used_up_and_comes_back() {
        let (background, now) = long_open();
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
        let (background, now) = long_open();
        assert_eq!(background.turn("a", now), Turn::Now);
        background.told("a", &too_many(Some(120)), now);
        assert_eq!(background.turn("a", now + Duration::from_secs(119)), Turn::No);
        assert_eq!(background.turn("a", now + Duration::from_secs(121)), Turn::Now);
        background.told("a", &too_many(Some(u64::MAX)), now);
        assert_eq!(background.turn("a", now + LONGEST_ALONE), Turn::Now);
    }

    #[test]
    fn other_errors_do_not_close_a_host() {
        let (background, now) = long_open();
        assert_eq!(background.turn("a", now), Turn::Now);
        background.told("a", &FetchError { cause: Cause::Timeout, ..too_many(None) }, now);
        assert_eq!(background.turn("a", now), Turn::Now);
    }
}
