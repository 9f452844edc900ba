//! Which name a signature may claim, as containers-policy.json(5) and OpenShift's policies ask (`signedIdentity`).

use super::model::{comparable_registry, comparable_repository};
use super::native::{not_a_repository, repository_named};
use crate::image::{Digest, ImageName, Reference, quoted};

/// A policy's `signedIdentity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignedIdentity {
    /// The image's own name, with its tag or digest.
    Exact,
    /// The same; of an image by digest its repository, with any tag or digest.
    RepoDigestOrExact,
    /// The image's own repository.
    Repository,
    /// This name.
    ExactReference(Name),
    /// This repository, in comparable form.
    ExactRepository(String),
    /// As [`SignedIdentity::RepoDigestOrExact`], with one beginning of the name in place of another; both in comparable
    /// form.
    Remap { prefix: String, signed_prefix: String },
}

/// A name as it is compared. What has a digest has no tag if it is an image's: the runtimes drop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    fn written(text: &str) -> Option<Self> {
        let reference = Reference::parse_as_written(text).ok()?;
        Some(Self {
            repository: comparable_repository(&reference),
            tag: reference.tag().map(str::to_owned),
            digest: reference.digest(),
        })
    }

    fn of(name: &ImageName) -> Option<Self> {
        let ImageName::Reference(reference) = name else { return None };
        let digest = reference.digest();
        let tag = reference.tag().filter(|_| digest.is_none()).map(str::to_owned);
        Some(Self { repository: comparable_repository(reference), tag, digest })
    }

    fn is_repository_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    fn text(&self) -> String {
        let mut text = self.repository.clone();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl SignedIdentity {
    /// `exactReference`; the error says what to write.
    pub fn exact_reference(text: &str) -> Result<Self, String> {
        match Name::written(text) {
            Some(name) if !name.is_repository_only() => Ok(Self::ExactReference(name)),
            _ => Err(format!("expected a name with its tag or digest, found {}", quoted(text))),
        }
    }

    /// `exactRepository`; the error says what to write.
    pub fn exact_repository(text: &str) -> Result<Self, String> {
        let reference = repository_named(text).ok_or_else(|| not_a_repository(text))?;
        Ok(Self::ExactRepository(comparable_repository(&reference)))
    }

    /// One of the two of `remapIdentity`, in comparable form: a registry, or a part of one, without tag, digest and
    /// wildcard. The error says what to write.
    pub fn prefix(text: &str) -> Result<String, String> {
        let wrong = || {
            format!(
                "expected a registry, or a repository or a part of one in it, fully expanded, found {}",
                quoted(text)
            )
        };
        let (registry, path) =
            text.split_once('/').map_or((text, None), |(registry, path)| (registry, Some(path)));
        // With a segment more nothing is expanded.
        let probe = Reference::parse_as_written(&format!("{registry}/x/{}", path.unwrap_or("x")));
        let plain = probe.is_ok_and(|probe| probe.tag().is_none() && probe.digest().is_none());
        if !plain || !registry.contains(['.', ':']) && registry != "localhost" {
            return Err(wrong());
        }
        let registry = comparable_registry(registry);
        Ok(path.map_or(registry.clone(), |path| format!("{registry}/{path}")))
    }

    /// Whether a signature may claim to be about `claimed`.
    pub fn accepts(&self, image: &ImageName, claimed: &str) -> bool {
        let Some(claimed) = Name::written(claimed) else { return false };
        match self {
            Self::ExactReference(name) => claimed == *name,
            Self::ExactRepository(repository) => claimed.repository == *repository,
            Self::Repository => Name::of(image).is_some_and(|image| claimed.repository == image.repository),
            Self::Exact => {
                !claimed.is_repository_only() && Name::of(image).is_some_and(|image| claimed == image)
            }
            Self::RepoDigestOrExact | Self::Remap { .. } => {
                let Some(image) = self.remapped(image) else { return false };
                !claimed.is_repository_only()
                    && match image.digest {
                        Some(_) => claimed.repository == image.repository,
                        None => claimed == image,
                    }
            }
        }
    }

    /// The name that a signature of the image has to claim, as far as it comes from the image's own.
    fn remapped(&self, image: &ImageName) -> Option<Name> {
        let image = Name::of(image)?;
        let Self::Remap { prefix, signed_prefix } = self else { return Some(image) };
        let rest = image.repository.strip_prefix(prefix.as_str());
        match rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            Some(rest) => {
                // What a prefix alone makes may be no repository: a registry by itself.
                let repository = format!("{signed_prefix}{rest}");
                Some(Name { repository, ..image })
            }
            None => Some(image),
        }
    }

    /// Whether it asks for something of the image's own name, which an image by ID has not.
    pub fn needs_name(&self) -> bool {
        !matches!(self, Self::ExactReference(_) | Self::ExactRepository(_))
    }

    /// What a signature has to claim, for messages.
    pub fn expected(&self, image: &ImageName) -> String {
        let whole =
            |name: Option<Name>| name.map_or_else(|| "the image's own name".to_owned(), |name| name.text());
        match self {
            Self::Exact => whole(Name::of(image)),
            Self::Repository => match Name::of(image) {
                Some(image) => format!("repository {}", image.repository),
                None => "the image's own repository".to_owned(),
            },
            Self::ExactReference(name) => name.text(),
            Self::ExactRepository(repository) => format!("repository {repository}"),
            Self::RepoDigestOrExact | Self::Remap { .. } => match self.remapped(image) {
                Some(Name { repository, digest: Some(_), .. }) => {
                    format!("{repository} with any tag or digest")
                }
                name => whole(name),
            },
        }
    }

    /// The name that a signature of this image may claim, as a command is given it.
    pub fn claim(&self, image: &ImageName) -> Option<String> {
        match self {
            Self::ExactReference(name) => Some(name.text()),
            Self::ExactRepository(repository) => Some(repository.clone()),
            Self::Repository => Name::of(image).map(|name| name.repository),
            Self::Exact | Self::RepoDigestOrExact | Self::Remap { .. } => {
                self.remapped(image).map(|name| name.text())
            }
        }
    }

    /// What to do about a signature that claims another name, or none.
    pub fn remedy(&self, unnamed: bool) -> &'static str {
        match self {
            _ if unnamed => {
                "a sigstore bundle names none, and containers/image reads no bundles: sign with cosign's --new-bundle-format=false, or write an ImagePolicy"
            }
            Self::Repository | Self::ExactRepository(_) => {
                "sign the image under that name (cosign sign --sign-container-identity NAME), or name the other repository as exactRepository"
            }
            _ => {
                "cosign names the repository alone: sign with --sign-container-identity NAME:TAG, or write matchRepository as signedIdentity"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn remap() -> SignedIdentity {
        SignedIdentity::Remap {
            prefix: SignedIdentity::prefix("mirror.example:5000/vendor").unwrap(),
            signed_prefix: SignedIdentity::prefix("vendor.example").unwrap(),
        }
    }

    #[test]
    fn claims_are_accepted_as_containers_image_accepts_them() {
        use SignedIdentity::{Exact, RepoDigestOrExact, Repository};
        let digest = format!("sha256:{HEX}");
        let by_digest = format!("r.io/a@{digest}");
        let reference = SignedIdentity::exact_reference("r.io/b:v1").unwrap();
        let repository = SignedIdentity::exact_repository("r.io/b").unwrap();
        for (identity, image, claimed, expected) in [
            (&Exact, "r.io/a:v1", "r.io/a:v1", true),
            (&Exact, "R.io:443/a:v1", "r.io/a:v1", true),
            (&Exact, "r.io/a:v1", "r.io/a:v2", false),
            (&Exact, "r.io/a:v1", "r.io/a", false),
            (&Exact, &by_digest, &by_digest, true),
            (&Exact, &by_digest, "r.io/a:v1", false),
            (&Exact, "", "r.io/a:v1", false),
            (&RepoDigestOrExact, "r.io/a", "r.io/a:latest", true),
            (&RepoDigestOrExact, "r.io/a:v1", "r.io/a:v2", false),
            (&RepoDigestOrExact, "r.io/a:v1", "r.io/a", false),
            (&RepoDigestOrExact, "r.io/a:v1", &by_digest, false),
            (&RepoDigestOrExact, &by_digest, "r.io/a:v2", true),
            (&RepoDigestOrExact, &by_digest, "r.io/a", false),
            (&RepoDigestOrExact, &by_digest, "r.io/b:v2", false),
            (&RepoDigestOrExact, "", "r.io/a:v2", false),
            (&Repository, "r.io/a:v1", "r.io/a", true),
            (&Repository, "r.io/a:v1", "r.io/a:v2", true),
            (&Repository, &by_digest, "r.io/a", true),
            (&Repository, "r.io/a:v1", "r.io/a/b", false),
            (&Repository, "nginx", "docker.io/library/nginx", true),
            (&Repository, "", "r.io/a", false),
            (&reference, "r.io/a:v1", "r.io/b:v1", true),
            (&reference, "", "r.io/b:v1", true),
            (&reference, "r.io/b:v1", "r.io/b", false),
            (&reference, "r.io/b:v2", "r.io/b:v2", false),
            (&repository, "r.io/a:v1", "r.io/b:v7", true),
            (&repository, "r.io/a:v1", "r.io/b", true),
            (&repository, "r.io/a:v1", "r.io/a", false),
            (&remap(), "mirror.example:5000/vendor/app:v1", "vendor.example/app:v1", true),
            (&remap(), "mirror.example:5000/vendor/app:v1", "vendor.example/app:v2", false),
            (&remap(), "mirror.example:5000/vendor/app:v1", "vendor.example/app", false),
            (&remap(), "mirror.example:5000/vendor/app:v1", "mirror.example:5000/vendor/app:v1", false),
            (&remap(), "mirror.example:5000/vendors/app:v1", "mirror.example:5000/vendors/app:v1", true),
            (&remap(), &format!("mirror.example:5000/vendor/app@{digest}"), "vendor.example/app:v9", true),
            (&remap(), "other.example/app:v1", "other.example/app:v1", true),
            (&Repository, "r.io/a:v1", "not a name", false),
        ] {
            let name = ImageName::parse(image).unwrap();
            assert_eq!(identity.accepts(&name, claimed), expected, "{identity:?} {image} {claimed}");
        }
    }

    #[test]
    fn names_of_another_form_are_refused() {
        for bad in ["r.io/a", "", "r.io/A:v1"] {
            assert!(SignedIdentity::exact_reference(bad).is_err(), "{bad}");
        }
        for bad in ["r.io/a:v1", "", "r.io/*"] {
            assert!(SignedIdentity::exact_repository(bad).is_err(), "{bad}");
        }
        for bad in ["", "vendor", "vendor/app", "r.io/", "r.io/a:v1", "*.r.io", "r.io//a"] {
            assert!(SignedIdentity::prefix(bad).is_err(), "{bad}");
        }
        assert_eq!(SignedIdentity::prefix("R.io:443/a").as_deref(), Ok("r.io/a"));
    }

    #[test]
    fn message_names_what_has_to_be_claimed() {
        let image = ImageName::parse("mirror.example:5000/vendor/app:v1").unwrap();
        assert_eq!(remap().expected(&image), "vendor.example/app:v1");
        assert_eq!(SignedIdentity::Repository.expected(&image), "repository mirror.example:5000/vendor/app");
        assert_eq!(SignedIdentity::Exact.expected(&ImageName::Empty), "the image's own name");
    }
}
