//! The walk, over images put together in memory.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::image::manifest::MANIFEST_TYPES;

/// A content store that images are put together in.
#[derive(Default)]
struct Store(HashMap<Digest, Vec<u8>>);

impl Store {
    fn put(&mut self, value: &Value) -> (Digest, u64) {
        let bytes = value.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        self.0.insert(digest, bytes);
        (digest, size)
    }

    /// An image of one layer called `name`: its manifest's digest and size, and its ID.
    fn image(&mut self, name: &str, architecture: &str) -> (Digest, u64, ImageId) {
        self.image_with(name, architecture, 1)
    }

    fn image_with(&mut self, name: &str, architecture: &str, diff_ids: usize) -> (Digest, u64, ImageId) {
        let diff_ids = vec![Digest::of(name.as_bytes()); diff_ids];
        let (id, id_size) = self.put(&json!({
            "os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }));
        let (manifest, size) = self.put(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPES[0],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": id, "size": id_size},
            "layers": [{"mediaType": "x", "digest": Digest::of(name.as_bytes()), "size": 3}],
        }));
        (manifest, size, ImageId(id))
    }

    fn index(&mut self, entries: &[Value]) -> Digest {
        self.put(&json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": entries})).0
    }

    fn walk(&self, root: Digest, target: Target) -> (Result<Vec<Tie>, WalkError>, usize) {
        let mut walk = Walk::new(root, target);
        for fetched in 0..1000 {
            match walk.next() {
                Step::Done(ties) => return (Ok(ties), fetched),
                Step::Need(need) => {
                    if let Err(error) = walk.give(&self.0[&need.digest]) {
                        return (Err(error), fetched + 1);
                    }
                }
            }
        }
        panic!("endless walk");
    }
}

fn entry((digest, size, _): (Digest, u64, ImageId), architecture: &str) -> Value {
    let platform = json!({"os": "linux", "architecture": architecture});
    json!({"mediaType": MANIFEST_TYPES[0], "digest": digest, "size": size, "platform": platform})
}

fn bare((digest, size, _): (Digest, u64, ImageId)) -> Value {
    json!({"mediaType": MANIFEST_TYPES[0], "digest": digest, "size": size})
}

fn amd64() -> Platform {
    Platform::new("linux", "x86_64", "")
}

fn by_id(id: ImageId) -> Target {
    Target::Id { id, host: amd64() }
}

#[test]
fn single_manifest_is_tied_to_its_id() {
    let mut store = Store::default();
    let (root, _, id) = store.image("a", "amd64");
    let (ties, fetched) = store.walk(root, by_id(id));
    let ties = ties.unwrap();
    assert_eq!((ties.len(), fetched), (1, 2));
    assert_eq!((ties[0].root(), ties[0].index(), ties[0].id()), (root, None, id));
    assert_eq!((ties[0].digests(), ties[0].chain_id()), (vec![root], Digest::of(b"a")));
    // The single manifest is what the runtime takes whatever platform it is for.
    let arm = Target::Platform(Platform::new("linux", "arm64", ""));
    assert_eq!(store.walk(root, arm).0.unwrap(), ties);
}

#[test]
fn child_of_the_nodes_platform_is_tried_first() {
    let mut store = Store::default();
    let (arm, amd) = (store.image("b", "arm64"), store.image("a", "amd64"));
    let root = store.index(&[entry(arm, "arm64"), entry(amd, "amd64")]);
    let (ties, fetched) = store.walk(root, by_id(amd.2));
    let tie = &ties.unwrap()[0];
    assert_eq!(fetched, 3);
    assert_eq!(tie.digests(), vec![root, amd.0]);
    assert_eq!((tie.index(), tie.manifest()), (Some(IndexDigest(root)), ManifestDigest(amd.0)));
    // Another platform's ID is found as well, one fetch later.
    assert_eq!(store.walk(root, by_id(arm.2)).1, 4);
    assert_eq!(store.walk(root, Target::Platform(amd64())).0.unwrap()[0].id(), amd.2);
}

#[test]
fn id_that_is_not_under_the_root_is_not_tied() {
    let mut store = Store::default();
    let (good, other) = (store.image("a", "amd64"), store.image("b", "amd64"));
    let root = store.index(&[entry(good, "amd64")]);
    for root in [root, good.0] {
        let (result, _) = store.walk(root, by_id(other.2));
        assert_eq!(result, Err(WalkError::NoSuchId { id: other.2, root, tried: 1 }));
    }
}

#[test]
fn bytes_of_another_digest_are_refused() {
    let mut store = Store::default();
    let (good, other) = (store.image("a", "amd64"), store.image("b", "amd64"));
    let swapped = store.0[&other.0].clone();
    store.0.insert(good.0, swapped);
    let (result, _) = store.walk(good.0, by_id(other.2));
    assert_eq!(result, Err(WalkError::Hash { expected: good.0, found: other.0 }));
}

#[test]
fn swapped_config_is_refused() {
    let mut store = Store::default();
    let (good, other) = (store.image("a", "amd64"), store.image("b", "amd64"));
    let swapped = store.0[&other.2.0].clone();
    store.0.insert(good.2.0, swapped);
    assert!(matches!(store.walk(good.0, by_id(good.2)).0, Err(WalkError::Hash { .. })));
}

#[test]
fn config_with_fewer_or_more_diff_ids_than_layers_is_refused() {
    let mut store = Store::default();
    let (root, _, id) = store.image_with("a", "amd64", 2);
    assert_eq!(
        store.walk(root, by_id(id)).0,
        Err(WalkError::Layers { manifest: root, layers: 1, diff_ids: 2 })
    );
}

#[test]
fn descriptor_of_another_size_is_refused() {
    let mut store = Store::default();
    let (digest, size, id) = store.image("a", "amd64");
    let root = store.index(&[entry((digest, size + 1, id), "amd64")]);
    assert!(matches!(store.walk(root, by_id(id)).0, Err(WalkError::Size { .. })));
}

#[test]
fn index_within_an_index_is_refused_whatever_its_media_type_says() {
    let mut store = Store::default();
    let image = store.image("a", "amd64");
    let inner = store.index(&[entry(image, "amd64")]);
    let size = store.0[&inner].len() as u64;
    for media_type in [INDEX_TYPES[0], MANIFEST_TYPES[0]] {
        let root = store.index(&[json!({"mediaType": media_type, "digest": inner, "size": size})]);
        let (result, _) = store.walk(root, by_id(image.2));
        assert_eq!(result, Err(WalkError::Nested { digest: inner, root }));
    }
}

#[test]
fn number_of_children_read_is_bounded() {
    let mut store = Store::default();
    let images: Vec<_> = (0..40).map(|n| store.image(&n.to_string(), "amd64")).collect();
    let entries: Vec<_> = images.iter().map(|image| entry(*image, "amd64")).collect();
    let root = store.index(&entries);
    let (result, fetched) = store.walk(root, by_id(images[39].2));
    assert_eq!(result, Err(WalkError::Children { root, found: 40 }));
    assert_eq!(fetched, 1 + limits::WALK_CHILDREN);
    assert!(store.walk(root, by_id(images[31].2)).0.is_ok());
    assert!(matches!(store.walk(root, Target::Platform(amd64())).0, Err(WalkError::Children { .. })));
}

#[test]
fn platform_takes_all_equally_good_entries_and_none_that_is_worse() {
    let mut store = Store::default();
    let images: Vec<_> = ["a", "b", "c"].iter().map(|name| store.image(name, "amd64")).collect();
    let old = store.image("old", "386");
    let root = store.index(&[
        entry(old, "386"),
        bare(images[2]),
        entry(images[0], "amd64"),
        entry(images[1], "amd64"),
        entry(images[0], "amd64"),
    ]);
    let ties = store.walk(root, Target::Platform(amd64())).0.unwrap();
    assert_eq!(ties.iter().map(Tie::id).collect::<Vec<_>>(), [images[0].2, images[1].2]);
}

#[test]
fn entry_without_platform_counts_by_its_config_and_only_without_a_better_one() {
    let mut store = Store::default();
    let (amd, arm) = (store.image("a", "amd64"), store.image("b", "arm64"));
    let root = store.index(&[bare(arm), bare(amd)]);
    let ties = store.walk(root, Target::Platform(amd64())).0.unwrap();
    assert_eq!(ties.iter().map(Tie::id).collect::<Vec<_>>(), [amd.2]);
    let none = store.index(&[entry(arm, "arm64"), bare(arm)]);
    let missing = WalkError::NoSuchPlatform { platform: amd64(), root: none };
    assert_eq!(store.walk(none, Target::Platform(amd64())).0, Err(missing));
}

#[test]
fn bytes_after_the_end_or_after_an_error_tie_nothing() {
    let mut store = Store::default();
    let (root, _, id) = store.image("a", "amd64");
    let mut walk = Walk::new(root, by_id(id));
    walk.give(&store.0[&root]).unwrap();
    walk.give(&store.0[&id.0]).unwrap();
    assert_eq!(walk.give(b"{}"), Err(WalkError::Over { root }));
    let mut walk = Walk::new(root, by_id(id));
    assert!(walk.give(b"{}").is_err());
    assert!(matches!(walk.next(), Step::Need(need) if need.digest == root));
}

#[test]
fn error_after_a_first_tie_leaves_none() {
    let mut store = Store::default();
    let (good, bad) = (store.image("a", "amd64"), store.image_with("b", "amd64", 2));
    let root = store.index(&[entry(good, "amd64"), entry(bad, "amd64")]);
    let mut walk = Walk::new(root, Target::Platform(amd64()));
    let error = loop {
        let Step::Need(need) = walk.next() else { panic!("no error") };
        if let Err(error) = walk.give(&store.0[&need.digest]) {
            break error;
        }
    };
    assert!(matches!(error, WalkError::Layers { .. }));
    assert_eq!(walk.next(), Step::Done(Vec::new()));
}
