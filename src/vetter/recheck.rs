//! What registries said of tags, and when; in memory, so that a restart asks anew. What a tag points at counts for all; that
//! there is no such tag, or that nothing was said, only for who asked: to others a registry may say something else.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::flight::Flights;
use super::trouble::Trouble;
use crate::image::{Digest, ImageId};
use crate::limits;
use crate::registry::Credential;

/// A failure, or what refuses what runs, is asked about again after this.
pub const RETRY: Duration = Duration::from_secs(limits::RECHECK_RETRY_SECONDS);

/// What a tag points at, and when that was asked.
type Headed = Result<(Digest, Instant), Trouble>;

/// What is remembered of tags.
#[derive(Default)]
pub struct Rechecks {
    tags: Mutex<Tags>,
    /// Requests under way: by reference and credential, and whether nobody waits.
    pub heads: Flights<(String, Credential, bool), Headed>,
    /// Turns to ask, by reference and whether nobody waits.
    turns: Mutex<HashMap<(String, bool), Arc<Turns>>>,
    counts: Counts,
    /// Another one in each process, so that nodes do not ask together.
    jitter: RandomState,
}

#[derive(Default)]
struct Tags {
    said: HashMap<String, Said>,
    gone: HashMap<Asker, Instant>,
    unanswered: HashMap<Asker, (Unanswered, Instant)>,
    not_permitted: HashMap<(Asker, Digest), (NotPermitted, Instant)>,
}

struct Turns {
    places: Arc<Semaphore>,
    wide: AtomicBool,
}

/// A turn to ask about a tag, over when it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// What was said serves nobody else: the others may ask, some at once, each by its own login.
    pub fn serves_one(&self) {
        if !self.turns.wide.swap(true, Ordering::Relaxed) {
            self.turns.places.add_permits(limits::RECHECKS_AT_ONCE - 1);
        }
    }
}

/// What a registry said of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it points at; `None`: there is no such tag.
    pub digest: Option<Digest>,
    /// When it was asked.
    pub at: Instant,
    /// An image that this is not, by a walk of its bytes.
    pub other_than: Option<ImageId>,
}

/// Who asked, and for which reference: the login that is tried first is a pull's, of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The normalised reference.
    pub reference: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The login held from a pull.
    pub held: Option<Credential>,
    /// The names of the policies that are asked: of one pod's image more than of another's, by its labels.
    pub policies: Vec<String>,
}

/// Why a registry did not say what a tag points at, one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It gave no answer, or none that can be used.
    Down(String),
    /// 401 or 403 to every login.
    Refused(String),
}

/// What came of a tag that points elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// What was vetted runs, as the policy says.
    Warn,
    /// It is refused.
    Deny,
    /// It is pulled anew first.
    Repull,
    /// What the tag points at now is not permitted: what was vetted runs.
    NotPermitted,
    /// It was to be pulled anew already, and still is not there: what was vetted runs.
    NotPulled,
    /// Whether what the tag points at now is permitted could not be decided: what was vetted runs.
    Undecided,
}

/// Why what a tag points at now is not pulled, one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPermitted {
    /// The policies do not permit it.
    Denied(String),
    /// That could not be decided.
    Undecided(String),
}

