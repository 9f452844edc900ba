//! Wildcards, matched without backtracking that could explode.

/// Whether `text` matches `glob`, where `star` stands for any run of items, also none. Linear in the product of the lengths.
fn matches<P, T>(
    glob: &[P],
    text: &[T],
    is_star: impl Fn(&P) -> bool,
    same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where to go on if a guess proves wrong: after the last star, one item further.
    let mut again: Option<(usize, usize)> = None;
    loop {
        match (glob.get(at), text.get(from)) {
            (Some(star), _) if is_star(star) => {
                again = Some((at + 1, from));
                at += 1;
            }
            (Some(item), Some(found)) if same(item, found) => {
                at += 1;
                from += 1;
            }
            (None, None) => return true,
            _ => match again {
                Some((after, start)) if start < text.len() => {
                    again = Some((after, start + 1));
                    (at, from) = (after, start + 1);
                }
                _ => return false,
            },
        }
    }
}

/// Whether a text without `/` matches a glob in which `*` is any run of characters.
pub fn matches_segment(glob: &str, text: &str) -> bool {
    matches(glob.as_bytes(), text.as_bytes(), |b| *b == b'*', |a, b| a == b)
}

/// Whether the segments of a name match those of a pattern, in which `**` is one or more whole segments.
pub fn matches_segments(pattern: &[String], name: &[&str]) -> bool {
    // One or more is one, then any number.
    let mut items: Vec<Option<&str>> = Vec::with_capacity(pattern.len() + 1);
    for segment in pattern {
        if segment == "**" {
            items.extend([Some("*"), None]);
        } else {
            items.push(Some(segment));
        }
    }
    let same = |glob: &Option<&str>, segment: &&str| glob.is_some_and(|glob| matches_segment(glob, segment));
    matches(&items, name, Option::is_none, same)
}

/// policy-controller's globs: `*` is any run without `/`, `**` any run; the whole text has to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigstoreGlob(Vec<Item>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Byte(u8),
    /// `*`
    Within,
    /// `**`
    Across,
}

impl Item {
    fn is_star(&self) -> bool {
        !matches!(self, Self::Byte(_))
    }

    /// Whether it is a star that this may be a part of.
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(_) => false,
            Self::Within => byte != b'/',
            Self::Across => true,
        }
    }
}

