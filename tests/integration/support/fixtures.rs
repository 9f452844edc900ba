//! The sigstore fixtures: what real tools left in a real registry. `tests/fixtures/README.md` says how they are laid out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One signed image, and all that a registry holds of it.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    /// `host:port/repository`, as it was when it was signed.
    pub image: String,
    /// `sha256:…` of the signed manifest or index.
    pub digest: String,
    /// Who the certificate names; `None` where keys signed.
    pub identity: Option<Identity>,
    /// Blobs and manifests, in an order in which a registry takes them.
    pub stored: Vec<Stored>,
}

pub struct Identity {
    /// Empty where a private CA names none.
    pub issuer: String,
    pub subject: String,
}

/// A blob or manifest as the registry stored it.
pub struct Stored {
    pub repository: String,
    pub digest: String,
    /// `None`: a blob.
    pub media_type: Option<String>,
    pub tags: Vec<String>,
    /// The file's name in the case's folder.
    pub file: String,
    pub bytes: Vec<u8>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sigstore")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

impl Case {
    /// All cases, by name.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = entries.filter(|path| path.join("case.json").exists()).collect();
        names.sort();
        names.iter().map(|path| Self::load(path.file_name().unwrap().to_str().unwrap())).collect()
    }

    pub fn load(name: &str) -> Self {
        let dir = root().join(name);
        let facts: Value = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
        let stored = facts["stored"].as_array().expect("a list").iter().map(|entry| Stored {
            repository: text(&entry["repository"]),
            digest: text(&entry["digest"]),
            media_type: entry.get("mediaType").map(text),
            tags: entry
                .get("tags")
                .map_or(vec![], |tags| tags.as_array().unwrap().iter().map(text).collect()),
            file: text(&entry["file"]),
            bytes: fs::read(dir.join(entry["file"].as_str().unwrap())).unwrap(),
        });
        Self {
            name: name.to_owned(),
            image: text(&facts["image"]),
            digest: text(&facts["digest"]),
            identity: facts
                .get("identity")
                .map(|who| Identity { issuer: text(&who["issuer"]), subject: text(&who["subject"]) }),
            stored: stored.collect(),
            dir,
        }
    }

    /// The image's repository, without the registry.
    pub fn repository(&self) -> &str {
        self.image.split_once('/').unwrap().1
    }

    /// A file beside what is stored: `cosign.pub`, `trusted_root.json`.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    /// The public keys that signed, PEM, in the order in which they did.
    pub fn keys(&self) -> Vec<String> {
        let names = std::iter::once("cosign.pub".to_owned()).chain((1..).map(|n| format!("cosign-{n}.pub")));
        names.map_while(|name| self.file(&name)).map(|pem| String::from_utf8(pem).unwrap()).collect()
    }

    /// What is stored under a digest or a tag.
    pub fn get(&self, reference: &str) -> Option<&Stored> {
        self.stored.iter().find(|s| s.digest == reference || s.tags.iter().any(|tag| tag == reference))
    }

    /// What is stored in a file, by its name.
    pub fn bytes(&self, file: &str) -> &[u8] {
        let found = self.stored.iter().find(|s| s.file == file);
        &found.unwrap_or_else(|| panic!("{} has no {file}", self.name)).bytes
    }
}