/// What was counted since the start, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Requests, by what came of them.
    pub requests: [(&'static str, u64); 3],
    /// Containers whose tag points elsewhere, by what came of them.
    pub drift: [(&'static str, u64); 6],
}

#[derive(Default)]
struct Counts {
    requests: [AtomicU64; 3],
    drift: [AtomicU64; 6],
}

impl Counted {
    /// What came of requests.
    pub const REQUESTS: [&str; 3] = ["answered", "registry_down", "login_refused"];
    /// What came of containers whose tag points elsewhere.
    pub const DRIFT: [&str; 6] = ["warn", "deny", "repull", "not_permitted", "not_pulled", "undecided"];
}

impl Rechecks {
    /// What was said of a tag last, as far as that counts for who asks.
    pub fn said(&self, asker: &Asker) -> Option<Said> {
        let tags = self.tags();
        let said = tags.said.get(&asker.reference).copied();
        let gone = tags.gone.get(asker).map(|at| Said { digest: None, at: *at, other_than: None });
        // Asked at one time, what there is counts.
        gone.filter(|gone| said.is_none_or(|said| said.at < gone.at)).or(said)
    }

    /// Waits for a turn to ask about a tag: what the first is told serves all who wait, whatever their logins. Live calls do
    /// not wait for those that nobody waits for.
    pub async fn turn(&self, reference: &str, nobody_waits: bool) -> Turn {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turns| Arc::strong_count(turns) > 1);
            let turns = all.entry((reference.to_owned(), nobody_waits)).or_insert_with(|| {
                Arc::new(Turns { places: Arc::new(Semaphore::new(1)), wide: AtomicBool::default() })
            });
            Arc::clone(turns)
        };
        let place = Arc::clone(&turns.places).acquire_owned().await.ok();
        Turn { turns, _place: place }
    }

    /// How old what was said may be: a little less than the interval, by the reference.
    pub fn fresh_for(&self, reference: &str, interval: Duration) -> Duration {
        let part = u32::try_from(self.jitter.hash_one(reference) % 128).unwrap_or_default();
        interval - (interval / 10) * part / 128
    }

    /// A registry said what a tag points at, when it was asked at this time. An answer to an earlier question that comes
    /// later says nothing new.
    pub fn learned(&self, reference: &str, digest: Digest, at: Instant) {
        let mut tags = self.tags();
        if tags.said.get(reference).is_some_and(|said| said.at > at) {
            return;
        }
        let before = tags.said.get(reference).filter(|said| said.digest == Some(digest));
        let other_than = before.and_then(|said| said.other_than);
        make_room(&mut tags.said, reference, |said| said.at);
        tags.said.insert(reference.to_owned(), Said { digest: Some(digest), at, other_than });
        tags.unanswered.retain(|asker, _| asker.reference != reference);
    }

    /// A registry said to this one that there is no such tag, when it was asked at this time. Some say so of what the login may
    /// not see.
    pub fn gone(&self, asker: Asker, at: Instant) {
        let mut tags = self.tags();
        if tags.gone.get(&asker).is_some_and(|before| *before > at) {
            return;
        }
        tags.unanswered.remove(&asker);
        make_room(&mut tags.gone, &asker, |at| *at);
        tags.gone.insert(asker, at);
    }

    /// What a tag points at is not this image.
    pub fn is_other_than(&self, reference: &str, digest: Digest, id: ImageId) {
        if let Some(said) = self.tags().said.get_mut(reference).filter(|said| said.digest == Some(digest)) {
            said.other_than = Some(id);
        }
    }

    /// Why there was no answer a short time ago.
    pub fn unanswered(&self, asker: &Asker, now: Instant) -> Option<Unanswered> {
        let tags = self.tags();
        let (why, at) = tags.unanswered.get(asker)?;
        (now.saturating_duration_since(*at) < RETRY).then(|| why.clone())
    }

    /// There was no answer.
    pub fn not_answered(&self, asker: Asker, why: Unanswered, now: Instant) {
        let mut tags = self.tags();
        make_room(&mut tags.unanswered, &asker, |(_, at)| *at);
        tags.unanswered.insert(asker, (why, now));
    }

    /// Why a digest was not permitted a short time ago. It may be signed meanwhile.
    pub fn why_not_permitted(&self, asker: &Asker, digest: Digest, now: Instant) -> Option<NotPermitted> {
        let tags = self.tags();
        let (why, at) = tags.not_permitted.get(&(asker.clone(), digest))?;
        (now.saturating_duration_since(*at) < RETRY).then(|| why.clone())
    }

    /// A digest is not permitted, or that could not be decided.
    pub fn not_permitted(&self, asker: Asker, digest: Digest, why: NotPermitted, now: Instant) {
        let (mut tags, key) = (self.tags(), (asker, digest));
        make_room(&mut tags.not_permitted, &key, |(_, at)| *at);
        tags.not_permitted.insert(key, (why, now));
    }

    /// A request was answered, or not.
    pub fn asked<T>(&self, result: Result<&T, &Unanswered>) {
        let at = match result {
            Ok(_) => 0,
            Err(Unanswered::Down(_)) => 1,
            Err(Unanswered::Refused(_)) => 2,
        };
        count(self.counts.requests.get(at));
    }

    /// A tag points elsewhere.
    pub fn drifted(&self, drift: Drift) {
        count(self.counts.drift.get(drift as usize));
    }

    /// What was counted.
    pub fn counted(&self) -> Counted {
        let mut counted = Counted {
            requests: Counted::REQUESTS.map(|name| (name, 0)),
            drift: Counted::DRIFT.map(|name| (name, 0)),
        };
        let requests = counted.requests.iter_mut().zip(&self.counts.requests);
        for ((_, counted), count) in requests.chain(counted.drift.iter_mut().zip(&self.counts.drift)) {
            *counted = count.load(Ordering::Relaxed);
        }
        counted
    }

    fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes room for a key: the oldest goes.
fn make_room<K, Q, V>(map: &mut HashMap<K, V>, key: &Q, at: impl Fn(&V) -> Instant)
where
    K: Clone + Eq + Hash + std::borrow::Borrow<Q>,
    Q: Eq + Hash + ?Sized,
{
    if map.len() < limits::RECHECKED_TAGS || map.contains_key(key) {
        return;
    }
    let oldest = map.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| key.clone());
    if let Some(oldest) = oldest {
        map.remove(oldest.borrow());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn asker(namespace: &str, held: Option<Credential>) -> Asker {
        Asker { reference: "r/a:1".into(), namespace: namespace.into(), held, policies: Vec::new() }
    }

    #[test]
    fn what_was_said_is_remembered_with_its_time() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        assert_eq!(rechecks.said(&asker("prod", None)), None);
        rechecks.learned("r/a:1", Digest::of(b"a"), now);
        let said = Said { digest: Some(Digest::of(b"a")), at: now, other_than: None };
        let other = Asker { reference: "r/a:2".into(), ..asker("prod", None) };
        assert_eq!(rechecks.said(&asker("prod", None)), Some(said));
        assert_eq!(rechecks.said(&asker("dev", None)), Some(said));
        assert_eq!(rechecks.said(&other), None);
    }

    #[test]
    fn answer_to_an_earlier_question_that_comes_later_says_nothing() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let said = || rechecks.said(&asker("prod", None)).unwrap().digest;
        rechecks.learned("r/a:1", new, now + SECOND);
        rechecks.learned("r/a:1", old, now);
        assert_eq!(said(), Some(new));
        rechecks.gone(asker("prod", None), now);
        assert_eq!(said(), Some(new));
        rechecks.learned("r/a:1", old, now + 2 * SECOND);
        assert_eq!(said(), Some(old));
    }

    #[test]
    fn no_such_tag_is_the_word_to_one_asker() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        rechecks.learned("r/a:1", Digest::of(b"a"), now);
        rechecks.gone(asker("prod", None), now + SECOND);
        let said = |asker: Asker| rechecks.said(&asker).unwrap();
        assert_eq!((said(asker("prod", None)).digest, said(asker("prod", None)).at), (None, now + SECOND));
        for other in [asker("dev", None), asker("prod", Some(Credential::basic("u", "p")))] {
            assert_eq!(said(other).digest, Some(Digest::of(b"a")));
        }
        rechecks.learned("r/a:1", Digest::of(b"b"), now + 2 * SECOND);
        assert_eq!(said(asker("prod", None)).digest, Some(Digest::of(b"b")));
    }

    #[test]
    fn image_that_a_digest_is_not_is_forgotten_with_the_digest() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        let (a, b, id) =
            (Digest::of(b"a"), Digest::of(b"b"), ImageId::parse(&Digest::of(b"id").to_string()).unwrap());
        let other_than = || rechecks.said(&asker("prod", None)).unwrap().other_than;
        rechecks.learned("r/a:1", a, now);
        rechecks.is_other_than("r/a:1", b, id);
        assert_eq!(other_than(), None);
        rechecks.is_other_than("r/a:1", a, id);
        rechecks.learned("r/a:1", a, now + SECOND);
        assert_eq!(other_than(), Some(id));
        rechecks.learned("r/a:1", b, now + SECOND);
        assert_eq!(other_than(), None);
    }

    #[test]
    fn one_asker_s_failure_is_not_another_s_and_not_for_long() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        let why = Unanswered::Refused("no".into());
        rechecks.not_answered(asker("prod", None), why.clone(), now);
        assert_eq!(rechecks.unanswered(&asker("prod", None), now), Some(why));
        assert_eq!(rechecks.unanswered(&asker("other", None), now), None);
        assert_eq!(rechecks.unanswered(&asker("prod", Some(Credential::basic("u", "p"))), now), None);
        assert_eq!(rechecks.unanswered(&asker("prod", None), now + RETRY), None);
    }

    #[tokio::test]
    async fn one_asks_about_a_tag_and_some_at_once_where_it_was_not_let_in() {
        let rechecks = Rechecks::default();
        let soon = |reference: &'static str, nobody_waits| {
            tokio::time::timeout(Duration::from_millis(20), rechecks.turn(reference, nobody_waits))
        };
        let first = soon("r/a:1", false).await.unwrap();
        assert!(soon("r/a:1", false).await.is_err());
        assert!(soon("r/a:2", false).await.is_ok() && soon("r/a:1", true).await.is_ok());
        first.serves_one();
        first.serves_one();
        let mut others = Vec::new();
        for _ in 1..limits::RECHECKS_AT_ONCE {
            others.push(soon("r/a:1", false).await.unwrap());
        }
        assert!(soon("r/a:1", false).await.is_err());
        drop((first, others));
        // Forgotten: the next one asks alone.
        let _next = soon("r/a:1", false).await.unwrap();
        assert!(soon("r/a:1", false).await.is_err());
    }

    #[test]
    fn answer_ends_failures() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        let away = |namespace| {
            rechecks.not_answered(asker(namespace, None), Unanswered::Down("away".into()), now);
        };
        let is_known = |namespace| rechecks.unanswered(&asker(namespace, None), now).is_some();
        away("prod");
        away("dev");
        rechecks.gone(asker("prod", None), now);
        assert_eq!((is_known("prod"), is_known("dev")), (false, true));
        away("prod");
        rechecks.learned("r/a:1", Digest::of(b"a"), now);
        assert_eq!((is_known("prod"), is_known("dev")), (false, false));
    }

    #[test]
    fn nothing_is_fresh_for_longer_than_the_interval_nor_much_shorter() {
        let rechecks = Rechecks::default();
        let fresh = (0..200).map(|n| rechecks.fresh_for(&format!("r/a:{n}"), 100 * SECOND));
        let fresh: Vec<_> = fresh.collect();
        assert!(fresh.iter().all(|fresh| (90 * SECOND..=100 * SECOND).contains(fresh)), "{fresh:?}");
        assert!(fresh.iter().min() < fresh.iter().max());
        assert_eq!(rechecks.fresh_for("r/a:1", SECOND), rechecks.fresh_for("r/a:1", SECOND));
    }

    #[test]
    fn oldest_tag_makes_room() {
        let (rechecks, now) = (Rechecks::default(), Instant::now());
        for n in 0..=limits::RECHECKED_TAGS {
            let at = now + Duration::from_micros(n as u64);
            rechecks.learned(&n.to_string(), Digest::of(b"a"), at);
            rechecks.gone(asker(&n.to_string(), None), at);
        }
        let tags = rechecks.tags();
        assert_eq!((tags.said.contains_key("0"), tags.said.contains_key("1")), (false, true));
        assert_eq!((tags.said.len(), tags.gone.len()), (limits::RECHECKED_TAGS, limits::RECHECKED_TAGS));
    }

    #[test]
    fn what_is_counted_has_its_name() {
        let rechecks = Rechecks::default();
        rechecks.asked(Ok(&()));
        rechecks.asked::<()>(Err(&Unanswered::Refused(String::new())));
        for drift in
            [Drift::Warn, Drift::Deny, Drift::Repull, Drift::NotPermitted, Drift::NotPulled, Drift::Undecided]
        {
            rechecks.drifted(drift);
        }
        rechecks.drifted(Drift::NotPermitted);
        let counted = rechecks.counted();
        assert_eq!(counted.requests, [("answered", 1), ("registry_down", 0), ("login_refused", 1)]);
        let drift = [
            ("warn", 1),
            ("deny", 1),
            ("repull", 1),
            ("not_permitted", 2),
            ("not_pulled", 1),
            ("undecided", 1),
        ];
        assert_eq!(counted.drift, drift);
    }
}
