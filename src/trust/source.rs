//! Where trusted roots come from, as configured. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::image::quoted;

/// The root there is where nothing is configured, and the one a policy means that names none.
pub const PUBLIC_GOOD: &str = "public-good";

/// The target of a TUF repository that is the trusted root, unless configured otherwise (policy-controller's
/// `trustedRootTarget`).
pub const TRUSTED_ROOT_TARGET: &str = "trusted_root.json";

/// Where a TUF repository keeps its targets, unless configured otherwise.
pub const TARGETS: &str = "targets";

/// How often TUF repositories are asked, unless configured otherwise.
pub const REFRESH_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The configuration's section `trust`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The roots, each with a name of its own.
    pub roots: Vec<RootSource>,
    /// How often TUF repositories are asked.
    pub refresh_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let public_good = RootSource {
            name: PUBLIC_GOOD.to_owned(),
            given: Some(Given::Embedded),
            tuf: None,
            document: None,
        };
        Self { roots: vec![public_good], refresh_every: REFRESH_EVERY }
    }
}

/// One root, and where it comes from: `given`, `tuf`, or both. What is given counts until the repository has answered
/// for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSource {
    /// What policies call it.
    pub name: String,
    /// Material that is there without the network.
    pub given: Option<Given>,
    /// A TUF repository.
    pub tuf: Option<TufSource>,
    /// The TrustRoot document or the policy it was written in, as `file:line`; `None`: the configuration.
    pub document: Option<String>,
}

/// Material that is there without the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// The public-good root that is part of this binary.
    Embedded,
    /// A `trusted_root.json`.
    File(PathBuf),
    /// The same, written out in a TrustRoot document, or made of a policy's own keys.
    Inline(Bytes),
}

/// A TUF repository with a trusted root in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TufSource {
    /// Where its files are.
    pub mirror: Mirror,
    /// The `root.json` that everything is verified from.
    pub anchor: Anchor,
    /// The folder of targets, below the mirror.
    pub targets: String,
    /// The target that is the trusted root.
    pub target: String,
}

/// Where the files of a TUF repository are.
#[derive(Clone, PartialEq, Eq)]
pub enum Mirror {
    /// `https://…` or `http://…`, without a slash at its end. What comes from there is signed.
    Http(String),
    /// A folder of this machine.
    Folder(PathBuf),
    /// Unpacked out of a TrustRoot document: contents by path.
    Packed(Arc<BTreeMap<String, Bytes>>),
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mirror({self})")
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => f.write_str(address),
            Self::Folder(folder) => write!(f, "file://{}", folder.display()),
            Self::Packed(_) => f.write_str("mirrorFS"),
        }
    }
}

/// A pinned `root.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// A file.
    File(PathBuf),
    /// Its content.
    Inline(Bytes),
}

impl RootSource {
    /// What it is, from a fixed list, for metrics: `tuf`, `file`, `document` or `embedded`.
    pub fn kind(&self) -> &'static str {
        match (&self.tuf, &self.given) {
            (Some(_), _) => "tuf",
            (None, Some(Given::File(_))) => "file",
            (None, Some(Given::Inline(_))) => "document",
            (None, Some(Given::Embedded) | None) => "embedded",
        }
    }
}

impl fmt::Display for RootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.tuf, &self.given) {
            (Some(tuf), _) => write!(f, "TUF repository {}", tuf.mirror),
            (None, Some(Given::File(path))) => write!(f, "file {}", path.display()),
            (None, Some(Given::Inline(_))) => f.write_str("document"),
            (None, Some(Given::Embedded) | None) => f.write_str("embedded in crivet"),
        }?;
        match &self.document {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

impl Mirror {
    /// Parses `https://host/path`, `http://host/path` or `file:///path`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "expected a TUF repository as https://host/path or file:///path, found {}: {why}",
                quoted(text)
            )
        };
        if let Some(path) = text.strip_prefix("file://") {
            return Ok(Self::Folder(crate::config::absolute(path).map_err(|why| wrong(&why))?));
        }
        let uri: http::Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        match (uri.scheme_str(), uri.authority(), uri.query()) {
            (Some("https" | "http"), Some(host), None) if !host.as_str().contains('@') => {
                Ok(Self::Http(text.trim_end_matches('/').to_owned()))
            }
            (Some("https" | "http"), _, _) => Err(wrong("expected no user name and no query")),
            _ => Err(wrong("another scheme")),
        }
    }
}

/// A path within a repository: no way out of it, and no characters that an address would need to escape.
///
/// # Errors
/// What to write instead.
pub fn relative(text: &str) -> Result<String, String> {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'%' | b'~' | b'+'))
    };
    if text.len() > 255 || !text.split('/').all(plain) {
        return Err(format!(
            "expected a path below the mirror such as trusted_root.json, found {}",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// A root's name: it is also that of a file.
///
/// # Errors
/// What to write instead.
pub fn name(text: &str) -> Result<String, String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let plain =
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    if !plain || text.len() > 63 || !edge(text.chars().next()) || !edge(text.chars().next_back()) {
        return Err(format!(
            "expected a name of at most 63 lowercase letters, digits, - and ., found {}",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_web_addresses_or_folders() {
        let parsed = |text| Mirror::parse(text).map(|mirror| mirror.to_string());
        assert_eq!(parsed("https://tuf.example/a/"), Ok("https://tuf.example/a".to_owned()));
        assert_eq!(parsed("http://127.0.0.1:8080"), Ok("http://127.0.0.1:8080".to_owned()));
        assert_eq!(parsed("file:///srv/tuf"), Ok("file:///srv/tuf".to_owned()));
        for bad in
            ["", "/srv/tuf", "file://srv/tuf", "file:///a/../b", "ftp://x/", "https://u:p@x/", "https://x/?a"]
        {
            assert!(parsed(bad).unwrap_err().contains("expected a TUF repository"), "{bad}");
        }
    }

    #[test]
    fn paths_within_a_repository_do_not_lead_out_of_it() {
        for good in ["targets", "a/b.json", "1.root.json", "%2e"] {
            assert!(relative(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "a?b", "a#b", "a\\b", "é"] {
            assert!(relative(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_fit_for_files() {
        assert!(name("public-good").is_ok() && name("a.b-1").is_ok());
        for bad in ["", ".", "..", "a/b", "A", "-a", "a.", &"a".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
