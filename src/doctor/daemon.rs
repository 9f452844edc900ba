//! Findings about the daemon: its configuration, mode, policies, vetter, log, and what it sees.

use super::facts::Facts;
use super::{Findings, age};
use crate::config::{Unmatched, spoken};
use crate::control::wire::{FoundContainer, NotAllowed, Status};
use crate::image::quoted_name;

/// Files of the audit log's size that should fit on its disk: the one that is written, and the one it is rotated to.
const FREE_ENOUGH: u64 = 2;

/// An image that has waited so long for a check, milliseconds, waits for more than its turn.
const REQUESTED_LONG: u64 = 60_000;

/// Runtimes whose layers crivet can compare.
const COMPARED: [&str; 2] = ["containerd", "cri-o"];

pub(super) fn configuration(facts: &Facts, findings: &mut Findings) {
    match &facts.configuration {
        Err(why) => findings.failure(
            "configuration-missing",
            format!("no configuration would load: {why}"),
            "write one (docs/configuration.md); crivet serve ends with 78 at its next start",
        ),
        Ok(config) if !config.whole => findings.failure(
            "configuration-salvaged",
            format!("the configuration is bad and no good one was kept: {}", config.error),
            "correct it and reload crivet: at its next start crivet would not know its policies",
        ),
        Ok(config) if !config.error.is_empty() => findings.warning(
            "configuration-bad",
            format!("the last good configuration would be used: {}", config.error),
            "correct the file and reload crivet; until then no change to it arrives",
        ),
        Ok(config) => match &facts.daemon {
            Ok(status) if !running_hash(status).is_empty() && running_hash(status) != config.hash => findings
                .warning(
                    "configuration-not-running",
                    format!("{} is not what the daemon runs with", config.path),
                    "reload crivet: systemctl reload crivet; listen, the endpoints and vetterUser need a restart",
                ),
            _ => findings.ok("configuration", format!("{} loads", config.path)),
        },
    }
    let Ok(config) = &facts.configuration else { return };
    if !config.metrics && config.whole {
        findings.note(
            "metrics-off",
            "no metricsAddress is set: nobody is alerted when this node loses its protection",
            "set metricsAddress and take docs/metrics.md's alerts",
        );
    }
}

fn running_hash(status: &Status) -> &str {
    status.configuration.as_ref().map(|running| running.hash.as_str()).unwrap_or_default()
}

pub(super) fn running(facts: &Facts, status: &Status, findings: &mut Findings) {
    let source = status.configuration.as_ref().map(|running| running.source.as_str()).unwrap_or_default();
    if source == "salvaged" || source == "last_good" {
        let found = format!("the daemon runs on its {source} configuration");
        let todo = "correct the configuration file and reload crivet";
        match source {
            "salvaged" => findings.failure("daemon-salvaged", found, todo),
            _ => findings.warning("daemon-last-good", found, todo),
        }
    }
    if status.version == facts.version {
        findings.ok(
            "daemon",
            format!("crivet {} runs since {}", status.version, age(facts.now.saturating_sub(status.started))),
        );
    } else {
        findings.warning(
            "version-differs",
            format!("the daemon is {}, this command {}", status.version, facts.version),
            "restart crivet: systemctl restart crivet",
        );
    }
    let runtime = status.runtime.clone().unwrap_or_default();
    if runtime.error.is_empty() {
        findings.ok("runtime", format!("{} {}", runtime.name, runtime.version));
    } else {
        findings.failure(
            "runtime-away",
            format!("the runtime does not answer crivet: {}", runtime.error),
            "look at the runtime (systemctl status containerd, or crio), and at runtimeEndpoint",
        );
    }
    if !runtime.not_looked_at.is_empty() {
        findings.failure(
            "runtime-not-looked-at",
            format!("enforce mode makes no container that needs a proof: {}", runtime.not_looked_at),
            "see which store CRI-O uses (crictl imagefsinfo, storage.conf); stay in mode: audit until then",
        );
    }
    if status.content_altered > 0 {
        findings.failure(
            "content-altered",
            format!(
                "{} creates were refused, or would have been, because their image was altered on this node's disk",
                status.content_altered
            ),
            "find out who writes to the runtime's folder; the audit log (reason ContentAltered) says which images: remove them with all their containers, and they are pulled again",
        );
    }
    if status.removed_after_look > 0 {
        findings.warning(
            "removed-after-look",
            format!(
                "{} containers or sandboxes were removed because they did not stand on what was vetted",
                status.removed_after_look
            ),
            "look in crivet's log for which: somebody moves image names on this node",
        );
    }
}

