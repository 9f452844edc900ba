//! Image references, taken apart and normalised as the runtimes do it.

use std::fmt;

use super::{Digest, DigestError, ImageId, quoted};
use crate::limits;

const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// distribution/reference, `RepositoryNameTotalLengthMax`.
const REPOSITORY_BYTES: usize = 255;
/// distribution/reference, `TagRegexp`.
const TAG_BYTES: usize = 128;

/// A normalised image reference: what containerd's CRI plugin makes of the string in a pod (`ParseDockerRef` over
/// distribution/reference). There is always a tag or a digest.
///
/// Where a tag and a digest are both given, both are kept here, but **the runtimes drop the tag**: nothing may be
/// decided by a tag that stands beside a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is no image reference. Messages quote at most a short, escaped piece of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Longer than [`limits::REFERENCE_BYTES`].
    #[error(
        "expected an image reference of at most {} bytes (limit REFERENCE_BYTES), found {found} bytes",
        limits::REFERENCE_BYTES
    )]
    TooLong {
        /// Length in bytes.
        found: usize,
    },
    /// An image ID where a reference is needed.
    #[error("expected an image reference, found the image ID {}; name the image by repository", quoted(.found))]
    IsId {
        /// The text that was given.
        found: String,
    },
    /// The registry part is no host with optional port.
    #[error("expected a registry host[:port], found {}; correct the image reference", quoted(.found))]
    Registry {
        /// The registry part.
        found: String,
    },
    /// The repository part has other characters than the grammar allows.
    #[error(
        "expected a repository of lowercase letters, digits and single separators, found {}; correct the image reference",
        quoted(.found)
    )]
    Repository {
        /// The repository part.
        found: String,
    },
    /// The tag has other characters than the grammar allows, or too many.
    #[error("expected a tag of at most 128 letters, digits, '_', '.' and '-', found {}; correct the image reference", quoted(.found))]
    Tag {
        /// The tag.
        found: String,
    },
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Parses and normalises `text`, e.g. `nginx` to `docker.io/library/nginx:latest`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let reference = Self::parse_as_written(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            return Ok(Self { tag: Some(DEFAULT_TAG.to_owned()), ..reference });
        }
        Ok(reference)
    }

    /// As [`Reference::parse`] without the default tag (`ParseNormalizedNamed`): for the names of repositories.
    pub fn parse_as_written(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > limits::REFERENCE_BYTES {
            return Err(ReferenceError::TooLong { found: text.len() });
        }
        if !text.contains(':') && ImageId::parse(text).is_ok() {
            return Err(ReferenceError::IsId { found: text.to_owned() });
        }
        // The registry is split off first, as splitDockerDomain does, so that a port is not taken for a tag.
        let (registry, rest) = split_registry(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_registry(registry) {
            return Err(ReferenceError::Registry { found: registry.to_owned() });
        }
        let in_namespace = registry != DEFAULT_REGISTRY || path.contains('/');
        let repository = if in_namespace { path.to_owned() } else { format!("{DEFAULT_NAMESPACE}{path}") };
        if repository.len() > REPOSITORY_BYTES || !repository.split('/').all(is_path_component) {
            return Err(ReferenceError::Repository { found: path.to_owned() });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag { found: tag.to_owned() });
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }

    /// The registry, `host[:port]`, as written (hosts keep their case, as in the runtimes).
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, e.g. `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or is the default. The runtimes ignore it where there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `registry/repository`.
    pub fn repo_name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// What stands before the first `/` is a registry if it could be no repository component: it has a `.` or `:`, an
/// uppercase letter, or is `localhost`.
fn split_registry(text: &str) -> (&str, &str) {
    let Some((first, rest)) = text.split_once('/') else { return (DEFAULT_REGISTRY, text) };
    if first == LEGACY_DEFAULT_REGISTRY {
        return (DEFAULT_REGISTRY, rest);
    }
    let is_registry =
        first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase);
    if is_registry { (first, rest) } else { (DEFAULT_REGISTRY, text) }
}

/// `DomainRegexp`: dot-separated labels or a bracketed IPv6 address, with an optional port.
fn is_registry(text: &str) -> bool {
    let (host_is_good, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let good = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            match rest {
                "" => (good, None),
                _ => (good && rest.starts_with(':'), rest.strip_prefix(':')),
            }
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (host.split('.').all(is_label), port)
        }
    };
    host_is_good && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `path-component`: runs of lowercase letters and digits, between them one `.`, one `_`, two `_`, or any number
/// of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends_well = component.starts_with(alphanumeric) && component.ends_with(alphanumeric);
    ends_well
        && component
            .split(alphanumeric)
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= TAG_BYTES
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What an image string in a CRI message can be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageName {
    /// No string: an older kubelet, or a client that left it out.
    Empty,
    /// A full image ID. A pod's `image: sha256:<64 hex>` is one to the runtimes, though the grammar of references
    /// would read it as a repository `sha256` with a tag.
    Id(ImageId),
    /// A reference with a repository.
    Reference(Reference),
}

impl ImageName {
    /// Tells the three apart; everything that is neither empty nor a full ID has to be a reference.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Ok(Self::Empty);
        }
        match ImageId::parse(text) {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => Reference::parse(text).map(Self::Reference),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("(no image name)"),
            Self::Id(id) => id.fmt(f),
            Self::Reference(reference) => reference.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn names_are_normalised_as_the_runtimes_do() {
        for (written, normalised) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("Host/app", "Host/app:latest"),
            ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("a__b---c.d_e", "docker.io/library/a__b---c.d_e:latest"),
            ("gcr.io/p/app:_T.a-g", "gcr.io/p/app:_T.a-g"),
        ] {
            assert_eq!(normal(written), normalised, "{written}");
        }
    }

    #[test]
    fn digest_needs_no_default_tag_and_keeps_a_given_one() {
        let by_digest = Reference::parse(&format!("app@sha256:{HEX}")).unwrap();
        assert_eq!(by_digest.tag(), None);
        assert_eq!(by_digest.digest(), Some(Digest::of(b"")));
        let both = Reference::parse(&format!("r.io/app:v1@sha256:{HEX}")).unwrap();
        assert_eq!((both.registry(), both.repository(), both.tag()), ("r.io", "app", Some("v1")));
        assert_eq!(both.to_string(), format!("r.io/app:v1@sha256:{HEX}"));
        assert_eq!(both.repo_name(), "r.io/app");
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        use ReferenceError as E;
        type Is = fn(&E) -> bool;
        let cases: &[(&str, Is)] = &[
            ("", |e| matches!(e, E::Repository { .. })),
            ("App", |e| matches!(e, E::Repository { .. })),
            ("r.io/App", |e| matches!(e, E::Repository { .. })),
            ("a//b", |e| matches!(e, E::Repository { .. })),
            ("/a", |e| matches!(e, E::Repository { .. })),
            ("a/", |e| matches!(e, E::Repository { .. })),
            ("a___b", |e| matches!(e, E::Repository { .. })),
            ("a..b", |e| matches!(e, E::Repository { .. })),
            ("a._b", |e| matches!(e, E::Repository { .. })),
            ("-a", |e| matches!(e, E::Repository { .. })),
            ("r.io/a/../b", |e| matches!(e, E::Repository { .. })),
            ("a b", |e| matches!(e, E::Repository { .. })),
            ("https://r.io/a", |e| matches!(e, E::Registry { .. })),
            ("-r.io/a", |e| matches!(e, E::Registry { .. })),
            ("r..io/a", |e| matches!(e, E::Registry { .. })),
            ("r.io:/a", |e| matches!(e, E::Registry { .. })),
            ("r.io:80x/a", |e| matches!(e, E::Registry { .. })),
            ("[::1/a", |e| matches!(e, E::Registry { .. })),
            ("[::1]5/a", |e| matches!(e, E::Registry { .. })),
            ("a:", |e| matches!(e, E::Tag { .. })),
            ("a:-t", |e| matches!(e, E::Tag { .. })),
            ("a:t:u", |e| matches!(e, E::Tag { .. })),
            ("a@sha512:00", |e| matches!(e, E::Digest(DigestError::Algorithm { .. }))),
            ("a@sha256:00", |e| matches!(e, E::Digest(DigestError::Hex { .. }))),
            ("a@", |e| matches!(e, E::Digest(DigestError::Form { .. }))),
            (HEX, |e| matches!(e, E::IsId { .. })),
        ];
        for (bad, is) in cases {
            let error = Reference::parse(bad).unwrap_err();
            assert!(is(&error), "{bad}: {error:?}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Reference::parse(&format!("r.io/{}", "t".repeat(255))).is_ok());
        assert!(Reference::parse(&format!("r.io/{}", "t".repeat(256))).is_err());
    }

    #[test]
    fn reference_over_the_limit_is_refused_with_a_short_message_that_names_it() {
        let message = Reference::parse(&"a".repeat(1 << 20)).unwrap_err().to_string();
        assert!(message.contains("REFERENCE_BYTES") && message.len() < 200, "{message}");
    }

    #[test]
    fn control_characters_never_reach_a_message() {
        for bad in ["a\nb", "r.io/\u{1b}[31m", "a:\r\n", "a@sha256:\u{0}"] {
            let message = Reference::parse(bad).unwrap_err().to_string();
            assert!(message.chars().all(|c| (' '..='~').contains(&c)), "{message}");
        }
    }

    #[test]
    fn repository_names_get_no_tag() {
        assert_eq!(Reference::parse_as_written("nginx").unwrap().to_string(), "docker.io/library/nginx");
    }

    #[test]
    fn cri_strings_are_told_apart() {
        let id = ImageId::parse(HEX).unwrap();
        assert_eq!(ImageName::parse(""), Ok(ImageName::Empty));
        assert_eq!(ImageName::parse(HEX), Ok(ImageName::Id(id)));
        assert_eq!(ImageName::parse(&format!("sha256:{HEX}")), Ok(ImageName::Id(id)));
        // One digit short of an ID, this is a repository called sha256.
        let short = ImageName::parse(&format!("sha256:{}", &HEX[1..])).unwrap();
        assert_eq!(short.to_string(), format!("docker.io/library/sha256:{}", &HEX[1..]));
        assert!(
            ImageName::parse(&format!("sha256:{}", HEX.to_uppercase()))
                .is_ok_and(|n| matches!(n, ImageName::Reference(_)))
        );
    }
}
