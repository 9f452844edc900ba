//! Every bound crivet holds outside data to, named, with its reason. An error that reports a limit names it.

/// Longest image reference taken apart, bytes. A registry host (255), a repository (255), a tag (128) and a
/// digest fit several times over; a reference of 1 MiB is an attack.
pub const REFERENCE_BYTES: usize = 4 * 1024;