pub(super) fn layers(facts: &Facts, status: &Status, findings: &mut Findings) {
    if let Some(first) = status.altered_layers.first() {
        findings.failure(
            "layers-altered",
            format!(
                "{} layers are altered on this node's disk; of {}: {}",
                status.altered_layers_count,
                quoted_name(&first.image),
                quoted_name(&first.found)
            ),
            "find out who writes to the runtime's folder; remove the images that crivet content check names with all their containers, and they are pulled again",
        );
    }
    if let Some(first) = status.content_requests.iter().find(|image| image.waits_ms >= REQUESTED_LONG) {
        let why = match (first.begun, first.found.as_str()) {
            (false, _) => "no check of it was begun".to_owned(),
            (true, "") => "a check of it was begun and has not ended".to_owned(),
            (true, found) => format!("a check could not find it whole: {}", quoted_name(found)),
        };
        findings.warning(
            "layers-requested",
            format!(
                "{} images wait for a check of their layers, which their policy asks for before a container is made; of {}, since {}: {why}",
                status.content_requests_count,
                quoted_name(&first.image),
                age(first.waits_ms)
            ),
            "systemctl enable --now crivet-content-requested.path; journalctl -u crivet-content-requested says what came of it (docs/content.md)",
        );
    }
    let checked =
        status.content_checked.as_ref().map(|_| facts.now.saturating_sub(status.content_checked_at));
    if let Some(within) = facts.layers_checked_within
        && checked.is_none_or(|ago| u128::from(ago) >= within.as_millis())
    {
        findings.warning(
            "layers-not-checked-in-time",
            format!(
                "a policy asks for a check of layers within the last {} before a container is made, and the last one of all images was {}: containers wait for checks of their own",
                spoken(within),
                checked.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", age(ago)))
            ),
            "systemctl enable --now crivet-content.timer crivet-content-requested.path; at first, crivet content check (docs/content.md)",
        );
    }
    match &status.content_checked {
        // There is more to be said of it, or nothing to be told to do: crivet cannot compare them.
        None if facts.layers_checked_within.is_some() => {}
        None if status.runtime.as_ref().is_none_or(|runtime| !COMPARED.contains(&runtime.name.as_str())) => {}
        None => findings.note(
            "layers-never-checked",
            "the layers on this node's disk were never held to their images",
            "run crivet content check, or have it run: systemctl enable --now crivet-content.timer (docs/content.md)",
        ),
        Some(checked) if checked.unchecked > 0 => findings.warning(
            "layers-unchecked",
            format!(
                "{} of {} images could not be held to their layers; {}",
                checked.unchecked,
                checked.images,
                quoted_name(&checked.unchecked_because)
            ),
            "crivet content check says of each why; an altered file in them is not noticed (docs/content.md)",
        ),
        Some(checked) => findings.ok(
            "layers",
            format!(
                "{} images were held to their layers {} ago",
                checked.images,
                age(facts.now.saturating_sub(status.content_checked_at))
            ),
        ),
    }
}

