//! The image patterns of the native dialect.

use std::fmt;

use super::glob::{SigstoreGlob, matches_segment, matches_segments};
use super::model::{comparable_registry, comparable_repository};
use crate::image::{Digest, ImageName, Reference, quoted};
use crate::limits;

/// A pattern in its normal form: `registry/repository` with wildcards, and a tag or digest if one was written.
///
/// `*` is any run of characters within a segment, `**` one or more whole segments. Without tag and digest a pattern
/// covers all of a repository. A pattern with a tag covers references by tag alone, because a tag beside a digest is dropped by the runtimes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    segments: Vec<String>,
    suffix: Suffix,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Suffix {
    None,
    Tag(String),
    Digest(Digest),
}

/// How specific a pattern is; the greater, the more. Compared in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    /// No wildcard in the name.
    exact_name: bool,
    /// Characters before the first wildcard.
    prefix: usize,
    /// Characters that are no wildcard.
    literal: usize,
    /// No `**`.
    within_segments: bool,
    /// 0 nothing, 1 tag with wildcard, 2 tag, 3 digest.
    suffix: u8,
    /// Characters of the tag that are no wildcard.
    suffix_literal: usize,
    /// For certain namespaces only.
    namespaced: bool,
}

impl Specificity {
    /// In what it is more specific than another that is less so, as [`Ord`] compares them.
    pub fn advantage_over(&self, other: &Self) -> &'static str {
        match () {
            () if self.exact_name != other.exact_name => "no wildcard in the name",
            () if self.prefix != other.prefix => "more text before the first wildcard",
            () if self.literal != other.literal => "more text beside the wildcards",
            () if self.within_segments != other.within_segments => "no ** in the name",
            () if self.suffix != other.suffix && self.suffix == 3 => "a digest",
            () if self.suffix != other.suffix => "a tag",
            () if self.suffix_literal != other.suffix_literal => "more of the tag",
            () => "it is for certain namespaces",
        }
    }
}

impl Pattern {
    /// Parses a pattern; the error says what to write instead. Names are completed as in images: `nginx` is
    /// `docker.io/library/nginx`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > limits::REFERENCE_BYTES {
            return Err(format!(
                "expected an image pattern of 1 to {} bytes (limit REFERENCE_BYTES)",
                limits::REFERENCE_BYTES
            ));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:*@[]".contains(&b);
        if !text.bytes().all(plain) {
            return Err(format!(
                "expected an image pattern of letters, digits and -_./:@*, found {}",
                quoted(text)
            ));
        }
        let (name, suffix) = split_suffix(text)?;
        let written: Vec<&str> = name.split('/').collect();
        for segment in &written {
            if segment.is_empty() {
                return Err(format!("expected a name between all slashes, found {}", quoted(text)));
            }
            if segment.contains("**") && *segment != "**" {
                return Err(format!(
                    "expected ** to be a whole segment, found {}; write {} or add a slash",
                    quoted(text),
                    quoted(&text.replace("**", "*"))
                ));
            }
        }
        let segments = complete(&written)?;
        if let Some(upper) = segments.iter().skip(1).find(|s| s.bytes().any(|b| b.is_ascii_uppercase())) {
            return Err(format!("expected a repository in lowercase, found {}", quoted(upper)));
        }
        let strange = segments.iter().skip(1).find(|s| s.contains([':', '[', ']']));
        if let Some(strange) = strange {
            return Err(format!("expected a repository, then at most one tag, found {}", quoted(strange)));
        }
        Ok(Self { segments, suffix })
    }

    /// The digest a pattern is for.
    pub fn digest(&self) -> Option<Digest> {
        match self.suffix {
            Suffix::Digest(digest) => Some(digest),
            _ => None,
        }
    }

    /// The same without tag and digest.
    pub(super) fn name(&self) -> Self {
        Self { segments: self.segments.clone(), suffix: Suffix::None }
    }

    /// Whether it covers an image by name and by what is written beside the name.
    pub fn matches(&self, name: &ImageName) -> bool {
        self.matches_name(name)
            && match (&self.suffix, name) {
                (Suffix::None, _) => true,
                (Suffix::Tag(glob), ImageName::Reference(reference)) if reference.digest().is_none() => {
                    reference.tag().is_some_and(|tag| matches_segment(glob, tag))
                }
                (Suffix::Digest(digest), ImageName::Reference(reference)) => {
                    reference.digest() == Some(*digest)
                }
                _ => false,
            }
    }

    /// Whether it covers an image by name alone. What has no repository is covered by `**` only.
    pub fn matches_name(&self, name: &ImageName) -> bool {
        match name {
            ImageName::Reference(reference) => {
                let name = comparable_repository(reference);
                matches_segments(&self.segments, &name.split('/').collect::<Vec<_>>())
            }
            ImageName::Id(_) | ImageName::Empty => self.segments == ["**"],
        }
    }

    /// Whether some image may be covered by both; it errs towards yes, for `**` may then be none or a part of a segment.
    pub fn meets(&self, other: &Self) -> bool {
        let plain = |segments: &(&String, &String)| !segments.0.contains('*') && !segments.1.contains('*');
        if self.segments.iter().zip(&other.segments).take_while(plain).any(|(one, other)| one != other) {
            return false;
        }
        let glob = |pattern: &Self| SigstoreGlob::new(&pattern.segments.join("/"));
        let suffix = match (&self.suffix, &other.suffix) {
            (Suffix::None, _) | (_, Suffix::None) => true,
            (Suffix::Tag(one), Suffix::Tag(other)) => SigstoreGlob::new(one).meets(&SigstoreGlob::new(other)),
            (Suffix::Digest(one), Suffix::Digest(other)) => one == other,
            (Suffix::Tag(_), Suffix::Digest(_)) | (Suffix::Digest(_), Suffix::Tag(_)) => false,
        };
        suffix && glob(self).meets(&glob(other))
    }

    /// How specific it is.
    pub fn specificity(&self, namespaced: bool) -> Specificity {
        let name = self.segments.join("/");
        let literal = |text: &str| text.bytes().filter(|b| *b != b'*').count();
        let prefix = name.split('*').next().unwrap_or_default().len();
        let (suffix, suffix_literal) = match &self.suffix {
            Suffix::None => (0, 0),
            Suffix::Tag(tag) if tag.contains('*') => (1, literal(tag)),
            Suffix::Tag(tag) => (2, literal(tag)),
            Suffix::Digest(_) => (3, 0),
        };
        Specificity {
            exact_name: !name.contains('*'),
            prefix,
            literal: literal(&name),
            within_segments: !name.contains("**"),
            suffix,
            suffix_literal,
            namespaced,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("/"))?;
        match &self.suffix {
            Suffix::None => Ok(()),
            Suffix::Tag(tag) => write!(f, ":{tag}"),
            Suffix::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// A name as patterns are looked up by: with its digest, else its tag.
pub fn lookup_key(reference: &Reference) -> String {
    let name = comparable_repository(reference);
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, Some(tag)) => format!("{name}:{tag}"),
        (None, None) => name,
    }
}

