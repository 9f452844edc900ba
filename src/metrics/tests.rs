#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use super::*;
use crate::audit::{Decision, Effective, Kind, Mode};
use crate::cri::methods::{Class, Vetted};
use crate::proofs::{Kept, Store, Summary};
use crate::registry::Outcome;
use crate::relay::hidden::Ended;
use crate::relay::revet::Counts;
use crate::trust::Trust;
use crate::vetter::recheck::{Drift, Rechecks};
use crate::vetter::wire::Outcome as Verdict;

fn summary() -> Summary {
    let store = Store { kept: Kept::MemoryOnly, bytes: 40, failures: 3, set_aside: 1, ..Store::default() };
    Summary { walked: 5, with_evidence: 4, evidence_bytes: 1000, unwritten: 2, store }
}

/// Both pages in one, with a value everywhere.
fn page() -> String {
    let relay = RelayMetrics::default();
    let relays = crate::cri::methods::Service::Runtime;
    for class in [
        Class::Passthrough(relays),
        Class::Vetted(relays, Vetted::PullImage),
        Class::RefusedUnlessAllowed(relays),
        Class::UnknownRead(relays),
        Class::UnknownWrite(relays),
        Class::ForeignService,
    ] {
        relay.call(class, UNIX_EPOCH + Duration::from_secs(1_785_585_600));
    }
    for vetted in Vetted::ALL {
        relay.call(Class::Vetted(relays, vetted), UNIX_EPOCH + Duration::from_secs(1_785_585_600));
        relay.vetted(vetted);
    }
    relay.connections(2);
    relay.unknown_fields();
    relay.not_vetted();
    relay.removed_after_look();
    relay.content_altered();
    relay.content_checked(2, 1, 1_785_585_600);
    relay.content_requested(3);
    relay.hidden(2);
    relay.repulled(Ended::TimedOut, 1);
    relay.permit_used();
    relay.vetter_restarted();
    relay.permits_held(3);
    for outcome in [Verdict::Permitted, Verdict::Denied, Verdict::Undecided] {
        for origin in [Origin::Bypass, Origin::BeforeCrivet] {
            relay.found(outcome, origin);
        }
    }
    relay.unvetted(Origin::Bypass, 2);
    let counts = Counts { running_denied: 2, stored_undecided: 3, ..Counts::default() };
    relay.revetted(&counts, 4, 1_785_585_600_999);
    relay.break_glass_used();
    relay.break_glass(Some(UNIX_EPOCH + Duration::from_secs(60)), true);
    relay.mode("enforce", "enforce", "configuration");
    relay.mode("enforce", "audit", "break_glass");
    let vetter = VetterMetrics::default();
    let took = Duration::from_millis(20);
    for kind in Kind::ALL {
        vetter.decided(*kind, Decision::Denied, Mode::Audit, Effective::Forwarded, took);
    }
    for decision in Decision::ALL {
        vetter.decided(Kind::PullImage, *decision, Mode::Enforce, Effective::Refused, took);
    }
    for outcome in [
        Outcome::Ok,
        Outcome::NotFound,
        Outcome::Auth,
        Outcome::RateLimited,
        Outcome::ServerError,
        Outcome::Timeout,
        Outcome::Unreachable,
        Outcome::Invalid,
    ] {
        vetter.registry_request(outcome);
    }
    vetter.policies_loaded("sha256:00", UNIX_EPOCH);
    vetter.policies_loaded("sha256:01", UNIX_EPOCH);
    vetter.policies_rejected();
    let rechecks = Rechecks::default();
    rechecks.asked(Ok(&()));
    rechecks.drifted(Drift::NotPermitted);
    vetter.rechecks(&rechecks.counted());
    vetter.config_source(ConfigSource::LastGood);
    vetter.audit_records_lost(7, 2);
    vetter.proofs(&summary());
    vetter.trace_spans_exported(4);
    vetter.trace_spans_dropped(6);
    vetter.audit_log_free_bytes(1024);
    vetter.trust(&trust());
    vetter.layouts(&crate::vetter::layouts::Summary {
        layouts: 3,
        images: 4,
        faults: 1,
        first: String::new(),
    });
    vetter.render(&relay.render(""))
}

