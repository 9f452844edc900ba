//! The method table: every CRI RPC by its exact path, and the rule for those that are not in it.
//!
//! | class | audit | enforce |
//! |---|---|---|
//! | passthrough | relayed undecoded | relayed undecoded |
//! | vetted | relayed, vetted beside | vetted first |
//! | refused unless allowed | relayed, logged | `RestorePod`: refused; it creates containers with no CreateContainer |
//! | not in the table | relayed, logged | relayed if it only reads, else refused with Unimplemented |
//! | another service | refused with Unimplemented | refused with Unimplemented |
//!
//! The setting `insecureAllowUnvetted` lets single RPCs of the third and fourth row through.
//!
//! The socket also answers containerd's own services (root on the node to whoever may call them) and, on 1.x,
//! `runtime.v1alpha2`, which would be a way around: neither is ever forwarded.

/// `/runtime.v1.RuntimeService/`
pub const RUNTIME_SERVICE: &str = "/runtime.v1.RuntimeService/";
/// `/runtime.v1.ImageService/`
pub const IMAGE_SERVICE: &str = "/runtime.v1.ImageService/";

/// Which of the two CRI services a call is for, and so which endpoint it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `runtime.v1.RuntimeService`
    Runtime,
    /// `runtime.v1.ImageService`
    Image,
}

/// A call that brings an image into use, and is vetted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vetted {
    /// An image is pulled.
    PullImage,
    /// A container is created from an image ID; image volumes come the same way.
    CreateContainer,
    /// The pause image is used, and pulled by the runtime if it is absent.
    RunPodSandbox,
}

impl Vetted {
    /// All of them.
    pub const ALL: [Vetted; 3] = [Vetted::CreateContainer, Vetted::PullImage, Vetted::RunPodSandbox];

    /// The RPC's name.
    pub fn name(self) -> &'static str {
        match self {
            Vetted::PullImage => "PullImage",
            Vetted::CreateContainer => "CreateContainer",
            Vetted::RunPodSandbox => "RunPodSandbox",
        }
    }
}

/// What is done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Frames relayed undecoded.
    Passthrough(Service),
    /// Decoded, vetted, and then forwarded as it came.
    Vetted(Service, Vetted),
    /// Refused in enforce mode: it brings images into use in a way that cannot be vetted yet.
    RefusedUnlessAllowed(Service),
    /// A CRI RPC newer than this table that, going by its name, only reads.
    UnknownRead(Service),
    /// A CRI RPC newer than this table that may do anything.
    UnknownWrite(Service),
    /// Not the CRI: never forwarded.
    ForeignService,
}

impl Class {
    /// The names of all classes, sorted.
    pub const NAMES: [&str; 6] = [
        "foreign_service",
        "passthrough",
        "refused_unless_allowed",
        "unknown_read",
        "unknown_write",
        "vetted",
    ];

    /// The endpoint a forwarded call goes to; `None` is never forwarded.
    pub fn service(self) -> Option<Service> {
        match self {
            Class::Passthrough(s)
            | Class::Vetted(s, _)
            | Class::RefusedUnlessAllowed(s)
            | Class::UnknownRead(s)
            | Class::UnknownWrite(s) => Some(s),
            Class::ForeignService => None,
        }
    }

    /// A short name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Passthrough(_) => "passthrough",
            Class::Vetted(..) => "vetted",
            Class::RefusedUnlessAllowed(_) => "refused_unless_allowed",
            Class::UnknownRead(_) => "unknown_read",
            Class::UnknownWrite(_) => "unknown_write",
            Class::ForeignService => "foreign_service",
        }
    }
}

/// Every RPC of `runtime.v1.RuntimeService`, CRI API 0.37.
pub const RUNTIME_METHODS: [(&str, Class); 37] = {
    use Class::*;
    use Service::Runtime;
    [
        ("Version", Passthrough(Runtime)),
        ("RunPodSandbox", Vetted(Runtime, self::Vetted::RunPodSandbox)),
        ("StopPodSandbox", Passthrough(Runtime)),
        ("RemovePodSandbox", Passthrough(Runtime)),
        ("PodSandboxStatus", Passthrough(Runtime)),
        ("ListPodSandbox", Passthrough(Runtime)),
        ("StreamPodSandboxes", Passthrough(Runtime)),
        ("CreateContainer", Vetted(Runtime, self::Vetted::CreateContainer)),
        ("StartContainer", Passthrough(Runtime)),
        ("StopContainer", Passthrough(Runtime)),
        ("RemoveContainer", Passthrough(Runtime)),
        ("ListContainers", Passthrough(Runtime)),
        ("StreamContainers", Passthrough(Runtime)),
        ("ContainerStatus", Passthrough(Runtime)),
        ("UpdateContainerResources", Passthrough(Runtime)),
        ("ReopenContainerLog", Passthrough(Runtime)),
        ("ExecSync", Passthrough(Runtime)),
        ("Exec", Passthrough(Runtime)),
        ("Attach", Passthrough(Runtime)),
        ("PortForward", Passthrough(Runtime)),
        ("ContainerStats", Passthrough(Runtime)),
        ("ListContainerStats", Passthrough(Runtime)),
        ("StreamContainerStats", Passthrough(Runtime)),
        ("PodSandboxStats", Passthrough(Runtime)),
        ("ListPodSandboxStats", Passthrough(Runtime)),
        ("StreamPodSandboxStats", Passthrough(Runtime)),
        ("UpdateRuntimeConfig", Passthrough(Runtime)),
        ("Status", Passthrough(Runtime)),
        ("CheckpointContainer", Passthrough(Runtime)),
        ("GetContainerEvents", Passthrough(Runtime)),
        ("ListMetricDescriptors", Passthrough(Runtime)),
        ("ListPodSandboxMetrics", Passthrough(Runtime)),
        ("StreamPodSandboxMetrics", Passthrough(Runtime)),
        ("RuntimeConfig", Passthrough(Runtime)),
        ("UpdatePodSandboxResources", Passthrough(Runtime)),
        ("CheckpointPod", Passthrough(Runtime)),
        ("RestorePod", RefusedUnlessAllowed(Runtime)),
    ]
};

