#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;

use super::*;

const VALID: &str = r#"
server = "https://registry.example"

[host."https://b-first.example:5000"]
  capabilities = ["pull", "Resolve"]
  ca = "ca.crt"
  client = [["client.cert", "client.key"], "/both.pem"]
  skip_verify = false
  dial_timeout = "1.5s"
  [host."https://b-first.example:5000".header]
    X-One = "1"
    x-many = ["2", "3"]

[host."http://a-second.example/proxy/"]
  capabilities = ["pull"]
  ca = ["one.crt", "/two.crt"]
  client = "pair.pem"

[host."c-third.example/base"]
  override_path = true
"#;

fn parsed(text: &str) -> Result<Folder, String> {
    parse(text.as_bytes(), Path::new("/d"))
}

fn location(plain: bool, authority: &str, path: &str) -> Option<Location> {
    Some(Location { plain, authority: authority.to_owned(), path: path.to_owned() })
}

#[test]
fn all_keys_are_read_and_hosts_keep_the_order_of_the_file() {
    let entries = parsed(VALID).unwrap().entries;
    assert_eq!(entries.len(), 4);
    let first = &entries[0];
    assert_eq!(first.location, location(false, "b-first.example:5000", "/v2"));
    assert_eq!((first.pull, first.resolve, first.referrers), (true, true, false));
    assert_eq!(first.tls.ca, [PathBuf::from("/d/ca.crt")]);
    let client = [("/d/client.cert".into(), Some("/d/client.key".into())), ("/both.pem".into(), None)];
    assert_eq!((&first.tls.client[..], first.tls.skip_verify), (&client[..], Some(false)));
    assert_eq!(first.dial_timeout, Some(Duration::from_millis(1500)));
    let headers =
        [("X-One", "1"), ("x-many", "2"), ("x-many", "3")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(first.headers, headers);
    let second = &entries[1];
    assert_eq!(second.location, location(true, "a-second.example", "/proxy/v2"));
    assert_eq!((second.pull, second.resolve, second.referrers), (true, false, false));
    assert_eq!(second.tls.ca, [PathBuf::from("/d/one.crt"), PathBuf::from("/two.crt")]);
    assert_eq!(second.tls.client, [("/d/pair.pem".into(), None)]);
    let third = &entries[2];
    assert_eq!(third.location, location(false, "c-third.example", "/base"));
    assert_eq!((third.pull, third.resolve, third.referrers), (true, true, true));
    assert_eq!(entries[3].location, location(false, "registry.example", "/v2"));
}

#[test]
fn urls_are_read_as_containerd_reads_them() {
    for (url, expected) in [
        ("registry.example", location(false, "registry.example", "/v2")),
        ("https://registry.example/", location(false, "registry.example", "/v2")),
        ("https://registry.example/v2", location(false, "registry.example", "/v2")),
        ("https://registry.example/v2/", location(false, "registry.example", "/v2")),
        ("https://registry.example/v2/proxy", location(false, "registry.example", "/v2/proxy/v2")),
        ("https://registry.example/a//b/../c/./", location(false, "registry.example", "/a/c/v2")),
        ("http://[::1]:5000", location(true, "[::1]:5000", "/v2")),
        ("https://REGISTRY.example", location(false, "registry.example", "/v2")),
        ("https://docker.io", location(false, "registry-1.docker.io", "/v2")),
    ] {
        let folder = parsed(&format!("server = \"{url}\"")).unwrap();
        assert_eq!(folder.entries[0].location, expected, "{url}");
    }
}

#[test]
fn server_that_is_not_named_is_the_registry_itself_with_what_stands_beside() {
    let folder = parsed("capabilities = [\"pull\"]\nca = \"ca.crt\"\nskip_verify = true").unwrap();
    let [server] = &folder.entries[..] else { unreachable!("{folder:?}") };
    assert_eq!(server.location, None);
    assert_eq!((server.pull, server.resolve, server.referrers), (true, true, true));
    assert_eq!(server.tls.skip_verify, Some(true));
}

#[test]
fn unknown_keys_are_left_alone() {
    let more = VALID.replace("[host.\"c-third", "unknown = 1\n[other]\nkey = 1\n[host.\"c-third");
    assert_eq!(parsed(&more), parsed(VALID));
}

#[test]
fn each_break_of_a_valid_file_is_an_error_of_one_line() {
    for (from, to, expected) in [
        ("server =", "server", "line 2: "),
        ("\"Resolve\"", "\"Restore\"", "found \"Restore\""),
        ("ca = \"ca.crt\"", "ca = 1", "ca: expected"),
        ("\"one.crt\", ", "1, ", "ca: expected text"),
        ("[\"client.cert\", \"client.key\"]", "[\"client.cert\"]", "client: expected pairs"),
        ("client = \"pair.pem\"", "client = 1", "client: expected text"),
        ("skip_verify = false", "skip_verify = \"no\"", "line 8: "),
        ("override_path = true", "override_path = 1", "line 20: "),
        ("1.5s", "1.5", "dial_timeout"),
        ("1.5s", "-1s", "dial_timeout"),
        ("\"2\", \"3\"", "2", "header: expected text"),
        ("X-One", "\"X One\"", "header: expected a header"),
        ("X-One = \"1\"", "X-One = \"1\\n2\"", "header: expected a header"),
        ("https://b-first", "ftp://b-first", "expected a host or an URL"),
        ("https://registry", "https://user@registry", "expected a host or an URL"),
        ("https://registry.example", "https://", "expected a host or an URL"),
        ("[host.\"c-third.example/base\"]", "[[host]]", "line "),
    ] {
        let broken = VALID.replace(from, to);
        assert_ne!(broken, VALID, "{from}");
        let error = parsed(&broken).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{to}: {error}");
    }
    assert!(parse(b"server = \"\xff\"", Path::new("/d")).is_err());
}

#[test]
fn too_many_hosts_are_an_error_that_names_the_limit() {
    let hosts: String = (0..=HOSTS_MIRRORS).map(|n| format!("[host.\"h{n}.example\"]\n")).collect();
    assert!(parsed(&hosts).unwrap_err().contains("HOSTS_MIRRORS"));
}

#[test]
fn durations_are_gos() {
    for (text, millis) in [("300ms", 300), ("1.5s", 1500), ("1m30s", 90_000), ("2h", 7_200_000), ("0", 0)] {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "1", "s", "1d", "1s1", "1..5s", "99999999999999999999h", "-1s", " 1s"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn folders_of_a_registry_are_tried_in_containerds_order() {
    assert_eq!(folders("registry.example"), ["registry.example", "_default"]);
    let of_port = ["registry.example_5000_", "registry.example:5000", "_default"];
    assert_eq!(folders("registry.example:5000"), of_port);
    assert_eq!(folders("[::1]:5000"), ["[::1]_5000_", "[::1]:5000", "_default"]);
}

fn root(folders: &[(&str, &str)]) -> Root {
    let loaded = |text| {
        let entries = parsed(text).unwrap().entries;
        Ok(entries.into_iter().map(|entry| Loaded { entry, material: Ok(None) }).collect())
    };
    folders.iter().map(|(name, text)| ((*name).to_owned(), loaded(text))).collect()
}

fn asked(roots: &[Root], registry: &str, operation: Operation) -> Result<Vec<String>, HostsError> {
    let direct = Host::registry(registry, "team/app", &[]);
    let all = hosts(roots, direct, registry, operation)?;
    Ok(all
        .iter()
        .map(|host| format!("{:?} {}{} {:?}", host.scheme, host.authority, host.path, host.namespace))
        .collect())
}

#[test]
fn first_folder_that_is_there_counts_root_by_root() {
    let at = |name: &str| format!("[host.\"https://{name}\"]");
    let (default, port, colon) = (at("default"), at("port"), at("colon"));
    let first = |roots: &[Root]| asked(roots, "registry.example:5000", Operation::Pull).unwrap().remove(0);
    let ns = "Some(\"registry.example:5000\")";
    let all = [
        ("_default", default.as_str()),
        ("registry.example:5000", &colon),
        ("registry.example_5000_", &port),
    ];
    assert_eq!(first(&[root(&all)]), format!("Https port/v2 {ns}"));
    assert_eq!(first(&[root(&all[..2])]), format!("Https colon/v2 {ns}"));
    // A root's _default counts before the next root's own folder, as for containerd.
    assert_eq!(first(&[root(&all[..1]), root(&all[1..])]), format!("Https default/v2 {ns}"));
    assert_eq!(first(&[root(&[]), root(&all[1..])]), format!("Https port/v2 {ns}"));
    assert_eq!(first(&[root(&[])]), "Https registry.example:5000/v2 None");
}

#[test]
fn hosts_are_asked_in_order_for_what_they_are_capable_of() {
    let roots = [root(&[("registry.example", VALID)])];
    let ns = "Some(\"registry.example\")";
    let first = format!("Https b-first.example:5000/v2 {ns}");
    // Settings of TLS make the runtime try that first.
    let second = format!("HttpsElseHttp a-second.example/proxy/v2 {ns}");
    let third = format!("Https c-third.example/base {ns}");
    let server = "Https registry.example/v2 None".to_owned();
    let of = |operation| asked(&roots, "registry.example", operation).unwrap();
    let all = vec![first.clone(), second, third.clone(), server.clone()];
    assert_eq!(of(Operation::Pull), all);
    assert_eq!(of(Operation::Evidence), all);
    assert_eq!(of(Operation::Resolve), [first, third, server]);
}

#[test]
fn host_that_may_only_push_is_not_asked() {
    let roots = [root(&[("r.example", "server = \"https://r.example\"\ncapabilities = [\"push\"]")])];
    for (operation, lacking) in
        [(Operation::Pull, "pull"), (Operation::Resolve, "resolve"), (Operation::Evidence, "pull")]
    {
        assert_eq!(asked(&roots, "r.example", operation), Err(HostsError::Incapable(lacking)));
    }
}

#[test]
fn only_the_registry_itself_is_the_registry() {
    let is = |registry: &str, server: &str| {
        let roots = [root(&[(registry, &format!("server = \"{server}\""))])];
        let direct = Host::registry(registry, "team/app", &[]);
        hosts(&roots, direct, registry, Operation::Pull).unwrap()[0].is_registry
    };
    assert!(is("registry.example", "https://registry.example"));
    assert!(is("registry.example", "https://Registry.Example/v2/base"));
    assert!(is("docker.io", "https://registry-1.docker.io"));
    assert!(is("docker.io", "https://docker.io"));
    assert!(!is("registry.example", "https://registry.example:5000"));
    assert!(!is("registry.example", "https://mirror.registry.example"));
    assert!(!is("registry.example", "https://registry-1.docker.io"));
}

#[test]
fn plain_http_on_port_80_and_without_tls_settings_is_beyond_doubt() {
    let scheme = |registry: &str, text: &str| {
        let roots = [root(&[(registry, text)])];
        let direct = Host::registry(registry, "team/app", &[]);
        hosts(&roots, direct, registry, Operation::Pull).unwrap()[0].scheme
    };
    assert_eq!(scheme("r.example", "server = \"http://r.example:5000\""), Scheme::Http);
    assert_eq!(scheme("r.example", "server = \"http://r.example:80\"\nskip_verify = true"), Scheme::Http);
    assert_eq!(
        scheme("r.example", "server = \"http://r.example:5000\"\nskip_verify = true"),
        Scheme::HttpsElseHttp
    );
    assert_eq!(scheme("r.example", "server = \"https://r.example:5000\"\nskip_verify = true"), Scheme::Https);
    assert_eq!(scheme("localhost:5000", "ca = \"ca.crt\""), Scheme::HttpsElseHttp);
    assert_eq!(scheme("localhost:5000", ""), Scheme::Http);
}

#[test]
fn hosts_whose_certificates_are_not_checked_are_told() {
    let text =
        "skip_verify = true\n[host.\"https://m.example\"]\nskip_verify = true\n[host.\"https://n.example\"]";
    assert_eq!(unchecked(&[root(&[("r.example", text)])]), ["m.example", "r.example"]);
}
