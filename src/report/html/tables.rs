//! Tables: what to do, findings, names, and what was read. The first rows of each; the rest is counted.

use std::fmt;

use super::escape::Escaped as E;
use crate::report::model::{Finding, Log, Named, Report};
use crate::report::words::{count, minute_of, span, thousands};

/// Rows of the findings that are shown.
const FINDINGS: usize = 100;
/// Rows of other tables that are shown.
const ROWS: usize = 25;

/// What to do, by reason.
pub(super) fn what_to_do(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if report.reasons.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "<section aria-labelledby=\"what-to-do\"><h2 id=\"what-to-do\">What to do</h2><table class=\"reasons\"><thead><tr>\
         <th scope=\"col\">Reason</th><th scope=\"col\">What to do</th><th scope=\"col\" class=\"n\">Open</th>\
         <th scope=\"col\" class=\"n\">Settled</th><th scope=\"col\" class=\"n\">Decisions</th></tr></thead><tbody>"
    )?;
    for reason in &report.reasons {
        writeln!(
            f,
            "<tr><th scope=\"row\"><span class=\"tag {}\">{}</span> {}</th><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            reason.decision,
            reason.decision,
            E(reason.title),
            E(reason.what_to_do),
            thousands(reason.findings - reason.settled),
            thousands(reason.settled),
            thousands(reason.count)
        )?;
    }
    writeln!(f, "</tbody></table></section>")
}

/// The findings of one decision, as many as a page can show.
pub(super) fn findings(report: &Report, decision: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let all: Vec<_> = report.findings.iter().filter(|finding| finding.decision == decision).collect();
    if all.is_empty() {
        return Ok(());
    }
    let (head, note) = match decision {
        "denied" => ("Denied", "The policies do not hold, and there is evidence for it."),
        _ => (
            "Could not be decided",
            "Nothing is known against these images. Enforce mode refuses them until it can be told, and the kubelet tries again.",
        ),
    };
    writeln!(
        f,
        "<section aria-labelledby=\"{decision}\"><h2 id=\"{decision}\">{head}: {}</h2><p>{note}</p><table class=\"findings\"><thead><tr>\
         <th scope=\"col\">Image</th><th scope=\"col\">Namespace</th><th scope=\"col\">Reason</th><th scope=\"col\" class=\"n\">Decisions</th>\
         <th scope=\"col\">First seen</th><th scope=\"col\">Last seen</th></tr></thead><tbody>",
        count(all.len() as u64, "finding", "findings")
    )?;
    for finding in all.iter().take(FINDINGS) {
        row(report, finding, f)?;
    }
    writeln!(f, "</tbody></table>")?;
    if let Some(more) = all.len().checked_sub(FINDINGS).filter(|more| *more > 0) {
        let decisions = all.iter().skip(FINDINGS).fold(0_u64, |sum, f| sum.saturating_add(f.count));
        writeln!(
            f,
            "<p class=\"more\">and {} with {}. All of them: <code>crivet report -o json</code></p>",
            count(more as u64, "more finding", "more findings"),
            count(decisions, "decision", "decisions")
        )?;
    }
    if let Some(other) = report.other.as_ref().filter(|_| decision == "denied") {
        writeln!(
            f,
            "<p class=\"more\">{} against more images are not told apart (limit {}).</p>",
            count(other.counts.against(), "decision", "decisions"),
            E(other.limit)
        )?;
    }
    writeln!(f, "</section>")
}

fn row(report: &Report, finding: &Finding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let reason = report
        .reasons
        .iter()
        .find(|reason| (reason.decision, reason.reason) == (finding.decision, finding.reason));
    let title = reason.map_or(finding.reason, |reason| reason.title);
    write!(f, "<tr{}>", if finding.settled { " class=\"settled\"" } else { "" })?;
    write!(f, "<th scope=\"row\"><code>{}</code>", Breakable(&finding.image))?;
    if !finding.message.is_empty() {
        write!(f, "<details><summary>Message</summary><p>{}</p>", E(&finding.message))?;
        if !finding.digest.is_empty() {
            write!(f, "<p><code>{}</code></p>", E(&finding.digest))?;
        }
        write!(f, "</details>")?;
    }
    let namespace = if finding.namespace.is_empty() { "(none)" } else { &finding.namespace };
    write!(f, "</th><td>{}</td><td>{}", E(namespace), E(title))?;
    if !finding.policies.is_empty() {
        write!(f, "<br><span class=\"quiet\">policy {}</span>", E(&finding.policies))?;
    }
    if finding.settled {
        write!(f, "<br><span class=\"tag\">settled meanwhile</span>")?;
    }
    if finding.logs > 1 {
        write!(f, "<br><span class=\"quiet\">in {}</span>", count(finding.logs, "log", "logs"))?;
    }
    writeln!(
        f,
        "</td><td class=\"n\">{}</td><td class=\"t\">{}</td><td class=\"t\">{}</td></tr>",
        thousands(finding.count),
        E(&minute_of(&finding.first_seen)),
        E(&minute_of(&finding.last_seen))
    )
}

