//! From what real cosign saved, one thing broken each.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::image::manifest::Document;
use crate::verify::fixture::Fixture;
use crate::verify::{SIGNATURE_PREDICATE, Sought};

const LEGACY: &str = "saved-key-none-legacy";
const BUNDLE: &str = "saved-key-none-bundle";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// A copy of what cosign saved, to break something in it.
struct Saved {
    fixture: Fixture,
    scratch: TempDir,
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    mode(to, 0o755);
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            mode(&target, 0o644);
        }
    }
}

impl Saved {
    fn new(name: &str) -> Self {
        let (fixture, scratch) = (Fixture::load(name), tempfile::tempdir().unwrap());
        copy(&fixture.dir.join("layout"), &scratch.path().join("image"));
        Self { fixture, scratch }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    fn digest(&self) -> Digest {
        self.fixture.digests[0]
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir().join("blobs/sha256").join(digest.hex())
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.blob(&digest), bytes).unwrap();
        mode(&self.blob(&digest), 0o644);
        digest
    }

    /// The file of the case that is in the layout, too.
    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.fixture.dir.join(name)).unwrap()
    }

    fn index(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir().join("index.json")).unwrap()).unwrap()
    }

    fn put_index(&self, index: &Value) {
        fs::write(self.dir().join("index.json"), index.to_string()).unwrap();
    }

    fn read(&self) -> Layouts {
        Layouts::read(&[self.dir()])
    }

    /// Reads a layout that is left out as a whole, and tells why.
    fn left_out(&self) -> String {
        let read = self.read();
        assert_eq!(
            (read.count, read.evidence.len(), read.documents.len(), read.faults.len()),
            (0, 0, 0, 1),
            "{read:?}"
        );
        let other = Digest::of(b"another image");
        read.fault(&[other]).expect("nobody knows what was in it").to_owned()
    }
}

/// All that there is about a digest, as a policy that asks for a signature and for a provenance has it.
fn all<'a>(layouts: &'a Layouts, digest: &Digest) -> Vec<&'a Evidence> {
    layouts.evidence.get(digest).into_iter().flatten().map(|piece| &piece.evidence).collect()
}

fn referrers(types: &[&str]) -> Form {
    Form::Referrers(types.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>())
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn entry(digest: Digest, annotations: &Value) -> Value {
    json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
        "annotations": annotations})
}

#[test]
fn what_cosign_saves_is_the_evidence_that_the_registry_has() {
    for name in [LEGACY, BUNDLE] {
        let saved = Saved::new(name);
        let read = saved.read();
        assert_eq!((read.count, &read.faults.len()), (1, &0), "{name}: {read:?}");
        let found = all(&read, &saved.digest());
        assert_eq!(found.len(), 2, "{name}");
        assert!(saved.fixture.evidence.iter().all(|evidence| found.contains(&evidence)), "{name}");
        let authority = &saved.fixture.authorities[0];
        let types = [PROVENANCE.to_owned()];
        for sought in [Sought::Signature, Sought::Attestation { predicate_types: &types }] {
            let held = found.iter().filter(|one| saved.fixture.verify(one, authority, &sought).is_ok());
            assert_eq!(held.count(), 1, "{name}: {sought:?}");
        }
    }
}

#[test]
fn evidence_is_told_by_form_and_predicate_type_as_a_registry_would() {
    let count = |saved: &Saved, form: &Form| saved.read().evidence(&saved.digest(), form).count();
    let legacy = Saved::new(LEGACY);
    assert_eq!(count(&legacy, &Form::SignatureTag), 1);
    assert_eq!(count(&legacy, &Form::AttestationTag), 1);
    assert_eq!(count(&legacy, &referrers(&[SIGNATURE_PREDICATE, PROVENANCE])), 0);
    let bundle = Saved::new(BUNDLE);
    assert_eq!(count(&bundle, &Form::SignatureTag), 0);
    assert_eq!(count(&bundle, &referrers(&[SIGNATURE_PREDICATE])), 1);
    assert_eq!(count(&bundle, &referrers(&[SIGNATURE_PREDICATE, PROVENANCE])), 2);
    assert_eq!(count(&bundle, &referrers(&["https://example.com/other"])), 0);
}

