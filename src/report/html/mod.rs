//! The report as one page for a browser: no scripts, nothing from elsewhere, and every text of a log escaped.

mod chart;
mod escape;
mod tables;

use std::fmt::{self, Display};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use self::escape::Escaped as E;
use super::model::{Answer, Report, Verdict};
use super::words::{count, minute_of, percent, span, thousands};

const STYLE: &str = include_str!("style.css");

/// The report as one HTML document.
pub fn render(report: &Report) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a Report);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        // Nothing may be loaded or run, and no style but this one: a second fence behind the escaping.
        let style = STANDARD.encode(Sha256::digest(STYLE));
        writeln!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{style}'; \
             base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>{} - crivet report</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            E(&report.verdict.headline)
        )?;
        header(report, f)?;
        writeln!(f, "<main>")?;
        verdict(&report.verdict, f)?;
        tiles(report, f)?;
        chart::section(report, f)?;
        tables::what_to_do(report, f)?;
        tables::findings(report, "denied", f)?;
        tables::findings(report, "undecided", f)?;
        tables::names(report, f)?;
        tables::logs(report, f)?;
        writeln!(
            f,
            "</main>\n<footer><p>Made by crivet {} at {}. All findings, each with its message: <code>crivet report -o json</code>.</p></footer>\n</body>\n</html>",
            report.crivet_version,
            E(&report.generated)
        )
    }
}

fn header(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "<header><p class=\"brand\">crivet report</p><p class=\"scope\">")?;
    match &report.period {
        Some(period) => write!(
            f,
            "Decisions from <time datetime=\"{}\">{}</time> to <time datetime=\"{}\">{}</time> UTC",
            E(&period.first),
            E(&minute_of(&period.first)),
            E(&period.last),
            E(&minute_of(&period.last))
        )?,
        None => write!(f, "No decisions")?,
    }
    match report.logs.as_slice() {
        [log] => write!(f, ", from {}", E(&log.log))?,
        logs => write!(f, ", from {}", count(logs.len() as u64, "log", "logs"))?,
    }
    if let Some(namespace) = &report.asked.namespace {
        write!(f, ", namespace {} only", E(namespace))?;
    }
    for (word, time) in [("since", &report.asked.since), ("until", &report.asked.until)] {
        if let Some(time) = time {
            write!(f, ", asked for {word} {}", E(&minute_of(time)))?;
        }
    }
    writeln!(f, "</p></header>")
}

fn verdict(verdict: &Verdict, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (class, mark) = match verdict.answer {
        Answer::Yes => ("yes", "<path d=\"M14 25l7 7 14-15\"/>"),
        Answer::No => ("no", "<path d=\"M16 16l16 16M32 16L16 32\"/>"),
        Answer::NotEnoughSeen => ("wait", "<path d=\"M24 14v11l7 5\"/>"),
    };
    writeln!(
        f,
        "<section class=\"verdict {class}\" aria-labelledby=\"verdict\"><svg viewBox=\"0 0 48 48\" aria-hidden=\"true\">\
         <circle cx=\"24\" cy=\"24\" r=\"20\"/>{mark}</svg><div><h1 id=\"verdict\">{}</h1><ul>",
        E(&verdict.headline)
    )?;
    for line in &verdict.because {
        writeln!(f, "<li>{}</li>", E(&sentence(line)))?;
    }
    writeln!(f, "</ul>")?;
    if !verdict.caveats.is_empty() {
        writeln!(f, "<p class=\"also\">Also:</p><ul class=\"also\">")?;
        for line in &verdict.caveats {
            writeln!(f, "<li>{}</li>", E(&sentence(line)))?;
        }
        writeln!(f, "</ul>")?;
    }
    writeln!(f, "</div></section>")
}

/// With a capital, where a line begins with a word and not with a path.
fn sentence(line: &str) -> String {
    let mut chars = line.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn tiles(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let totals = &report.totals;
    let all = totals.decisions();
    let open = |decision: &str| {
        report.reasons.iter().filter(|r| r.decision == decision).map(|r| r.findings - r.settled).sum::<u64>()
    };
    let period = report.period.as_ref().map_or_else(|| "-".to_owned(), |period| span(period.seconds));
    let modes: Vec<_> =
        report.modes.iter().map(|(mode, times)| format!("{} in {mode} mode", thousands(*times))).collect();
    writeln!(f, "<section class=\"tiles\" aria-label=\"In figures\">")?;
    let tiles = [
        ("", "Decisions", thousands(all), modes.join(", ")),
        ("allowed", "Allowed", percent(totals.allowed, all), thousands(totals.allowed)),
        ("denied", "Denied", thousands(totals.denied), findings(open("denied"))),
        ("undecided", "Undecided", thousands(totals.undecided), findings(open("undecided"))),
        ("", "Calls refused", thousands(totals.refused), "the others were forwarded".to_owned()),
        ("", "Time covered", period, count(report.policy_sets.len() as u64, "policy set", "policy sets")),
    ];
    for (class, title, number, note) in tiles {
        writeln!(
            f,
            "<div class=\"tile {class}\"><h2>{title}</h2><p class=\"number\">{}</p><p class=\"note\">{}</p></div>",
            E(&number),
            E(&note)
        )?;
    }
    writeln!(f, "</section>")
}

fn findings(open: u64) -> String {
    match open {
        0 => "nothing open".to_owned(),
        open => format!("{} still open", count(open, "finding", "findings")),
    }
}
