//! A node without any registry: images that were imported, and their evidence as real cosign saved it.

use crate::support::containerd::Containerd;
use crate::support::cosign::{Cosign, Key, Version};
use crate::support::crictl::named;
use crate::support::crivet::{Crivet, policy, signed_by};
use crate::support::image::{Image, Pushed, push_index};
use crate::support::node::{REGISTRY_UNAVAILABLE, assert_refused};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A containerd that has its pause image, and a registry that images are made in before it goes away. Dropped in this
/// order: the scratch folder last.
struct Site {
    containerd: Containerd,
    registry: Registry,
    cosign: Cosign,
    key: Key,
    /// One layout for each image below it.
    evidence: PathBuf,
    /// containerd's transfer service ends an export before its stream is written (seen on 2.1).
    local: &'static [&'static str],
    peers: Peers,
}

impl Site {
    fn start(version: Version, containerd: &str) -> Option<Self> {
        let peers = Peers::get()?;
        let registry = Registry::start(&peers);
        let local: &[_] = if containerd == "1.6" { &[] } else { &["--local"] };
        let containerd = Containerd::start(&peers, containerd, &registry);
        let cosign = Cosign::new(&peers, version);
        let key = cosign.generate_key("key");
        let evidence = peers.path().join("evidence");
        fs::create_dir(&evidence).unwrap();
        containerd.crictl().pull(&containerd.pause().reference).unwrap();
        let site = Self { containerd, registry, cosign, key, evidence, local, peers };
        site.sign(site.containerd.pause());
        site.save("pause", site.containerd.pause());
        Some(site)
    }

    fn says(&self, line: &str) -> Image {
        Image::says(&self.peers, line)
    }

    fn sign(&self, image: &Pushed) {
        self.cosign.sign(&self.key, &image.by_digest, &[]);
    }

    fn save(&self, name: &str, image: &Pushed) {
        let folder = self.evidence.join(name);
        self.cosign.save(&image.by_digest, &folder);
        let layers = fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        // Whoever brings evidence to many nodes leaves the layers out.
        layers
            .filter(|path| path.metadata().unwrap().len() > 100_000)
            .for_each(|path| fs::remove_file(path).unwrap());
    }

    /// Brings an image to containerd in an archive, under its tag and without a digest of any registry.
    fn import(&self, image: &Pushed) {
        let tar = self.peers.path().join("import.tar");
        let tar = tar.to_str().unwrap();
        self.containerd.ctr(&["images", "pull", "--plain-http", &image.reference]);
        self.containerd.ctr(&[&["images", "export"], self.local, &[tar, &image.reference]].concat());
        self.containerd.crictl().run(["rmi", &image.id]).unwrap();
        self.containerd.ctr(&[&["images", "import"], self.local, &[tar]].concat());
        let status = wait_for("the imported image", Duration::from_secs(10), || {
            self.containerd.crictl().json(["inspecti", "-o", "json", &image.id]).ok()
        });
        assert_eq!(status["status"]["repoDigests"], json!([]), "{status}");
    }

    /// crivet, enforcing, after the registry went away.
    fn enforce(&mut self) -> Crivet {
        self.registry.stop();
        // A bundle has no place for the repository that was signed.
        let spec = format!("{}    claimedRepository: {{unnamed: accept}}\n", signed_by(&self.key));
        let policy = policy("all", &format!("{}/**", self.registry.address()), &spec);
        let settings = format!("evidence: {{layouts: [{}]}}\n", self.evidence.display());
        Crivet::start_with(&self.peers, &self.containerd, "enforce", &[policy], &settings, "info")
    }
}

