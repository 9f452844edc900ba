//! What crivet knows of the CRI: the method table, wire types, the runtime client, and the replies.

pub mod bound;
pub mod deadline;
pub mod facts;
pub mod handlers;
pub mod message;
pub mod methods;
pub mod reply;
pub mod runtime;
pub mod storage;
pub mod unknown;

/// The CRI messages crivet reads, generated from `proto/cri.proto`.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");

    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("AuthConfig { redacted }")
        }
    }
}

/// The few services of containerd that crivet reads, generated from `proto/containerd/`.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod containerd {
    /// `containerd.types`
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    /// `containerd.services.containers.v1`
    pub mod containers {
        tonic::include_proto!("containerd.services.containers.v1");
    }
    /// `containerd.services.snapshots.v1`
    pub mod snapshots {
        tonic::include_proto!("containerd.services.snapshots.v1");
    }
    /// `containerd.services.content.v1`
    pub mod content {
        tonic::include_proto!("containerd.services.content.v1");
    }
    /// `containerd.services.images.v1`
    pub mod images {
        tonic::include_proto!("containerd.services.images.v1");
    }
    /// `containerd.services.leases.v1`
    pub mod leases {
        tonic::include_proto!("containerd.services.leases.v1");
    }
}
