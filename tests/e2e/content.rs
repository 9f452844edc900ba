//! What containerd unpacked, held against the layers it came from; and vetted images that were altered on the node's disk.

use crate::support::containerd::Containerd;
use crate::support::crivet::key_policy;
use crate::support::image::push_index;
use crate::support::node::{DENIED, Node, Setup, assert_refused};
use crate::support::peers::Peers;
use crate::support::registry::{Registry, digest};
use crate::support::wait_for;
use crivet::content::unpacked::Unpacked;
use crivet::image::layer::{Comparison, Kind, Tree, unpack};
use crivet::limits;
use rustix::fs::{XattrFlags, removexattr, setxattr};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CAPABILITY: &str = "security.capability";
/// CAP_NET_BIND_SERVICE, permitted and effective: `struct vfs_cap_data`, revision 2.
const NET_BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One of everything that a layer may have.
const LOWEST: &str = r#"
mkdir -p bin etc/conf.d home/user tmp usr/lib var/old/sub var/plain dev
cp BUSYBOX bin/busybox; chmod 4755 bin/busybox; ln bin/busybox bin/also; ln bin/busybox bin/sh
cp BUSYBOX bin/bind
ln -s usr/lib lib; ln -s /etc/passwd etc/link
echo root:x:0:0::/:/bin/sh > etc/passwd; echo 1 > etc/conf
echo a > var/old/a; echo b > var/old/sub/b; echo gone > var/gone; echo kept > var/plain/kept
mkfifo var/pipe; mknod dev/null c 1 3; mknod dev/loop b 7 0
deep=var/$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120)); mkdir -p $deep
echo far > $deep/$(printf 'f%.0s' $(seq 200))
ln -s $(printf 'g%.0s' $(seq 180)) var/farther
touch "var/$(printf 'caf\303\251 x')"
chmod 1777 tmp; chmod 0700 home/user; chmod 2775 var/plain; chown 1000:50 home/user var/plain/kept
"#;

/// Archived file by file, so that its folders are implied.
const MIDDLE: &str = r#"
mkdir -p home/user lib var/old var/plain new/deep
echo new > home/user/new; echo added > lib/added; echo c > var/old/c; echo x > new/deep/x
touch var/.wh.gone var/old/.wh..wh..opq var/plain/.wh.never
"#;
const MIDDLE_FILES: [&str; 7] = [
    "home/user/new",
    "lib/added",
    "var/.wh.gone",
    "var/old/.wh..wh..opq",
    "var/old/c",
    "var/plain/.wh.never",
    "new/deep/x",
];

const UPPER: &str = r#"
mkdir -p bin etc var
ln -s busybox bin/sh; cp BUSYBOX bin/cap; ln bin/cap bin/cap2; echo 2 > etc/conf; chmod 0600 etc/conf
echo file > var/old; mkdir -m 0711 var/farther
"#;

/// A layer as it is in the registry.
pub struct Layer {
    pub blob: Vec<u8>,
    diff_id: String,
    media_type: &'static str,
}

impl Layer {
    pub fn new(archive: Vec<u8>, compression: &str) -> Layer {
        let diff_id = digest(&archive);
        let (blob, media_type) = match compression {
            "gzip" => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&archive).unwrap();
                (gzip.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
            }
            "zstd" => {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                let blob = ruzstd::encoding::compress_to_vec(archive.as_slice(), level);
                (blob, "application/vnd.oci.image.layer.v1.tar+zstd")
            }
            _ => (archive, "application/vnd.oci.image.layer.v1.tar"),
        };
        Layer { blob, diff_id, media_type }
    }
}

/// Makes a folder by a script.
pub fn folder(peers: &Peers, name: &str, script: &str) -> PathBuf {
    let folder = peers.path().join("layers").join(name);
    fs::create_dir_all(&folder).unwrap();
    let script = script.replace("BUSYBOX", peers.program("busybox").to_str().unwrap());
    let made = Command::new("sh").args(["-euc", &script]).current_dir(&folder).status().unwrap();
    assert!(made.success());
    folder
}

