#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::super::{Host, HostsError, Operation};
use super::*;

/// A CA and a certificate with its key, made by OpenSSL (tests/fixtures/kubeconfig/make.sh).
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kubeconfig");

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

struct Etc(tempfile::TempDir);

impl Etc {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn containerd(&self) -> HostFiles {
        HostFiles::Containerd(vec![self.0.path().join("certs.d")])
    }

    fn containers(&self) -> HostFiles {
        HostFiles::Containers(self.0.path().join("registries.conf"))
    }
}

fn hosts(files: &HostFiles, registry: &str) -> Result<Vec<Host>, HostsError> {
    Reading::of(files).hosts.of(registry, "app", Operation::Pull, &[])
}

fn authorities(files: &HostFiles, registry: &str) -> Vec<String> {
    hosts(files, registry).unwrap().into_iter().map(|host| host.authority).collect()
}

#[test]
fn certificates_of_a_hosts_toml_are_read_from_beside_it() {
    let etc = Etc::new();
    etc.put("certs.d/r.example/hosts.toml", "ca = \"ca.crt\"\nclient = [[\"server.crt\", \"server.key\"]]");
    for name in ["ca.crt", "server.crt", "server.key"] {
        etc.put(&format!("certs.d/r.example/{name}"), fixture(name));
    }
    let host = hosts(&etc.containerd(), "r.example").unwrap().remove(0);
    let first = host.material.unwrap().unwrap().id;
    // What is read anew and is the same shares connections with what was read before.
    assert_eq!(
        hosts(&etc.containerd(), "r.example").unwrap()[0].material.as_ref().unwrap().as_ref().unwrap().id,
        first
    );
}

#[test]
fn folder_without_hosts_toml_is_read_as_docker_lays_it_out() {
    let etc = Etc::new();
    etc.put("certs.d/r.example/ca.crt", fixture("ca.crt"));
    let host = hosts(&etc.containerd(), "r.example").unwrap().remove(0);
    assert!(host.is_registry && host.material.unwrap().is_some());
}

#[test]
fn hosts_toml_that_cannot_be_read_is_as_good_as_none() {
    let etc = Etc::new();
    etc.put("certs.d/r.example/hosts.toml", "server = \"https://m.example\"");
    assert_eq!(authorities(&etc.containerd(), "r.example"), ["m.example"]);
    etc.put("certs.d/r.example/hosts.toml", "server = https://m.example");
    assert_eq!(authorities(&etc.containerd(), "r.example"), ["r.example"]);
}

#[test]
fn missing_broken_or_foreign_key_is_the_hosts_trouble_and_names_the_file() {
    let etc = Etc::new();
    let text = "[host.\"https://m.example\"]\nca = \"ca.crt\"\nclient = [[\"server.crt\", \"key\"]]";
    etc.put("certs.d/r.example/hosts.toml", text);
    for name in ["ca.crt", "server.crt"] {
        etc.put(&format!("certs.d/r.example/{name}"), fixture(name));
    }
    let trouble = || {
        let all = hosts(&etc.containerd(), "r.example").unwrap();
        assert!(all[1].material.as_ref().unwrap().is_none(), "the server has none");
        all[0].material.clone().err().unwrap()
    };
    assert!(trouble().ends_with("/key: expected a certificate or key, found no file"));
    etc.put("certs.d/r.example/key", "no key");
    assert!(trouble().contains("ca.crt: expected an unencrypted private key as PEM"), "{}", trouble());
    etc.put("certs.d/r.example/key", fixture("kubelet-client-current.pem"));
    assert!(trouble().contains("expected the key of the client certificate, found another one"));
    etc.put("certs.d/r.example/ca.crt", "no CA");
    assert!(trouble().contains("expected CA certificates as PEM"));
}

#[test]
fn file_that_others_can_write_is_refused_for_its_registry_only() {
    let etc = Etc::new();
    let path = etc.put("certs.d/r.example/hosts.toml", "server = \"https://m.example\"");
    etc.put("certs.d/s.example/hosts.toml", "server = \"https://m.example\"");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let Err(HostsError::Files(why)) = hosts(&etc.containerd(), "r.example").map(|_| ()) else { panic!() };
    assert!(why.contains("r.example/hosts.toml") && why.contains("mode 0666"), "{why}");
    assert_eq!(authorities(&etc.containerd(), "s.example"), ["m.example"]);
}

