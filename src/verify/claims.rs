//! What Fulcio writes into certificates, by its names.

use std::fmt;

macro_rules! claims {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)*) => {
        /// A claim of Fulcio's certificates (fulcio `docs/oid-info.md`, `1.3.6.1.4.1.57264.1.*`). The issuer is no such
        /// claim: every identity names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FulcioClaim {
            $($(#[$doc])* $variant,)*
        }

        impl FulcioClaim {
            /// All of them, by their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The last part of its object identifier.
            pub const fn number(self) -> u64 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            /// Its name, in camelCase.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

claims! {
    /// GitHub's trigger, before [`FulcioClaim::BuildTrigger`].
    GithubWorkflowTrigger = 2 "githubWorkflowTrigger",
    /// GitHub's commit, before [`FulcioClaim::SourceRepositoryDigest`].
    GithubWorkflowSha = 3 "githubWorkflowSHA",
    /// GitHub's name of the workflow.
    GithubWorkflowName = 4 "githubWorkflowName",
    /// GitHub's repository as `owner/name`, before [`FulcioClaim::SourceRepositoryUri`].
    GithubWorkflowRepository = 5 "githubWorkflowRepository",
    /// GitHub's ref, before [`FulcioClaim::SourceRepositoryRef`].
    GithubWorkflowRef = 6 "githubWorkflowRef",
    /// The build instructions that signed.
    BuildSignerUri = 9 "buildSignerURI",
    /// Their commit.
    BuildSignerDigest = 10 "buildSignerDigest",
    /// Where it ran: `github-hosted`, `self-hosted`.
    RunnerEnvironment = 11 "runnerEnvironment",
    /// The repository the source is from.
    SourceRepositoryUri = 12 "sourceRepositoryURI",
    /// Its commit.
    SourceRepositoryDigest = 13 "sourceRepositoryDigest",
    /// Its ref.
    SourceRepositoryRef = 14 "sourceRepositoryRef",
    /// Its number, which outlives its name.
    SourceRepositoryIdentifier = 15 "sourceRepositoryIdentifier",
    /// Its owner.
    SourceRepositoryOwnerUri = 16 "sourceRepositoryOwnerURI",
    /// Its owner's number.
    SourceRepositoryOwnerIdentifier = 17 "sourceRepositoryOwnerIdentifier",
    /// The build configuration at the top.
    BuildConfigUri = 18 "buildConfigURI",
    /// Its commit.
    BuildConfigDigest = 19 "buildConfigDigest",
    /// What set off the build.
    BuildTrigger = 20 "buildTrigger",
    /// The run.
    RunInvocationUri = 21 "runInvocationURI",
    /// `public` or `private`, when it was signed.
    SourceRepositoryVisibilityAtSigning = 22 "sourceRepositoryVisibilityAtSigning",
    /// The environment deployed to.
    DeploymentEnvironment = 23 "deploymentEnvironment",
    /// The subject of the OIDC token.
    TokenSubject = 24 "tokenSubject",
}

impl FulcioClaim {
    /// The claim of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|claim| claim.name() == name)
    }

    /// Whether its value is the text itself, and not DER of a UTF8String (RFC 5280, 4.2): the old ones are.
    pub(super) const fn is_bare(self) -> bool {
        self.number() <= 6
    }
}

impl fmt::Display for FulcioClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_is_found_by_its_name_and_numbers_are_distinct() {
        let mut numbers = Vec::new();
        for claim in FulcioClaim::ALL {
            assert_eq!(FulcioClaim::from_name(claim.name()), Some(*claim));
            numbers.push(claim.number());
        }
        assert!(numbers.is_sorted_by(|one, two| one < two));
        assert_eq!(FulcioClaim::from_name("BuildTrigger"), None);
    }
}