fn signed_runs_and_unsigned_does_not(version: Version, containerd: &str) {
    let Some(mut site) = Site::start(version, containerd) else { return };
    let signed = site.says("vouched for").push(&site.registry, "signed", "1");
    let unsigned = site.says("never").push(&site.registry, "unsigned", "1");
    site.sign(&signed);
    site.save("signed", &signed);
    site.save("unsigned", &unsigned);
    site.import(&signed);
    site.import(&unsigned);
    let crivet = site.enforce();

    let container = crivet.crictl().start("signed", &signed).unwrap();
    assert_eq!(container.first_line(), "vouched for");
    let pod = crivet.crictl().sandbox("unsigned").unwrap();
    let refused = crivet.crictl().create("unsigned", &pod, &unsigned);
    assert_refused(refused, REGISTRY_UNAVAILABLE, &[&unsigned.reference]);
    // One image's signature is not another's.
    let as_signed = named(&unsigned.id, &signed.reference);
    let refused = crivet.crictl().create_of("as-signed", &pod, "e2e", &as_signed, &json!([]));
    assert_refused(refused, REGISTRY_UNAVAILABLE, &[&signed.reference]);
    assert_eq!(site.containerd.crictl().run(["ps", "--all", "--quiet"]).unwrap(), container.id);

    let (code, said) = crivet.json("verify", &[&signed.by_digest]);
    assert_eq!((code, &said["registryRequests"]), (Some(0), &json!(0)), "{said}");
    assert_eq!(said["images"][0]["imageIds"], json!([signed.id]));
    assert_eq!(crivet.json("verify", &[&unsigned.by_digest]).0, Some(2));
}

#[test]
fn without_a_registry_what_cosign_2_signed_and_saved_runs_and_an_unsigned_image_does_not() {
    signed_runs_and_unsigned_does_not(Version::V2, "1.6");
}

#[test]
fn without_a_registry_what_cosign_3_signed_and_saved_runs_and_an_unsigned_image_does_not() {
    signed_runs_and_unsigned_does_not(Version::V3, "2");
}

#[test]
fn without_a_registry_a_platform_of_a_signed_index_runs() {
    let Some(mut site) = Site::start(Version::V2, "1.7") else { return };
    let here = crate::support::image::architecture();
    let images = [(here, site.says("this platform")), ("s390x", site.says("another"))];
    let index = push_index(&site.registry, "index", "1", &images);
    site.sign(&index);
    site.save("index", &index);
    site.import(&index);
    let crivet = site.enforce();
    assert_eq!(crivet.crictl().start("index", &index).unwrap().first_line(), "this platform");
}

#[test]
fn without_a_registry_a_signature_by_another_key_is_told() {
    let Some(mut site) = Site::start(Version::V3, "1.6") else { return };
    let other = site.says("never").push(&site.registry, "other", "1");
    site.cosign.sign(&site.cosign.generate_key("another"), &other.by_digest, &[]);
    site.save("other", &other);
    site.import(&other);
    let crivet = site.enforce();
    let pod = crivet.crictl().sandbox("other").unwrap();
    let refused = crivet.crictl().create("other", &pod, &other);
    let told = "the evidence on the node does not suffice: policy all (0.yaml:1): expected";
    assert_refused(refused, REGISTRY_UNAVAILABLE, &[told]);
}

#[test]
fn evidence_that_is_brought_later_counts_after_a_reload_and_not_while_others_can_write_it() {
    let Some(mut site) = Site::start(Version::V2, "1.6") else { return };
    let late = site.says("late").push(&site.registry, "late", "1");
    site.sign(&late);
    site.save("late", &late);
    site.import(&late);
    let (here, away) = (site.evidence.join("late"), site.peers.path().join("late"));
    fs::rename(&here, &away).unwrap();
    let crivet = site.enforce();
    let pod = crivet.crictl().sandbox("late").unwrap();
    let create = |name: &str| crivet.crictl().create(name, &pod, &late);
    assert_refused(create("before"), REGISTRY_UNAVAILABLE, &[&late.reference]);

    fs::rename(&away, &here).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&here, 0o777);
    crivet.reload();
    assert_refused(create("writable"), REGISTRY_UNAVAILABLE, &["found mode 0777"]);
    mode(&here, 0o755);
    crivet.reload();
    create("after").unwrap();
}
