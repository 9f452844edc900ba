//! Platforms, compared as containerd compares them.

use std::fmt;

/// An operating system, an architecture and its variant, normalised (containerd/platforms, `Normalize`): `x86_64`
/// is `amd64`, `aarch64` is `arm64`, arm64's `v8` and amd64's `v1` are the empty variant, arm's empty one is `v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    /// A platform from its parts as an image, a Go or a Rust toolchain (`std::env::consts`) spells them.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.to_ascii_lowercase().as_str(), variant.as_str()) {
            ("i386" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("armhf", _) | ("arm", "7" | "") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le", other) => ("ppc64le", other),
            (architecture, variant) => return Self::of(&os, architecture, variant),
        };
        Self::of(&os, architecture, variant)
    }

    fn of(os: &str, architecture: &str, variant: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// How good an image for `image` is on this node: 0 is best, `None` is not at all. containerd/platforms, `Only`
    /// (`platformVector`): the very platform, then older variants, then 386 on amd64 and arm on arm64.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        self.accepted().iter().position(|accepted| accepted == image)
    }

    fn accepted(&self) -> Vec<Self> {
        let like = |architecture: &str, variant: String| Self::of(&self.os, architecture, &variant);
        let arm_down_from = |newest: u32| (5..=newest).rev().map(move |v| like("arm", format!("v{v}")));
        let number = self.variant.strip_prefix('v').and_then(|v| v.parse::<u32>().ok());
        let mut accepted = vec![self.clone()];
        match (self.architecture.as_str(), number) {
            ("amd64", number) => {
                accepted
                    .extend((2..number.unwrap_or(1).min(9)).rev().map(|v| like("amd64", format!("v{v}"))));
                if number.is_some() {
                    accepted.push(like("amd64", String::new()));
                }
                accepted.push(like("386", String::new()));
            }
            ("arm", Some(number)) => accepted.extend(arm_down_from(number.min(8)).skip(1)),
            ("arm64", _) => {
                if !self.variant.is_empty() {
                    accepted.push(like("arm64", String::new()));
                }
                accepted.extend(arm_down_from(8));
            }
            _ => {}
        }
        accepted
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_platform_are_equal() {
        assert_eq!(Platform::new("linux", "x86_64", ""), Platform::new("Linux", "amd64", "v1"));
        assert_eq!(Platform::new("linux", "aarch64", ""), Platform::new("linux", "arm64", "v8"));
        assert_eq!(Platform::new("linux", "arm", ""), Platform::new("linux", "arm", "v7"));
        assert_ne!(Platform::new("linux", "amd64", ""), Platform::new("linux", "amd64", "v2"));
    }

    #[test]
    fn the_very_platform_ranks_before_older_ones_and_foreign_ones_not_at_all() {
        let rank = |node: [&str; 2], image: [&str; 2]| {
            Platform::new("linux", node[0], node[1]).rank(&Platform::new("linux", image[0], image[1]))
        };
        assert_eq!(rank(["amd64", ""], ["amd64", ""]), Some(0));
        assert_eq!(rank(["amd64", ""], ["386", ""]), Some(1));
        assert_eq!(rank(["amd64", ""], ["amd64", "v2"]), None);
        assert_eq!(rank(["amd64", "v3"], ["amd64", "v2"]), Some(1));
        assert_eq!(rank(["amd64", "v3"], ["amd64", ""]), Some(2));
        assert_eq!(rank(["arm64", ""], ["arm64", "v8"]), Some(0));
        assert_eq!(rank(["arm64", ""], ["arm", "v7"]), Some(2));
        assert_eq!(rank(["arm", "v7"], ["arm", "v6"]), Some(1));
        assert_eq!(rank(["arm", "v6"], ["arm", "v7"]), None);
        assert_eq!(rank(["amd64", ""], ["unknown", ""]), None);
        assert_eq!(Platform::new("linux", "amd64", "").rank(&Platform::new("windows", "amd64", "")), None);
    }
}
