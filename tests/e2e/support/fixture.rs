//! The sigstore fixtures in a real registry.

use super::http;
use super::registry::digest;

// Shared with the integration tests, which use the rest of it.
#[allow(dead_code, reason = "each of the two test programs uses a part")]
#[path = "../../integration/support/fixtures.rs"]
mod fixtures;
pub use fixtures::{Case, Stored};

/// Puts all that a registry held of the case into another one, on loopback and without TLS: under tags where it had
/// some, else by digest. A registry with the referrers API does without the fallback index.
pub fn push(case: &Case, registry: &str) {
    for stored in &case.stored {
        match &stored.media_type {
            None => put_blob(registry, stored),
            Some(media_type) if stored.tags.is_empty() => {
                put_manifest(registry, stored, &stored.digest, media_type)
            }
            Some(media_type) => {
                for tag in &stored.tags {
                    put_manifest(registry, stored, tag, media_type);
                }
            }
        }
    }
}

/// The case's image by digest, in that registry.
pub fn reference(case: &Case, registry: &str) -> String {
    format!("{registry}/{}@{}", case.repository(), case.digest)
}

fn put_blob(registry: &str, stored: &Stored) {
    assert_eq!(digest(&stored.bytes), stored.digest, "{}", stored.file);
    let uploads = format!("/v2/{}/blobs/uploads/", stored.repository);
    let started = send(registry, "POST", &uploads, &[], &[]);
    let location = started.header("location").expect("an upload has a location");
    let target = location.split_once(registry).map_or(location, |(_, path)| path);
    let mark = if target.contains('?') { '&' } else { '?' };
    let target = format!("{target}{mark}digest={}", stored.digest);
    send(registry, "PUT", &target, &[("Content-Type", "application/octet-stream")], &stored.bytes);
}

fn put_manifest(registry: &str, stored: &Stored, reference: &str, media_type: &str) {
    let target = format!("/v2/{}/manifests/{reference}", stored.repository);
    send(registry, "PUT", &target, &[("Content-Type", media_type)], &stored.bytes);
}

fn send(registry: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Reply {
    let reply = http::request(registry, method, target, headers, body)
        .unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!((200..300).contains(&reply.status), "{method} {target}: {} {text}", reply.status);
    reply
}