/// A name that may be broken after each slash, so that long ones do not push the table apart.
struct Breakable<'a>(&'a str);

impl fmt::Display for Breakable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split('/').enumerate() {
            if at > 0 {
                f.write_str("/<wbr>")?;
            }
            write!(f, "{}", E(part))?;
        }
        Ok(())
    }
}

/// By namespace, policy and image.
pub(super) fn names(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (id, head, one, names) in [
        ("namespaces", "All namespaces", "Namespace", &report.namespaces),
        ("policies", "All policies", "Policy", &report.policies),
        ("images", "Images that were not always allowed", "Image", &report.images),
    ] {
        if names.is_empty() {
            continue;
        }
        writeln!(
            f,
            "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{head}</h2><table><thead><tr><th scope=\"col\">{one}</th>\
             <th scope=\"col\" class=\"n\">Allowed</th><th scope=\"col\" class=\"n\">Denied</th><th scope=\"col\" class=\"n\">Undecided</th></tr></thead><tbody>"
        )?;
        for Named { name, counts } in names.iter().take(ROWS) {
            let name = if name.is_empty() { "(none)" } else { name };
            let [allowed, denied, undecided] =
                [counts.allowed, counts.denied, counts.undecided].map(thousands);
            writeln!(
                f,
                "<tr><th scope=\"row\"><code>{}</code></th><td class=\"n\">{allowed}</td><td class=\"n\">{denied}</td><td class=\"n\">{undecided}</td></tr>",
                Breakable(name)
            )?;
        }
        writeln!(f, "</tbody></table>")?;
        if let Some(more) = names.len().checked_sub(ROWS).filter(|more| *more > 0) {
            writeln!(f, "<p class=\"more\">and {} more</p>", thousands(more as u64))?;
        }
        writeln!(f, "</section>")?;
    }
    Ok(())
}

/// What was read, and what was not.
pub(super) fn logs(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "<section aria-labelledby=\"logs\"><h2 id=\"logs\">Logs read</h2><table><thead><tr><th scope=\"col\">Log</th>\
         <th scope=\"col\" class=\"n\">Files</th><th scope=\"col\" class=\"n\">Lines</th><th scope=\"col\" class=\"n\">Allowed</th>\
         <th scope=\"col\" class=\"n\">Denied</th><th scope=\"col\" class=\"n\">Undecided</th><th scope=\"col\" class=\"n\">Lost</th>\
         <th scope=\"col\" class=\"n\">Unreadable</th><th scope=\"col\">Covers</th></tr></thead><tbody>"
    )?;
    for log in report.logs.iter().take(ROWS) {
        let Log { files, lines, counts, lost, unreadable, other_version, .. } = log;
        let covers = log.period.as_ref().map_or_else(|| "-".to_owned(), |period| span(period.seconds));
        write!(f, "<tr><th scope=\"row\"><code>{}</code></th>", Breakable(&log.log))?;
        let unreadable = unreadable.saturating_add(*other_version);
        for number in [*files, *lines, counts.allowed, counts.denied, counts.undecided, *lost, unreadable] {
            write!(f, "<td class=\"n\">{}</td>", thousands(number))?;
        }
        writeln!(f, "<td>{}</td></tr>", E(&covers))?;
    }
    writeln!(f, "</tbody></table>")?;
    if let Some(more) = report.logs.len().checked_sub(ROWS).filter(|more| *more > 0) {
        writeln!(f, "<p class=\"more\">and {} more</p>", thousands(more as u64))?;
    }
    writeln!(f, "</section>")
}
