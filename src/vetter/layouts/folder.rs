//! Reading OCI image layouts (OCI image-spec, image-layout.md), as `cosign save` and others write them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Layouts, Piece};
use crate::config::files::{FileError, guarded_folder, read_guarded};
use crate::image::json::{self, Object};
use crate::image::manifest::{Descriptor, Document, INDEX_TYPES, MANIFEST_TYPES};
use crate::image::{Digest, ImageId, quoted};
use crate::limits;
use crate::verify::{
    ATTESTATION_MEDIA_TYPE, EvidenceManifest, SIGNATURE_MEDIA_TYPE, SignatureLayer, is_evidence,
};

/// The file that makes a folder a layout, and the one that lists what is in it.
const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";

/// Annotation of an entry: its tag (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of an entry: what it is, as cosign writes it (cosign `pkg/oci/layout`).
const KIND: &str = "kind";
const KIND_IMAGE: &str = "dev.cosignproject.cosign/image";
const KIND_INDEX: &str = "dev.cosignproject.cosign/imageIndex";
const KIND_SIGNATURES: &str = "dev.cosignproject.cosign/sigs";
const KIND_ATTESTATIONS: &str = "dev.cosignproject.cosign/atts";

/// As [`Layouts::read`].
pub(super) fn read(folders: &[PathBuf], left: Left) -> Layouts {
    let mut reader = Reader { layouts: Layouts::default(), left, seen: HashSet::new() };
    for folder in folders {
        reader.folder(folder);
    }
    reader.layouts
}

struct Reader {
    layouts: Layouts,
    left: Left,
    /// Manifests of evidence, with what they are about: one image is often saved twice.
    seen: HashSet<(Digest, Digest)>,
}

/// What is left of the limits for all layouts together.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub layouts: usize,
    pub to_read: usize,
    pub to_hold: usize,
}

/// One layout.
struct Layout<'a> {
    dir: &'a Path,
    blobs: PathBuf,
    left: &'a mut Left,
    found: Found,
}

/// What was found in one layout.
#[derive(Default)]
struct Found {
    pieces: Vec<(Digest, Digest, Piece)>,
    documents: HashMap<Digest, Bytes>,
    roots: Vec<(ImageId, Digest)>,
    faults: Vec<(Option<Digest>, String)>,
    /// Manifests of the pieces, with what they are about.
    seen: HashSet<(Digest, Digest)>,
}

/// Why something could not be read.
enum Broken {
    /// The whole layout is left out.
    Layout(String),
    /// Only what was to be read.
    Piece(String),
}

impl Reader {
    fn folder(&mut self, folder: &Path) {
        let dirs = match layouts_in(folder) {
            Ok(dirs) => dirs,
            Err(why) => {
                let text = format!("evidence layouts in {} are left out: {why}", folder.display());
                return self.layouts.add_fault(None, text);
            }
        };
        for dir in dirs {
            let Some(layouts) = self.left.layouts.checked_sub(1) else {
                let text = format!(
                    "evidence layout {} is left out: expected at most {} layouts (limit LAYOUTS), found more; remove those nobody needs",
                    dir.display(),
                    limits::LAYOUTS
                );
                return self.layouts.add_fault(None, text);
            };
            self.left.layouts = layouts;
            let before = self.left;
            match Layout::read(&dir, &mut self.left) {
                Ok(found) => self.take(&dir, found),
                Err(why) => {
                    self.left.to_hold = before.to_hold;
                    let text = format!("evidence layout {} is left out: {why}", dir.display());
                    self.layouts.add_fault(None, text);
                }
            }
        }
    }

    fn take(&mut self, dir: &Path, found: Found) {
        self.layouts.count += 1;
        for (about, manifest, piece) in found.pieces {
            if !self.seen.contains(&(about, manifest)) {
                self.layouts.add_piece(about, piece);
            }
        }
        self.seen.extend(found.seen);
        self.layouts.documents.extend(found.documents);
        for (id, root) in found.roots {
            self.layouts.add_root(id, root);
        }
        for (about, why) in found.faults {
            self.layouts.add_fault(about, format!("evidence layout {}: {why}", dir.display()));
        }
    }
}

