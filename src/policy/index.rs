//! Finding the patterns that may cover a name, among many.

use std::collections::{BTreeSet, HashMap};

/// Entries by the literal text that the names they cover begin with. Finding those of a name costs a look per length in
/// use, however many entries there are; only entries with the same literal beginning are tried one by one.
#[derive(Debug, Clone)]
pub struct PrefixIndex<T> {
    by_prefix: HashMap<String, Vec<T>>,
    lengths: BTreeSet<usize>,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        Self { by_prefix: HashMap::new(), lengths: BTreeSet::new() }
    }
}

impl<T> PrefixIndex<T> {
    /// Adds an entry for the names that begin with `prefix`.
    pub fn insert(&mut self, prefix: String, entry: T) {
        self.lengths.insert(prefix.len());
        self.by_prefix.entry(prefix).or_default().push(entry);
    }

    /// All entries, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &T> {
        self.by_prefix.values().flatten()
    }

    /// The entries whose prefix `name` begins with.
    pub fn candidates<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a T> {
        self.lengths
            .range(..=name.len())
            .filter_map(move |length| self.by_prefix.get(name.get(..*length)?))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_those_whose_prefix_the_name_has() {
        let mut index = PrefixIndex::default();
        for prefix in ["", "r.io/", "r.io/a", "r.io/ab", "x.io/"] {
            index.insert(prefix.to_owned(), prefix);
        }
        index.insert("r.io/a".to_owned(), "second");
        let found: Vec<&str> = index.candidates("r.io/a:1").copied().collect();
        assert_eq!(found, ["", "r.io/", "r.io/a", "second"]);
        assert_eq!(index.candidates("é").copied().collect::<Vec<_>>(), [""]);
    }
}
