//! What is judged anew, and what came of it. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::control::wire;
use crate::inventory::uses::{Question, Use};
use crate::limits;
use crate::vetter::wire::{Call, Judged, Kind, Outcome, Whose};

/// What could not be decided is judged again after so long.
const UNDECIDED_AGAIN: Duration = Duration::from_secs(600);
/// What was denied is judged again after so long: an image may be signed late.
const DENIED_AGAIN: Duration = Duration::from_secs(3600);
/// The same where no vetter could be asked.
const NOBODY_AGAIN: Duration = Duration::from_secs(10);

/// The uses of images, by what is asked about them.
pub type Uses = BTreeMap<Question, Vec<Use>>;

/// What there is to be judged, and what was found that is not allowed.
#[derive(Default)]
pub struct Round {
    entries: BTreeMap<Question, Entry>,
    /// A change is at hand, and nothing is judged by it yet.
    pub waits: bool,
    /// When all was judged, milliseconds of Unix time; 0: never.
    pub at: u64,
}

struct Entry {
    uses: Vec<Use>,
    /// What was said last that is not yes.
    found: Option<Found>,
    /// Not judged yet since what is judged by has changed.
    open: bool,
    /// When it is to be judged; `None`: it is being judged.
    due: Option<Instant>,
}

struct Found {
    denied: bool,
    message: String,
    /// A call would be refused: not where the policies themselves only audit.
    refuses: bool,
}

/// One question as the vetter is asked it.
pub struct Ask {
    /// The question.
    pub question: Question,
    /// The calls, each for some of those who use the image so.
    pub calls: Vec<Call>,
    /// Namespaces whose policies may cover the image, where it is not in use.
    pub namespaces: Vec<String>,
}

/// How much is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Running containers that are denied.
    pub running_denied: usize,
    /// Running containers about which it could not be decided.
    pub running_undecided: usize,
    /// Images that are denied and that no container runs on.
    pub stored_denied: usize,
    /// The same, undecided.
    pub stored_undecided: usize,
}

/// Uses that are asked about alike, together. `true`: there were more than a round has room for.
pub fn grouped(mut uses: Vec<Use>) -> (Uses, bool) {
    // An image that is not there is vetted when it is pulled.
    uses.retain(|each| each.trouble.is_empty());
    // What runs is told first where there is not room for all.
    uses.sort_by_key(|each| !each.is_running());
    let too_many = uses.len() > limits::REVETTED;
    let mut groups = Uses::new();
    for each in uses.into_iter().take(limits::REVETTED) {
        groups.entry(each.question("")).or_default().push(each);
    }
    (groups, too_many)
}

impl Round {
    /// Begins anew: all of it is to be judged. What was found before holds until then.
    pub fn begin(&mut self, uses: Uses, now: Instant) {
        self.waits = false;
        let mut before = std::mem::take(&mut self.entries);
        for (question, uses) in uses {
            let found = before.remove(&question).and_then(|entry| entry.found);
            self.entries.insert(question, Entry { uses, found, open: true, due: Some(now) });
        }
    }

    /// Forgets what is gone, and takes in who uses the rest. What has come since was vetted as it came.
    pub fn listed(&mut self, mut uses: Uses) {
        self.entries.retain(|question, entry| match uses.remove(question) {
            Some(uses) => {
                entry.uses = uses;
                true
            }
            None => false,
        });
    }

    /// The next one that is due; it is being judged from now on.
    pub fn next(&mut self, now: Instant) -> Option<Ask> {
        let namespaces = || {
            let all = self.entries.values().flat_map(|entry| &entry.uses).map(|each| each.namespace.clone());
            all.filter(|namespace| !namespace.is_empty()).collect::<BTreeSet<_>>()
        };
        let is_due = |entry: &Entry| entry.due.is_some_and(|due| due <= now);
        let question = self.entries.iter().find(|(_, entry)| is_due(entry)).map(|(q, _)| q.clone())?;
        let is_stored = |entry: &Entry| !entry.uses.iter().any(Use::is_running);
        let namespaces = match self.entries.get(&question).is_some_and(is_stored) {
            true => namespaces().into_iter().take(limits::REVETTED_NAMESPACES).collect(),
            false => Vec::new(),
        };
        let entry = self.entries.get_mut(&question)?;
        entry.due = None;
        let calls = calls(&question, &entry.uses, entry.found.is_some());
        Some(Ask { question, calls, namespaces })
    }