fn trust() -> Trust {
    use crate::trust::{Origin, Root, State};
    let state = State {
        source: String::new(),
        kind: "tuf",
        root: Some(std::sync::Arc::new(Root::embedded().unwrap())),
        origin: Origin::Source,
        at: Some(UNIX_EPOCH + Duration::from_secs(7)),
        expires: Some(UNIX_EPOCH + Duration::from_secs(8)),
        error: None,
        failures: 2,
        kept: None,
    };
    let lost = State { root: None, origin: Origin::Nothing, at: None, expires: None, ..state.clone() };
    Trust::new([("corp".to_owned(), state), ("lost".to_owned(), lost)])
}

#[test]
fn trusted_roots_that_are_gone_leave_no_series() {
    let vetter = VetterMetrics::default();
    vetter.trust(&trust());
    let page = vetter.render("");
    assert!(page.contains("\ncrivet_trust_root_usable{root=\"corp\"} 1\n"), "{page}");
    assert!(page.contains("\ncrivet_trust_root_usable{root=\"lost\"} 0\n"), "{page}");
    assert!(page.contains("\ncrivet_trust_root_refresh_failures{root=\"corp\"} 2\n"), "{page}");
    assert!(page.contains("\ncrivet_trust_root_confirmed_timestamp_seconds{root=\"corp\"} 7\n"), "{page}");
    assert!(
        page.contains("\ncrivet_trust_root_metadata_expiry_timestamp_seconds{root=\"corp\"} 8\n"),
        "{page}"
    );
    let end = "\ncrivet_trust_root_material_end_timestamp_seconds{root=\"corp\",material=\"certificate_authorities\"} 1948975018\n";
    assert!(page.contains(end), "{page}");
    vetter.trust(&Trust::default());
    assert!(!vetter.render("").contains("root=\""));
}

/// Metric → type, and labels with their values.
type Families = BTreeMap<String, (String, BTreeMap<String, BTreeSet<String>>)>;

/// The families of an exposition, under the names their samples have.
fn exposed(page: &str) -> Families {
    let mut families = Families::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let total = if kind == "counter" { "_total" } else { "" };
            let before = families.insert(format!("{name}{total}"), (kind.to_owned(), BTreeMap::new()));
            assert!(before.is_none(), "{name} is there twice");
        } else if !line.starts_with('#') {
            let (sample, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let Some((_, known)) = families.get_mut(name) else {
                assert!(name.starts_with("crivet_vetting_duration_seconds_"), "{name} has no type");
                continue;
            };
            for pair in labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty()) {
                let (label, value) = pair.split_once('=').unwrap();
                known.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
    }
    families
}

#[test]
fn the_page_in_docs_and_the_exposition_say_the_same() {
    let exposed = exposed(&page());
    let doc = include_str!("../../docs/metrics.md");
    let mut documented = BTreeSet::new();
    for row in doc.lines().filter(|line| line.starts_with("| `crivet_")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells.as_slice() else { panic!("{row}") };
        let name = name.trim_matches('`');
        documented.insert(name.to_owned());
        let Some((exposed_kind, exposed_labels)) = exposed.get(name) else { panic!("{name} is not exposed") };
        assert_eq!(kind, exposed_kind, "{name}");
        let labels: BTreeSet<String> =
            labels.split(", ").filter(|l| !l.is_empty()).map(|l| l.trim_matches('`').to_owned()).collect();
        assert_eq!(labels, exposed_labels.keys().cloned().collect(), "{name}");
        for (label, values) in
            exposed_labels.iter().filter(|(label, _)| !["hash", "root", "version"].contains(&label.as_str()))
        {
            for value in values {
                assert!(meaning.contains(&format!("`{value}`")), "{name}: {label} {value} is not documented");
            }
        }
    }
    assert_eq!(documented, exposed.keys().cloned().collect());
    for word in doc.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        assert!(!word.starts_with("crivet_") || documented.contains(word), "{word} is no metric");
    }
}