pub fn tar(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.arg("-C").arg(folder).args(["--numeric-owner", "--sort=name"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn layers(peers: &Peers) -> Vec<Layer> {
    let lowest = folder(peers, "lowest", LOWEST);
    setxattr(lowest.join("bin/bind"), CAPABILITY, &NET_BIND, XattrFlags::empty()).unwrap();
    let middle = folder(peers, "middle", MIDDLE);
    let upper = folder(peers, "upper", UPPER);
    setxattr(upper.join("bin/cap"), CAPABILITY, &NET_BIND, XattrFlags::empty()).unwrap();
    let with_xattrs = ["--format=posix", "--xattrs", "--xattrs-include=*", "-c", "."];
    let file_by_file = [&["--format=gnu", "-c"][..], &MIDDLE_FILES[..]].concat();
    // One file twice: the second counts.
    let twice = [&with_xattrs[..], &["--hard-dereference", "etc/conf"][..]].concat();
    vec![
        Layer::new(tar(&lowest, &with_xattrs), "gzip"),
        Layer::new(tar(&middle, &file_by_file), "zstd"),
        Layer::new(tar(&upper, &with_xattrs), "none"),
        Layer::new(tar(&upper, &twice), "gzip"),
    ]
}

/// Pushes an image of these layers; its name, and its chain ID.
pub fn push(registry: &Registry, layers: &[Layer]) -> (String, String) {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({"architecture": crate::support::image::architecture(), "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let described = layers.iter().map(|layer| {
        json!({"mediaType": layer.media_type, "digest": registry.put_blob("layers", &layer.blob), "size": layer.blob.len()})
    });
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let body = json!({"schemaVersion": 2, "mediaType": manifest, "layers": described.collect::<Vec<_>>(),
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": registry.put_blob("layers", &config), "size": config.len()}});
    registry.put_manifest("layers", "1", manifest, body.to_string().as_bytes());
    let chain = diff_ids.iter().fold(String::new(), |chain, id| match chain.is_empty() {
        true => (*id).to_owned(),
        false => digest(format!("{chain} {id}").as_bytes()),
    });
    (format!("{}/layers:1", registry.address()), chain)
}

/// What each layer has to have been unpacked to, lowest first.
fn trees(layers: &[Layer]) -> Vec<Tree> {
    let mut below: Vec<Tree> = Vec::new();
    let mut whole = Vec::new();
    for layer in layers {
        let tree = || {
            let unpacked = unpack(layer.blob.as_slice(), below.is_empty()).unwrap();
            assert_eq!(unpacked.blob.to_string(), digest(&layer.blob));
            let content = unpacked.content.unwrap();
            assert_eq!(content.diff_id.to_string(), layer.diff_id);
            let mut tree = content.tree;
            tree.inherit(&below.iter().rev().collect::<Vec<_>>());
            tree
        };
        let (own, for_others) = (tree(), tree());
        whole.push(own);
        below.push(for_others.without_files());
    }
    whole
}

fn differences(folder: &Path, tree: Tree) -> Vec<String> {
    let folder = Unpacked::open(folder).unwrap();
    let (mut comparison, mut to_read) = (Comparison::new(tree), Vec::new());
    folder
        .walk(|path, found| {
            if let (true, Kind::File { size }) = (comparison.found(&path, &found), found.kind) {
                to_read.push((path, size));
            }
        })
        .unwrap();
    for (path, size) in to_read {
        comparison.content(&path, folder.digest(&path, size).unwrap());
    }
    let found = comparison.finish();
    assert_eq!((found.count, found.unread), (found.first.len() as u64, 0));
    found.first.iter().map(ToString::to_string).collect()
}

/// The folders that containerd unpacked the layers of a chain into, lowest first.
pub fn unpacked(containerd: &Containerd, chain: &str) -> Vec<PathBuf> {
    // Not a view: that has no label of its own, and is collected as garbage at the next opportunity.
    containerd.ctr(&["snapshots", "prepare", "to-be-looked-at", chain]);
    let info = containerd.ctr(&["snapshots", "info", "to-be-looked-at"]);
    assert!(info.contains("containerd.io/gc.root"), "{info}");
    let mounts = containerd.ctr(&["snapshots", "mounts", "/x", "to-be-looked-at"]);
    let options = mounts.split_whitespace().flat_map(|word| word.split(','));
    let lower = options.filter_map(|option| option.strip_prefix("lowerdir=")).next().unwrap();
    lower.split(':').rev().map(PathBuf::from).collect()
}

pub type Alter = fn(&Path);

pub const ALTERATIONS: [(Alter, &str); 12] = [
    (
        |at| fs::write(at.join("etc/passwd"), "root:x:0:0::/:/bin/SH\n").unwrap(),
        "\"/etc/passwd\": expected content ",
    ),
    (|at| fs::write(at.join("etc/passwd"), "r").unwrap(), "\"/etc/passwd\": expected 22 bytes, found 1"),
    (|at| fs::write(at.join("bin/new"), "x").unwrap(), "\"/bin/new\": expected nothing, found a file"),
    (|at| fs::remove_file(at.join("var/gone")).unwrap(), "\"/var/gone\": expected a file, found nothing"),
    (|at| mode(&at.join("etc/passwd"), 0o666), "\"/etc/passwd\": expected mode 0644, found 0666"),
    (|at| mode(&at.join("home/user"), 0o777), "\"/home/user\": expected mode 0700, found 0777"),
    (|at| mode(&at.join("bin/bind"), 0o4755), "\"/bin/bind\": expected mode 0755, found 4755"),
    (
        |at| chown(at.join("home/user"), Some(0), Some(50)).unwrap(),
        "\"/home/user\": expected owner 1000:50, found 0:50",
    ),
    (
        |at| {
            fs::remove_file(at.join("lib")).unwrap();
            symlink("tmp", at.join("lib")).unwrap();
        },
        "\"/lib\": expected a link to \"usr/lib\", found one to \"tmp\"",
    ),
    (
        |at| removexattr(at.join("bin/bind"), CAPABILITY).unwrap(),
        "\"/bin/bind\": expected attribute security.capability as in the layer, found another",
    ),
    (
        |at| setxattr(at.join("etc"), "trusted.overlay.redirect", b"/tmp", XattrFlags::empty()).unwrap(),
        "\"/etc\": expected attribute trusted.overlay.redirect as in the layer, found another",
    ),
    (
        |at| {
            fs::remove_file(at.join("dev/null")).unwrap();
            let made = Command::new("mknod").arg(at.join("dev/null")).args(["c", "0", "0"]).status();
            assert!(made.unwrap().success());
        },
        "\"/dev/null\": expected the character device 1:3, found a whiteout",
    ),
];

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn is_as_the_layers_say(version: &str) {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, version, &registry);
    let layers = layers(&peers);
    let (name, chain) = push(&registry, &layers);
    containerd.crictl().pull(&name).unwrap();
    let folders = unpacked(&containerd, &chain);
    assert_eq!(folders.len(), layers.len());
    for (at, (folder, tree)) in folders.iter().zip(trees(&layers)).enumerate() {
        assert_eq!(differences(folder, tree), [""; 0], "layer {at} of containerd {version}");
    }
    for (alter, said) in ALTERATIONS {
        let copy = peers.path().join("copy");
        let copied = Command::new("cp").arg("-a").arg(&folders[0]).arg(&copy).status().unwrap();
        assert!(copied.success());
        alter(&copy);
        let found = differences(&copy, trees(&layers).swap_remove(0));
        assert!(matches!(found.as_slice(), [one] if one.starts_with(said)), "{said}: {found:?}");
        fs::remove_dir_all(&copy).unwrap();
    }
    // Whiteouts and opaque folders decide what is seen of the layers below.
    let middle = || trees(&layers).swap_remove(1);
    removexattr(folders[1].join("var/old"), "trusted.overlay.opaque").unwrap();
    fs::remove_file(folders[1].join("var/gone")).unwrap();
    assert_eq!(
        differences(&folders[1], middle()),
        [
            "\"/var/gone\": expected a whiteout, found nothing",
            "\"/var/old\": expected attribute trusted.overlay.opaque as in the layer, found another",
        ]
    );
}

#[test]
fn what_containerd_1_6_unpacked_is_as_its_layers_say() {
    is_as_the_layers_say("1.6");
}

#[test]
fn what_containerd_2_unpacked_is_as_its_layers_say() {
    is_as_the_layers_say("2");
}

/// Where containerd keeps a blob.
pub fn blob(node: &Node, digest: &str) -> PathBuf {
    let root = node.containerd.socket().parent().unwrap().join("root");
    let blobs = root.join("io.containerd.content.v1.content/blobs/sha256");
    blobs.join(digest.strip_prefix("sha256:").unwrap())
}

/// Changes one byte of a file in place.
pub fn alter(path: &Path) {
    not_hashed_a_moment_ago();
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

/// What was hashed a moment ago counts.
pub fn not_hashed_a_moment_ago() {
    std::thread::sleep(Duration::from_millis(limits::DOCUMENT_SECONDS * 1000 + 100));
}

fn altered_documents_are_denied(setup: &Setup<'_>) {
    let Some(node) = Node::start(setup) else { return };
    let images = [(crate::support::image::architecture(), node.says("vouched for"))];
    let signed = push_index(&node.registry, "multi", "1", &images);
    node.sign(&signed);
    node.crictl().pull(&signed.reference).unwrap();
    let pod = node.crictl().sandbox("altered").unwrap();
    node.crictl().create("before", &pod, &signed).unwrap();
    for (what, digest) in
        [("config", &signed.id), ("manifest", &signed.manifests[0]), ("index", &signed.digest)]
    {
        let path = blob(&node, digest);
        alter(&path);
        // With the permit that the relay holds, and with a new one.
        for policies in [None, Some(what)] {
            if let Some(name) = policies {
                node.crivet.put_policies(&[key_policy(name, &node.glob("**"), &node.key)]);
            }
            let refused = node.crictl().create(what, &pod, &signed);
            assert_refused(refused, DENIED, &[digest, "it was altered on this node", &signed.reference]);
        }
        alter(&path);
        node.crictl().create(what, &pod, &signed).unwrap();
    }
    let recorded = || node.crivet.audit().into_iter().find(|record| record["reason"] == "ContentAltered");
    let record = wait_for("the record", Duration::from_secs(5), recorded);
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("refused")));

    // As the message says: without the image and its containers, the content is fetched anew.
    alter(&blob(&node, &signed.id));
    node.crictl().run(["rmp", "-fa"]).unwrap();
    node.crictl().run(["rmi", &signed.id]).unwrap();
    node.crictl().pull(&signed.reference).unwrap();
    let pod = node.crictl().sandbox("healed").unwrap();
    node.crictl().create("healed", &pod, &signed).unwrap();
}

#[test]
fn altered_index_manifest_or_config_is_denied_until_it_is_pulled_anew() {
    altered_documents_are_denied(&Setup::default());
}

#[test]
fn altered_index_manifest_or_config_is_denied_on_containerd_2() {
    altered_documents_are_denied(&Setup::on_containerd_2());
}

#[test]
fn an_altered_pause_image_makes_no_sandbox() {
    let Some(node) = Node::enforcing() else { return };
    node.crictl().sandbox("before").unwrap();
    let pause = node.containerd.pause();
    alter(&blob(&node, &pause.id));
    assert_refused(node.crictl().sandbox("altered"), DENIED, &[&pause.id, "it was altered on this node"]);
}
