//! The roots in force: by name, exchanged whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::kept::Kept;
use super::root::{Material, Root};
use super::source::RootSource;
use crate::audit::rfc3339;
use crate::image::{Digest, quoted};

/// The roots in force. A value never changes: who verifies with it sees one state of things from beginning to end.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    roots: BTreeMap<String, State>,
}

/// Where the material in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// There is none.
    Nothing,
    /// From its source, as it is.
    Source,
    /// What the source said last; it is away or bad now.
    Kept,
    /// What was given for as long as the repository has not answered.
    Given,
}

impl Origin {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Source => "source",
            Self::Kept => "last_good",
            Self::Given => "given",
        }
    }
}

/// One root, and how it is.
#[derive(Debug, Clone)]
pub struct State {
    /// Where it comes from, in words.
    pub source: String,
    /// The same from a fixed list: `tuf`, `file`, `document` or `embedded`.
    pub kind: &'static str,
    /// The material in force.
    pub root: Option<Arc<Root>>,
    /// Where that comes from.
    pub origin: Origin,
    /// When the source last gave it, or said that it is still the same; `None`: it is in the binary, or there is none.
    pub at: Option<SystemTime>,
    /// When the TUF metadata that vouch for it expire.
    pub expires: Option<SystemTime>,
    /// Why the last try to have it from its source failed, one line.
    pub error: Option<String>,
    /// Tries in a row that failed.
    pub failures: u32,
    /// All that a TUF repository said for it: the disk may not have taken it.
    pub kept: Option<Arc<Kept>>,
}

impl State {
    pub(super) fn of(source: &RootSource) -> Self {
        Self {
            source: source.to_string(),
            kind: source.kind(),
            root: None,
            origin: Origin::Nothing,
            at: None,
            expires: None,
            error: None,
            failures: 0,
            kept: None,
        }
    }

    /// The kind of material that ends first, and when: nothing newer than that can be verified with this root.
    pub fn ends(&self) -> Option<(Material, SystemTime)> {
        let root = self.root.as_ref()?;
        let ends = Material::ALL.into_iter().filter_map(|material| Some((material, root.ends(material)?)));
        ends.min_by_key(|(_, end)| *end)
    }
}

/// What ends within this is warned about: time to exchange a root on all nodes.
pub const WARN_BEFORE: Duration = Duration::from_secs(30 * 86_400);

impl State {
    /// What somebody should look at, one line each.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(expires) = self.expires.filter(|expires| *expires < now) {
            all.push(format!(
                "its TUF metadata expired at {}; what they vouched for stays in use, and may have been taken back",
                rfc3339(expires)
            ));
        }
        if let Some((material, end)) = self.ends().filter(|(_, end)| *end < now + WARN_BEFORE) {
            let word = if end < now { "ended" } else { "end" };
            all.push(format!(
                "its {} {word} at {}; nothing newer than that can be verified with it",
                material.key(),
                rfc3339(end)
            ));
        }
        all
    }
}

impl Trust {
    /// Of these roots; the later of two of one name counts, and who loads refuses that before.
    pub fn new(roots: impl IntoIterator<Item = (String, State)>) -> Self {
        Self { roots: roots.into_iter().collect() }
    }

    /// A root by its name.
    ///
    /// # Errors
    /// One line: there is none of this name, or nothing of it was ever had. Undecided, never "unsigned".
    pub fn root(&self, name: &str) -> Result<&Arc<Root>, String> {
        let Some(state) = self.roots.get(name) else {
            let names: Vec<&str> = self.names().collect();
            return Err(format!(
                "expected a trust root {}, found {}; add it to trust.roots",
                quoted(name),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ));
        };
        state.root.as_ref().ok_or_else(|| {
            let why = state.error.as_deref().unwrap_or("it was not asked for yet");
            format!("trust root {} is not there: {}: {why}; see crivet doctor", quoted(name), state.source)
        })
    }

    /// The names of all roots, sorted, also of those that are not there yet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }

