//! Every bound crivet holds outside data to, named, with its reason. An error that reports a limit names it.

/// Longest image reference taken apart, bytes. A registry host (255), a repository (255), a tag (128) and a
/// digest fit several times over; a reference of 1 MiB is an attack.
pub const REFERENCE_BYTES: usize = 4 * 1024;

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

/// Largest daemon configuration read, bytes.
pub const CONFIGURATION_BYTES: usize = 256 * 1024;

/// Most bytes of policies in one set, all files together: ten thousand policies with their keys are some 8 MiB.
pub const POLICY_SET_BYTES: usize = 32 * 1024 * 1024;

/// Most files in a policy folder, those that are no policies included.
pub const POLICY_FILES: usize = 20_000;