/// The layout that a folder is, or those right below it, sorted by name.
fn layouts_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let real = guarded_folder(folder).map_err(|error| error.to_string())?;
    let io = |error: io::Error| error.to_string();
    // One of the two is enough to be taken for a layout, so that half of one is not passed over.
    let is_layout = |dir: &Path| -> io::Result<bool> {
        Ok(dir.join(LAYOUT).try_exists()? || dir.join(INDEX).try_exists()?)
    };
    if is_layout(&real).map_err(io)? {
        return Ok(vec![folder.to_owned()]);
    }
    let mut dirs = Vec::new();
    for (count, entry) in fs::read_dir(&real).map_err(io)?.enumerate() {
        if count == limits::LAYOUT_FOLDER_ENTRIES {
            let most = limits::LAYOUT_FOLDER_ENTRIES;
            return Err(format!(
                "expected at most {most} entries (limit LAYOUT_FOLDER_ENTRIES), found more; put some elsewhere"
            ));
        }
        let entry = entry.map_err(io)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // A link that leads nowhere may have been one: whoever reads it tells.
        if !hidden && fs::metadata(entry.path()).map_or(true, |found| found.is_dir()) {
            dirs.push(folder.join(entry.file_name()));
        }
    }
    dirs.sort();
    dirs.retain(|dir| fs::metadata(dir).is_err() || is_layout(dir).unwrap_or(true));
    Ok(dirs)
}

impl<'a> Layout<'a> {
    fn read(dir: &'a Path, left: &'a mut Left) -> Result<Found, String> {
        let folder = |path: &Path| guarded_folder(path).map_err(|error| error.to_string());
        // Resolved once, so that a layout exchanged meanwhile (a link turned) is read from one side only.
        let real = folder(dir)?;
        folder(&real.join("blobs"))?;
        let blobs = folder(&real.join("blobs/sha256"))?;
        let mut layout = Layout { dir: &real, blobs, left, found: Found::default() };
        layout.version()?;
        let entries = layout.entries()?;
        let images: BTreeSet<Digest> = entries.iter().filter(|e| is_image(e)).map(|e| e.digest).collect();
        for image in images {
            let read = layout.image(image);
            layout.noted(Some(image), read)?;
        }
        layout.named(&entries)?;
        layout.referring()?;
        Ok(layout.found)
    }