pub(super) fn mode(facts: &Facts, status: &Status, findings: &mut Findings) {
    match (status.mode.as_str(), status.mode_because.as_str()) {
        ("enforce", _) => findings.ok("mode", "mode in force: enforce"),
        ("audit", "") => findings.failure(
            "mode-audit",
            "mode: audit: every image runs, vetted or not",
            "when crivet report and crivet inventory show nothing you need, set mode: enforce (docs/rollout.md)",
        ),
        ("audit", because) => findings.failure(
            "mode-overridden",
            format!("nothing is enforced although the configuration may say so: {because}"),
            "end what holds it in audit mode: the break-glass file, or what a refused switch names",
        ),
        (_, because) => findings.failure(
            "mode-unknown",
            format!("the daemon knows no mode: {because}"),
            "correct the configuration and reload crivet; until then no container starts",
        ),
    }
    if !status.break_glass_rejected.is_empty() {
        findings.warning(
            "break-glass-rejected",
            format!("a break-glass file is there and not in force: {}", status.break_glass_rejected),
            "remove it, or write it anew: crivet node break-glass",
        );
    }
    let Ok(config) = &facts.configuration else { return };
    let allowed = &config.allowed;
    if !allowed.unvetted.is_empty() {
        findings.warning(
            "insecure-allow-unvetted",
            format!("let through unvetted: {}", allowed.unvetted.join(", ")),
            "take what you do not need out of insecureAllowUnvetted",
        );
    }
    let unbound: Vec<_> = allowed.snapshotters.iter().chain(&allowed.runtimes).map(String::as_str).collect();
    if !unbound.is_empty() {
        findings.warning(
            "insecure-allow-unbound",
            format!("what these run need not be what was vetted: {}", unbound.join(", ")),
            "take what you do not need out of insecureAllowSnapshotters and insecureAllowRuntimes",
        );
    }
    let none = status.policies.as_ref().is_some_and(|policies| policies.count == 0);
    match config.unmatched {
        Some(Unmatched::Allow) if none => findings.failure(
            "nothing-covered",
            "there are no policies, and unmatched: allow lets every other image through",
            "write a policy (docs/policy.md), or set unmatched: deny",
        ),
        Some(Unmatched::Allow) => findings.warning(
            "unmatched-allow",
            "unmatched: allow: an image that no policy covers runs",
            "cover what this node runs (crivet inventory) and set unmatched: deny",
        ),
        Some(Unmatched::Deny) => findings.ok("unmatched", "unmatched: deny"),
        None => {}
    }
}

pub(super) fn policies(facts: &Facts, status: &Status, findings: &mut Findings) {
    let running = status.policies.clone().unwrap_or_default();
    if running.set.is_empty() {
        findings.failure(
            "policies-missing",
            format!(
                "no policies are in force: {}",
                if running.error.is_empty() { "none were loaded" } else { &running.error }
            ),
            "correct them (crivet policy check) and reload crivet; until then every image is undecided",
        );
    } else if !running.error.is_empty() {
        findings.warning(
            "policies-rejected",
            format!("older policies are in force: {}", running.error),
            "correct them (crivet policy check) and reload crivet",
        );
    } else {
        findings.ok(
            "policies",
            format!(
                "policies in force: {}, {}, loaded {} ago",
                running.count,
                running.set,
                age(facts.now.saturating_sub(running.loaded))
            ),
        );
    }
    if let Some(Ok((hash, count))) = &facts.policies
        && running.error.is_empty()
        && *hash != running.set
    {
        findings.warning(
            "policies-not-running",
            format!("the policies as they are now ({count}, {hash}) are not those in force"),
            "reload crivet: systemctl reload crivet",
        );
    }
}

pub(super) fn policy_folder(facts: &Facts, findings: &mut Findings) {
    if let Some(Err(why)) = &facts.policies {
        findings.warning(
            "policies-bad",
            format!("the policies as they are now would not load: {why}"),
            "correct them: crivet policy check",
        );
    }
}

pub(super) fn vetter(facts: &Facts, status: &Status, findings: &mut Findings) {
    let vetter = status.vetter.clone().unwrap_or_default();
    if !status.vetter_living {
        findings.failure(
            "vetter-away",
            "no vetter answers: only what is permitted already starts in enforce mode, nothing is vetted in audit mode",
            "look in crivet's log (journalctl -u crivet) for why it ends",
        );
    }
    if vetter.restarts > 0 {
        findings.warning(
            "vetter-restarted",
            format!("the vetter was started anew {} times since crivet started", vetter.restarts),
            "look in crivet's log for why it ended",
        );
    }
    let user = facts.configuration.as_ref().ok().and_then(|config| config.vetter_user.clone());
    match user {
        _ if !status.vetter_living => {}
        None => findings.warning(
            "vetter-user-not-set",
            "no vetterUser is set: the vetter, which reads what registries send, runs as root",
            "set vetterUser: crivet and restart crivet",
        ),
        Some((name, Err(why))) => findings.warning(
            "vetter-user-missing",
            format!("the vetter runs as root: vetterUser {name}: {why}"),
            "create the user (systemd-sysusers) and restart crivet",
        ),
        Some((name, Ok(uid))) if uid != vetter.uid => findings.warning(
            "vetter-user-differs",
            format!("the vetter runs as user {}, vetterUser {name} is {uid}", vetter.uid),
            "restart crivet",
        ),
        Some((name, Ok(_))) => findings.ok("vetter", format!("the vetter runs as {name}")),
    }
}