    /// All roots by name, and how they are.
    pub fn states(&self) -> impl Iterator<Item = (&str, &State)> {
        self.roots.iter().map(|(name, state)| (name.as_str(), state))
    }

    /// How a root is.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.roots.get(name)
    }

    /// The same with one root exchanged.
    pub(super) fn with(&self, name: &str, state: State) -> Self {
        let mut roots = self.roots.clone();
        roots.insert(name.to_owned(), state);
        Self { roots }
    }

    /// The trust version: a hash of the names and the material of all roots.
    pub fn version(&self) -> Digest {
        self.version_of(|_| true)
    }

    /// The same for some of the roots: those a policy uses.
    pub fn version_of(&self, used: impl Fn(&str) -> bool) -> Digest {
        let mut hash = Sha256::new();
        for (name, state) in self.roots.iter().filter(|(name, _)| used(name)) {
            let version = state.root.as_ref().map(|root| root.version().to_string());
            // A name holds neither spaces nor line breaks.
            hash.update(format!("{name} {}\n", version.unwrap_or_default()));
        }
        Digest::from_raw(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Settings;
    use super::*;

    fn embedded() -> State {
        let root = Some(Arc::new(Root::embedded().unwrap()));
        State { root, origin: Origin::Source, ..State::of(&Settings::default().roots[0]) }
    }

    #[test]
    fn root_that_is_not_there_is_told_from_one_that_nobody_knows() {
        let away = State {
            root: None,
            origin: Origin::Nothing,
            error: Some("timestamp.json: the mirror cannot be reached".to_owned()),
            source: "TUF repository https://tuf.example".to_owned(),
            ..embedded()
        };
        let trust = Trust::new([("a".to_owned(), embedded()), ("b".to_owned(), away)]);
        assert!(trust.root("a").is_ok());
        assert_eq!(
            trust.root("b").unwrap_err(),
            "trust root \"b\" is not there: TUF repository https://tuf.example: timestamp.json: the mirror cannot be reached; see crivet doctor"
        );
        assert_eq!(
            trust.root("c").unwrap_err(),
            "expected a trust root \"c\", found a, b; add it to trust.roots"
        );
    }

    #[test]
    fn version_changes_with_names_and_material_and_with_nothing_else() {
        let version = |trust: &Trust| trust.version();
        let one = Trust::new([("a".to_owned(), embedded())]);
        let failed = State { error: Some("x".to_owned()), failures: 3, ..embedded() };
        assert_eq!(version(&one), version(&one.with("a", failed)));
        assert_ne!(version(&one), version(&Trust::new([("b".to_owned(), embedded())])));
        let lost = State { root: None, ..embedded() };
        assert_ne!(version(&one), version(&one.with("a", lost)));
        let two = one.with("b", embedded());
        assert_ne!(version(&one), version(&two));
        assert_eq!(version(&one), two.version_of(|name| name == "a"));
    }

    #[test]
    fn what_has_expired_or_will_soon_is_warned_about() {
        let state = embedded();
        let (_, end) = state.ends().unwrap();
        assert_eq!(state.warnings(end - WARN_BEFORE), [] as [String; 0]);
        let soon = state.warnings(end - WARN_BEFORE + Duration::from_secs(1));
        assert_eq!(
            soon,
            [
                "its certificateAuthorities end at 2031-10-05T13:56:58.000Z; nothing newer than that can be verified with it"
            ]
        );
        assert!(state.warnings(end + Duration::from_secs(1))[0].contains(" ended at "));
        let stale = State { expires: Some(SystemTime::UNIX_EPOCH), ..embedded() };
        assert!(stale.warnings(SystemTime::UNIX_EPOCH).is_empty());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert!(stale.warnings(now)[0].starts_with("its TUF metadata expired at 1970-01-01T00:00:00.000Z"));
    }

    #[test]
    fn end_is_that_of_the_material_that_ends_first() {
        // Fulcio's chain of the public-good root ends before its timestamp authority's.
        assert_eq!(embedded().ends().map(|(material, _)| material), Some(Material::Authorities));
    }
}
