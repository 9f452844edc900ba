//! The permits the relay holds, so that a proven image starts without a question, and also while no vetter lives.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cri::facts::OF_ONE_POD;
use crate::decision::Permit;
use crate::limits;
use crate::vetter::wire::Call;

/// Permits by the facts they were given for: kind, images by name, the pod's words and what they are for, namespace, labels.
#[derive(Default)]
pub struct Permits {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_facts: HashMap<Key, (Permit, Instant)>,
    /// What the permits rest on.
    basis: Option<String>,
    /// Counts [`Permits::void`]; a permit asked for before and answered after is not held.
    generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: i32,
    images: Vec<(String, String, String)>,
    namespace: String,
    labels: Vec<(String, String)>,
}

/// How old a permit may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The vetter can be asked: as old as the permit itself calls fresh.
    Fresh,
    /// No vetter lives.
    UsableWhenVetterDown,
}

impl Permits {
    /// A permit for a call with these facts, if one of that age is held.
    pub fn find(&self, call: &Call, age: Age, now: Instant) -> Option<Permit> {
        let held = self.lock();
        let (permit, since) = held.by_facts.get(&key(call))?;
        let longest = match age {
            Age::Fresh => permit.fresh_for(),
            Age::UsableWhenVetterDown => permit.usable_when_vetter_down(),
        };
        (now.saturating_duration_since(*since) < longest).then(|| permit.clone())
    }