pub(super) fn repulls(status: &Status, findings: &mut Findings) {
    let Some(first) = status.not_pulled.first() else { return };
    let why = match first.ended.as_str() {
        "failed" => "its pull failed",
        _ => "nobody pulled it",
    };
    findings.warning(
        "image-not-pulled-anew",
        format!(
            "images whose tag has moved in the registry to what is permitted, and that were not pulled anew: {}, the first: {}, {why}",
            status.not_pulled.len(),
            first.image
        ),
        "look at the pod's events: does it have imagePullPolicy: Never, or a pull secret that is not let in? (docs/recheck.md)",
    );
}

pub(super) fn revetted(facts: &Facts, status: &Status, findings: &mut Findings) {
    let Some(revetted) = &status.revetted else { return };
    if revetted.waits || revetted.left > 0 {
        findings.note(
            "revetting",
            format!(
                "what runs and what is stored is being judged anew, since policies or trusted roots have changed: {}",
                if revetted.waits { "not begun".to_owned() } else { format!("{} uses of images left", revetted.left) }
            ),
            "wait; a registry that is down or answers 429 holds it up",
        );
    }
    let first = |is_stored: bool| {
        let mut told = revetted.not_allowed.iter().filter(|each| each.container.is_empty() == is_stored);
        told.next().cloned().unwrap_or_default()
    };
    let (denied, undecided) = (revetted.running_denied, revetted.running_undecided);
    if denied + undecided > 0 {
        let NotAllowed { namespace, pod, container, image, decision, message } = first(false);
        findings.warning(
            "running-not-allowed",
            format!(
                "running containers that the policies in force deny: {denied}, that could not be decided about: {undecided}, the first: {namespace}/{pod} {container} ({image}), {decision}: {message}"
            ),
            "sign the image, or correct the policy, or delete the pod: it goes on running, and is refused when it starts anew; crivet inventory lists all",
        );
    }
    let (denied, undecided) = (revetted.stored_denied, revetted.stored_undecided);
    if denied + undecided > 0 {
        let NotAllowed { image, decision, message, .. } = first(true);
        findings.note(
            "stored-not-allowed",
            format!(
                "stored images that no container runs on and that the policies in force deny: {denied}, that could not be decided about: {undecided}, the first: {image}, {decision}: {message}"
            ),
            "nothing has to be done: they are refused when they are used; crivet inventory lists all",
        );
    }
    let is_clean = revetted.not_allowed.is_empty() && revetted.left == 0 && !revetted.waits;
    if is_clean && revetted.at > 0 {
        let ago = age(facts.now.saturating_sub(revetted.at));
        findings.ok(
            "revetted",
            format!("what runs and what is stored was judged anew {ago} ago, and is allowed"),
        );
    }
}

pub(super) fn audit_log(status: &Status, findings: &mut Findings) {
    let state = status.vetter.as_ref().and_then(|vetter| vetter.state.clone());
    let Some(log) = state.and_then(|state| state.audit_log) else { return };
    if log.lost > 0 {
        findings.warning(
            "audit-records-lost",
            format!("{} decisions have no audit record in {}", log.lost, log.path),
            "make room, or correct auditLog.path and its owner; crivet's log says why",
        );
    }
    match log.free_bytes {
        None => findings.warning(
            "audit-log-away",
            format!("the folder of {} cannot be looked at", log.path),
            "make it, for vetterUser to write",
        ),
        Some(free) if free < FREE_ENOUGH * log.max_bytes => findings.warning(
            "audit-log-space",
            format!("{} MiB are free for {}, less than {FREE_ENOUGH} files of maxSize", free >> 20, log.path),
            "make room, or make auditLog.maxSize smaller",
        ),
        Some(free) if log.lost == 0 => findings
            .ok("audit-log", format!("no record was lost; {} MiB are free for {}", free >> 20, log.path)),
        Some(_) => {}
    }
}

