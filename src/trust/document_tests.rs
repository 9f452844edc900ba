use std::path::Path;

use super::super::mirror::Files;
use super::super::tuf;
use super::*;
use crate::yaml;

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tuf/documents");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn parse(text: &str) -> Result<RootSource, String> {
    let documents = yaml::documents(text);
    let read = read(&documents[0], "trust.yaml");
    read.map(|(root, _)| root).map_err(|fault| format!("{}: {}", fault.line, fault.text))
}

#[test]
fn packed_repository_is_verified_like_any_other() {
    let root = parse(&fixture("repository.yaml")).unwrap();
    assert_eq!((root.name.as_str(), root.document.as_deref()), ("packed", Some("trust.yaml:4")));
    assert_eq!((root.kind(), root.to_string().as_str()), ("tuf", "TUF repository mirrorFS (trust.yaml:4)"));
    let tuf = root.tuf.unwrap();
    let (Mirror::Packed(files), Anchor::Inline(anchor)) = (tuf.mirror, tuf.anchor) else { panic!() };
    assert!(files.keys().any(|name| name.len() > 128), "a name of pax");
    let files = Files::Packed { files, targets: tuf.targets };
    let fetched = futures_util::FutureExt::now_or_never(tuf::refresh(
        files,
        &anchor,
        &tuf.target,
        None,
        std::time::SystemTime::now(),
    ));
    let fetched = fetched.unwrap().unwrap();
    assert_eq!(fetched.root_version, 3);
    assert_eq!(Root::parse(&fetched.target).unwrap().logs().len(), 1);
}

#[test]
fn keys_written_out_are_a_root() {
    let root = parse(&fixture("keys.yaml")).unwrap();
    let Some(Given::Inline(bytes)) = root.given else { panic!() };
    let root = Root::parse(&bytes).unwrap();
    let log = &root.logs()[0];
    assert_eq!(
        (log.url.as_str(), log.key_details.name),
        ("https://log0.corp.example", "PKIX_ECDSA_P256_SHA_256")
    );
    assert_eq!(&log.id, Digest::of(&log.key).raw());
    assert_eq!(root.authorities()[0].chain.len(), 1);
    assert_eq!(root.authorities()[0].window, None);
}

#[test]
fn remote_repository_is_read() {
    let tuf = parse(&fixture("remote.yaml")).unwrap().tuf.unwrap();
    assert_eq!(tuf.mirror, Mirror::Http("https://tuf.corp.example".to_owned()));
    assert_eq!((tuf.targets.as_str(), tuf.target.as_str()), ("targets", "trusted_root.json"));
}

#[test]
fn each_break_is_named_with_line_and_key() {
    let remote = fixture("remote.yaml");
    let anchor = remote.lines().last().unwrap().trim().trim_start_matches("root: ").to_owned();
    for (from, to, expected) in [
        (
            "https://tuf.corp.example",
            "file:///srv/tuf",
            "7: spec.remote.mirror: expected a TUF repository as https",
        ),
        ("https://tuf.corp.example", "tuf", "7: spec.remote.mirror: expected a TUF repository"),
        (anchor.as_str(), "e30=", "8: spec.remote.root: expected a TUF root.json"),
        (anchor.as_str(), "A", "8: spec.remote.root: expected base64"),
        ("name: remote", "name: Remote", "4: metadata.name: expected a name of"),
        ("spec:\n  remote:", "spec:\n  sigstoreKeys: {}\n  remote:", "4: spec: expected one of"),
        ("    mirror", "    targets: ../x\n    mirror", "7: spec.remote.targets: expected a path below"),
        ("    mirror", "    url: x\n    mirror", "unknown field `url`"),
    ] {
        assert!(remote.contains(from));
        let error = parse(&remote.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{to}: {error}");
    }
    let keys = fixture("keys.yaml");
    for (from, to, expected) in [
        ("sha-256", "md5", "spec.sigstoreKeys.tLogs.hashAlgorithm: expected sha-256"),
        ("publicKey: ", "publicKey: AAAA", "spec.sigstoreKeys.tLogs.publicKey: expected"),
        ("certChain: ", "certChain: AAAA", "spec.sigstoreKeys.certificateAuthorities.certChain: expected"),
    ] {
        let error = parse(&keys.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected), "{to}: {error}");
    }
    let empty = "apiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\nmetadata:\n  name: a\nspec:\n  sigstoreKeys: {}\n";
    assert!(parse(empty).unwrap_err().starts_with("4: spec.sigstoreKeys: expected a log"));
}

#[test]
fn archive_that_is_damaged_or_unpacks_to_too_much_is_refused() {
    let text = fixture("repository.yaml");
    let line = text.lines().skip_while(|line| !line.contains("mirrorFS")).nth(1).unwrap().trim();
    let archive = STANDARD.decode(line).unwrap();
    let good = unpack(&archive).unwrap();
    assert_eq!(good.keys().next().map(String::as_str), Some("1.root.json"));
    for cut in [0, 5, 20, archive.len() / 2] {
        assert!(unpack(&archive[..cut]).unwrap_err().contains("gzipped tar archive"), "{cut}");
    }
    let gzip = |content: &[u8]| {
        let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
        packed.extend(miniz_oxide::deflate::compress_to_vec(content, 6));
        packed
    };
    let bomb = gzip(&vec![0; limits::MIRROR_FS_BYTES + 1]);
    assert!(bomb.len() < 100_000);
    assert!(unpack(&bomb).unwrap_err().contains("MIRROR_FS_BYTES"));
    let mut header = vec![0; 512];
    header[..1].copy_from_slice(b"a");
    header[124..127].copy_from_slice(b"000");
    assert_eq!(unpack(&gzip(&header)).unwrap().len(), 1);
    let many: Vec<u8> = (0..=limits::MIRROR_FS_FILES)
        .flat_map(|n| {
            let mut header = header.clone();
            header[..5].copy_from_slice(format!("{n:05}").as_bytes());
            header
        })
        .collect();
    assert!(unpack(&gzip(&many)).unwrap_err().contains("MIRROR_FS_FILES"));
    // More content announced than there is.
    header[124..128].copy_from_slice(b"7777");
    assert!(unpack(&gzip(&header)).unwrap_err().contains("damaged"));
}
