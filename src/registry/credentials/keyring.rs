//! Which login is for which repository: the rules of the kubelet's keyring.

use std::fmt;
use std::sync::Arc;

use crate::registry::Credential;

/// A credential, and where it is from.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// What is shown.
    pub credential: Credential,
    /// A file or a provider, for messages.
    pub source: Arc<str>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login from {}", self.source)
    }
}

/// Logins by the location they are for: a host, with a port and the beginning of a path if need be. A `*` in a label
/// of the host stands for any characters but a dot.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// By location, in reverse order: the longer of two with the same beginning comes first. Those of one location in
    /// the order in which they were added.
    logins: Vec<(String, Login)>,
}

impl Keyring {
    /// Adds a login for a location as docker writes it: `https://index.docker.io/v1/`, `registry.example:5000/team`.
    /// Whether it is one.
    pub fn add(&mut self, location: &str, login: Login) -> bool {
        let bare = ["https://", "http://"].iter().find_map(|scheme| location.strip_prefix(scheme));
        let Some((host, path)) = split(bare.unwrap_or(location)) else { return false };
        // As docker: a registry's first path is the registry.
        let path = match path {
            path if path.starts_with("/v1/") || path.starts_with("/v2/") => path.get(3..).unwrap_or_default(),
            path => path,
        };
        let key = if path == "/" { host.to_owned() } else { format!("{host}{path}") };
        let at = self.logins.partition_point(|(known, _)| *known >= key);
        self.logins.insert(at, (key, login));
        true
    }

    /// The logins for a repository (`docker.io/library/app`), the most specific location's first.
    pub fn lookup(&self, repository: &str) -> Vec<&Login> {
        let found = |is: &dyn Fn(&str) -> bool| -> Vec<&Login> {
            self.logins.iter().filter(|(key, _)| is(key)).map(|(_, login)| login).collect()
        };
        let matching = found(&|key| matches(key, repository));
        // The kubelet's takes `localhost/…` for Docker Hub's, too: crivet's references always name their registry.
        let hub = ["docker.io/", "index.docker.io/"].iter().any(|name| repository.starts_with(name));
        if matching.is_empty() && hub { found(&|key| key == "index.docker.io") } else { matching }
    }
}

/// Whether a location (of a login, or of `matchImages`) covers a repository: as many labels in the host and each of them
/// matches, the same port, and a path that begins so.
pub fn matches(location: &str, repository: &str) -> bool {
    let (Some((host, path)), Some((of_host, of_path))) = (split(location), split(repository)) else {
        return false;
    };
    let ((host, port), (of_host, of_port)) = (host_and_port(host), host_and_port(of_host));
    port == of_port
        && of_path.starts_with(path)
        && host.split('.').count() == of_host.split('.').count()
        && host
            .split('.')
            .zip(of_host.split('.'))
            .all(|(glob, label)| glob_matches(glob.as_bytes(), label.as_bytes()))
}