impl SigstoreGlob {
    /// Takes the text apart as policy-controller does: pairs of stars first, from the left.
    pub fn new(text: &str) -> Self {
        let mut items = Vec::with_capacity(text.len());
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            items.push(match byte {
                b'*' if bytes.next_if_eq(&b'*').is_some() => Item::Across,
                b'*' => Item::Within,
                byte => Item::Byte(byte),
            });
        }
        Self(items)
    }

    /// As it is held against names.
    pub fn text(&self) -> String {
        let item = |item: &Item| match item {
            Item::Byte(byte) => char::from(*byte).to_string(),
            Item::Within => "*".to_owned(),
            Item::Across => "**".to_owned(),
        };
        self.0.iter().map(item).collect()
    }

    /// A text that matches, with `word` for each star.
    pub fn sample(&self, word: &str) -> String {
        let mut bytes = Vec::new();
        for item in &self.0 {
            match item {
                Item::Byte(byte) => bytes.push(*byte),
                Item::Within | Item::Across => bytes.extend_from_slice(word.as_bytes()),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether `text` matches as a whole.
    pub fn matches(&self, text: &str) -> bool {
        // The positions in the glob that can be reached so far: a star may stay or be left at every step.
        let mut reached = vec![false; self.0.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        self.skip_stars(&mut reached);
        for byte in text.bytes() {
            let mut next = vec![false; reached.len()];
            for (at, item) in self.0.iter().enumerate().filter(|(at, _)| reached.get(*at) == Some(&true)) {
                let to = match item {
                    Item::Byte(wanted) if *wanted == byte => at + 1,
                    star if star.takes(byte) => at,
                    _ => continue,
                };
                if let Some(to) = next.get_mut(to) {
                    *to = true;
                }
            }
            self.skip_stars(&mut next);
            reached = next;
        }
        reached.last() == Some(&true)
    }

    /// Whether some text matches both. Time and memory are the product of the lengths.
    pub fn meets(&self, other: &Self) -> bool {
        let width = other.0.len() + 1;
        let mut seen = vec![false; (self.0.len() + 1) * width];
        let mut open = vec![(0, 0)];
        while let Some((here, there)) = open.pop() {
            match seen.get_mut(here * width + there) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            let (one, two) = (self.0.get(here), other.0.get(there));
            // A star may be left at any time, and takes what the other has next.
            match (one, two) {
                (None, None) => return true,
                (Some(Item::Byte(a)), Some(Item::Byte(b))) if a == b => open.push((here + 1, there + 1)),
                (Some(star), Some(Item::Byte(byte))) if star.takes(*byte) => open.push((here, there + 1)),
                (Some(Item::Byte(byte)), Some(star)) if star.takes(*byte) => open.push((here + 1, there)),
                _ => {}
            }
            if one.is_some_and(Item::is_star) {
                open.push((here + 1, there));
            }
            if two.is_some_and(Item::is_star) {
                open.push((here, there + 1));
            }
        }
        false
    }

    fn skip_stars(&self, reached: &mut [bool]) {
        for (at, item) in self.0.iter().enumerate() {
            if item.is_star()
                && reached.get(at) == Some(&true)
                && let Some(next) = reached.get_mut(at + 1)
            {
                *next = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_within_a_segment_is_any_run() {
        for (glob, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("*", "abc", true),
            ("a*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("*b*b", "abcb", true),
            ("a", "ab", false),
            ("ab", "a", false),
        ] {
            assert_eq!(matches_segment(glob, text), expected, "{glob} {text}");
        }
        // Not exponential.
        assert!(!matches_segment(&"*a".repeat(500), &"a".repeat(499)));
    }

    #[test]
    fn double_star_is_one_or_more_segments() {
        for (glob, text, expected) in [
            ("**", "r.io/a", true),
            ("r.io/**", "r.io/a", true),
            ("r.io/**", "r.io/a/b/c", true),
            ("r.io/**", "r.io", false),
            ("r.io/*", "r.io/a/b", false),
            ("**/app", "r.io/a/app", true),
            ("**/app", "app", false),
            ("r.io/**/x/*", "r.io/a/x/b/x/c", true),
            ("r.io/**/x", "r.io/x", false),
        ] {
            let pattern: Vec<String> = glob.split('/').map(str::to_owned).collect();
            let name: Vec<&str> = text.split('/').collect();
            assert_eq!(matches_segments(&pattern, &name), expected, "{glob} {text}");
        }
    }

    #[test]
    fn sigstore_globs_match_as_the_policy_controller_does() {
        for (glob, text, expected) in [
            ("**", "ghcr.io/a/b:c", true),
            ("ghcr.io/a/*", "ghcr.io/a/b:c", true),
            ("ghcr.io/a/*", "ghcr.io/a/b/d:c", false),
            ("ghcr.io/a/**", "ghcr.io/a/b/d@sha256:00", true),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest", false),
            ("ghcr.io/**/b:*", "ghcr.io/x/y/b:1", true),
            ("ghcrxio/a", "ghcr.io/a", false),
            ("a***b", "a/x/cb", true),
        ] {
            assert_eq!(SigstoreGlob::new(glob).matches(text), expected, "{glob} {text}");
        }
    }

    #[test]
    fn globs_meet_where_some_text_matches_both() {
        for (one, other, expected) in [
            ("r.io/a", "r.io/a", true),
            ("r.io/a", "r.io/b", false),
            ("r.io/**", "*/prod/**", true),
            ("r.io/a:v*", "r.io/a:*-rc", true),
            ("r.io/a:v*", "r.io/a:w*", false),
            ("r.io/*", "r.io/a/b", false),
            ("r.io/*", "r.io/**/b", false),
            ("r.io/*", "r.io/**b", true),
            ("**", "", true),
            ("*", "**", true),
            ("a*c", "ab*", true),
            ("a*c", "*b", false),
        ] {
            let (a, b) = (SigstoreGlob::new(one), SigstoreGlob::new(other));
            assert_eq!((a.meets(&b), b.meets(&a)), (expected, expected), "{one} {other}");
        }
        // Not exponential.
        let stars = |last: &str| SigstoreGlob::new(&format!("{}{last}", "*a".repeat(300)));
        assert!(!stars("b").meets(&stars("c")));
    }
}