    /// Takes in what was decided; `None`: nobody could be asked.
    pub fn judged(&mut self, question: &Question, judged: Option<&Judged>, now: Instant) {
        let Some(entry) = self.entries.get_mut(question) else { return };
        let Some(judged) = judged else {
            entry.due = Some(now + NOBODY_AGAIN);
            return;
        };
        let denied = match judged.outcome() {
            Outcome::Permitted => {
                self.entries.remove(question);
                return;
            }
            Outcome::Denied => true,
            Outcome::Undecided | Outcome::UnknownOutcome => false,
        };
        entry.open = false;
        entry.due = Some(now + if denied { DENIED_AGAIN } else { UNDECIDED_AGAIN });
        entry.found = Some(Found { denied, message: judged.message.clone(), refuses: judged.refuses });
    }

    /// How many uses are still to be judged.
    pub fn left(&self) -> usize {
        self.entries.values().filter(|entry| entry.open).map(|entry| entry.uses.len()).sum()
    }

    /// Whether there is nothing more to be looked at: all is judged and allowed, or gone.
    pub fn is_settled(&self) -> bool {
        self.entries.is_empty()
    }

    /// How much is not allowed, of what a call would be refused for.
    pub fn counts(&self) -> Counts {
        let containers = |denied| {
            let uses = self.refused(denied).flat_map(|(entry, _)| &entry.uses);
            let containers = uses.filter(|each| !each.container.is_empty());
            containers
                .map(|each| (&each.namespace, &each.pod, &each.container))
                .collect::<BTreeSet<_>>()
                .len()
        };
        let images = |denied| {
            let uses = self.refused(denied).flat_map(|(entry, _)| &entry.uses);
            let stored = uses.filter(|each| each.container.is_empty());
            stored.map(|each| &each.image).collect::<BTreeSet<_>>().len()
        };
        Counts {
            running_denied: containers(true),
            running_undecided: containers(false),
            stored_denied: images(true),
            stored_undecided: images(false),
        }
    }

    fn refused(&self, denied: bool) -> impl Iterator<Item = (&Entry, &Found)> {
        let found = self.entries.values().filter_map(|entry| Some((entry, entry.found.as_ref()?)));
        found.filter(move |(_, found)| found.refuses && found.denied == denied)
    }

    /// All of it, as `Status` shows it.
    pub fn status(&self) -> wire::Revetted {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = self.counts();
        let mut not_allowed: Vec<(bool, wire::NotAllowed)> = Vec::new();
        for denied in [true, false] {
            for (entry, found) in self.refused(denied) {
                not_allowed
                    .extend(entry.uses.iter().map(|each| (each.container.is_empty(), shown(each, found))));
            }
        }
        // Stable: denied before undecided.
        not_allowed.sort_by_key(|(is_stored, _)| *is_stored);
        wire::Revetted {
            left: number(self.left()),
            waits: self.waits,
            at: self.at,
            running_denied: number(counts.running_denied),
            running_undecided: number(counts.running_undecided),
            stored_denied: number(counts.stored_denied),
            stored_undecided: number(counts.stored_undecided),
            not_allowed: not_allowed.into_iter().map(|(_, each)| each).take(limits::FOUND_SHOWN).collect(),
        }
    }
}

fn shown(each: &Use, found: &Found) -> wire::NotAllowed {
    let cut = |text: &str| text.chars().take(limits::QUOTED_CHARS).collect::<String>();
    wire::NotAllowed {
        namespace: cut(&each.namespace),
        pod: cut(&each.pod),
        container: cut(&each.container),
        image: cut(if each.reference.is_empty() { &each.image } else { &each.reference }),
        decision: if found.denied { "denied" } else { "undecided" }.to_owned(),
        message: found.message.chars().take(2 * limits::QUOTED_CHARS).collect(),
    }
}