#[test]
fn values_are_told_as_they_were_set() {
    let page = page();
    for line in [
        "crivet_last_kubelet_call_seconds 1785585600",
        "crivet_policy_set_info{hash=\"sha256:01\"} 1",
        "crivet_config_source{source=\"last_good\"} 1",
        "crivet_config_source{source=\"files\"} 0",
        "crivet_audit_records_lost_total 7",
        "crivet_audit_journal_entries_lost_total 2",
        "crivet_permits_held 3",
        "crivet_recheck_hidden 1",
        "crivet_recheck_repulls_total{outcome=\"timed_out\"} 1",
        "crivet_recheck_repulls_total{outcome=\"pulled\"} 0",
        "crivet_recheck_requests_total{outcome=\"answered\"} 1",
        "crivet_recheck_drift_total{effect=\"not_permitted\"} 1",
        "crivet_recheck_drift_total{effect=\"warn\"} 0",
        "crivet_unvetted_containers{origin=\"bypass\"} 2",
        "crivet_running_containers_not_allowed{decision=\"denied\"} 2",
        "crivet_running_containers_not_allowed{decision=\"undecided\"} 0",
        "crivet_stored_images_not_allowed{decision=\"undecided\"} 3",
        "crivet_revetting_left 4",
        "crivet_revetted_timestamp_seconds 1785585600",
        "crivet_unvetted_containers{origin=\"before_crivet\"} 0",
        "crivet_found_containers_total{decision=\"denied\",origin=\"bypass\"} 1",
        "crivet_trace_spans_total{outcome=\"exported\"} 4",
        "crivet_mode_info{configured=\"enforce\",mode=\"audit\",because=\"break_glass\"} 1",
        "crivet_break_glass_active 1",
        "crivet_break_glass_expires_seconds 60",
        "crivet_break_glass_uses_total 1",
        "crivet_break_glass_rejected 1",
        "crivet_proofs_held 5",
        "crivet_proofs_evidence_bytes 1000",
        "crivet_proofs_store_state{state=\"memory_only\"} 1",
        "crivet_proofs_store_state{state=\"persistent\"} 0",
        "crivet_proofs_store_bytes 40",
        "crivet_proofs_unwritten 2",
        "crivet_proofs_store_failures_total 3",
        "crivet_proofs_stores_set_aside 1",
        "crivet_connections 2",
        "crivet_audit_log_free_bytes 1024",
        "crivet_calls_to_vet_total{method=\"PullImage\"} 2",
        "crivet_calls_vetted_total{method=\"PullImage\"} 1",
        "crivet_vetting_duration_seconds_count 11",
        "crivet_content_altered_layers 2",
        "crivet_content_unchecked_images 1",
        "crivet_content_requested_images 3",
        "crivet_content_last_check_seconds 1785585600",
        "crivet_decisions_total{kind=\"PullImage\",decision=\"denied\",mode=\"enforce\",effective=\"refused\"} 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("because=\"configuration\""), "the mode before is still told");
    assert!(!page.contains("sha256:00"), "the policy set before is still told");
}

#[test]
fn a_joined_page_has_one_end() {
    let metrics = RelayMetrics::default();
    for extra in ["", "# EOF\n", "x 1\n", "x 1", "x 1\n# EOF\n"] {
        let page = metrics.render(extra);
        assert!(page.ends_with("\n# EOF\n") && page.matches("# EOF").count() == 1, "{page}");
        assert_eq!(page.contains("\nx 1\n"), extra.contains('x'));
    }
}
