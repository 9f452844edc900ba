#![allow(clippy::unwrap_used)]

use super::*;

const VALID: &str = r#"
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"

[[registry]]
prefix = "registry.example/team"
location = "internal.example:5000/mirrors/team"
insecure = true

[[registry.mirror]]
location = "first.example/team"

[[registry.mirror]]
location = "second.example:5000"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
location = "registry.example"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "*.wild.example"
"#;

fn parsed(text: &str) -> Result<Registries, String> {
    parse(text.as_bytes())
}

fn asked(text: &str, name: &str, operation: Operation) -> Result<Vec<String>, HostsError> {
    let loaded = Loaded { registries: parsed(text).unwrap(), certificates: BTreeMap::new() };
    let reference = Reference::parse(name).unwrap();
    let direct = Host::registry(reference.registry(), reference.repository(), &[]);
    let hosts = loaded.hosts(direct, reference.registry(), operation, &["plain.example".to_owned()])?;
    let own = |host: &Host| if host.is_registry { " itself" } else { "" };
    Ok(hosts.iter().map(|h| format!("{:?} {}/{}{}", h.scheme, h.authority, h.repository, own(h))).collect())
}

#[test]
fn longest_prefix_wins_and_names_are_rewritten() {
    let hosts = asked(VALID, "registry.example/team/app:v1", Operation::Pull).unwrap();
    assert_eq!(
        hosts,
        [
            "Https first.example/team/app",
            "HttpsElseHttp second.example:5000/app",
            "HttpsElseHttp internal.example:5000/mirrors/team/app",
        ]
    );
    let hosts = asked(VALID, "registry.example/teammate/app", Operation::Pull).unwrap();
    assert_eq!(hosts, ["Https tags.example/teammate/app", "Https registry.example/teammate/app itself"]);
    let hosts = asked(VALID, "other.example/app", Operation::Pull).unwrap();
    assert_eq!(hosts, ["Https other.example/app itself"]);
}

#[test]
fn mirrors_for_digests_only_do_not_say_what_a_tag_points_at() {
    let of = |operation| asked(VALID, "registry.example/team/app", operation).unwrap();
    let (first, second) = ("Https first.example/team/app", "HttpsElseHttp second.example:5000/app");
    let own = "HttpsElseHttp internal.example:5000/mirrors/team/app";
    assert_eq!(of(Operation::Resolve), [first, own]);
    assert_eq!(of(Operation::Evidence), [first, second, own]);
    let all = VALID
        .replace(
            "insecure = true\n\n[[registry.mirror]]",
            "insecure = true\nmirror-by-digest-only = true\n[[registry.mirror]]",
        )
        .replace("pull-from-mirror = \"digest-only\"", "");
    assert_eq!(asked(&all, "registry.example/team/app", Operation::Resolve).unwrap(), [own]);
    assert_eq!(asked(&all, "registry.example/team/app", Operation::Pull).unwrap(), [first, second, own]);
}

#[test]
fn wildcard_matches_subdomains_only() {
    let of = |name| {
        asked(
            &VALID.replace("\"*.wild.example\"", "\"*.wild.example\"\ninsecure = true"),
            name,
            Operation::Pull,
        )
    };
    assert_eq!(of("a.wild.example/app").unwrap(), ["HttpsElseHttp a.wild.example/app itself"]);
    assert_eq!(of("a.b.wild.example:5000/app").unwrap(), ["HttpsElseHttp a.b.wild.example:5000/app itself"]);
    assert_eq!(of("wild.example/app").unwrap(), ["Https wild.example/app itself"]);
    assert_eq!(of("a.wild.example.org/app").unwrap(), ["Https a.wild.example.org/app itself"]);
    assert_eq!(
        of("other.example/a.wild.example/app").unwrap(),
        ["Https other.example/a.wild.example/app itself"]
    );
}

#[test]
fn blocked_registry_is_asked_only_by_its_mirrors() {
    let blocked =
        VALID.replace("location = \"registry.example\"", "location = \"registry.example\"\nblocked = true");
    assert_eq!(asked(&blocked, "registry.example/app", Operation::Pull).unwrap(), ["Https tags.example/app"]);
    let without = "[[registry]]\nlocation = \"registry.example\"\nblocked = true";
    let error = HostsError::Blocked { prefix: "registry.example".to_owned() };
    assert_eq!(asked(without, "registry.example/app", Operation::Pull), Err(error));
}

