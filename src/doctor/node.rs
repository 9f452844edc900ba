//! Findings about the rest of the node: the pause image, registries, the clock, and the canary.

use super::facts::{Canary, Facts};
use super::{Findings, age};
use crate::vetter::wire::Outcome;

/// A clock that is behind by less is not worth a word.
const BEHIND: u64 = 60_000;

pub(super) fn pause_image(facts: &Facts, findings: &mut Findings) {
    let Ok(status) = &facts.daemon else { return };
    let runtime = status.runtime.clone().unwrap_or_default();
    if runtime.pause_image.is_empty() {
        return findings.failure(
            "pause-image-unknown",
            runtime.pause_image_error,
            "set pauseImage to the runtime's sandbox image (containerd config dump | grep sandbox): no pod starts in enforce mode without",
        );
    }
    let name = &runtime.pause_image;
    let Some(judged) = &facts.pause_image else {
        return findings.note(
            "pause-image-not-judged",
            format!("the pause image {name} could not be judged"),
            "start the vetter, and look again",
        );
    };
    match judged.outcome() {
        Outcome::Permitted => findings.ok("pause-image", format!("the pause image {name} is allowed")),
        Outcome::Denied => findings.failure(
            "pause-image-denied",
            format!("the pause image is denied, so that no pod starts in enforce mode: {}", judged.message),
            "write a policy that allows it (docs/policy.md)",
        ),
        Outcome::Undecided | Outcome::UnknownOutcome => findings.warning(
            "pause-image-undecided",
            format!("the pause image is undecided: {}", judged.message),
            "mend what the message names: while it is undecided no new pod starts in enforce mode",
        ),
    }
}

pub(super) fn registries(facts: &Facts, findings: &mut Findings) {
    let (answer, silent): (Vec<_>, Vec<_>) = facts.registries.iter().partition(|(_, result)| result.is_ok());
    for (registry, result) in silent {
        if let Err(why) = result {
            findings.warning(
                "registry-unreachable",
                format!("{registry}: {why}"),
                "open the way from this node (DNS, proxy, firewall, CA); images there are undecided until proven",
            );
        }
    }
    if !answer.is_empty() {
        let names: Vec<&str> = answer.iter().map(|(name, _)| name.as_str()).collect();
        findings.ok("registries", format!("registries that answer: {}", names.join(", ")));
    }
}

pub(super) fn logins(facts: &Facts, findings: &mut Findings) {
    for trouble in &facts.credentials {
        let found = format!("{}: {}", trouble.source, trouble.why);
        match trouble.of_provider {
            true => findings.warning(
                "credential-provider-unusable",
                found,
                "mend it as the message says (docs/credentials.md): images it is for are vetted with a pull's login only",
            ),
            false => findings.warning(
                "docker-config-unusable",
                found,
                "mend the file, its owner or mode (docs/credentials.md): what is in it is not used",
            ),
        }
    }
    let mut taken = Vec::new();
    for (registry, source, result) in &facts.logins {
        match result {
            Ok(()) => taken.push(format!("{registry} ({source})")),
            Err(why) => findings.warning(
                "registry-login-refused",
                format!("{registry} does not take the login of {source}: {why}"),
                "renew the login: what only it may see is undecided where no pull brought another",
            ),
        }
    }
    if !taken.is_empty() {
        findings.ok("registry-logins", format!("logins that registries take: {}", taken.join(", ")));
    }
}

pub(super) fn clock(facts: &Facts, findings: &mut Findings) {
    if let Some((latest, what)) = &facts.latest
        && latest.saturating_sub(facts.now) > BEHIND
    {
        findings.warning(
            "clock-behind",
            format!("the clock is {} behind {what}", age(latest.saturating_sub(facts.now))),
            "correct the clock: audit records bear wrong times, and certificates of registries may not hold",
        );
    } else if facts.clock_kept == Some(false) {
        findings.note(
            "clock-not-kept",
            "nothing says that the clock is kept in step",
            "run a time service (systemd-timesyncd, chrony)",
        );
    } else {
        findings.ok("clock", "the clock is not behind anything on this node");
    }
}

pub(super) fn canary(facts: &Facts, findings: &mut Findings) {
    match &facts.canary {
        Canary::Refused { image, message } => {
            findings.ok("canary", format!("a create of {image} was refused before the runtime was reached: {message}"));
        }
        Canary::Passed { image, message } => findings.failure(
            "canary-not-refused",
            format!("a create of {image} was not refused by crivet; the answer was: {message}"),
            "what the policies in their folder refuse, the daemon does not: reload it, and look at its mode",
        ),
        Canary::Judged { image, refused: true, message } => findings.note(
            "canary-judged",
            format!("a create of {image} would be refused: {message}; this proves the judgement only, because nothing is enforced"),
            "",
        ),
        Canary::Judged { image, refused: false, .. } => findings.failure(
            "canary-would-pass",
            format!("a create of {image} would not be refused by the running daemon"),
            "what the policies in their folder refuse, the daemon does not: reload it",
        ),
        Canary::NothingToRefuse => findings.failure(
            "canary-nothing-to-refuse",
            "no image would be refused: no policy asks for anything in enforce mode, and unmatched is allow",
            "write a policy (docs/policy.md), or set unmatched: deny",
        ),
        Canary::NotTried(why) => findings.failure(
            "canary-not-tried",
            format!("it could not be tried whether an image is refused: {why}"),
            "mend what the message names",
        ),
    }
}
