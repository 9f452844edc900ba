//! Finding the patterns that may cover a name, among many.

use std::collections::{BTreeSet, HashMap};

/// Entries by literal text in their patterns: what the names they cover begin with, or a whole segment that such names have
/// behind a wildcard. Finding those of a name costs a look per length in use and per segment, however many entries there
/// are; only entries with the same literal text are tried one by one.
#[derive(Debug, Clone)]
pub struct PatternIndex<T> {
    by_prefix: HashMap<String, Vec<T>>,
    lengths: BTreeSet<usize>,
    by_segment: HashMap<String, Vec<T>>,
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        Self { by_prefix: HashMap::new(), lengths: BTreeSet::new(), by_segment: HashMap::new() }
    }
}

/// A segment without tag or digest.
fn bare(segment: &str) -> &str {
    segment.split([':', '@']).next().unwrap_or(segment)
}

/// A segment that all names have which a pattern covers, where what they begin with tells little: no more than a registry.
fn telling_segment(pattern: &str) -> Option<&str> {
    let (prefix, rest) = pattern.split_once('*')?;
    if prefix.matches('/').count() > 1 {
        return None;
    }
    let whole = rest.split('/').skip(1).filter(|segment| !bare(segment).contains('*'));
    whole.map(bare).filter(|segment| !segment.is_empty()).max_by_key(|segment| segment.len())
}

impl<T> PatternIndex<T> {
    /// Adds an entry for the names that a pattern covers, in which each `*` is a wildcard.
    pub fn insert(&mut self, pattern: &str, entry: T) {
        if let Some(segment) = telling_segment(pattern) {
            return self.by_segment.entry(segment.to_owned()).or_default().push(entry);
        }
        let prefix = pattern.split('*').next().unwrap_or_default();
        self.lengths.insert(prefix.len());
        self.by_prefix.entry(prefix.to_owned()).or_default().push(entry);
    }

    /// All entries, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &T> {
        self.by_prefix.values().chain(self.by_segment.values()).flatten()
    }

    /// The entries whose pattern may cover `name`, each once.
    pub fn candidates<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a T> {
        let prefixed = self
            .lengths
            .range(..=name.len())
            .filter_map(move |length| self.by_prefix.get(name.get(..*length)?));
        let segments: BTreeSet<&str> = match self.by_segment.is_empty() {
            true => BTreeSet::new(),
            false => name.split('/').map(bare).collect(),
        };
        let within = segments.into_iter().filter_map(|segment| self.by_segment.get(segment));
        prefixed.chain(within).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_those_whose_literal_text_the_name_has() {
        let mut index = PatternIndex::default();
        for pattern in [
            "**",
            "r.io/*",
            "r.io/a",
            "r.io/a*",
            "r.io/ab",
            "x.io/**",
            "*/team/**",
            "r.io/**/app",
            "*/b:v*",
            "**/c@d",
        ] {
            index.insert(pattern, pattern);
        }
        index.insert("r.io/a*", "second");
        let found = |name| {
            let mut found = index.candidates(name).copied().collect::<Vec<&str>>();
            found.sort_unstable();
            found
        };
        assert_eq!(found("r.io/a:1"), ["**", "r.io/*", "r.io/a", "r.io/a*", "second"]);
        assert_eq!(found("é"), ["**"]);
        assert_eq!(found("q.io/team/team/app:v1"), ["**", "*/team/**", "r.io/**/app"]);
        assert_eq!(found("q.io/b:v2"), ["**", "*/b:v*"]);
        assert_eq!(found("q.io/c"), ["**", "**/c@d"]);
        assert_eq!(index.entries().count(), 11);
    }
}
