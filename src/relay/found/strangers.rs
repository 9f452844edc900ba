//! Containers that did not come through crivet, and what was decided about them. No I/O, no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::known::Known;
use crate::control::wire;
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::v1::{Container, ContainerState, PodSandbox};
use crate::limits;
use crate::metrics::Origin;
use crate::vetter::wire::{Call, ImageUse, Judged, Kind, Outcome};

/// A container that is not known may be one whose create is just being answered; so long it is given.
pub const GRACE: Duration = Duration::from_secs(3);
/// What could not be decided is tried again after so long.
const AGAIN: Duration = Duration::from_secs(600);

/// The strangers that are there.
#[derive(Default)]
pub struct Strangers {
    there: BTreeMap<Box<str>, Stranger>,
    /// Unknown, and perhaps only not known yet.
    suspects: BTreeMap<Box<str>, Instant>,
}

struct Stranger {
    name: String,
    image: ImageUse,
    sandbox: String,
    pod: Option<Pod>,
    bypass: bool,
    running: bool,
    /// Milliseconds of Unix time.
    found: u64,
    decision: Option<(Outcome, String)>,
    /// When it is to be vetted (again); `None`: no more, or it is being vetted.
    due: Option<Instant>,
}

struct Pod {
    name: String,
    uid: String,
    namespace: String,
    labels: BTreeMap<String, String>,
}

/// What a round of looking is made by.
pub struct Round<'a> {
    /// What came through.
    pub known: &'a Known,
    /// When the runtime was asked.
    pub asked: Instant,
    /// The same, milliseconds of Unix time.
    pub now_ms: u64,
}

impl Strangers {
    /// Takes in what the runtime lists; answers with the strangers that are new. `true` beside them: some may yet turn
    /// out to have come through, so another look is due after [`GRACE`].
    pub fn listed(&mut self, containers: Vec<Container>, round: &Round<'_>) -> (Vec<Box<str>>, bool) {
        let mut unknown: BTreeMap<Box<str>, Container> = containers
            .into_iter()
            .filter(|container| !round.known.contains(&container.id))
            .map(|container| (container.id.as_str().into(), container))
            .collect();
        self.there.retain(|id, stranger| match unknown.remove(id) {
            Some(container) => {
                stranger.running = container.state() == ContainerState::ContainerRunning;
                // A clock that is put back shows crivet to have been in the way for longer.
                stranger.bypass = round.known.is_bypass(container.created_at);
                true
            }
            None => false,
        });
        self.suspects.retain(|id, _| unknown.contains_key(id));
        let (mut new, mut suspected) = (Vec::new(), false);
        for (id, container) in unknown {
            let bypass = round.known.is_bypass(container.created_at);
            let is_over = container.state() == ContainerState::ContainerExited;
            // What had ended before crivet came is of no interest; what ran past crivet is, even if it has ended.
            if (is_over && !bypass) || self.there.len() >= limits::STRANGERS {
                continue;
            }
            let first = *self.suspects.entry(id.clone()).or_insert(round.asked);
            let made_ms = u64::try_from(container.created_at / 1_000_000).unwrap_or(0);
            let old = made_ms + 10 * millis(GRACE) < round.now_ms;
            if !old && round.asked.duration_since(first) < GRACE {
                suspected = true;
                continue;
            }
            self.suspects.remove(&id);
            new.push(id.clone());
            self.there.insert(id, stranger(container, bypass, round));
        }
        (new, suspected)
    }

    /// Whether the pods of some are not known yet.
    pub fn want_pods(&self) -> bool {
        self.there.values().any(|stranger| stranger.pod.is_none())
    }

