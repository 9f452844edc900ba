//! Images hidden from the kubelet so that it pulls them anew, with the pod's own credentials. One set for all connections: the
//! kubelet asks for images on another than it makes containers on.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Relay, Stance};
use crate::image::Reference;
use crate::limits;

/// Longest an image is hidden.
const HIDDEN: Duration = Duration::from_secs(limits::HIDDEN_SECONDS);
/// How long it is not hidden again, whatever came of it.
const REST: Duration = Duration::from_secs(limits::HIDDEN_REST_SECONDS);

/// The images that are hidden, and those that were.
#[derive(Default)]
pub struct Hidden {
    images: Mutex<HashMap<Reference, State>>,
    /// How many are hidden: what everybody else's calls pay for it.
    count: AtomicUsize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Hidden {
        since: Instant,
        /// Namespaces with a container that waits for the pull.
        wanted_by: BTreeSet<String>,
    },
    /// Not again until then.
    Resting { until: Instant, ended: Ended },
}

/// How hiding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The image was pulled.
    Pulled,
    /// A pull failed: what was there is seen again.
    Failed,
    /// Nobody pulled it.
    TimedOut,
    /// Nothing is enforced any more.
    NotEnforced,
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pulled, Self::Failed, Self::TimedOut, Self::NotEnforced];

    /// Its name as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pulled => "pulled",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::NotEnforced => "not_enforced",
        }
    }
}