#[test]
fn limits_are_named() {
    let etc = Etc::new();
    etc.put("certs.d/r.example/hosts.toml", vec![b'\n'; HOSTS_FILE_BYTES + 1]);
    let Err(HostsError::Files(why)) = hosts(&etc.containerd(), "r.example").map(|_| ()) else { panic!() };
    assert!(why.contains("HOSTS_FILE_BYTES"), "{why}");
    for n in 0..=HOSTS_CERTIFICATES {
        etc.put(&format!("certs.d/s.example/{n}"), "");
    }
    let Err(HostsError::Files(why)) = hosts(&etc.containerd(), "s.example").map(|_| ()) else { panic!() };
    assert!(why.contains("HOSTS_CERTIFICATES"), "{why}");
}

#[test]
fn folder_that_is_not_there_says_nothing() {
    let etc = Etc::new();
    assert_eq!(authorities(&etc.containerd(), "r.example"), ["r.example"]);
    assert_eq!(authorities(&etc.containers(), "r.example"), ["r.example"]);
}

#[test]
fn drop_ins_are_read_after_registries_conf_in_the_order_of_their_names() {
    let etc = Etc::new();
    let mirror = |name: &str| {
        format!("[[registry]]\nlocation = \"r.example\"\n[[registry.mirror]]\nlocation = \"{name}\"")
    };
    etc.put("registries.conf", mirror("main.example"));
    assert_eq!(authorities(&etc.containers(), "r.example"), ["main.example", "r.example"]);
    etc.put("registries.conf.d/20.conf", mirror("twenty.example"));
    etc.put("registries.conf.d/10.conf", mirror("ten.example"));
    etc.put("registries.conf.d/30.conf~", mirror("backup.example"));
    assert_eq!(authorities(&etc.containers(), "r.example"), ["twenty.example", "r.example"]);
}

#[test]
fn broken_drop_in_leaves_nobody_to_ask_and_is_named() {
    let etc = Etc::new();
    etc.put("registries.conf.d/10.conf", "[[registry]]");
    let Err(HostsError::Files(why)) = hosts(&etc.containers(), "r.example").map(|_| ()) else { panic!() };
    assert!(why.contains("registries.conf.d/10.conf: ") && why.contains("expected a location"), "{why}");
}

#[test]
fn certificates_beside_registries_conf_are_those_of_the_host_that_is_asked() {
    let etc = Etc::new();
    let text = "[[registry]]\nlocation = \"r.example\"\n[[registry.mirror]]\nlocation = \"m.example:5000\"";
    etc.put("registries.conf", text);
    etc.put("certs.d/m.example:5000/ca.crt", fixture("ca.crt"));
    let all = hosts(&etc.containers(), "r.example").unwrap();
    let has: Vec<_> = all.iter().map(|host| host.material.as_ref().unwrap().is_some()).collect();
    assert_eq!(has, [true, false]);
    // Also where registries.conf says nothing about the registry.
    assert!(hosts(&etc.containers(), "m.example:5000").unwrap()[0].material.as_ref().unwrap().is_some());
}

#[test]
fn every_change_is_noticed_and_nothing_else() {
    let etc = Etc::new();
    etc.put("certs.d/r.example/hosts.toml", "ca = \"ca.crt\"");
    let reading = || {
        let reading = Reading::of(&etc.containerd());
        assert!(!reading.is_old());
        reading
    };
    let before = reading();
    etc.put("certs.d/r.example/ca.crt", fixture("ca.crt"));
    assert!(before.is_old(), "a file that was missed");
    let before = reading();
    etc.put("certs.d/s.example/hosts.toml", "");
    assert!(before.is_old(), "a new registry");
    let before = reading();
    etc.put("certs.d/s.example/hosts.toml", "server = \"https://m.example\"");
    assert!(before.is_old(), "another content");
    let before = reading();
    let path = etc.0.path().join("certs.d/s.example/hosts.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(before.is_old(), "another mode");
    let before = reading();
    fs::remove_dir_all(etc.0.path().join("certs.d/s.example")).unwrap();
    assert!(before.is_old(), "a registry less");
}

#[test]
fn registries_conf_that_broke_leaves_what_was_read_before() {
    let etc = Etc::new();
    etc.put("registries.conf", "[[registry]]\nprefix = \"r.example\"\nlocation = \"m.example\"");
    let before = Reading::of(&etc.containers());
    etc.put("registries.conf", "[[registry]]");
    let mut after = Reading::of(&etc.containers());
    assert!(after.hosts.of("r.example", "app", Operation::Pull, &[]).is_err());
    after.or_the_last_good(&before);
    assert_eq!(after.hosts.of("r.example", "app", Operation::Pull, &[]).unwrap()[0].authority, "m.example");
    assert!(!after.is_old(), "it is not read again until it changes");
}
