//! From a node that is protected, one thing broken each.

use std::collections::BTreeSet;
use std::time::Duration;

use super::facts::{Access, Canary, Configuration, Facts, Kubelet, Role, Socket};
use super::*;
use crate::config::{InsecureAllowed, Mode, Unmatched};
use crate::control::wire::{self, Client, NotAllowed, NotPulled, Revetted, Status};
use crate::vetter::wire::{
    AuditLog, CredentialTrouble, EvidenceLayouts, Judged, Outcome, ProofStore, State, TrustRoot,
};

const NOW: u64 = 1_790_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const LISTEN: &str = "/run/crivet/crivet.sock";
const RUNTIME: &str = "/run/containerd/containerd.sock";

fn status() -> Status {
    let client = |last_call| Client { pid: 7, last_call, calls: 9, ..Default::default() };
    Status {
        version: "1".into(),
        started: NOW - 3_600_000,
        mode: "enforce".into(),
        vetter_living: true,
        clients: vec![client(NOW - 500), client(NOW - 9000)],
        configuration: Some(wire::Configuration {
            hash: "sha256:c".into(),
            source: "file".into(),
            ..Default::default()
        }),
        policies: Some(wire::Policies {
            set: "sha256:p".into(),
            count: 2,
            loaded: NOW - 60_000,
            error: String::new(),
        }),
        vetter: Some(wire::Vetter {
            pid: 8,
            uid: 990,
            state: Some(State {
                audit_log: Some(AuditLog {
                    path: "/var/log/crivet/audit.jsonl".into(),
                    free_bytes: Some(10 << 30),
                    max_bytes: 100 << 20,
                    ..Default::default()
                }),
                proof_store: Some(ProofStore { kept: "persistent".into(), ..Default::default() }),
                trust: vec![TrustRoot {
                    name: "public-good".into(),
                    source: "TUF repository https://tuf.test".into(),
                    origin: "source".into(),
                    version: "sha256:t".into(),
                    at: NOW - 3_600_000,
                    expires: NOW + 86_400_000,
                    ends: NOW + 100 * 86_400_000,
                    ends_first: "tlogs".into(),
                    newest: NOW - 86_400_000,
                    error: String::new(),
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        calls: vec![
            wire::Calls { class: "passthrough".into(), seen: 100, ..Default::default() },
            wire::Calls { class: "vetted".into(), method: "PullImage".into(), seen: 3, vetted: 3 },
        ],
        runtime: Some(wire::Runtime {
            name: "containerd".into(),
            version: "2.0.5".into(),
            pause_image: "r.test/pause:3".into(),
            ..Default::default()
        }),
        content_checked: Some(wire::ContentChecked { images: 3, layers: 9, ..Default::default() }),
        content_checked_at: NOW - 3_600_000,
        last_call: NOW - 500,
        watching: "events".into(),
        ..Default::default()
    }
}

fn protected() -> Facts {
    let judged = Judged { outcome: Outcome::Permitted.into(), ..Default::default() };
    let socket = |role, path: &str| Socket {
        role,
        path: path.into(),
        access: Ok(Access { others: false, group: None, user: None }),
    };
    Facts {
        now: NOW,
        version: "1".into(),
        configuration: Ok(Configuration {
            path: "/etc/crivet/config.yaml".into(),
            error: String::new(),
            whole: true,
            hash: "sha256:c".into(),
            listen: LISTEN.into(),
            runtime: vec![RUNTIME.into(), RUNTIME.into()],
            mode: Some(Mode::Enforce),
            unmatched: Some(Unmatched::Deny),
            vetter_user: Some(("crivet".into(), Ok(990))),
            allowed: InsecureAllowed::default(),
            metrics: true,
        }),
        policies: Some(Ok(("sha256:p".into(), 2))),
        layers_checked_within: None,
        daemon: Ok(status()),
        kubelets: vec![Kubelet {
            pid: 7,
            endpoints: Ok((LISTEN.into(), LISTEN.into())),
            version: Ok((1, 36)),
        }],
        names: [(7, "kubelet".to_owned())].into(),
        sockets: vec![socket(Role::Listen, LISTEN), socket(Role::Runtime, RUNTIME)],
        pause_image: Some(judged),
        registries: vec![("r.test".into(), Ok(()))],
        logins: vec![("r.test".into(), "/etc/login.json".into(), Ok(()))],
        credentials: Vec::new(),
        latest: Some((NOW - 500, "the last call".into())),
        clock_kept: Some(true),
        bypass: None,
        canary: Canary::Refused {
            image: "r.test/x".into(), message: "SignatureValidationFailed: …".into()
        },
    }
}

fn daemon(facts: &mut Facts) -> &mut Status {
    facts.daemon.as_mut().unwrap()
}

fn config(facts: &mut Facts) -> &mut Configuration {
    facts.configuration.as_mut().unwrap()
}

fn runtime(facts: &mut Facts) -> &mut wire::Runtime {
    daemon(facts).runtime.as_mut().unwrap()
}

fn vetter(facts: &mut Facts) -> &mut wire::Vetter {
    daemon(facts).vetter.as_mut().unwrap()
}

fn log(facts: &mut Facts) -> &mut AuditLog {
    vetter(facts).state.as_mut().unwrap().audit_log.as_mut().unwrap()
}

fn store(facts: &mut Facts) -> &mut ProofStore {
    vetter(facts).state.as_mut().unwrap().proof_store.as_mut().unwrap()
}

fn revetted(facts: &mut Facts) -> &mut Revetted {
    daemon(facts).revetted.get_or_insert_default()
}

fn root(facts: &mut Facts) -> &mut TrustRoot {
    &mut vetter(facts).state.as_mut().unwrap().trust[0]
}

fn found(facts: &mut Facts, bypass: bool) {
    let container =
        wire::FoundContainer { running: true, decision: "denied".into(), bypass, ..Default::default() };
    daemon(facts).found = vec![container];
}

fn access(facts: &mut Facts, at: usize) -> &mut Access {
    facts.sockets[at].access.as_mut().unwrap()
}

fn endpoints(facts: &mut Facts, runtime: &str, image: &str) {
    facts.kubelets[0].endpoints = Ok((runtime.into(), image.into()));
}

fn credentials(facts: &mut Facts, of_provider: bool) {
    facts.credentials.push(CredentialTrouble { source: "it".into(), why: "bad".into(), of_provider });
}

type Case = (&'static str, Level, fn(&mut Facts));

/// What is found, and what it is broken by.
const CASES: &[Case] = {
    use Level::{Failure, Note, Warning};
    &[
        ("daemon-away", Failure, |f| f.daemon = Err("nobody answers".into())),
        ("configuration-missing", Failure, |f| f.configuration = Err("no file".into())),
        ("configuration-salvaged", Failure, |f| (config(f).whole, config(f).error) = (false, "bad".into())),
        ("configuration-bad", Warning, |f| config(f).error = "config.yaml:3: bad".into()),
        ("configuration-not-running", Warning, |f| config(f).hash = "sha256:other".into()),
        ("daemon-salvaged", Failure, |f| {
            daemon(f).configuration.as_mut().unwrap().source = "salvaged".into()
        }),
        ("daemon-last-good", Warning, |f| {
            daemon(f).configuration.as_mut().unwrap().source = "last_good".into()
        }),
        ("metrics-off", Note, |f| config(f).metrics = false),
        ("version-differs", Warning, |f| f.version = "2".into()),
        ("runtime-away", Failure, |f| runtime(f).error = "it cannot be reached".into()),
        ("runtime-not-looked-at", Failure, |f| runtime(f).not_looked_at = "no store".into()),
        ("content-altered", Failure, |f| daemon(f).content_altered = 1),
        ("layers-altered", Failure, |f| {
            daemon(f).altered_layers =
                vec![wire::CheckedLayer { found: "a file".into(), ..Default::default() }];
        }),
        ("layers-requested", Warning, |f| {
            let image = wire::RequestedImage { waits_ms: 60_000, ..Default::default() };
            daemon(f).content_requests = vec![image];
        }),
        ("layers-unchecked", Warning, |f| {
            let checked = wire::ContentChecked { images: 3, unchecked: 1, ..Default::default() };
            daemon(f).content_checked = Some(checked);
        }),
        ("layers-never-checked", Note, |f| daemon(f).content_checked = None),
        ("layers-not-checked-in-time", Warning, |f| {
            (f.layers_checked_within, daemon(f).content_checked) = (Some(DAY), None);
        }),
        ("layers-not-checked-in-time", Warning, |f| {
            (f.layers_checked_within, daemon(f).content_checked_at) = (Some(DAY), NOW - 86_400_000);
        }),
        ("removed-after-look", Warning, |f| daemon(f).removed_after_look = 1),
        ("mode-audit", Failure, |f| daemon(f).mode = "audit".into()),
        ("mode-overridden", Failure, |f| {
            (daemon(f).mode, daemon(f).mode_because) = ("audit".into(), "break-glass".into());
        }),
        ("mode-unknown", Failure, |f| daemon(f).mode = "unknown".into()),
        ("break-glass-rejected", Warning, |f| daemon(f).break_glass_rejected = "it has expired".into()),
        ("insecure-allow-unvetted", Warning, |f| {
            config(f).allowed.unvetted = vec!["RuntimeService/RestorePod".into()];
        }),
        ("insecure-allow-unbound", Warning, |f| config(f).allowed.snapshotters = vec!["stargz".into()]),
        ("insecure-allow-unbound", Warning, |f| {
            config(f).allowed.runtimes = vec!["io.containerd.kata.v2".into()];
        }),
        ("unmatched-allow", Warning, |f| config(f).unmatched = Some(Unmatched::Allow)),
        ("nothing-covered", Failure, |f| {
            config(f).unmatched = Some(Unmatched::Allow);
            daemon(f).policies.as_mut().unwrap().count = 0;
        }),
        ("policies-missing", Failure, |f| daemon(f).policies = None),
        ("policies-rejected", Warning, |f| {
            daemon(f).policies.as_mut().unwrap().error = "a.yaml:1: bad".into()
        }),
        ("policies-bad", Warning, |f| f.policies = Some(Err("a.yaml:1: bad".into()))),
        ("policies-not-running", Warning, |f| f.policies = Some(Ok(("sha256:other".into(), 3)))),
        ("vetter-away", Failure, |f| daemon(f).vetter_living = false),
        ("vetter-restarted", Warning, |f| vetter(f).restarts = 2),
        ("vetter-user-not-set", Warning, |f| config(f).vetter_user = None),
        ("vetter-user-missing", Warning, |f| {
            config(f).vetter_user = Some(("crivet".into(), Err("none".into())))
        }),
        ("vetter-user-differs", Warning, |f| vetter(f).uid = 0),
        ("trust-missing", Warning, |f| {
            (root(f).version, root(f).error) = (String::new(), "the mirror cannot be reached".into());
        }),
        ("trust-not-refreshed", Warning, |f| root(f).error = "the mirror cannot be reached".into()),
        ("trust-expired", Warning, |f| root(f).expires = NOW - 1),
        ("trust-ends", Warning, |f| root(f).ends = NOW + 29 * 86_400_000),
        ("audit-records-lost", Warning, |f| log(f).lost = 4),
        ("image-not-pulled-anew", Warning, |f| {
            daemon(f).not_pulled = vec![NotPulled { image: "r.io/a:1".into(), ended: "timed_out".into() }];
        }),
        ("revetting", Note, |f| revetted(f).left = 3),
        ("running-not-allowed", Warning, |f| {
            revetted(f).running_denied = 1;
            revetted(f).not_allowed = vec![NotAllowed { container: "main".into(), ..Default::default() }];
        }),
        ("stored-not-allowed", Note, |f| {
            revetted(f).stored_undecided = 1;
            revetted(f).not_allowed = vec![NotAllowed { image: "r.io/a:1".into(), ..Default::default() }];
        }),
        ("audit-log-away", Warning, |f| log(f).free_bytes = None),
        ("audit-log-space", Warning, |f| log(f).free_bytes = Some(199 << 20)),
        ("proofs-not-kept", Warning, |f| store(f).kept = "memory_only".into()),
        ("proofs-set-aside", Warning, |f| store(f).set_aside = 1),
        ("layouts-left-out", Warning, |f| {
            vetter(f).state.as_mut().unwrap().layouts = Some(EvidenceLayouts {
                layouts: 2,
                images: 3,
                faults: 1,
                first_fault: "evidence layout /e/a is left out: no index.json".into(),
            });
        }),
        ("calls-not-vetted", Note, |f| daemon(f).calls[1].vetted = 2),
        ("calls-unknown", Note, |f| daemon(f).calls[0].class = "unknown_read".into()),
        ("node-bypassed", Failure, |f| f.bypass = Some("pods did not start".into())),
        ("kubelet-missing", Failure, |f| f.kubelets.clear()),
        ("kubelet-elsewhere", Failure, |f| {
            endpoints(f, "/run/other.sock", "/run/other.sock");
            daemon(f).clients.clear();
        }),
        ("kubelet-unreadable", Warning, |f| f.kubelets[0].endpoints = Err("/k.yaml: no such file".into())),
        ("kubelet-image-only", Failure, |f| endpoints(f, RUNTIME, LISTEN)),
        ("kubelet-runtime-only", Failure, |f| endpoints(f, LISTEN, RUNTIME)),
        ("kubelet-bypasses", Failure, |f| endpoints(f, RUNTIME, RUNTIME)),
        ("kubelet-old", Failure, |f| f.kubelets[0].version = Ok((1, 30))),
        ("kubelet-version-unknown", Note, |f| f.kubelets[0].version = Err("why".into())),
        ("kubelet-not-connected", Failure, |f| daemon(f).clients.iter_mut().for_each(|c| c.pid = 99)),
        ("kubelet-quiet", Failure, |f| daemon(f).clients.iter_mut().for_each(|c| c.last_call = NOW - 61_000)),
        ("kubelet-one-connection", Warning, |f| daemon(f).clients.truncate(1)),
        ("containers-bypassed", Failure, |f| found(f, true)),
        ("containers-from-before", Warning, |f| found(f, false)),
        ("containers-not-watched", Warning, |f| daemon(f).watching = "the runtime does not answer".into()),
        ("socket-open", Failure, |f| access(f, 0).others = true),
        ("socket-group", Warning, |f| access(f, 1).group = Some(999)),
        ("socket-user", Warning, |f| access(f, 1).user = Some(1000)),
        ("socket-unknown", Note, |f| f.sockets[0].access = Err("not allowed".into())),
        ("pause-image-unknown", Failure, |f| {
            (runtime(f).pause_image, runtime(f).pause_image_error) = (String::new(), "not known".into());
        }),
        ("pause-image-not-judged", Note, |f| f.pause_image = None),
        ("pause-image-denied", Failure, |f| f.pause_image.as_mut().unwrap().outcome = Outcome::Denied.into()),
        ("pause-image-undecided", Warning, |f| {
            f.pause_image.as_mut().unwrap().outcome = Outcome::Undecided.into()
        }),
        ("registry-unreachable", Warning, |f| f.registries.push(("x.test".into(), Err("refused".into())))),
        ("registry-login-refused", Warning, |f| f.logins[0].2 = Err("another login".into())),
        ("docker-config-unusable", Warning, |f| credentials(f, false)),
        ("credential-provider-unusable", Warning, |f| credentials(f, true)),
        ("clock-behind", Warning, |f| f.latest = Some((NOW + 61_000, "the audit log".into()))),
        ("clock-not-kept", Note, |f| f.clock_kept = Some(false)),
        ("canary-not-refused", Failure, |f| {
            f.canary = Canary::Passed { image: "x".into(), message: "NotFound".into() };
        }),
        ("canary-judged", Note, |f| {
            f.canary = Canary::Judged { image: "x".into(), refused: true, message: "why".into() };
        }),
        ("canary-would-pass", Failure, |f| {
            f.canary = Canary::Judged { image: "x".into(), refused: false, message: String::new() };
        }),
        ("canary-nothing-to-refuse", Failure, |f| f.canary = Canary::NothingToRefuse),
        ("canary-not-tried", Failure, |f| f.canary = Canary::NotTried("why".into())),
    ]
};

#[test]
fn a_protected_node_has_nothing_but_ok() {
    let findings = examine(&protected());
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    assert!(is_protected(&findings) && findings.len() > 12);
    assert!(!is_protected(&[]), "nothing that was looked at is no protection");
}

#[test]
fn what_is_broken_is_found_by_its_name_and_weight() {
    for (id, level, break_it) in CASES {
        let mut facts = protected();
        break_it(&mut facts);
        let findings = examine(&facts);
        let found = findings.iter().find(|finding| finding.id == *id);
        let found = found.unwrap_or_else(|| panic!("{id} is not found: {findings:#?}"));
        assert_eq!(found.level, *level, "{id}");
        assert_eq!(is_protected(&findings), *level != Level::Failure, "{id}: {findings:#?}");
        assert!(!found.found.is_empty() && (!found.todo.is_empty() || *id == "canary-judged"), "{id}");
        assert!(!found.found.contains('\n'), "{id}");
        assert!(findings.is_sorted_by_key(|finding| finding.level), "{id}");
    }
}

#[test]
fn the_page_in_docs_lists_every_finding_with_its_level() {
    let doc = include_str!("../../docs/doctor.md");
    let rows: BTreeSet<(String, String)> = doc
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(str::trim);
            Some((cells.next()?.trim_matches('`').to_owned(), cells.next()?.to_owned()))
        })
        .filter(|(_, level)| ["failure", "warning", "note"].contains(&level.as_str()))
        .collect();
    let cases: BTreeSet<_> =
        CASES.iter().map(|(id, level, _)| ((*id).to_owned(), level.as_str().to_owned())).collect();
    assert_eq!(rows, cases);
    // And every finding that the code has is tried here.
    let code = [
        include_str!("daemon.rs"),
        include_str!("kubelet.rs"),
        include_str!("node.rs"),
        include_str!("mod.rs"),
        include_str!("trust.rs").replace("        warn(\n", "findings.warning(\n").leak(),
    ];
    let known: BTreeSet<&str> = CASES.iter().map(|(id, ..)| *id).collect();
    for text in code {
        for quoted in text.split("findings.failure(\n").skip(1).chain(text.split(".warning(\n").skip(1)) {
            let id = quoted.trim_start().trim_start_matches('"').split('"').next().unwrap_or_default();
            assert!(known.contains(id), "{id} is not tried");
        }
    }
}

#[test]
fn a_kubelet_of_another_runtime_is_not_this_crivet_s_business() {
    let mut facts = protected();
    let other = Kubelet { pid: 9, endpoints: Ok(("/x.sock".into(), "/x.sock".into())), version: Ok((1, 20)) };
    facts.kubelets.push(other);
    assert!(is_protected(&examine(&facts)));
}

#[test]
fn a_kubelet_within_another_program_counts_by_its_connection() {
    let mut facts = protected();
    facts.kubelets.clear();
    facts.names = [(7, "k3s-server".to_owned())].into();
    assert!(is_protected(&examine(&facts)));
}
