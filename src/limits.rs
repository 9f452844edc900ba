//! Every bound crivet holds outside data to, named, with its reason. An error that reports a limit names it.

/// Longest image reference taken apart, bytes. A registry host (255), a repository (255), a tag (128) and a
/// digest fit several times over; a reference of 1 MiB is an attack.
pub const REFERENCE_BYTES: usize = 4 * 1024;

/// Longest simple-signing payload read, bytes. Real ones are under 1 KiB; annotations add to that.
pub const REGISTRY_SIGNATURE_PAYLOAD_BYTES: usize = 64 * 1024;

/// Longest answer of a token endpoint, bytes. Tokens of cloud registries reach a few KiB.
pub const REGISTRY_TOKEN_BYTES: usize = 64 * 1024;

/// Longest error body read from a registry, bytes. More than that is left unread: only the error code is used.
pub const REGISTRY_ERROR_BYTES: usize = 8 * 1024;

/// Longest status line and headers of a registry's answer together, bytes.
pub const REGISTRY_HEADER_BYTES: usize = 64 * 1024;

/// Most header lines in a registry's answer.
pub const REGISTRY_HEADERS: usize = 100;

/// Redirects followed for one request. Real chains are one or two long: registry to region to object store.
pub const REGISTRY_REDIRECTS: usize = 4;

/// Times a request that met 429 or 5xx is tried again. More would turn a registry's trouble into load.
pub const REGISTRY_RETRIES: u32 = 2;

/// Most tokens and remembered challenges kept in memory; the ones that expire first make room.
pub const REGISTRY_TOKENS: usize = 1024;

/// Longest time a token is used, seconds, whatever its `expires_in` says.
pub const REGISTRY_TOKEN_SECONDS: u64 = 3600;

/// Most registry hosts with a concurrency count of their own; idle ones make room.
pub const REGISTRY_HOSTS: usize = 1024;

/// Longest single field of a credential, bytes. Cloud registries' passwords are tokens of a few KiB.
pub const CREDENTIAL_FIELD_BYTES: usize = 32 * 1024;

/// Longest text field of an audit record, bytes; a longer one is cut and says so. Long enough for the longest
/// message a kubelet shows whole.
pub const AUDIT_FIELD_BYTES: usize = 1024;

/// Most policies named in one audit record; the count of the others is told.
pub const AUDIT_POLICIES: usize = 32;

/// Most different records remembered for merging equal ones. One that finds no room is written unmerged.
pub const AUDIT_KEYS: usize = 512;

/// Equal audit records are written at most once in this many seconds.
pub const AUDIT_MERGE_SECONDS: u64 = 60;

/// Most connections to the metrics address at a time; more wait in the kernel's queue.
pub const METRICS_CONNECTIONS: usize = 8;

/// Longest request line and headers on the metrics address, bytes (hyper's least is 8 KiB).
pub const METRICS_HEADER_BYTES: usize = 8 * 1024;

/// Longest time a connection to the metrics address may take for its headers, or stay open, seconds.
pub const METRICS_CONNECTION_SECONDS: u64 = 10;

/// Largest manifest or index read, bytes: what registries themselves accept (distribution, `MaxManifestBodySize`).
pub const MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// Largest image config read, bytes. Configs are kilobytes; history and labels may swell them.
pub const CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// Most values (of any kind) in one JSON document from outside. A manifest at every other limit has some ten
/// thousand; without this, 4 MiB of `[[],[],…` would become a hundred megabytes of tree.
pub const JSON_VALUES: usize = 200_000;

/// Most layers of an image. overlayfs stacks at most 500 (the kernel's `OVL_MAX_STACK`).
pub const LAYERS: usize = 512;

/// Most entries of an image index. The widest official images have some forty, attestations included.
pub const INDEX_MANIFESTS: usize = 512;

/// Most child manifests of one index fetched in search of an image ID. Those of the node's platform come first,
/// so that more than one or two is already unusual.
pub const WALK_CHILDREN: usize = 32;