/// Host with port, and path; `None` if it is no location.
fn split(location: &str) -> Option<(&str, &str)> {
    let location = location.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = location.split_at(location.find('/').unwrap_or(location.len()));
    let plain = host.bytes().all(|b| b.is_ascii_graphic() && !b"@\\\"<>^`{|}%".contains(&b));
    let (name, port) = host_and_port(host);
    (plain && !name.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then_some((host, path))
}

/// As Go's `net.SplitHostPort`: what has no port is a host as a whole.
fn host_and_port(authority: &str) -> (&str, &str) {
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    match bracketed.or_else(|| authority.split_once(':')) {
        Some((host, port)) if !port.contains(':') => (host, port),
        _ => (authority, ""),
    }
}

fn glob_matches(glob: &[u8], label: &[u8]) -> bool {
    // Where the last star was, and how far the label was by then: time is the product of both lengths at most.
    let (mut g, mut l, mut star) = (0, 0, None);
    while let Some(&byte) = label.get(l) {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, l));
                g += 1;
            }
            Some(&wanted) if wanted == byte => (g, l) = (g + 1, l + 1),
            _ => match star {
                Some((at, from)) => {
                    (g, l) = (at + 1, from + 1);
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    glob.iter().skip(g).all(|&rest| rest == b'*')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn keyring(locations: &[(&str, &str)]) -> Keyring {
        let mut keyring = Keyring::default();
        for (location, user) in locations {
            let login = Login { credential: Credential::basic(user, "p"), source: "a test".into() };
            assert!(keyring.add(location, login), "{location}");
        }
        keyring
    }

    fn users<'a>(keyring: &Keyring, repository: &str, all: &[(&str, &'a str)]) -> Vec<&'a str> {
        let found = keyring.lookup(repository);
        let user = |login: &&Login| {
            all.iter().find(|(_, user)| login.credential == Credential::basic(user, "p")).unwrap().1
        };
        found.iter().map(user).collect()
    }

    /// The cases of the kubelet's own test (keyring_test.go, TestURLsMatch), and a few more.
    #[test]
    fn locations_cover_what_they_do_for_the_kubelet() {
        for (location, repository, expected) in [
            ("*.kubernetes.io", "prefix.kubernetes.io", true),
            ("prefix.*.io", "prefix.kubernetes.io", true),
            ("prefix.kubernetes.*", "prefix.kubernetes.io", true),
            ("*-good.kubernetes.io", "prefix-good.kubernetes.io", true),
            ("*.kubernetes.io/blah", "prefix.kubernetes.io/blah", true),
            ("prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", true),
            ("*.kubernetes.io:1111/blah", "prefix.kubernetes.io:1111/blah", true),
            ("prefix.*.io:1111/foo", "prefix.kubernetes.io:1111/foo/bar", true),
            ("*.kubernetes.io", "kubernetes.io", false),
            ("*.*.kubernetes.io", "prefix.kubernetes.io", false),
            ("*.*.kubernetes.io", "kubernetes.io", false),
            ("*kubernetes.io", "a.kubernetes.io", false),
            ("*kubernetes.io", "kubernetes.io", true),
            ("*.*.*.kubernetes.io", "a.b.c.kubernetes.io", true),
            ("kubernetes.io", "kubernetes.com", false),
            ("k*.io", "quay.io", false),
            ("*.kubernetes.io:1234/blah", "prefix.kubernetes.io:1111/blah", false),
            ("prefix.*.io/foo", "prefix.kubernetes.io:1111/foo/bar", false),
            // And more.
            ("registry.example", "registry.example:5000/app", false),
            ("registry.example:5000", "registry.example/app", false),
            ("registry.example:5000", "registry.example:5000/app", true),
            ("[::1]:5000", "[::1]:5000/app", true),
            ("registry.example", "registry.example.evil.example/app", false),
            ("registry.example", "registry-example/app", false),
            ("a?c.example", "abc.example/app", false),
            ("a*b*c.example", "axxbyyc.example/app", true),
            ("a*b*c.example", "axxcyyb.example/app", false),
            ("https://registry.example", "registry.example/app", false),
            ("u:p@registry.example", "registry.example/app", false),
            ("", "registry.example/app", false),
            ("*", "registry.example/app", false),
        ] {
            assert_eq!(matches(location, repository), expected, "{location} {repository}");
        }
    }

    /// TestDockerKeyringForGlob and TestKeyringMiss.
    #[test]
    fn locations_are_read_as_the_kubelet_does() {
        for (location, target, expected) in [
            ("https://hello.kubernetes.io", "hello.kubernetes.io", true),
            ("https://*.docker.io", "prefix.docker.io", true),
            ("https://prefix.*.io", "prefix.docker.io", true),
            ("https://prefix.docker.*", "prefix.docker.io", true),
            ("https://*.docker.io/path", "prefix.docker.io/path", true),
            ("https://prefix.*.io/path", "prefix.docker.io/path/subpath", true),
            ("https://prefix.docker.*/path", "prefix.docker.io/path", true),
            ("https://*.docker.io:8888", "prefix.docker.io:8888", true),
            ("https://prefix.*.io:8888", "prefix.docker.io:8888", true),
            ("https://prefix.docker.*:8888", "prefix.docker.io:8888", true),
            ("https://*.docker.io/path:1111", "prefix.docker.io/path:1111", true),
            ("https://*.docker.io/v1/", "prefix.docker.io/path:1111", true),
            ("https://*.docker.io/v2/", "prefix.docker.io/path:1111", true),
            ("https://prefix.docker.*/path:1111", "prefix.docker.io/path:1111", true),
            ("prefix.docker.io:1111", "prefix.docker.io:1111/path", true),
            ("*.docker.io:1111", "prefix.docker.io:1111/path", true),
            ("http://quay.io/v1/", "quay.io", true),
            ("https://hello.kubernetes.io", "world.mesos.org/foo/bar", false),
            ("https://*.docker.com", "prefix.docker.io", false),
            ("https://suffix.*.io", "prefix.docker.io", false),
            ("https://prefix.docker.c*", "prefix.docker.io", false),
            ("https://prefix.*.io/path:1111", "prefix.docker.io/path/subpath:1111", false),
            ("suffix.*.io", "prefix.docker.io", false),
            ("https://index.docker.io/v1/", "world.mesos.org/foo/bar", false),
        ] {
            let found = keyring(&[(location, "u")]).lookup(&format!("{target}/foo/bar")).len();
            assert_eq!(found, usize::from(expected), "{location} {target}");
        }
    }

    /// TestDockerKeyringLookup.
    #[test]
    fn the_most_specific_location_comes_first() {
        let all = [("bar.example.com/pong", "grace"), ("bar.example.com", "ada")];
        let keyring = keyring(&all);
        for (repository, expected) in [
            ("bar.example.com", vec!["ada"]),
            ("bar.example.com/pong", vec!["grace", "ada"]),
            ("bar.example.com/ping", vec!["ada"]),
            ("bar.example.com/pongz", vec!["grace", "ada"]),
            ("bar.example.com/pong/pang", vec!["grace", "ada"]),
            ("example.com", vec![]),
            ("foo.example.com", vec![]),
        ] {
            assert_eq!(users(&keyring, repository, &all), expected, "{repository}");
        }
    }

    #[test]
    fn logins_of_one_location_keep_their_order() {
        let all = [("r.example", "first"), ("s.example", "other"), ("https://r.example/v2/", "second")];
        assert_eq!(users(&keyring(&all), "r.example/app", &all), ["first", "second"]);
    }

    #[test]
    fn docker_hub_is_known_by_its_names_and_nothing_else_is_taken_for_it() {
        for location in ["https://index.docker.io/v1/", "index.docker.io"] {
            let keyring = keyring(&[(location, "u")]);
            for (repository, expected) in [
                ("docker.io/library/nginx", 1),
                ("docker.io/team/app", 1),
                ("index.docker.io/team/app", 1),
                ("quay.io/team/app", 0),
                ("localhost/app", 0),
                ("myhostdocker.io/app", 0),
                ("docker.io.evil.example/app", 0),
            ] {
                assert_eq!(keyring.lookup(repository).len(), expected, "{location} {repository}");
            }
        }
        assert_eq!(keyring(&[("docker.io", "u")]).lookup("docker.io/library/nginx").len(), 1);
        assert_eq!(
            keyring(&[("docker.io/team", "u"), ("index.docker.io", "h")]).lookup("docker.io/team/a").len(),
            1
        );
    }

    #[test]
    fn what_is_no_location_is_not_added() {
        for location in
            ["", "https://", "u:p@r.example", "r.example:port", "r example", "/path", "r.example%2f"]
        {
            let login = Login { credential: Credential::basic("u", "p"), source: "a test".into() };
            assert!(!Keyring::default().add(location, login), "{location}");
        }
    }
}