#[test]
fn mirror_that_is_blocked_itself_is_not_asked() {
    let blocked = format!("{VALID}\n[[registry]]\nlocation = \"first.example\"\nblocked = true");
    let hosts = asked(&blocked, "registry.example/team/app", Operation::Resolve).unwrap();
    assert_eq!(hosts, ["HttpsElseHttp internal.example:5000/mirrors/team/app"]);
}

#[test]
fn loopback_is_asked_with_tls_unless_it_is_insecure_or_listed() {
    assert_eq!(
        asked(VALID, "localhost:5000/app", Operation::Pull).unwrap(),
        ["Https localhost:5000/app itself"]
    );
    assert_eq!(
        asked(VALID, "plain.example/app", Operation::Pull).unwrap(),
        ["Http plain.example/app itself"]
    );
}

#[test]
fn docker_hub_is_where_it_is() {
    let text = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"m.example/hub\"";
    let hosts = asked(text, "nginx", Operation::Pull).unwrap();
    assert_eq!(
        hosts,
        ["Https m.example/hub/library/nginx", "Https registry-1.docker.io/library/nginx itself"]
    );
}

#[test]
fn drop_in_replaces_entries_of_its_prefix_only() {
    let mut registries = parsed(VALID).unwrap();
    registries.add(parsed("[[registry]]\nlocation = \"registry.example\"").unwrap()).unwrap();
    let entry = |name| registries.find(name).map(|(prefix, entry, _)| (prefix, entry.mirrors.len()));
    assert_eq!(entry("registry.example/app"), Some(("registry.example", 0)));
    assert_eq!(entry("registry.example/team/app"), Some(("registry.example/team", 2)));
}

#[test]
fn first_of_two_entries_with_a_prefix_counts() {
    let twice = format!("{VALID}\n[[registry]]\nprefix = \"registry.example\"\nlocation = \"late.example\"");
    let hosts = asked(&twice, "registry.example/app", Operation::Resolve).unwrap();
    assert_eq!(hosts, ["Https tags.example/app", "Https registry.example/app itself"]);
}

#[test]
fn unknown_keys_are_left_alone() {
    assert_eq!(parsed(&VALID.replace("prefix =", "unknown = 1\nprefix =")), parsed(VALID));
}

#[test]
fn each_break_of_a_valid_file_is_an_error_of_one_line() {
    for (from, to, expected) in [
        ("[[registry]]", "[[registry]", "line "),
        ("insecure = true", "insecure = \"yes\"", "line 8: "),
        ("location = \"registry.example\"", "", "expected a location"),
        ("location = \"first.example/team\"", "location = \"/\"", "expected a mirror to have a location"),
        ("location = \"registry.example\"", "location = \"https://registry.example\"", "without a scheme"),
        ("\"*.wild.example\"", "\"*.wild.example/app\"", "expected a prefix such as"),
        ("\"digest-only\"", "\"never\"", "found \"never\""),
        ("insecure = true\n\n", "mirror-by-digest-only = true\n\n", "found both"),
        (
            "location = \"registry.example\"",
            "location = \"registry.example\"\npull-from-mirror = \"all\"",
            "belongs into a mirror",
        ),
        ("short-name-mode = \"enforcing\"", "[registries.search]\nregistries = [\"a\"]", "found version 1"),
        (
            "prefix = \"*.wild.example\"",
            "prefix = \"p.example\"\nlocation = \"registry.example\"\nblocked = true",
            "one word on insecure and blocked for \"registry.example\"",
        ),
    ] {
        let broken = VALID.replacen(from, to, 1);
        assert_ne!(broken, VALID, "{from}");
        let error = parsed(&broken).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{to}: {error}");
    }
}

#[test]
fn too_many_are_an_error_that_names_the_limit() {
    let mirrors = "[[registry.mirror]]\nlocation = \"m.example\"\n".repeat(HOSTS_MIRRORS + 1);
    let error = parsed(&format!("[[registry]]\nlocation = \"r.example\"\n{mirrors}")).unwrap_err();
    assert!(error.contains("HOSTS_MIRRORS"), "{error}");
    let many: String =
        (0..=REGISTRIES_CONF_ENTRIES).map(|n| format!("[[registry]]\nlocation = \"r{n}\"\n")).collect();
    let error = Registries::default().add(parsed(&many).unwrap()).unwrap_err();
    assert!(error.contains("REGISTRIES_CONF_ENTRIES"), "{error}");
}