    /// The state of the world a question is asked in; see [`Permits::hold`].
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Holds a permit that was asked for in `generation`. At most [`limits::PERMITS`]; then the oldest goes.
    pub fn hold(&self, call: &Call, permit: &Permit, generation: u64, now: Instant) {
        if permit.fresh_for() == Duration::ZERO && permit.usable_when_vetter_down() == Duration::ZERO {
            return;
        }
        let mut held = self.lock();
        if held.generation != generation {
            return;
        }
        let key = key(call);
        if held.by_facts.len() >= limits::PERMITS && !held.by_facts.contains_key(&key) {
            held.by_facts.retain(|_, (permit, since)| {
                now.saturating_duration_since(*since)
                    < permit.usable_when_vetter_down().max(permit.fresh_for())
            });
            let oldest =
                held.by_facts.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| held.by_facts.len() >= limits::PERMITS) {
                held.by_facts.remove(&oldest);
            }
        }
        held.by_facts.insert(key, (permit.clone(), now));
    }

    /// Drops every permit: policies or trust have changed.
    pub fn void(&self) {
        let mut held = self.lock();
        held.by_facts = HashMap::new();
        held.generation += 1;
    }

    /// Drops the permit for calls with these facts: what was denied since does not start for want of a vetter.
    pub fn forget(&self, call: &Call) {
        self.lock().by_facts.remove(&key(call));
    }

    /// Drops every permit unless this names the configuration and policies they rest on.
    pub fn rest_on(&self, basis: &str) {
        let same = self.lock().basis.as_deref() == Some(basis);
        if !same {
            self.void();
            self.lock().basis = Some(basis.to_owned());
        }
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.lock().by_facts.len()
    }

    /// None held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(call: &Call) -> Key {
    Key {
        kind: call.kind,
        images: call
            .images
            .iter()
            .map(|image| (image.named.clone(), image.reference.clone(), image.role.clone()))
            .collect(),
        namespace: call.namespace.clone(),
        // With those of one pod a permit would never serve a second one.
        labels: call
            .labels
            .iter()
            .filter(|(name, _)| !OF_ONE_POD.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::from_verdict;
    use crate::vetter::wire::{ImageUse, Outcome, Verdict, VettedImage};

    fn permit() -> Permit {
        let verdict = Verdict {
            outcome: Outcome::Permitted.into(),
            images: vec![VettedImage::default()],
            fresh_ms: 1_000,
            usable_when_down_ms: 60_000,
            ..Default::default()
        };
        from_verdict(Ok(verdict), 1).unwrap()
    }

    fn call(namespace: &str, reference: &str) -> Call {
        let image = ImageUse { named: "sha256:a".into(), reference: reference.into(), ..Default::default() };
        Call { kind: 3, namespace: namespace.into(), images: vec![image], ..Default::default() }
    }

    #[test]
    fn a_permit_is_for_equal_facts_only() {
        let (permits, now) = (Permits::default(), Instant::now());
        permits.hold(&call("prod", "a:1"), &permit(), permits.generation(), now);
        assert!(permits.find(&call("prod", "a:1"), Age::Fresh, now).is_some());
        assert!(permits.find(&call("lax", "a:1"), Age::Fresh, now).is_none());
        assert!(permits.find(&call("prod", "a:2"), Age::Fresh, now).is_none());
        let mut other = call("prod", "a:1");
        other.labels.insert("tier".into(), "web".into());
        assert!(permits.find(&other, Age::Fresh, now).is_none());
    }

    #[test]
    fn a_permit_serves_another_pod_with_equal_facts() {
        let (permits, now) = (Permits::default(), Instant::now());
        permits.hold(&call("prod", "a:1"), &permit(), permits.generation(), now);
        let mut other = call("prod", "a:1");
        other.pod_uid = "another".into();
        for name in OF_ONE_POD {
            other.labels.insert(name.into(), "another".into());
        }
        assert!(permits.find(&other, Age::Fresh, now).is_some());
    }

    #[test]
    fn a_permit_has_two_ages() {
        let (permits, now) = (Permits::default(), Instant::now());
        permits.hold(&call("prod", "a:1"), &permit(), permits.generation(), now);
        let later = now + Duration::from_secs(2);
        assert!(permits.find(&call("prod", "a:1"), Age::Fresh, later).is_none());
        assert!(permits.find(&call("prod", "a:1"), Age::UsableWhenVetterDown, later).is_some());
        let over = now + Duration::from_secs(61);
        assert!(permits.find(&call("prod", "a:1"), Age::UsableWhenVetterDown, over).is_none());
    }

    #[test]
    fn a_permit_is_forgotten_for_equal_facts() {
        let (permits, now) = (Permits::default(), Instant::now());
        permits.hold(&call("prod", "a:1"), &permit(), permits.generation(), now);
        permits.hold(&call("prod", "a:2"), &permit(), permits.generation(), now);
        permits.forget(&call("prod", "a:1"));
        assert!(permits.find(&call("prod", "a:1"), Age::UsableWhenVetterDown, now).is_none());
        assert!(permits.find(&call("prod", "a:2"), Age::Fresh, now).is_some());
    }

    #[test]
    fn a_permit_asked_for_before_a_change_is_not_held_after_it() {
        let (permits, now) = (Permits::default(), Instant::now());
        let asked = permits.generation();
        permits.void();
        permits.hold(&call("prod", "a:1"), &permit(), asked, now);
        assert!(permits.is_empty());
    }

    #[test]
    fn permits_outlive_a_vetter_with_the_same_policies_only() {
        let (permits, now) = (Permits::default(), Instant::now());
        permits.rest_on("a");
        permits.hold(&call("prod", "a:1"), &permit(), permits.generation(), now);
        permits.rest_on("a");
        assert_eq!(permits.len(), 1);
        permits.rest_on("b");
        assert_eq!(permits.len(), 0);
    }

    #[test]
    fn no_more_than_the_limit_are_held() {
        let (permits, now) = (Permits::default(), Instant::now());
        for n in 0..=limits::PERMITS {
            let then = now + Duration::from_micros(n as u64);
            permits.hold(&call("prod", &n.to_string()), &permit(), permits.generation(), then);
        }
        assert_eq!(permits.len(), limits::PERMITS);
        assert!(permits.find(&call("prod", "0"), Age::Fresh, now).is_none());
    }
}