/// Every RPC of `runtime.v1.ImageService`, CRI API 0.37.
pub const IMAGE_METHODS: [(&str, Class); 6] = {
    use Class::*;
    use Service::Image;
    [
        ("ListImages", Passthrough(Image)),
        ("StreamImages", Passthrough(Image)),
        ("ImageStatus", Passthrough(Image)),
        ("PullImage", Vetted(Image, self::Vetted::PullImage)),
        ("RemoveImage", Passthrough(Image)),
        ("ImageFsInfo", Passthrough(Image)),
    ]
};

/// The first word of RPCs that only read, by the CRI's own naming.
const READ_WORDS: [&str; 4] = ["List", "Stream", "Get", "Status"];
/// The last word of RPCs that only read.
const READ_ENDINGS: [&str; 2] = ["Status", "Stats"];

/// The class of a request path such as `/runtime.v1.ImageService/PullImage`.
pub fn classify(path: &str) -> Class {
    let (service, methods, name): (_, &[(&str, Class)], _) =
        if let Some(name) = path.strip_prefix(RUNTIME_SERVICE) {
            (Service::Runtime, &RUNTIME_METHODS, name)
        } else if let Some(name) = path.strip_prefix(IMAGE_SERVICE) {
            (Service::Image, &IMAGE_METHODS, name)
        } else {
            return Class::ForeignService;
        };
    if let Some((_, class)) = methods.iter().find(|(method, _)| *method == name) {
        return *class;
    }
    // A gRPC method is one identifier; anything else is no CRI call of any version.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Class::ForeignService;
    }
    if only_reads(name) { Class::UnknownRead(service) } else { Class::UnknownWrite(service) }
}

/// Whether a path's answer is a stream of messages, going by the CRI's own naming.
pub fn is_server_stream(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("Stream") || name == "GetContainerEvents")
}

fn only_reads(name: &str) -> bool {
    // "Getaway" is not "Get" + "Away": the word must end where the next begins.
    let begins = |word: &str| {
        name.strip_prefix(word).is_some_and(|rest| rest.bytes().next().is_none_or(|b| b.is_ascii_uppercase()))
    };
    READ_WORDS.into_iter().any(begins) || READ_ENDINGS.into_iter().any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vetted_call_is_in_the_table() {
        assert_eq!(
            classify("/runtime.v1.ImageService/PullImage"),
            Class::Vetted(Service::Image, Vetted::PullImage)
        );
        assert_eq!(
            classify("/runtime.v1.RuntimeService/CreateContainer"),
            Class::Vetted(Service::Runtime, Vetted::CreateContainer)
        );
        assert_eq!(
            classify("/runtime.v1.RuntimeService/RunPodSandbox"),
            Class::Vetted(Service::Runtime, Vetted::RunPodSandbox)
        );
        assert_eq!(
            classify("/runtime.v1.RuntimeService/RestorePod"),
            Class::RefusedUnlessAllowed(Service::Runtime)
        );
    }

    #[test]
    fn other_services_on_the_socket_are_foreign() {
        for path in [
            "/runtime.v1alpha2.RuntimeService/CreateContainer",
            "/containerd.services.tasks.v1.Tasks/Create",
            "/grpc.health.v1.Health/Check",
            "/runtime.v1.RuntimeService",
            "/runtime.v1.RuntimeService/",
            "/runtime.v1.RuntimeService/../../x",
            "/runtime.v1.RuntimeService/Create%43ontainer",
            "/RUNTIME.V1.RuntimeService/Version",
            "*",
            "",
        ] {
            assert_eq!(classify(path), Class::ForeignService, "{path}");
        }
    }

    #[test]
    fn an_unknown_rpc_is_a_read_only_by_its_words() {
        for (name, reads) in [
            ("ListGhosts", true),
            ("StreamGhosts", true),
            ("GetGhost", true),
            ("GhostStatus", true),
            ("GhostStats", true),
            ("CreateGhost", false),
            ("RestoreGhost", false),
            ("Listen", false),
            ("Getaway", false),
            ("createcontainer", false),
        ] {
            let expected = if reads {
                Class::UnknownRead(Service::Runtime)
            } else {
                Class::UnknownWrite(Service::Runtime)
            };
            assert_eq!(classify(&format!("{RUNTIME_SERVICE}{name}")), expected, "{name}");
        }
    }
}