impl Hidden {
    /// Hides an image for a container of this namespace; `false` if it is hidden already, was a short time ago, or too many are.
    pub fn hide(&self, image: &Reference, namespace: &str, now: Instant) -> bool {
        let mut images = self.images();
        images.retain(|_, state| !matches!(state, State::Resting { until, .. } if *until <= now));
        if let Some(State::Hidden { wanted_by, .. }) = images.get_mut(image)
            && wanted_by.len() < limits::HIDDEN_NAMESPACES
        {
            wanted_by.insert(namespace.to_owned());
        }
        if images.contains_key(image) || images.len() >= limits::HIDDEN_IMAGES {
            return false;
        }
        let wanted_by = BTreeSet::from([namespace.to_owned()]);
        images.insert(image.clone(), State::Hidden { since: now, wanted_by });
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Whether any image is hidden.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// How many are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether this one is, however the kubelet writes its name.
    pub fn is_hidden(&self, name: &str, now: Instant) -> bool {
        let Ok(image) = Reference::parse(name) else { return false };
        // By the clock too, and not by the timer alone.
        matches!(self.images().get(&image), Some(State::Hidden { since, .. }) if now < *since + HIDDEN)
    }

    /// Whether this one cannot be hidden: it was a short time ago, or too many are, and were.
    pub fn has_no_turn(&self, name: &str, now: Instant) -> bool {
        let Ok(image) = Reference::parse(name) else { return false };
        let images = self.images();
        let counts = |state: &State| !matches!(state, State::Resting { until, .. } if *until <= now);
        match images.get(&image).filter(|state| counts(state)) {
            Some(state) => matches!(state, State::Resting { .. }),
            None => images.values().filter(|state| counts(state)).count() >= limits::HIDDEN_IMAGES,
        }
    }

    /// A pull of this image for a pod of this namespace has ended. `true` if it was hidden until now. That somebody else's pull
    /// fails, whose login the registry does not let in, says nothing about that of the pods that wait.
    pub fn pulled(&self, name: &str, namespace: &str, succeeded: bool, now: Instant) -> bool {
        let Ok(image) = Reference::parse(name) else { return false };
        let is_wanted = match self.images().get(&image) {
            Some(State::Hidden { wanted_by, .. }) => wanted_by.contains(namespace),
            _ => true,
        };
        if !succeeded && !is_wanted {
            return false;
        }
        let ended = if succeeded { Ended::Pulled } else { Ended::Failed };
        let was_hidden = self.end(&image, None, ended, now);
        // The kubelet tries its credentials one after the other: one that is let in counts for all.
        if let (true, Some(State::Resting { ended, .. })) = (succeeded, self.images().get_mut(&image)) {
            *ended = Ended::Pulled;
        }
        was_hidden
    }

    /// Ends hiding; that which began then, where that is said.
    pub fn end(&self, image: &Reference, began: Option<Instant>, ended: Ended, now: Instant) -> bool {
        let mut images = self.images();
        match images.get(image) {
            Some(State::Hidden { since, .. }) if began.is_none_or(|began| began == *since) => {}
            _ => return false,
        }
        self.count.fetch_sub(1, Ordering::SeqCst);
        match ended {
            Ended::NotEnforced => drop(images.remove(image)),
            _ => drop(images.insert(image.clone(), State::Resting { until: now + REST, ended })),
        }
        true
    }

    /// Those that nobody has pulled, or whose pull failed, in the order of their names: they are not what their tag is in the
    /// registry, though that is permitted.
    pub fn not_pulled(&self, now: Instant) -> Vec<(String, Ended)> {
        let images = self.images();
        let mut all: Vec<_> = images
            .iter()
            .filter_map(|(image, state)| match state {
                State::Resting { ended: ended @ (Ended::Failed | Ended::TimedOut), until }
                    if now < *until =>
                {
                    Some((image.to_string(), *ended))
                }
                State::Resting { .. } | State::Hidden { .. } => None,
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn images(&self) -> MutexGuard<'_, HashMap<Reference, State>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hides an image from the kubelet's presence query, for a bounded time and while calls are enforced. A container of this
/// namespace waits for its pull.
pub fn hide(relay: &Relay, image: &Reference, namespace: &str) {
    let began = Instant::now();
    if !relay.hidden.hide(image, namespace, began) {
        return;
    }
    tracing::info!(%image, "its tag has moved in the registry: hidden until it is pulled anew");
    relay.metrics.hidden(relay.hidden.count());
    let (hidden, metrics, mut live) =
        (Arc::clone(&relay.hidden), Arc::clone(&relay.metrics), relay.live.clone());
    let image = image.clone();
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = tokio::time::sleep_until(began + HIDDEN) => Ended::TimedOut,
            _ = live.wait_for(|live| live.in_force.stance != Stance::Enforce) => Ended::NotEnforced,
        };
        if hidden.end(&image, Some(began), ended, Instant::now()) {
            tracing::warn!(%image, reason = ended.as_str(), "no longer hidden, and not pulled anew");
            metrics.repulled(ended, hidden.count());
        }
    });
}

/// A pull's end ends hiding: also of what failed for those who wait for it, so that what was there is seen again.
pub fn pulled(relay: &Relay, name: &str, namespace: &str, succeeded: bool) {
    if relay.hidden.pulled(name, namespace, succeeded, Instant::now()) {
        tracing::info!(image = name, succeeded, "pulled anew");
        relay.metrics.repulled(if succeeded { Ended::Pulled } else { Ended::Failed }, relay.hidden.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hiding() -> (Hidden, Reference, Instant) {
        let (hidden, image, now) = (Hidden::default(), Reference::parse("nginx").unwrap(), Instant::now());
        assert!(hidden.hide(&image, "prod", now));
        (hidden, image, now)
    }

    #[test]
    fn image_is_hidden_however_its_name_is_written() {
        let (hidden, _, now) = hiding();
        for name in
            ["nginx", "nginx:latest", "library/nginx", "docker.io/library/nginx:latest", "docker.io/nginx"]
        {
            assert!(hidden.is_hidden(name, now), "{name}");
        }
        let by_digest = format!("nginx@sha256:{}", "0".repeat(64));
        for name in ["nginx:1", "r.io/nginx", "", &by_digest, &"0".repeat(64)] {
            assert!(!hidden.is_hidden(name, now), "{name}");
        }
    }

    #[test]
    fn pull_ends_hiding_whatever_came_of_it() {
        for succeeded in [true, false] {
            let (hidden, _, now) = hiding();
            assert!(hidden.any());
            assert!(hidden.pulled("docker.io/nginx:latest", "prod", succeeded, now));
            assert!(!hidden.is_hidden("nginx", now) && !hidden.any() && hidden.has_no_turn("nginx", now));
            assert_eq!(hidden.not_pulled(now).is_empty(), succeeded);
            assert!(!hidden.pulled("nginx", "prod", succeeded, now), "ended twice");
        }
    }

    #[test]
    fn failed_pull_of_another_namespace_ends_nothing_and_its_successful_one_does() {
        let (hidden, image, now) = hiding();
        for other in ["other", ""] {
            assert!(!hidden.pulled("nginx", other, false, now));
            assert!(hidden.is_hidden("nginx", now));
        }
        // Its own container waits for the same pull by now.
        assert!(!hidden.hide(&image, "other", now));
        assert!(hidden.pulled("nginx", "other", false, now));
        let (hidden, _, now) = hiding();
        assert!(hidden.pulled("nginx", "other", true, now));
        assert_eq!(hidden.not_pulled(now), []);
    }

    #[test]
    fn credential_that_is_let_in_counts_for_those_before() {
        let (hidden, _, now) = hiding();
        assert!(hidden.pulled("nginx", "prod", false, now));
        assert!(!hidden.pulled("nginx", "prod", true, now));
        assert_eq!(hidden.not_pulled(now), []);
    }

    #[test]
    fn image_is_hidden_for_a_bounded_time_without_any_timer() {
        let (hidden, _, now) = hiding();
        assert!(hidden.is_hidden("nginx", now + HIDDEN - Duration::from_millis(1)));
        assert!(!hidden.is_hidden("nginx", now + HIDDEN));
    }

    #[test]
    fn image_that_was_hidden_rests() {
        let (hidden, image, now) = hiding();
        assert!(hidden.end(&image, Some(now), Ended::TimedOut, now));
        assert_eq!(hidden.not_pulled(now), [("docker.io/library/nginx:latest".to_owned(), Ended::TimedOut)]);
        assert_eq!(hidden.not_pulled(now + REST), [], "told for ever");
        assert!(!hidden.hide(&image, "prod", now + REST - Duration::from_millis(1)));
        assert!(!hidden.has_no_turn("nginx", now + REST));
        assert!(hidden.hide(&image, "prod", now + REST));
    }

    #[test]
    fn where_nothing_is_enforced_nothing_is_remembered() {
        let (hidden, image, now) = hiding();
        assert!(hidden.end(&image, Some(now), Ended::NotEnforced, now));
        assert!(!hidden.has_no_turn("nginx", now) && hidden.hide(&image, "prod", now));
    }

    #[test]
    fn end_of_an_earlier_hiding_does_not_end_this_one() {
        let (hidden, image, now) = hiding();
        assert!(!hidden.end(&image, Some(now - Duration::from_secs(1)), Ended::TimedOut, now));
        assert!(hidden.is_hidden("nginx", now));
    }

    #[test]
    fn no_more_than_the_limit_are_hidden() {
        let (hidden, now) = (Hidden::default(), Instant::now());
        let image = |n: usize| Reference::parse(&format!("r.io/a:{n}")).unwrap();
        assert!((0..limits::HIDDEN_IMAGES).all(|n| hidden.hide(&image(n), "prod", now)));
        let one_more = image(limits::HIDDEN_IMAGES);
        assert!(!hidden.hide(&one_more, "prod", now));
        // It would wait for being hidden, and nobody would pull it.
        assert!(hidden.has_no_turn(&one_more.to_string(), now));
        assert!(!hidden.has_no_turn(&image(0).to_string(), now), "hidden, and to be pulled");
        assert!(hidden.end(&image(0), None, Ended::Pulled, now));
        assert!(!hidden.has_no_turn(&one_more.to_string(), now + REST));
    }
}
