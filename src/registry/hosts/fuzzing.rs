//! Fuzz targets for the runtime's files about registry hosts: whatever they say, what comes out can be asked, and the
//! registry's credential goes to the registry alone.

use std::collections::BTreeMap;
use std::path::Path;

use http::Uri;

use super::{Host, HostsError, Operation, containerd, containers};
use crate::fuzzing::one_line;
use crate::image::Reference;

const OPERATIONS: [Operation; 3] = [Operation::Resolve, Operation::Pull, Operation::Evidence];
const NAMES: [&str; 5] = [
    "registry.example/team/app",
    "registry.example:5000/team/app",
    "docker.io/library/app",
    "deep.wild.example/app",
    "127.0.0.1:5000/app",
];

/// Each host that came out for a name: whether there is one.
fn check(name: &Reference, hosts: Result<Vec<Host>, HostsError>) -> bool {
    let hosts = match hosts {
        Ok(hosts) => hosts,
        Err(error) => {
            one_line(&error.to_string());
            return false;
        }
    };
    assert!(!hosts.is_empty(), "no host, and no error");
    for host in hosts {
        // Written anew, not with the function under test.
        let registry = match name.registry() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let is_registry = host.authority.eq_ignore_ascii_case(registry);
        assert!(is_registry || !host.is_registry, "{} is not {registry}", host.authority);
        let (first, second) = host.endpoints();
        for endpoint in [Some(first), second].into_iter().flatten() {
            let asked = format!("{}/{}/manifests/latest", endpoint.base(), host.repository);
            let uri: Uri = asked.parse().unwrap_or_else(|error| panic!("{asked}: {error}"));
            assert_eq!(uri.authority().map(|a| a.as_str()), Some(host.authority.as_str()), "{asked}");
            assert_eq!(uri.path_and_query().and_then(|all| all.query()), None, "{asked}");
            assert!(!uri.path().split('/').any(|part| part == ".."), "{asked}");
        }
    }
    true
}

fn names() -> impl Iterator<Item = Reference> {
    NAMES.iter().map(|name| Reference::parse_as_written(name).unwrap())
}

fn direct(name: &Reference) -> Host {
    Host::registry(name.registry(), name.repository(), &[])
}

/// A `hosts.toml`: whether it is one.
pub(crate) fn hosts_toml(data: &[u8]) -> bool {
    let folder = match containerd::parse(data, Path::new("/d")) {
        Ok(folder) => folder,
        Err(why) => {
            one_line(&why);
            return false;
        }
    };
    assert_eq!(containerd::parse(data, Path::new("/d")).as_ref(), Ok(&folder), "another order");
    for name in names() {
        let loaded = folder.entries.iter().cloned();
        let loaded = loaded.map(|entry| containerd::Loaded { entry, material: Ok(None) }).collect();
        let roots = [BTreeMap::from([(name.registry().to_owned(), Ok(loaded))])];
        for operation in OPERATIONS {
            check(&name, containerd::hosts(&roots, direct(&name), name.registry(), operation));
        }
        containerd::unchecked(&roots);
    }
    true
}

/// A registries.conf: whether it is one.
pub(crate) fn registries_conf(data: &[u8]) -> bool {
    let registries = match containers::parse(data) {
        Ok(registries) => registries,
        Err(why) => {
            one_line(&why);
            return false;
        }
    };
    let mut all = containers::Registries::default();
    if let Err(why) = all.add(registries.clone()) {
        one_line(&why);
        return false;
    }
    assert_eq!(all, registries);
    let loaded = containers::Loaded { registries, certificates: BTreeMap::new() };
    for name in names() {
        for operation in OPERATIONS {
            check(&name, loaded.hosts(direct(&name), name.registry(), operation, &[]));
        }
    }
    loaded.unchecked();
    true
}