fn split_suffix(text: &str) -> Result<(&str, Suffix), String> {
    if let Some((name, digest)) = text.split_once('@') {
        let digest = Digest::parse(digest).map_err(|error| error.to_string())?;
        if name.rsplit('/').next().is_some_and(|last| last.contains(':')) && name.contains('/') {
            return Err(format!(
                "expected a tag or a digest, found both in {}; leave the tag out, runtimes drop it",
                quoted(text)
            ));
        }
        return Ok((name, Suffix::Digest(digest)));
    }
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    let Some((name, tag)) = text.get(last..).and_then(|rest| rest.split_once(':')) else {
        return Ok((text, Suffix::None));
    };
    let end = last + name.len();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-*".contains(&b);
    if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(plain) || tag.contains("**") {
        return Err(format!(
            "expected a tag of at most 128 letters, digits, _.- and single *, found {}",
            quoted(tag)
        ));
    }
    Ok((text.get(..end).unwrap_or_default(), Suffix::Tag(tag.to_owned())))
}

/// Adds the registry and namespace that images have where none is written.
fn complete(written: &[&str]) -> Result<Vec<String>, String> {
    let owned = |segments: &[&str]| segments.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let (first, rest) = match written {
        ["**"] => return Ok(owned(&["**"])),
        [only] if only.contains('.') => {
            return Err(format!(
                "expected registry/repository, found {}; write {only}/** for a whole registry, docker.io/library/{only} for Docker Hub's image",
                quoted(only)
            ));
        }
        [only] => return Ok(owned(&["docker.io", "library", only])),
        [first, rest @ ..] => (*first, rest),
        [] => return Err("expected an image pattern".to_owned()),
    };
    let is_registry =
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase());
    if !is_registry && first != "*" && first != "**" {
        if first.contains('*') {
            return Err(format!(
                "expected a registry or Docker Hub name before the first slash, found {}; write docker.io/{first}/NAME or a registry with a dot",
                quoted(first)
            ));
        }
        return Ok([owned(&["docker.io"]), owned(written)].concat());
    }
    let registry = match comparable_registry(first).as_str() {
        "index.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    };
    Ok(match rest {
        [only] if registry == "docker.io" && *only != "**" => {
            vec![registry, "library".to_owned(), (*only).to_owned()]
        }
        rest => [vec![registry], owned(rest)].concat(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::index::PatternIndex;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn normal(text: &str) -> String {
        Pattern::parse(text).unwrap().to_string()
    }

    fn covers(pattern: &str, name: &str) -> bool {
        let (pattern, name) = (Pattern::parse(pattern).unwrap(), ImageName::parse(name).unwrap());
        let matches = pattern.matches(&name);
        if let (true, ImageName::Reference(reference)) = (matches, &name) {
            let mut index = PatternIndex::default();
            index.insert(&pattern.to_string(), ());
            assert_eq!(index.candidates(&lookup_key(reference)).count(), 1, "{pattern} is not found");
        }
        matches
    }

    #[test]
    fn patterns_are_completed_as_images_are() {
        for (written, normalised) in [
            ("nginx", "docker.io/library/nginx"),
            ("nginx*:1.*", "docker.io/library/nginx*:1.*"),
            ("team/*", "docker.io/team/*"),
            ("index.docker.io/nginx", "docker.io/library/nginx"),
            ("docker.io/**", "docker.io/**"),
            ("Reg.Example:443/a", "reg.example/a"),
            ("localhost:5000/a:t", "localhost:5000/a:t"),
            ("**", "**"),
            ("**/app", "**/app"),
            ("*.example.com/**", "*.example.com/**"),
        ] {
            assert_eq!(normal(written), normalised, "{written}");
        }
        let by_digest = format!("r.io/a@sha256:{HEX}");
        assert_eq!(normal(&by_digest), by_digest);
    }

    #[test]
    fn patterns_that_could_match_nothing_or_something_else_are_refused() {
        for bad in [
            "",
            "a b",
            "r.io//a",
            "/a",
            "a/",
            "r.io/a**",
            "r.io/team**/x",
            "registry.example.com",
            "team*/app",
            "r.io/App",
            "r.io/a:",
            "r.io/a:t:u",
            "r.io/a:**",
            "r.io/a@sha256:0",
            "r.io/a:t@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "r.io/a:5/b",
            "é",
        ] {
            let error = Pattern::parse(bad).unwrap_err();
            assert!(error.starts_with("expected "), "{bad}: {error}");
        }
        assert!(Pattern::parse(&"a".repeat(5000)).unwrap_err().contains("REFERENCE_BYTES"));
    }

    #[test]
    fn names_are_covered_as_documented() {
        let digest = format!("r.io/team/app@sha256:{HEX}");
        let both = format!("r.io/team/app:v1@sha256:{HEX}");
        for (pattern, name, expected) in [
            ("nginx", "nginx:1.25", true),
            ("nginx", "docker.io/library/nginx", true),
            ("nginx", "docker.io/team/nginx", false),
            ("r.io/team/*", "r.io/team/app", true),
            ("r.io/team/*", "r.io/team/app/sub", false),
            ("r.io/team/**", "r.io/team/app/sub", true),
            ("r.io/team/**", "r.io/team2/app", false),
            ("r.io/**", "r.io.evil/team", false),
            ("*.r.io/**", "x.r.io/a/b", true),
            ("*.r.io/**", "r.io/a/b", false),
            ("*/team/app", "x.io/team/app", true),
            ("**", "x.io/team/app", true),
            ("r.io/team/app:v*", "r.io/team/app:v1", true),
            ("r.io/team/app:v*", "r.io/team/app:w1", false),
            ("r.io/team/app:latest", "r.io/team/app", true),
            ("r.io/team/app:v1", &both, false),
            ("r.io/team/app", &both, true),
            (&digest, &both, true),
            (&digest, "r.io/team/app", false),
            ("r.io/team/**", "R.io:443/team/app", true),
        ] {
            assert_eq!(covers(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn image_without_a_repository_is_covered_by_the_pattern_for_all_images_only() {
        for name in ["", HEX] {
            assert!(covers("**", name));
            for pattern in ["**/*", "*/**", "docker.io/**", "sha256", "**:*"] {
                assert!(!covers(pattern, name), "{pattern}");
            }
        }
    }

    #[test]
    fn patterns_are_ordered_from_general_to_specific() {
        let by_digest = format!("r.io/team/app@sha256:{HEX}");
        let ordered = [
            "**",
            "r.io/**",
            "r.io/*/app",
            "r.io/team/**",
            "r.io/team/*",
            "r.io/team/app*",
            "r.io/team/app",
            "r.io/team/app:*",
            "r.io/team/app:v*",
            "r.io/team/app:v1",
            &by_digest,
        ];
        for pair in ordered.windows(2) {
            let of = |text: &str| Pattern::parse(text).unwrap().specificity(false);
            assert!(of(pair[0]) < of(pair[1]), "{pair:?}");
            assert!(of(pair[0]) < Pattern::parse(pair[0]).unwrap().specificity(true));
            assert!(Pattern::parse(pair[0]).unwrap().specificity(true) < of(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn patterns_meet_where_an_image_may_be_covered_by_both() {
        let by_digest = format!("r.io/team/app@sha256:{HEX}");
        for (one, other, expected) in [
            ("r.io/team/app", "r.io/team/app:v1", true),
            ("r.io/team/app", &by_digest, true),
            ("r.io/team/app:v1", &by_digest, false),
            ("r.io/team/app:v*", "r.io/team/app:*1", true),
            ("r.io/team/app:v*", "r.io/team/app:w1", false),
            ("r.io/team/*", "r.io/team2/*", false),
            ("r.io/**", "**/app", true),
            ("r.io/**", "*/prod/*", true),
            ("r.io/**", "s.io/**", false),
            ("**", &by_digest, true),
            ("nginx", "docker.io/library/*", true),
        ] {
            let of = |text: &str| Pattern::parse(text).unwrap();
            assert_eq!(of(one).meets(&of(other)), expected, "{one} {other}");
            assert_eq!(of(other).meets(&of(one)), expected, "{other} {one}");
        }
    }
}