    /// Takes in the pods that the runtime lists. A stranger without a pod is vetted without its namespace.
    pub fn pods(&mut self, sandboxes: Vec<PodSandbox>) {
        let sandboxes: BTreeMap<&str, &PodSandbox> =
            sandboxes.iter().map(|pod| (pod.id.as_str(), pod)).collect();
        for stranger in self.there.values_mut().filter(|stranger| stranger.pod.is_none()) {
            let pod = sandboxes.get(stranger.sandbox.as_str());
            let metadata = pod.and_then(|pod| pod.metadata.clone()).unwrap_or_default();
            let labels = pod.map(|pod| pod.labels.clone()).unwrap_or_default();
            let (name, uid, namespace) = (metadata.name, metadata.uid, metadata.namespace);
            stranger.pod = Some(Pod { name, uid, namespace, labels });
        }
    }

    /// The strangers whose vetting is due, each as the call the vetter is asked; they are being vetted from now on.
    pub fn due(&mut self, now: Instant) -> Vec<(Box<str>, Call)> {
        let mut calls = Vec::new();
        for (id, stranger) in &mut self.there {
            if stranger.due.is_some_and(|due| due <= now)
                && let Some(pod) = &stranger.pod
            {
                stranger.due = None;
                calls.push((id.clone(), stranger.call(pod)));
            }
        }
        calls
    }

    /// Takes in what was decided; `None`: nobody could be asked. `true` if that is news.
    pub fn decided(&mut self, id: &str, judged: Option<&Judged>, now: Instant) -> bool {
        let Some(stranger) = self.there.get_mut(id) else { return false };
        let Some(judged) = judged else {
            stranger.due = Some(now + GRACE);
            return false;
        };
        let outcome = judged.outcome();
        let open = outcome == Outcome::Undecided || outcome == Outcome::UnknownOutcome;
        stranger.due = open.then(|| now + AGAIN);
        let news = stranger.decision.as_ref().is_none_or(|(before, _)| *before != outcome);
        stranger.decision = Some((outcome, judged.message.clone()));
        news
    }

    /// Where a stranger comes from.
    pub fn origin(&self, id: &str) -> Option<Origin> {
        self.there.get(id).map(Stranger::origin)
    }

    /// A stranger in words, for the log.
    pub fn shown(&self, id: &str) -> Option<wire::FoundContainer> {
        self.there.get(id).map(|stranger| stranger.shown(id))
    }

    /// How many are running.
    pub fn running(&self, origin: Origin) -> usize {
        self.there.values().filter(|stranger| stranger.running && stranger.origin() == origin).count()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.there.len()
    }

    /// As many as are shown, bypasses first.
    pub fn list(&self) -> Vec<wire::FoundContainer> {
        let of = |bypass| self.there.iter().filter(move |(_, stranger)| stranger.bypass == bypass);
        let sorted = of(true).chain(of(false)).take(limits::FOUND_SHOWN);
        sorted.map(|(id, stranger)| stranger.shown(id)).collect()
    }
}

fn stranger(container: Container, bypass: bool, round: &Round<'_>) -> Stranger {
    let image = container.image.clone().unwrap_or_default();
    // The pod's own words, else what the caller named: often an ID, which matches only rules for all images.
    let reference =
        if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    // CRI-O's image_ref is a repository@digest on some versions; the vetter asks the runtime which ID that is.
    let named =
        if container.image_id.is_empty() { container.image_ref.clone() } else { container.image_id.clone() };
    Stranger {
        running: container.state() == ContainerState::ContainerRunning,
        name: container.metadata.unwrap_or_default().name,
        image: ImageUse { named, reference, role: ROLE_IMAGE.to_owned(), ..Default::default() },
        sandbox: container.pod_sandbox_id,
        pod: None,
        bypass,
        found: round.now_ms,
        decision: None,
        due: Some(round.asked),
    }
}

impl Stranger {
    fn origin(&self) -> Origin {
        if self.bypass { Origin::Bypass } else { Origin::BeforeCrivet }
    }

    fn call(&self, pod: &Pod) -> Call {
        Call {
            kind: Kind::FoundContainer.into(),
            beside: true,
            namespace: pod.namespace.clone(),
            pod_name: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            container_name: self.name.clone(),
            labels: pod.labels.clone(),
            images: vec![self.image.clone()],
            ..Default::default()
        }
    }