    /// One piece that cannot be read is left out, and what it is about has a fault.
    fn noted(&mut self, about: Option<Digest>, read: Result<(), Broken>) -> Result<(), String> {
        match read {
            Err(Broken::Layout(why)) => Err(why),
            Err(Broken::Piece(why)) => {
                self.found.faults.push((about, why));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn version(&self) -> Result<(), String> {
        let path = self.dir.join(LAYOUT);
        let wrong = |why: String| format!("{}: {why}", path.display());
        let bytes =
            read_guarded(&path, "MANIFEST_BYTES", limits::MANIFEST_BYTES).map_err(|e| e.to_string())?;
        let value = json::parse(&bytes, "MANIFEST_BYTES", limits::MANIFEST_BYTES)
            .map_err(|error| wrong(error.to_string()))?;
        let version = Object::new(&value, LAYOUT, &["imageLayoutVersion"])
            .and_then(|object| object.string("imageLayoutVersion"));
        match version {
            Ok("1.0.0") => Ok(()),
            Ok(other) => Err(wrong(format!(
                "expected imageLayoutVersion 1.0.0, found {}; save the image anew",
                quoted(other)
            ))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    fn entries(&self) -> Result<Vec<Descriptor>, String> {
        let path = self.dir.join(INDEX);
        let bytes =
            read_guarded(&path, "MANIFEST_BYTES", limits::MANIFEST_BYTES).map_err(|e| e.to_string())?;
        let wrong = |why: String| format!("{}: {why}", path.display());
        let value = json::parse(&bytes, "MANIFEST_BYTES", limits::MANIFEST_BYTES)
            .map_err(|error| wrong(error.to_string()))?;
        let entries = Object::new(&value, INDEX, &["schemaVersion", "manifests"])
            .and_then(|object| object.array("manifests"))
            .map_err(|error| wrong(error.to_string()))?;
        if entries.len() > limits::LAYOUT_ENTRIES {
            let (most, found) = (limits::LAYOUT_ENTRIES, entries.len());
            return Err(wrong(format!(
                "expected at most {most} entries (limit LAYOUT_ENTRIES), found {found}; make several layouts of it"
            )));
        }
        let read: Result<_, _> = entries.iter().map(Descriptor::read).collect();
        read.map_err(|error| wrong(error.to_string()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// A blob, its bytes held to its digest.
    fn blob(&mut self, digest: &Digest, limit: &'static str, cap: usize) -> Result<Bytes, Broken> {
        let path = self.blob_path(digest);
        let bytes = read_guarded(&path, limit, cap).map_err(|error| match error {
            FileError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => Broken::Piece(format!(
                "expected blob {digest}, found none; copy the layout anew, with all of its blobs"
            )),
            other => Broken::Piece(other.to_string()),
        })?;
        self.left.to_read = self.left.to_read.checked_sub(bytes.len()).ok_or_else(|| {
            Broken::Layout(format!(
                "expected at most {} bytes to read in all layouts (limit LAYOUT_READ_BYTES), found more; remove those nobody needs",
                limits::LAYOUT_READ_BYTES
            ))
        })?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Broken::Piece(format!(
                "expected blob {digest}, found bytes that hash to {found}; copy the layout anew"
            )));
        }
        Ok(Bytes::from(bytes))
    }

    /// What is held stays in memory.
    fn hold(&mut self, bytes: usize) -> Result<(), Broken> {
        self.left.to_hold = self.left.to_hold.checked_sub(bytes).ok_or_else(|| {
            Broken::Layout(format!(
                "expected at most {} bytes of evidence and manifests in all layouts (limit LAYOUT_HELD_BYTES), found more; remove those nobody needs",
                limits::LAYOUT_HELD_BYTES
            ))
        })?;
        Ok(())
    }

    fn document(&mut self, digest: Digest, bytes: Bytes) -> Result<(), Broken> {
        // One image often has several tags, and so several entries.
        if !self.found.documents.contains_key(&digest) {
            self.hold(bytes.len())?;
            self.found.documents.insert(digest, bytes);
        }
        Ok(())
    }

    /// An image: what is walked on the way from its digest to its IDs.
    fn image(&mut self, root: Digest) -> Result<(), Broken> {
        let bytes = self.blob(&root, "MANIFEST_BYTES", limits::MANIFEST_BYTES)?;
        let document = Document::parse(&bytes);
        let children = match document {
            Ok(Document::Manifest(manifest)) => {
                self.document(root, bytes)?;
                return self.config(root, manifest.config.digest);
            }
            Ok(Document::Index(index)) => index.manifests,
            // An artifact of another kind, or an image that no walk would take.
            Err(_) => return Ok(()),
        };
        self.document(root, bytes)?;
        for child in children {
            // Not every platform has to be there.
            if !self.blob_path(&child.digest).exists() {
                continue;
            }
            let bytes = self.blob(&child.digest, "MANIFEST_BYTES", limits::MANIFEST_BYTES)?;
            if let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) {
                self.document(child.digest, bytes)?;
                self.config(root, manifest.config.digest)?;
            }
        }
        Ok(())
    }

    fn config(&mut self, root: Digest, config: Digest) -> Result<(), Broken> {
        self.found.roots.push((ImageId(config), root));
        if self.blob_path(&config).exists() {
            let bytes = self.blob(&config, "CONFIG_BYTES", limits::CONFIG_BYTES)?;
            self.document(config, bytes)?;
        }
        Ok(())
    }

    /// Manifests of evidence that `index.json` tells by cosign's annotation, or by cosign's tag.
    fn named(&mut self, entries: &[Descriptor]) -> Result<(), String> {
        let images: Vec<_> = entries.iter().filter(|e| [KIND_IMAGE, KIND_INDEX].contains(&kind(e))).collect();
        for entry in entries {
            let (media_type, about) = match (kind(entry), tagged(entry)) {
                (_, Some((about, media_type))) => (media_type, Some(about)),
                (KIND_SIGNATURES, None) => (SIGNATURE_MEDIA_TYPE, None),
                (KIND_ATTESTATIONS, None) => (ATTESTATION_MEDIA_TYPE, None),
                _ => continue,
            };
            let about = match (about, images.as_slice()) {
                (Some(about), _) => about,
                // cosign saves one image to one folder, and what it keeps by tags does not say what it is about.
                (None, [image]) => image.digest,
                (None, images) => {
                    let why = format!(
                        "expected one image beside the signatures and attestations in index.json, found {}; save each image to a folder of its own",
                        images.len()
                    );
                    self.found.faults.push((None, why));
                    continue;
                }
            };
            let read = self.manifest(about, entry.digest, media_type);
            self.noted(Some(about), read)?;
        }
        Ok(())
    }

    fn manifest(&mut self, about: Digest, digest: Digest, media_type: &str) -> Result<(), Broken> {
        let bytes = self.blob(&digest, "MANIFEST_BYTES", limits::MANIFEST_BYTES)?;
        let manifest = EvidenceManifest::parse(|found| found == media_type, &bytes)
            .map_err(|error| Broken::Piece(format!("blob {digest}: {error}")))?;
        match manifest.subject {
            Some(subject) if subject != about => Err(Broken::Piece(format!(
                "blob {digest}: expected a manifest about {about}, found one about {subject}; save the image anew"
            ))),
            _ => self.layers(about, digest, manifest),
        }
    }

    /// Manifests that say themselves what they refer to. cosign 3 saves them and does not list them.
    fn referring(&mut self) -> Result<(), String> {
        let io = |error: io::Error| format!("{}: {error}", self.blobs.display());
        let mut digests = Vec::new();
        for (count, entry) in fs::read_dir(&self.blobs).map_err(io)?.enumerate() {
            if count == limits::LAYOUT_BLOBS {
                let most = limits::LAYOUT_BLOBS;
                return Err(format!(
                    "expected at most {most} blobs (limit LAYOUT_BLOBS), found more; make several layouts of it"
                ));
            }
            let name = entry.map_err(io)?.file_name();
            digests.extend(name.to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok()));
        }
        digests.sort();
        for digest in digests {
            let (about, read) = self.referrer(digest);
            self.noted(about, read)?;
        }
        Ok(())
    }

    /// What a blob refers to, where it is a manifest that says so, and whether its evidence could be read.
    fn referrer(&mut self, digest: Digest) -> (Option<Digest>, Result<(), Broken>) {
        match self.may_be_manifest(&digest) {
            Ok(true) => {}
            Ok(false) => return (None, Ok(())),
            Err(error) => {
                return (None, Err(Broken::Piece(format!("{}: {error}", self.blob_path(&digest).display()))));
            }
        }
        let bytes = match self.blob(&digest, "MANIFEST_BYTES", limits::MANIFEST_BYTES) {
            Ok(bytes) => bytes,
            Err(broken) => return (None, Err(broken)),
        };
        // Without layers first: what else is in it that cannot be read is then the fault of its subject.
        let subject = EvidenceManifest::parse(|_| false, &bytes).ok().and_then(|manifest| manifest.subject);
        let Some(about) = subject else { return (None, Ok(())) };
        let read = match EvidenceManifest::parse(is_evidence, &bytes) {
            Ok(manifest) => self.layers(about, digest, manifest),
            Err(error) => Err(Broken::Piece(format!("blob {digest}: {error}"))),
        };
        (Some(about), read)
    }

    /// Layers of images are neither read nor hashed: by their size, or by how they begin.
    fn may_be_manifest(&self, digest: &Digest) -> io::Result<bool> {
        let path = self.blob_path(digest);
        let metadata = fs::metadata(&path)?;
        if !metadata.is_file() || metadata.len() > limits::MANIFEST_BYTES as u64 {
            return Ok(false);
        }
        let mut first = [0];
        let read = File::open(&path)?.read(&mut first)?;
        Ok(read == 1 && (first == *b"{" || first[0].is_ascii_whitespace()))
    }

    fn layers(&mut self, about: Digest, manifest: Digest, found: EvidenceManifest) -> Result<(), Broken> {
        if !self.found.seen.insert((about, manifest)) {
            return Ok(());
        }
        for layer in found.layers {
            match self.layer(&layer) {
                Ok(bytes) => {
                    let size = bytes.len();
                    let predicate_type = found.predicate_type.clone();
                    let piece = Piece { predicate_type, evidence: layer.into_evidence(bytes), bytes: size };
                    self.found.pieces.push((about, manifest, piece));
                }
                Err(Broken::Piece(why)) => self.found.faults.push((Some(about), why)),
                Err(broken) => return Err(broken),
            }
        }
        Ok(())
    }

    fn layer(&mut self, layer: &SignatureLayer) -> Result<Bytes, Broken> {
        let (limit, cap) = match layer.descriptor.media_type.as_str() {
            SIGNATURE_MEDIA_TYPE => ("PAYLOAD_BYTES", limits::PAYLOAD_BYTES),
            _ => ("BUNDLE_BYTES", limits::BUNDLE_BYTES),
        };
        let bytes = self.blob(&layer.descriptor.digest, limit, cap)?;
        self.hold(bytes.len())?;
        Ok(bytes)
    }
}

fn kind(entry: &Descriptor) -> &str {
    entry.annotations.get(KIND).map(String::as_str).unwrap_or_default()
}

/// Whether an entry may be an image. What is taken for one by mistake suggests an ID that nothing has.
fn is_image(entry: &Descriptor) -> bool {
    let media_type = entry.media_type.as_str();
    let known =
        media_type.is_empty() || INDEX_TYPES.contains(&media_type) || MANIFEST_TYPES.contains(&media_type);
    match kind(entry) {
        KIND_IMAGE | KIND_INDEX => true,
        "" => known && entry.artifact_type.is_none() && tagged(entry).is_none(),
        _ => false,
    }
}

/// What an entry under cosign's tag `sha256-<hex>.sig` or `.att` is about, and the media type of its layers. Some tools
/// write the whole reference in the place of the tag.
fn tagged(entry: &Descriptor) -> Option<(Digest, &'static str)> {
    let (stem, suffix) = entry.annotations.get(REF_NAME)?.rsplit_once('.')?;
    let media_type = match suffix {
        "sig" => SIGNATURE_MEDIA_TYPE,
        "att" => ATTESTATION_MEDIA_TYPE,
        _ => return None,
    };
    let (_, hex) = stem.rsplit_once("sha256-")?;
    Some((Digest::parse(&format!("sha256:{hex}")).ok()?, media_type))
}