#[test]
fn the_walk_from_digest_to_id_has_its_documents() {
    for name in [LEGACY, BUNDLE] {
        let saved = Saved::new(name);
        let read = saved.read();
        let manifest = read.document(&saved.digest()).unwrap();
        let Document::Manifest(manifest) = Document::parse(&manifest).unwrap() else { panic!("{name}") };
        let config = manifest.config.digest;
        assert_eq!(Digest::of(&read.document(&config).unwrap()), config);
        assert_eq!(read.roots_of(&ImageId(config)), [saved.digest()]);
        assert_eq!(read.roots_of(&ImageId(saved.digest())), []);
        assert_eq!(read.document(&manifest.layers[0].digest), None);
    }
}

#[test]
fn the_walk_of_an_index_has_the_platforms_that_were_saved() {
    let saved = Saved::new(LEGACY);
    let config = Document::parse(&saved.file("manifest.json"));
    let Ok(Document::Manifest(manifest)) = config else { panic!("{config:?}") };
    let child = |digest: Digest| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [child(saved.digest()), child(Digest::of(b"not saved"))]});
    let root = saved.put(index.to_string().as_bytes());
    let kind = json!({"kind": "dev.cosignproject.cosign/imageIndex"});
    let mut listed = saved.index();
    listed["manifests"][0] = entry(root, &kind);
    saved.put_index(&listed);
    let read = saved.read();
    assert!(read.faults.is_empty(), "{read:?}");
    assert!(read.document(&root).is_some() && read.document(&saved.digest()).is_some());
    assert_eq!(read.roots_of(&ImageId(manifest.config.digest)), [root]);
    assert_eq!(all(&read, &root).len(), 2);
}

#[test]
fn a_folder_holds_one_layout_for_each_image() {
    let (legacy, bundle) = (Saved::new(LEGACY), Saved::new(BUNDLE));
    let folder = legacy.scratch.path();
    copy(&bundle.dir(), &folder.join("other"));
    // Twice the same, what is none, and what is hidden.
    copy(&bundle.dir(), &folder.join("other-copy"));
    copy(&bundle.dir(), &folder.join(".hidden"));
    fs::create_dir(folder.join("lost+found")).unwrap();
    fs::write(folder.join("README"), "text").unwrap();
    let read = Layouts::read(&[folder.to_owned()]);
    let expected = Summary { layouts: 3, images: 2, faults: 0, first: String::new() };
    assert_eq!(read.summary(), expected);
    for saved in [&legacy, &bundle] {
        assert_eq!(all(&read, &saved.digest()).len(), 2);
    }
}