pub(super) fn proofs(status: &Status, findings: &mut Findings) {
    let state = status.vetter.as_ref().and_then(|vetter| vetter.state.clone());
    let Some((proofs, store)) = state.and_then(|state| Some((state.proofs, state.proof_store?))) else {
        return;
    };
    if store.set_aside > 0 {
        let because = match store.set_aside_because.as_str() {
            "" => String::new(),
            why => format!(", the last one because {why}"),
        };
        findings.warning(
            "proofs-set-aside",
            format!("{} damaged stores of proofs were set aside{because}", store.set_aside),
            "look at the disk; then remove stateDir/vetter/proofs.redb.aside-*",
        );
    }
    match store.kept.as_str() {
        "memory_only" => findings.warning(
            "proofs-not-kept",
            format!("proofs are in memory only: {}", store.why),
            "make room, or correct the owner and mode of stateDir/vetter; until then a restart has to ask the registries",
        ),
        "persistent" => findings.ok("proofs", format!("{proofs} digests are known, and kept on disk")),
        _ => {}
    }
}

pub(super) fn layouts(status: &Status, findings: &mut Findings) {
    let state = status.vetter.as_ref().and_then(|vetter| vetter.state.as_ref());
    let Some(layouts) = state.and_then(|state| state.layouts.as_ref()) else { return };
    let (read, images) = (layouts.layouts, layouts.images);
    if layouts.faults > 0 {
        findings.warning(
            "layouts-left-out",
            format!(
                "evidence layouts, or parts of them, were left out: {}, the first: {}",
                layouts.faults, layouts.first_fault
            ),
            "mend it and reload crivet; until then images without other evidence are undecided",
        );
    } else if read > 0 {
        findings.ok("layouts", format!("{read} evidence layouts were read, about {images} digests"));
    }
}

pub(super) fn calls(status: &Status, findings: &mut Findings) {
    let vetted = || status.calls.iter().filter(|calls| !calls.method.is_empty());
    let missed: u64 = vetted().map(|calls| calls.seen.saturating_sub(calls.vetted)).sum();
    let seen: Vec<String> =
        vetted().map(|calls| format!("{} {} of {}", calls.method, calls.vetted, calls.seen)).collect();
    let found = format!("decided about since crivet started: {}", seen.join(", "));
    if missed > 0 {
        findings.note(
            "calls-not-vetted",
            found,
            "some are under way, or were cut off; if it grows, no vetter answered or too many waited",
        );
    } else {
        findings.ok("calls", found);
    }
    let strange: u64 = status.calls.iter().filter(|c| c.class.starts_with("unknown_")).map(|c| c.seen).sum();
    if strange > 0 {
        findings.note(
            "calls-unknown",
            format!("{strange} calls were of RPCs that this crivet has never heard of"),
            "look whether crivet is older than the kubelet",
        );
    }
}

pub(super) fn containers(status: &Status, findings: &mut Findings) {
    let shown = |found: &FoundContainer| {
        format!("{}/{} {} ({})", found.namespace, found.pod, found.name, found.image)
    };
    let bypasses = status.found.iter().filter(|found| found.bypass).count();
    let refused = |found: &&FoundContainer| found.running && !found.bypass && found.decision == "denied";
    if let Some(first) = status.found.iter().find(|found| found.bypass) {
        findings.failure(
            "containers-bypassed",
            format!("{bypasses} containers were made past crivet, {} among them", shown(first)),
            "find who else calls the runtime (crictl, ctr, a second kubelet), and close its socket to them",
        );
    } else if let Some(first) = status.found.iter().find(refused) {
        findings.warning(
            "containers-from-before",
            format!(
                "{} containers run from before crivet was in the way, {} would be refused",
                status.found_count,
                shown(first)
            ),
            "crivet inventory lists them; start them anew when their images are covered",
        );
    } else {
        let count = status.found_count;
        findings
            .ok("containers", format!("{count} containers are from before crivet, none was made past it"));
    }
    if !matches!(status.watching.as_str(), "" | "events" | "polling") {
        findings.warning(
            "containers-not-watched",
            format!("containers are not watched for: {}", status.watching),
            "see crivet's log",
        );
    }
}
