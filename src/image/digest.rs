//! SHA-256 digests, and the three things they name.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use super::quoted;

const PREFIX: &str = "sha256:";

/// A SHA-256 digest as OCI writes it (image-spec, descriptor.md, "Digests"). No other algorithm is taken: none
/// is in use on nodes, and a second one would give every image a second name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not of the form `algorithm:hex`.
    #[error("expected a digest sha256:<64 hex digits>, found {}; write the digest in full", quoted(.found))]
    Form {
        /// The text that was given.
        found: String,
    },
    /// An algorithm other than sha256.
    #[error("expected digest algorithm sha256, found {}; use the image's sha256 digest", quoted(.found))]
    Algorithm {
        /// The algorithm that was given.
        found: String,
    },
    /// Not 64 lowercase hexadecimal digits.
    #[error("expected 64 lowercase hex digits after sha256:, found {}; write the digest in full", quoted(.found))]
    Hex {
        /// What stood after the colon.
        found: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest whose 32 raw bytes a running hash came to.
    pub const fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Parses `sha256:<64 lowercase hex digits>`. Uppercase is refused as the specification has it: two spellings
    /// of one digest would be two keys of one proof.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::Form { found: text.to_owned() });
        };
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm { found: algorithm.to_owned() });
        }
        raw_from_hex(hex).map(Self).ok_or_else(|| DigestError::Hex { found: hex.to_owned() })
    }

    /// The 64 lowercase hex digits without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |n: u8| DIGITS.get(usize::from(n)).copied().map_or('0', char::from);
        self.0.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
    }

    /// The 32 raw bytes.
    pub const fn raw(&self) -> &[u8; 32] {
        &self.0
    }
}

fn raw_from_hex(hex: &str) -> Option<[u8; 32]> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let raw: Option<Vec<u8>> = pairs.iter().map(|[hi, lo]| Some(nibble(*hi)? << 4 | nibble(*lo)?)).collect();
    raw?.try_into().ok()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An owned string: JSON with an escape in it cannot be borrowed.
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// What one digest names, as a type of its own, so that no function takes the one for the other.
macro_rules! digest_of {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

digest_of! {
    /// The digest of one platform's image manifest.
    ManifestDigest
}
digest_of! {
    /// The digest of an image index (a manifest list).
    IndexDigest
}
digest_of! {
    /// The digest of an image's config: what the CRI calls the image ID.
    ImageId
}

impl ImageId {
    /// Parses an ID as containerd (`sha256:<hex>`) or CRI-O (the 64 hex digits alone) writes it. Truncated IDs
    /// are no IDs: only the runtime can say what they stand for.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        match raw_from_hex(text) {
            Some(raw) => Ok(Self(Digest(raw))),
            None => Digest::parse(text).map(Self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_known_one() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(Digest::parse(EMPTY), Ok(digest));
        assert_eq!(digest.hex(), &EMPTY[7..]);
        assert_eq!(Digest::from_raw(*digest.raw()), digest);
    }

    #[test]
    fn uppercase_short_long_and_bare_hex_are_refused() {
        for bad in [EMPTY.to_uppercase().replace("SHA", "sha"), EMPTY[..70].to_owned(), format!("{EMPTY}0")] {
            assert!(matches!(Digest::parse(&bad), Err(DigestError::Hex { .. })), "{bad}");
        }
        assert!(matches!(Digest::parse(&EMPTY[7..]), Err(DigestError::Form { .. })));
    }

    #[test]
    fn unknown_algorithm_is_named() {
        let error = Digest::parse(&format!("md5:{}", &EMPTY[7..])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected digest algorithm sha256, found \"md5\"; use the image's sha256 digest"
        );
    }

    #[test]
    fn image_id_is_taken_from_containerd_and_from_crio_but_not_truncated() {
        assert_eq!(ImageId::parse(EMPTY), ImageId::parse(&EMPTY[7..]));
        assert!(ImageId::parse(&EMPTY[..40]).is_err());
        assert!(ImageId::parse(&EMPTY[7..39]).is_err());
    }

    #[test]
    fn json_form_is_the_string_and_is_checked() {
        let digest: Digest = serde_json::from_str(&format!("\"{EMPTY}\"")).unwrap();
        assert_eq!(serde_json::to_string(&ImageId(digest)).unwrap(), format!("\"{EMPTY}\""));
        assert!(serde_json::from_str::<Digest>("\"sha256:00\"").is_err());
    }
}
