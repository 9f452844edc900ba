//! The report for a terminal.

use std::fmt::{self, Display, Write};

use super::model::{Finding, Named, Report};
use super::words::{count, percent, span, thousands};
use crate::audit::printable;

/// Findings shown for each reason; the others are counted.
const SHOWN: usize = 10;
/// Names shown in a list.
const NAMES: usize = 10;

/// The report as text. Whatever stood in the log, it is printable ASCII.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", Shown(report));
    text
}

struct Shown<'a>(&'a Report);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        writeln!(f, "{}", report.verdict.headline)?;
        for line in &report.verdict.because {
            writeln!(f, "  - {}", printable(line))?;
        }
        if !report.verdict.caveats.is_empty() {
            writeln!(f, "\nAlso:")?;
            for line in &report.verdict.caveats {
                writeln!(f, "  - {}", printable(line))?;
            }
        }
        seen(report, f)?;
        for (decision, head) in [("denied", "Denied"), ("undecided", "Could not be decided")] {
            section(report, decision, head, f)?;
        }
        if let Some(other) = &report.other {
            let more = count(other.counts.against(), "decision", "decisions");
            writeln!(f, "\n{more} against more images, not told apart ({})", other.limit)?;
        }
        for (head, empty, names) in [
            ("By namespace", "(none)", &report.namespaces),
            ("By policy", "(none)", &report.policies),
            ("By image", "(none)", &report.images),
        ] {
            list(head, empty, names, f)?;
        }
        logs(report, f)
    }
}

fn seen(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let totals = &report.totals;
    let Some(period) = &report.period else { return Ok(()) };
    let all = totals.decisions();
    writeln!(f, "\nSeen: {} in {}", count(all, "decision", "decisions"), span(period.seconds))?;
    writeln!(f, "  from {} to {}", period.first, period.last)?;
    let modes: Vec<_> =
        report.modes.iter().map(|(mode, times)| format!("{mode} {}", thousands(*times))).collect();
    writeln!(f, "  mode       {}", modes.join(", "))?;
    for (what, times) in
        [("allowed", totals.allowed), ("denied", totals.denied), ("undecided", totals.undecided)]
    {
        writeln!(f, "  {what:<10} {:>12}  {:>7}", thousands(times), percent(times, all))?;
    }
    writeln!(f, "  of which refused {}", thousands(totals.refused))?;
    for set in report.policy_sets.iter().take(3) {
        let decisions = count(set.decisions, "decision", "decisions");
        writeln!(f, "  policies   {} ({decisions}, {} to {})", printable(&set.hash), set.first, set.last)?;
    }
    if report.policy_sets.len() > 3 {
        writeln!(f, "             and {} older policy sets", report.policy_sets.len() - 3)?;
    }
    Ok(())
}

fn section(report: &Report, decision: &str, head: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let reasons: Vec<_> = report.reasons.iter().filter(|reason| reason.decision == decision).collect();
    let findings: u64 = reasons.iter().map(|reason| reason.findings).sum();
    if findings == 0 {
        return Ok(());
    }
    writeln!(f, "\n{head}: {}", count(findings, "finding", "findings"))?;
    for reason in reasons {
        let (all, times) =
            (count(reason.findings, "finding", "findings"), count(reason.count, "time", "times"));
        let settled = match reason.settled {
            0 => String::new(),
            n => format!(", {} settled", thousands(n)),
        };
        writeln!(f, "\n  {} ({}): {all}, {times}{settled}", reason.title, reason.reason)?;
        writeln!(f, "  What to do: {}", reason.what_to_do)?;
        let of = |finding: &&Finding| (finding.decision, finding.reason) == (decision, reason.reason);
        for finding in report.findings.iter().filter(of).take(SHOWN) {
            show(finding, f)?;
        }
        if let Some(more) = reason.findings.checked_sub(SHOWN as u64).filter(|more| *more > 0) {
            writeln!(f, "    ... and {} more: crivet report -o json has all", thousands(more))?;
        }
    }
    Ok(())
}

fn show(finding: &Finding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let settled = if finding.settled { ", settled meanwhile" } else { "" };
    writeln!(f, "    {}{settled}", printable(&finding.image))?;
    let mut facts = Vec::new();
    if !finding.namespace.is_empty() {
        facts.push(format!("namespace {}", printable(&finding.namespace)));
    }
    if !finding.policies.is_empty() {
        facts.push(format!("policy {}", printable(&finding.policies)));
    }
    let kinds: Vec<_> =
        finding.kinds.iter().map(|(kind, times)| format!("{kind} {}", thousands(*times))).collect();
    facts.push(kinds.join(" "));
    if finding.logs > 1 {
        facts.push(format!("in {} logs", finding.logs));
    }
    writeln!(f, "      {}, {} to {}", facts.join(", "), finding.first_seen, finding.last_seen)?;
    writeln!(f, "      {}", printable(&finding.message))
}

fn list(head: &str, empty: &str, names: &[Named], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{head:<40} {:>12} {:>12} {:>12}", "allowed", "denied", "undecided")?;
    for Named { name, counts } in names.iter().take(NAMES) {
        let name = if name.is_empty() { empty.to_owned() } else { printable(name) };
        let numbers = [counts.allowed, counts.denied, counts.undecided].map(thousands);
        writeln!(f, "  {name:<38} {:>12} {:>12} {:>12}", numbers[0], numbers[1], numbers[2])?;
    }
    match names.len().checked_sub(NAMES) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(f, "  ... and {} more", thousands(more as u64)),
    }
}

fn logs(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "\nRead:")?;
    for log in &report.logs {
        let files = count(log.files, "file", "files");
        writeln!(f, "  {}: {files}, {}", printable(&log.log), count(log.lines, "line", "lines"))?;
    }
    Ok(())
}
