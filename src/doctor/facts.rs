//! What is known about the node.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{InsecureAllowed, Mode, Unmatched};
use crate::control::wire::Status;
use crate::vetter::wire::{CredentialTrouble, Judged};

/// All that findings are made of. Times are milliseconds of Unix time.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Now, by this node's clock.
    pub now: u64,
    /// This command's version.
    pub version: String,
    /// The configuration as it would load now, or why nothing would.
    pub configuration: Result<Configuration, String>,
    /// The policies as they would load now (hash and count), or what is wrong with them; `None` without a configuration.
    pub policies: Option<Result<(String, usize), String>>,
    /// The shortest time within which such a policy wants layers checked before a create, if one does.
    pub layers_checked_within: Option<Duration>,
    /// The running daemon, or why it does not answer.
    pub daemon: Result<Status, String>,
    /// The kubelets of this node.
    pub kubelets: Vec<Kubelet>,
    /// The names of the processes that are connected to the listening socket.
    pub names: BTreeMap<u32, String>,
    /// Who can write to which socket.
    pub sockets: Vec<Socket>,
    /// What the policies say of the pause image; `None`: nobody could be asked.
    pub pause_image: Option<Judged>,
    /// Each registry that images on this node come from, and why it does not answer.
    pub registries: Vec<(String, Result<(), String>)>,
    /// Each login of the node's that was tried at a registry: the registry, where the login is from, and why it was refused.
    pub logins: Vec<(String, String, Result<(), String>)>,
    /// What is wrong with the sources of the node's logins, by the daemon, or else as this command sees them.
    pub credentials: Vec<CredentialTrouble>,
    /// The latest time that anything on this node bears, and what bears it.
    pub latest: Option<(u64, String)>,
    /// Whether something says that the clock is kept in step.
    pub clock_kept: Option<bool>,
    /// Why somebody pointed the kubelet past crivet (`crivet node bypass`), and did not take it back.
    pub bypass: Option<String>,
    /// What came of the canary.
    pub canary: Canary,
}

/// The configuration as it would load now.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where it was looked for.
    pub path: String,
    /// Why the file is not what would be used; empty: it is.
    pub error: String,
    /// Whether there is a whole one, be it the last good one.
    pub whole: bool,
    /// sha256:… of its text.
    pub hash: String,
    /// The socket the kubelet should be pointed at.
    pub listen: String,
    /// The runtime's own sockets.
    pub runtime: Vec<String>,
    /// As written.
    pub mode: Option<Mode>,
    /// As written.
    pub unmatched: Option<Unmatched>,
    /// The setting `vetterUser`, and its ID or why it has none.
    pub vetter_user: Option<(String, Result<u32, String>)>,
    /// What runs although nothing holds it to what was vetted.
    pub allowed: InsecureAllowed,
    /// Whether metrics are wanted.
    pub metrics: bool,
}

/// A kubelet that runs.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// Its process.
    pub pid: u32,
    /// Paths of the runtime's and the image service's socket, as its flags and files say now.
    pub endpoints: Result<(String, String), String>,
    /// Its version, or why that is not known.
    pub version: Result<(u32, u32), String>,
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// crivet's, for the kubelet.
    Listen,
    /// crivet's, for commands.
    Control,
    /// The runtime's own.
    Runtime,
}

/// A socket, and who can connect to it.
#[derive(Clone, Debug)]
pub struct Socket {
    /// What it is.
    pub role: Role,
    /// Where.
    pub path: String,
    /// Who, or why that is not known.
    pub access: Result<Access, String>,
}

/// Who but root can connect to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Anybody.
    pub others: bool,
    /// The members of this group.
    pub group: Option<u32>,
    /// This user.
    pub user: Option<u32>,
}

/// What came of the canary: a create that must be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Canary {
    /// Refused before the runtime was reached.
    Refused {
        /// The image it named.
        image: String,
        /// The answer.
        message: String,
    },
    /// Not refused: the answer came from elsewhere.
    Passed {
        /// The image it named.
        image: String,
        /// The answer.
        message: String,
    },
    /// Judged only, because nothing is enforced: whether it would be refused.
    Judged {
        /// The image it named.
        image: String,
        /// Whether.
        refused: bool,
        /// Why.
        message: String,
    },
    /// No image would be refused, so there is nothing to try.
    NothingToRefuse,
    /// It could not be tried.
    NotTried(String),
}