/// The calls for all who use an image alike: one, but where there are more than a call has room for.
fn calls(question: &Question, uses: &[Use], was_not_allowed: bool) -> Vec<Call> {
    let call = Call { kind: Kind::Revetted.into(), beside: true, was_not_allowed, ..question.call(false) };
    let of = |uses: &[Use]| {
        let mut uses = uses.iter();
        let first = uses.next().cloned().unwrap_or_default();
        let also =
            uses.map(|each| Whose { pod_name: each.pod.clone(), container_name: each.container.clone() });
        Call { pod_name: first.pod, container_name: first.container, also: also.collect(), ..call.clone() }
    };
    uses.chunks(limits::REVETTED_TOGETHER).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::facts::{ROLE_IMAGE, ROLE_PAUSE};

    fn running(pod: &str, image: &str) -> Use {
        Use {
            namespace: "prod".to_owned(),
            pod: pod.to_owned(),
            container: "main".to_owned(),
            role: ROLE_IMAGE.to_owned(),
            ..stored(image)
        }
    }

    fn stored(image: &str) -> Use {
        Use { reference: format!("r.test/{image}:1"), image: image.to_owned(), ..Use::default() }
    }

    fn judged(outcome: Outcome) -> Judged {
        Judged { outcome: outcome.into(), message: "why".to_owned(), refuses: true, ..Judged::default() }
    }

    fn begun(uses: Vec<Use>) -> (Round, Instant) {
        let (mut round, now) = (Round::default(), Instant::now());
        round.begin(grouped(uses).0, now);
        (round, now)
    }

    /// Judges all that is due.
    fn judge(round: &mut Round, now: Instant, outcome: impl Fn(&Question) -> Outcome) -> Vec<Ask> {
        let mut asked = Vec::new();
        while let Some(ask) = round.next(now) {
            round.judged(&ask.question, Some(&judged(outcome(&ask.question))), now);
            asked.push(ask);
        }
        asked
    }

    #[test]
    fn pods_that_use_an_image_alike_are_asked_about_once_and_each_is_told_of() {
        let (mut round, now) = begun(vec![running("a", "x"), running("b", "x"), running("c", "y")]);
        assert_eq!(round.left(), 3);
        let asked = judge(&mut round, now, |_| Outcome::Denied);
        assert_eq!(asked.len(), 2);
        let call = &asked[0].calls[0];
        assert_eq!((call.kind(), call.beside, call.namespace.as_str()), (Kind::Revetted, true, "prod"));
        assert_eq!((call.pod_name.as_str(), call.also[0].pod_name.as_str(), call.also.len()), ("a", "b", 1));
        assert_eq!(round.counts(), Counts { running_denied: 3, ..Counts::default() });
        assert_eq!((round.left(), round.is_settled()), (0, false));
    }

    #[test]
    fn what_is_allowed_leaves_nothing_to_look_at() {
        let (mut round, now) = begun(vec![running("a", "x"), stored("y")]);
        judge(&mut round, now, |_| Outcome::Permitted);
        assert!(round.is_settled());
        assert_eq!(round.counts(), Counts::default());
    }

    #[test]
    fn what_was_found_holds_until_it_is_judged_anew_and_is_recorded_when_it_is_over() {
        let all = || vec![running("a", "x"), stored("y")];
        let (mut round, now) = begun(all());
        judge(&mut round, now, |_| Outcome::Denied);
        round.begin(grouped(all()).0, now);
        assert_eq!((round.left(), round.counts().running_denied, round.counts().stored_denied), (2, 1, 1));
        let asked = judge(&mut round, now, |_| Outcome::Permitted);
        assert!(asked.iter().all(|ask| ask.calls[0].was_not_allowed) && round.is_settled());
    }

    #[test]
    fn what_is_gone_is_not_counted() {
        let (mut round, now) = begun(vec![running("a", "x"), running("b", "x"), stored("y")]);
        judge(&mut round, now, |_| Outcome::Denied);
        round.listed(grouped(vec![running("b", "x"), running("new", "z")]).0);
        assert_eq!(round.counts(), Counts { running_denied: 1, ..Counts::default() });
        round.listed(Uses::new());
        assert!(round.is_settled());
    }

    #[test]
    fn undecided_and_denied_are_told_apart_and_judged_again() {
        let (mut round, now) = begun(vec![running("a", "x"), stored("y"), stored("z")]);
        let outcome = |q: &Question| if q.image == "z" { Outcome::Denied } else { Outcome::Undecided };
        judge(&mut round, now, outcome);
        let counts =
            Counts { running_undecided: 1, stored_undecided: 1, stored_denied: 1, ..Counts::default() };
        assert_eq!(round.counts(), counts);
        assert!(round.next(now + UNDECIDED_AGAIN - Duration::from_secs(1)).is_none());
        assert_eq!(judge(&mut round, now + UNDECIDED_AGAIN, |_| Outcome::Permitted).len(), 2);
        assert_eq!(judge(&mut round, now + DENIED_AGAIN, |_| Outcome::Permitted).len(), 1);
        assert!(round.is_settled());
    }

    #[test]
    fn where_nobody_could_be_asked_it_stays_open() {
        let (mut round, now) = begun(vec![running("a", "x")]);
        let ask = round.next(now).unwrap();
        assert!(round.next(now).is_none(), "it is being judged");
        round.judged(&ask.question, None, now);
        assert_eq!((round.left(), round.counts()), (1, Counts::default()));
        assert!(round.next(now).is_none() && round.next(now + NOBODY_AGAIN).is_some());
    }

    #[test]
    fn what_policies_that_only_audit_are_against_is_not_counted() {
        let (mut round, now) = begun(vec![running("a", "x")]);
        let ask = round.next(now).unwrap();
        let judged = Judged { refuses: false, ..judged(Outcome::Denied) };
        round.judged(&ask.question, Some(&judged), now);
        assert_eq!((round.counts(), round.status().not_allowed.len()), (Counts::default(), 0));
    }

    #[test]
    fn stored_image_is_asked_about_for_the_namespaces_of_the_node() {
        let (mut round, now) = begun(vec![running("a", "x"), stored("y")]);
        let asked = judge(&mut round, now, |_| Outcome::Denied);
        let of = |image: &str| asked.iter().find(|ask| ask.question.image == image).unwrap();
        assert_eq!(
            (of("y").namespaces.as_slice(), of("x").namespaces.len()),
            (["prod".to_owned()].as_slice(), 0)
        );
    }

    #[test]
    fn what_runs_is_shown_first_and_pause_images_count_as_stored() {
        let pause = Use { role: ROLE_PAUSE.to_owned(), namespace: "prod".to_owned(), ..stored("p") };
        let (mut round, now) = begun(vec![stored("a"), pause, running("z", "z")]);
        judge(&mut round, now, |q| if q.image == "z" { Outcome::Undecided } else { Outcome::Denied });
        let status = round.status();
        let shown: Vec<_> = status.not_allowed.iter().map(|each| each.image.as_str()).collect();
        assert_eq!(shown, ["r.test/z:1", "r.test/a:1", "r.test/p:1"]);
        assert_eq!((status.running_undecided, status.stored_denied), (1, 2));
    }

    #[test]
    fn no_call_is_for_more_than_the_limit_and_no_round_has_more() {
        let many = |count: usize| (0..count).map(|n| running(&format!("p{n:05}"), "x")).collect::<Vec<_>>();
        let (mut round, now) = begun(many(limits::REVETTED_TOGETHER + 1));
        let ask = round.next(now).unwrap();
        assert_eq!(
            ask.calls.iter().map(|call| 1 + call.also.len()).sum::<usize>(),
            limits::REVETTED_TOGETHER + 1
        );
        assert_eq!(ask.calls.len(), 2);
        let mut uses = vec![stored("idle")];
        uses.extend(many(limits::REVETTED));
        let (groups, too_many) = grouped(uses);
        assert!(too_many && !groups.keys().any(|question| question.image == "idle"));
    }
}