    fn shown(&self, id: &str) -> wire::FoundContainer {
        let cut = |text: &str| text.chars().take(limits::QUOTED_CHARS).collect::<String>();
        let pod = self.pod.as_ref();
        let image = if self.image.reference.is_empty() { &self.image.named } else { &self.image.reference };
        let (decision, message) = match &self.decision {
            None => ("", ""),
            Some((Outcome::Permitted, _)) => ("allowed", ""),
            Some((Outcome::Denied, message)) => ("denied", message.as_str()),
            Some((Outcome::Undecided | Outcome::UnknownOutcome, message)) => ("undecided", message.as_str()),
        };
        wire::FoundContainer {
            container_id: cut(id),
            name: cut(&self.name),
            pod: cut(pod.map_or("", |pod| &pod.name)),
            namespace: cut(pod.map_or("", |pod| &pod.namespace)),
            image: cut(image),
            decision: decision.to_owned(),
            message: message.chars().take(2 * limits::QUOTED_CHARS).collect(),
            running: self.running,
            bypass: self.bypass,
            found: self.found,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{ContainerMetadata, ImageSpec, PodSandboxMetadata};

    const NOW: i64 = 1_000_000_000_000_000;

    fn container(id: &str, made_seconds_ago: i64) -> Container {
        Container {
            id: id.to_owned(),
            pod_sandbox_id: "pod".to_owned(),
            metadata: Some(ContainerMetadata { name: "main".to_owned() }),
            image: Some(ImageSpec {
                image: "sha256:aa".into(),
                user_specified_image: "r/app:1".into(),
                ..Default::default()
            }),
            image_ref: "sha256:aa".to_owned(),
            state: ContainerState::ContainerRunning.into(),
            created_at: NOW - made_seconds_ago * 1_000_000_000,
            ..Default::default()
        }
    }

    /// crivet let a container through a thousand seconds ago.
    fn known() -> Known {
        let mut known = Known::default();
        known.came_through("mine", Instant::now(), NOW - 1_000_000_000_000);
        known
    }

    fn round(known: &Known, asked: Instant) -> Round<'_> {
        Round { known, asked, now_ms: 1_000_000_000 }
    }

    #[test]
    fn a_container_that_did_not_come_through_is_found_and_one_that_did_is_not() {
        let (known, now, mut strangers) = (known(), Instant::now(), Strangers::default());
        let both = vec![container("mine", 500), container("theirs", 500)];
        let (new, suspected) = strangers.listed(both, &round(&known, now));
        assert_eq!((new, suspected), (vec!["theirs".into()], false));
        let shown = strangers.shown("theirs").unwrap();
        assert!(shown.bypass && shown.running && shown.decision.is_empty(), "{shown:?}");
        assert_eq!((strangers.running(Origin::Bypass), strangers.running(Origin::BeforeCrivet)), (1, 0));
    }

    #[test]
    fn one_whose_create_is_being_answered_is_given_time() {
        let (mut known, now, mut strangers) = (known(), Instant::now(), Strangers::default());
        let fresh = || vec![container("fresh", 0), container("theirs", 0)];
        assert_eq!(strangers.listed(fresh(), &round(&known, now)), (vec![], true));
        known.came_through("fresh", now, NOW);
        let (new, _) = strangers.listed(fresh(), &round(&known, now + GRACE));
        assert_eq!(new, vec!["theirs".into()]);
    }

    #[test]
    fn what_was_there_before_crivet_is_no_bypass() {
        let (known, now, mut strangers) = (known(), Instant::now(), Strangers::default());
        strangers.listed(vec![container("old", 2000)], &round(&known, now));
        assert!(!strangers.shown("old").unwrap().bypass);
        let nothing_yet = Known::default();
        strangers.listed(vec![container("other", 500)], &round(&nothing_yet, now));
        assert!(!strangers.shown("other").unwrap().bypass);
    }

    #[test]
    fn one_made_under_a_clock_that_was_put_back_is_a_bypass() {
        let (mut known, now, mut strangers) = (Known::default(), Instant::now(), Strangers::default());
        known.came_through("mine", now, NOW + 1_000_000_000_000);
        strangers.listed(vec![container("theirs", 500)], &round(&known, now));
        assert_eq!(strangers.running(Origin::BeforeCrivet), 1);
        known.came_through("mine-too", now, NOW - 600_000_000_000);
        strangers.listed(vec![container("theirs", 500)], &round(&known, now));
        assert_eq!((strangers.running(Origin::Bypass), strangers.running(Origin::BeforeCrivet)), (1, 0));
    }

    #[test]
    fn what_has_ended_is_found_only_if_it_ran_past_crivet() {
        let (known, now, mut strangers) = (known(), Instant::now(), Strangers::default());
        let ended =
            |id, ago| Container { state: ContainerState::ContainerExited.into(), ..container(id, ago) };
        let (new, _) = strangers.listed(vec![ended("old", 2000), ended("theirs", 500)], &round(&known, now));
        assert_eq!(new, vec!["theirs".into()]);
        assert_eq!(strangers.running(Origin::Bypass), 0);
        strangers.listed(Vec::new(), &round(&known, now));
        assert_eq!(strangers.len(), 0);
    }

    #[test]
    fn a_stranger_is_vetted_with_its_pod_once_and_again_if_undecided() {
        let (known, now, mut strangers) = (known(), Instant::now(), Strangers::default());
        strangers.listed(vec![container("theirs", 500)], &round(&known, now));
        assert!(strangers.due(now).is_empty() && strangers.want_pods());
        let metadata = PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "prod".into() };
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        strangers.pods(vec![PodSandbox {
            id: "pod".into(),
            metadata: Some(metadata),
            labels: labels.clone(),
            ..Default::default()
        }]);
        let (_, call) = strangers.due(now).pop().unwrap();
        assert_eq!((call.namespace.as_str(), call.container_name.as_str()), ("prod", "main"));
        assert_eq!((call.kind(), call.beside, call.labels), (Kind::FoundContainer, true, labels));
        assert_eq!(
            (call.images[0].named.as_str(), call.images[0].reference.as_str()),
            ("sha256:aa", "r/app:1")
        );
        assert!(strangers.due(now).is_empty());

        assert!(!strangers.decided("theirs", None, now));
        assert_eq!(strangers.due(now + GRACE).len(), 1);
        let judged = |outcome: Outcome| Judged { outcome: outcome.into(), ..Default::default() };
        assert!(strangers.decided("theirs", Some(&judged(Outcome::Undecided)), now));
        assert_eq!((strangers.due(now + GRACE).len(), strangers.due(now + AGAIN).len()), (0, 1));
        assert!(!strangers.decided("theirs", Some(&judged(Outcome::Undecided)), now));
        assert!(strangers.decided("theirs", Some(&judged(Outcome::Denied)), now));
        assert!(strangers.due(now + AGAIN * 2).is_empty());
        assert_eq!(strangers.shown("theirs").unwrap().decision, "denied");
    }

    #[test]
    fn the_list_is_bounded_and_begins_with_bypasses() {
        let (known, now, mut strangers) = (known(), Instant::now(), Strangers::default());
        let mut containers: Vec<_> =
            (0..limits::STRANGERS + 5).map(|number| container(&format!("a{number}"), 2000)).collect();
        containers.truncate(limits::STRANGERS - 1);
        containers.push(container("zz", 500));
        strangers.listed(containers, &round(&known, now));
        assert_eq!((strangers.len(), strangers.list().len()), (limits::STRANGERS, limits::FOUND_SHOWN));
        assert!(strangers.list()[0].bypass);
    }
}