#[test]
fn signatures_told_by_cosigns_tags_are_found() {
    let saved = Saved::new(LEGACY);
    let mut index = saved.index();
    let tag = format!("sha256-{}", saved.digest().hex());
    for (at, name) in [(1, format!("{tag}.sig")), (2, format!("registry.test/app:{tag}.att"))] {
        index["manifests"][at]["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    // The image itself need not be there.
    index["manifests"].as_array_mut().unwrap().remove(0);
    fs::remove_file(saved.blob(&saved.digest())).unwrap();
    saved.put_index(&index);
    let read = saved.read();
    assert!(read.faults.is_empty(), "{read:?}");
    assert_eq!(all(&read, &saved.digest()).len(), 2);
}

#[test]
fn flipped_blob_is_left_out_and_its_image_is_not_called_unsigned() {
    // A payload, and the manifest that names it: cosign 2's index.json says what they are about.
    for file in ["payload.json", "signatures.json"] {
        let saved = Saved::new(LEGACY);
        let digest = Digest::of(&saved.file(file));
        flip(&saved.blob(&digest));
        let read = saved.read();
        assert_eq!(read.evidence(&saved.digest(), &Form::SignatureTag).count(), 0, "{file}");
        assert_eq!(read.evidence(&saved.digest(), &Form::AttestationTag).count(), 1, "{file}");
        let fault = read.fault(&[saved.digest()]).unwrap();
        assert!(fault.contains(&format!("expected blob {digest}, found bytes that hash to")), "{fault}");
    }
    let saved = Saved::new(BUNDLE);
    flip(&saved.blob(&Digest::of(&saved.file("bundle.json"))));
    let read = saved.read();
    assert_eq!(all(&read, &saved.digest()).len(), 1);
    assert!(read.fault(&[saved.digest()]).is_some());
}

#[test]
fn flipped_referrer_may_be_about_any_image() {
    let saved = Saved::new(BUNDLE);
    flip(&saved.blob(&Digest::of(&saved.file("referrer.json"))));
    let read = saved.read();
    assert_eq!(all(&read, &saved.digest()).len(), 1);
    let fault = read.fault(&[Digest::of(b"another image")]).unwrap();
    assert!(fault.contains("found bytes that hash to"), "{fault}");
}

#[test]
fn flipped_layer_of_the_image_is_no_business_of_the_evidence() {
    let saved = Saved::new(LEGACY);
    let layer = fs::read(saved.fixture.dir.join("../layer.tar")).unwrap();
    flip(&saved.blob(&Digest::of(&layer)));
    assert!(saved.read().faults.is_empty());
}

#[test]
fn referrer_with_the_subject_of_another_image_is_about_that_one_and_does_not_verify() {
    let saved = Saved::new(BUNDLE);
    let referrer = saved.file("referrer.json");
    let other = Digest::of(b"another image");
    let text = String::from_utf8(referrer.clone()).unwrap().replace(&saved.digest().hex(), &other.hex());
    fs::remove_file(saved.blob(&Digest::of(&referrer))).unwrap();
    saved.put(text.as_bytes());
    let read = saved.read();
    assert!(read.faults.is_empty(), "{read:?}");
    assert_eq!(read.evidence(&saved.digest(), &referrers(&[SIGNATURE_PREDICATE])).count(), 0);
    let [stolen] = all(&read, &other)[..] else { panic!("{read:?}") };
    let authority = &saved.fixture.authorities[0];
    let (trust, now) = (&saved.fixture.trust, crate::verify::fixture::now());
    let refused = crate::verify::verify(stolen, authority, &Sought::Signature, &[other], trust, now);
    assert!(!refused.unwrap_err().undecided);
}

#[test]
fn signatures_manifest_with_the_subject_of_another_image_is_left_out() {
    let saved = Saved::new(LEGACY);
    let mut manifest: Value = serde_json::from_slice(&saved.file("signatures.json")).unwrap();
    let other = Digest::of(b"another image");
    manifest["subject"] = entry(other, &json!({}));
    let digest = saved.put(manifest.to_string().as_bytes());
    let mut index = saved.index();
    index["manifests"][1]["digest"] = json!(digest);
    saved.put_index(&index);
    let read = saved.read();
    assert_eq!(read.evidence(&saved.digest(), &Form::SignatureTag).count(), 0);
    let fault = read.fault(&[saved.digest()]).unwrap();
    assert!(fault.contains(&format!("found one about {other}")), "{fault}");
}

#[test]
fn entry_without_its_blob_is_a_fault_of_its_image() {
    for (name, file, left) in
        [(LEGACY, "signatures.json", 1), (LEGACY, "manifest.json", 2), (LEGACY, "payload.json", 1)]
    {
        let saved = Saved::new(name);
        let digest = Digest::of(&saved.file(file));
        fs::remove_file(saved.blob(&digest)).unwrap();
        let read = saved.read();
        assert_eq!(all(&read, &saved.digest()).len(), left, "{file}");
        assert_eq!(read.fault(&[Digest::of(b"another image")]), None, "{file}");
        let fault = read.fault(&[saved.digest()]).unwrap();
        assert!(fault.contains(&format!("expected blob {digest}, found none")), "{fault}");
    }
}

#[test]
fn signatures_beside_two_images_or_none_are_nobodys() {
    for images in [0, 2] {
        let saved = Saved::new(LEGACY);
        let mut index = saved.index();
        let list = index["manifests"].as_array_mut().unwrap();
        let image = list.remove(0);
        list.extend(vec![image; images]);
        saved.put_index(&index);
        let read = saved.read();
        assert_eq!(all(&read, &saved.digest()).len(), 0);
        let fault = read.fault(&[Digest::of(b"another image")]).unwrap();
        assert!(
            fault.contains(&format!(
                "expected one image beside the signatures and attestations in index.json, found {images}"
            )),
            "{fault}"
        );
    }
}

#[test]
fn layout_that_others_can_write_is_left_out() {
    for (path, found) in
        [("", 0o777), ("blobs", 0o775), ("blobs/sha256", 0o757), ("index.json", 0o666), ("oci-layout", 0o646)]
    {
        let saved = Saved::new(BUNDLE);
        mode(&saved.dir().join(path), found);
        let why = saved.left_out();
        assert!(why.contains(&format!("found mode {found:04o}")), "{path}: {why}");
    }
    let saved = Saved::new(BUNDLE);
    mode(saved.scratch.path(), 0o777);
    let read = Layouts::read(&[saved.scratch.path().to_owned()]);
    assert_eq!(read.count, 0);
    assert!(read.fault(&[]).unwrap().contains("found mode 0777"));
}

#[test]
fn blob_that_others_can_write_is_left_out() {
    let saved = Saved::new(BUNDLE);
    mode(&saved.blob(&Digest::of(&saved.file("bundle.json"))), 0o666);
    let read = saved.read();
    assert_eq!(all(&read, &saved.digest()).len(), 1);
    assert!(read.fault(&[saved.digest()]).unwrap().contains("found mode 0666"));
}

#[test]
fn what_is_no_layout_is_left_out_and_named() {
    let remove = |name: &'static str| move |saved: &Saved| fs::remove_file(saved.dir().join(name)).unwrap();
    let write = |name: &'static str, text: &'static str| {
        move |saved: &Saved| fs::write(saved.dir().join(name), text).unwrap()
    };
    type Break = Box<dyn Fn(&Saved)>;
    let breaks: [(&str, Break); 6] = [
        ("oci-layout: ", Box::new(remove("oci-layout"))),
        ("index.json: ", Box::new(remove("index.json"))),
        (
            "expected imageLayoutVersion 1.0.0, found \"2.0.0\"",
            Box::new(write("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#)),
        ),
        ("index.json: ", Box::new(write("index.json", r#"{"schemaVersion":2}"#))),
        ("index.json: ", Box::new(write("index.json", r#"{"manifests":[{"digest":"sha256:0","size":1}]}"#))),
        (
            "blobs",
            Box::new(|saved: &Saved| {
                fs::rename(saved.dir().join("blobs"), saved.dir().join("other")).unwrap()
            }),
        ),
    ];
    for (expected, broken) in breaks {
        let saved = Saved::new(BUNDLE);
        broken(&saved);
        let why = saved.left_out();
        assert!(why.contains(expected) && why.contains("is left out") && !why.contains('\n'), "{why}");
    }
}

#[test]
fn folder_that_is_not_there_or_a_file_is_a_fault_and_an_empty_one_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("file"), "").unwrap();
    for name in ["nowhere", "file"] {
        let read = Layouts::read(&[scratch.path().join(name)]);
        assert!(read.fault(&[]).unwrap().contains(name));
    }
    fs::create_dir(scratch.path().join("empty")).unwrap();
    assert_eq!(Layouts::read(&[scratch.path().join("empty")]).fault(&[]), None);
    symlink("nowhere", scratch.path().join("link")).unwrap();
    assert!(Layouts::read(&[scratch.path().to_owned()]).fault(&[]).unwrap().contains("link"));
}

#[test]
fn one_layout_left_out_leaves_the_others() {
    let (saved, other) = (Saved::new(LEGACY), Saved::new(BUNDLE));
    copy(&other.dir(), &saved.scratch.path().join("broken"));
    fs::remove_file(saved.scratch.path().join("broken/index.json")).unwrap();
    let read = Layouts::read(&[saved.scratch.path().to_owned(), other.dir()]);
    assert_eq!((read.summary().layouts, read.summary().faults), (2, 1));
    assert_eq!(all(&read, &saved.digest()).len(), 2);
    assert_eq!(all(&read, &other.digest()).len(), 2);
}

#[test]
fn more_signatures_than_the_limit_are_a_fault_of_their_image() {
    let saved = Saved::new(BUNDLE);
    let mut referrer: Value = serde_json::from_slice(&saved.file("referrer.json")).unwrap();
    for number in 0..limits::SIGNATURES {
        referrer["annotations"]["number"] = json!(number.to_string());
        saved.put(referrer.to_string().as_bytes());
    }
    let read = saved.read();
    assert_eq!(
        read.evidence(&saved.digest(), &referrers(&[SIGNATURE_PREDICATE])).count(),
        limits::SIGNATURES
    );
    assert!(read.fault(&[saved.digest()]).unwrap().contains("limit SIGNATURES"));
    assert_eq!(read.fault(&[Digest::of(b"another image")]), None);
    // What is of another type has places of its own.
    assert_eq!(read.evidence(&saved.digest(), &referrers(&[PROVENANCE])).count(), 1);
}

#[test]
fn manifest_with_more_layers_than_the_limit_is_a_fault_of_its_image() {
    let saved = Saved::new(BUNDLE);
    let mut referrer: Value = serde_json::from_slice(&saved.file("referrer.json")).unwrap();
    let layer = referrer["layers"][0].clone();
    referrer["layers"] = json!(vec![layer; limits::SIGNATURES + 1]);
    saved.put(referrer.to_string().as_bytes());
    let read = saved.read();
    assert_eq!(all(&read, &saved.digest()).len(), 2);
    assert!(read.fault(&[saved.digest()]).unwrap().contains("limit SIGNATURES"));
}

#[test]
fn payload_over_its_limit_is_a_fault_of_its_image() {
    let saved = Saved::new(LEGACY);
    let payload = saved.put(&vec![b' '; limits::PAYLOAD_BYTES + 1]);
    let mut manifest: Value = serde_json::from_slice(&saved.file("signatures.json")).unwrap();
    manifest["layers"][0]["digest"] = json!(payload);
    let mut index = saved.index();
    index["manifests"][1]["digest"] = json!(saved.put(manifest.to_string().as_bytes()));
    saved.put_index(&index);
    let read = saved.read();
    assert!(read.fault(&[saved.digest()]).unwrap().contains("limit PAYLOAD_BYTES"));
}

#[test]
fn layout_over_a_limit_is_left_out_and_the_limit_is_named() {
    let saved = Saved::new(BUNDLE);
    let mut index = saved.index();
    let one = index["manifests"][0].clone();
    index["manifests"] = json!(vec![one; limits::LAYOUT_ENTRIES + 1]);
    saved.put_index(&index);
    assert!(saved.left_out().contains("limit LAYOUT_ENTRIES"));

    let saved = Saved::new(BUNDLE);
    for number in 0..limits::LAYOUT_BLOBS {
        fs::File::create(saved.dir().join(format!("blobs/sha256/{number}"))).unwrap();
    }
    assert!(saved.left_out().contains("limit LAYOUT_BLOBS"));

    let saved = Saved::new(BUNDLE);
    for (left, expected) in [
        (Left { layouts: 1, to_read: 4000, to_hold: 100_000 }, "limit LAYOUT_READ_BYTES"),
        (Left { layouts: 1, to_read: 100_000, to_hold: 1000 }, "limit LAYOUT_HELD_BYTES"),
    ] {
        let read = folder::read(&[saved.dir()], left);
        assert_eq!((read.count, read.evidence.len()), (0, 0));
        assert!(read.fault(&[]).unwrap().contains(expected), "{read:?}");
    }
}

#[test]
fn more_layouts_or_entries_than_the_limit_are_left_out() {
    let saved = Saved::new(BUNDLE);
    for number in 0..3 {
        symlink("image", saved.scratch.path().join(format!("link-{number}"))).unwrap();
    }
    let left = Left { layouts: 3, to_read: 100_000, to_hold: 100_000 };
    let read = folder::read(&[saved.scratch.path().to_owned()], left);
    assert_eq!(read.summary().layouts, 3);
    assert_eq!(all(&read, &saved.digest()).len(), 2);
    assert!(read.fault(&[]).unwrap().contains("limit LAYOUTS"));

    let scratch = tempfile::tempdir().unwrap();
    for number in 0..=limits::LAYOUT_FOLDER_ENTRIES {
        fs::File::create(scratch.path().join(number.to_string())).unwrap();
    }
    let read = Layouts::read(&[scratch.path().to_owned()]);
    assert!(read.fault(&[]).unwrap().contains("limit LAYOUT_FOLDER_ENTRIES"));
}

#[test]
fn faults_that_find_no_place_concern_every_image() {
    let mut layouts = Layouts::default();
    let (known, other) = (Digest::of(b"known"), Digest::of(b"other"));
    for _ in 0..limits::LAYOUT_FAULTS - 1 {
        layouts.add_fault(Some(known), "one".to_owned());
    }
    assert_eq!(layouts.fault(&[other]), None);
    for _ in 0..3 {
        layouts.add_fault(Some(known), "two".to_owned());
    }
    assert_eq!(layouts.faults.len(), limits::LAYOUT_FAULTS);
    assert!(layouts.fault(&[other]).unwrap().contains("limit LAYOUT_FAULTS"));
}
