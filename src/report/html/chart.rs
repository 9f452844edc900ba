//! Charts as inline SVG, each with its numbers as a table beneath.

use std::fmt;

use super::escape::Escaped as E;
use crate::report::model::{Bar, Counts, Named, Report};
use crate::report::words::{minute_of, span, thousands};

/// Rows of a bar chart by name.
const NAMES: usize = 10;

const WIDTH: u64 = 960;
const HEIGHT: u64 = 220;
const LEFT: u64 = 64;
const BOTTOM: u64 = 28;
const TOP: u64 = 12;

/// All charts; nothing where nothing was decided.
pub(super) fn section(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if report.totals.decisions() == 0 {
        return Ok(());
    }
    writeln!(f, "<section aria-labelledby=\"over-time\"><h2 id=\"over-time\">Over time</h2>")?;
    writeln!(
        f,
        "<ul class=\"legend\"><li class=\"denied\">Denied</li><li class=\"undecided\">Could not be decided</li><li class=\"allowed\">Allowed</li></ul>\
         <svg class=\"defs\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs><pattern id=\"hatch\" width=\"6\" height=\"6\" \
         patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect class=\"ground\" width=\"6\" height=\"6\"/>\
         <rect class=\"line\" width=\"2\" height=\"6\"/></pattern></defs></svg>"
    )?;
    if report.totals.against() > 0 {
        let name = "Denied and undecided";
        timeline(report, name, &[("denied", |c| c.denied), ("undecided", |c| c.undecided)], f)?;
    }
    let all: [Part; 3] =
        [("denied", |c| c.denied), ("undecided", |c| c.undecided), ("allowed", |c| c.allowed)];
    timeline(report, "All decisions", &all, f)?;
    numbers(report, f)?;
    writeln!(f, "</section>")?;
    if report.totals.against() == 0 {
        return Ok(());
    }
    writeln!(f, "<div class=\"pair\">")?;
    let reasons = report.reasons.iter().map(|reason| {
        let count = reason.count;
        let counts = match reason.decision {
            "denied" => Counts { denied: count, ..Counts::default() },
            _ => Counts { undecided: count, ..Counts::default() },
        };
        (reason.title.to_owned(), counts)
    });
    by_name(["by-reason", "By reason", "Reason"], reasons.collect(), f)?;
    let against = report.namespaces.iter().filter(|namespace| namespace.counts.against() > 0);
    let namespaces = against.map(|Named { name, counts }| {
        (if name.is_empty() { "(none)".to_owned() } else { name.clone() }, *counts)
    });
    by_name(["by-namespace", "By namespace", "Namespace"], namespaces.collect(), f)?;
    writeln!(f, "</div>")
}

/// A class, and the count it stands for.
type Part = (&'static str, fn(&Counts) -> u64);

fn timeline(report: &Report, name: &str, parts: &[Part], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let bars = &report.timeline.bars;
    let total = |bar: &Bar| parts.iter().fold(0_u64, |sum, (_, of)| sum.saturating_add(of(&bar.counts)));
    let most = bars.iter().map(total).max().unwrap_or_default();
    let top = round_up(most);
    let step = tenths(WIDTH - LEFT, bars.len().max(1) as u64, 1);
    writeln!(
        f,
        "<figure><figcaption>{name}, by {}</figcaption><svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{name} over time; the numbers are in the table below\">",
        span(report.timeline.bar_seconds)
    )?;
    let height = HEIGHT - BOTTOM - TOP;
    for quarter in [0, 2, 4] {
        let y = TOP + height - height * quarter / 4;
        let label = thousands((u128::from(top) * u128::from(quarter) / 4) as u64);
        writeln!(
            f,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8,
            y + 4
        )?;
    }
    for (at, bar) in (0_u64..).zip(bars) {
        let x = LEFT * 10 + at * step;
        if total(bar) > 0 {
            write!(f, "<g><title>{}: {}</title>", E(&minute_of(&bar.start)), said(&bar.counts))?;
            let mut base = (TOP + height) * 10;
            for (class, of) in parts {
                // Something that is there is seen.
                let tall = match of(&bar.counts) {
                    0 => continue,
                    count => tenths(height, top, count).max(10),
                };
                base = base.saturating_sub(tall);
                // A gap between bars, while there is room for one.
                let wide = if step > 30 { step - 10 } else { step };
                write!(
                    f,
                    "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
                    Tenths(x),
                    Tenths(base),
                    Tenths(wide),
                    Tenths(tall)
                )?;
            }
            writeln!(f, "</g>")?;
        }
    }
    let every = bars.len().div_ceil(6).max(1);
    for (at, bar) in bars.iter().enumerate().step_by(every) {
        let day = report.timeline.bar_seconds >= 86_400;
        let (label, x) = (minute_of(&bar.start), LEFT * 10 + at as u64 * step);
        let label = if day { label.get(..10) } else { label.get(5..) }.unwrap_or_default();
        writeln!(f, "<text x=\"{}\" y=\"{}\">{}</text>", Tenths(x), HEIGHT - 8, E(label))?;
    }
    writeln!(f, "</svg></figure>")
}

fn said(counts: &Counts) -> String {
    format!(
        "{} denied, {} undecided, {} allowed",
        thousands(counts.denied),
        thousands(counts.undecided),
        thousands(counts.allowed)
    )
}

/// The numbers of the charts, for those who do not see them.
fn numbers(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "<details><summary>The numbers</summary><table><thead><tr><th scope=\"col\">From (UTC)</th><th scope=\"col\" class=\"n\">Denied</th>\
         <th scope=\"col\" class=\"n\">Undecided</th><th scope=\"col\" class=\"n\">Allowed</th></tr></thead><tbody>"
    )?;
    for Bar { start, counts } in report.timeline.bars.iter().filter(|bar| bar.counts.decisions() > 0) {
        let [denied, undecided, allowed] = [counts.denied, counts.undecided, counts.allowed].map(thousands);
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{denied}</td><td class=\"n\">{undecided}</td><td class=\"n\">{allowed}</td></tr>",
            E(&minute_of(start))
        )?;
    }
    writeln!(f, "</tbody></table></details>")
}

fn by_name(
    [id, head, one]: [&str; 3],
    rows: Vec<(String, Counts)>,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let most = rows.iter().map(|(_, counts)| counts.against()).max().unwrap_or_default();
    writeln!(
        f,
        "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{head}</h2><table class=\"bars\"><thead><tr><th scope=\"col\">{one}</th>\
         <th scope=\"col\"><span class=\"hidden\">Share</span></th><th scope=\"col\" class=\"n\">Decisions</th></tr></thead><tbody>"
    )?;
    for (name, counts) in rows.iter().take(NAMES) {
        let [denied, undecided] = [counts.denied, counts.undecided]
            .map(|count| tenths(200, most, count).max(u64::from(count > 0) * 20));
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td><svg viewBox=\"0 0 220 14\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"denied\" width=\"{}\" height=\"14\"/><rect class=\"undecided\" x=\"{}\" width=\"{}\" height=\"14\"/></svg></td>\
             <td class=\"n\">{}</td></tr>",
            E(name),
            Tenths(denied),
            Tenths(denied),
            Tenths(undecided),
            thousands(counts.against())
        )?;
    }
    writeln!(f, "</tbody></table>")?;
    if let Some(more) = rows.len().checked_sub(NAMES).filter(|more| *more > 0) {
        writeln!(f, "<p class=\"more\">and {} more</p>", thousands(more as u64))?;
    }
    writeln!(f, "</section>")
}

/// `whole * part / parts`, in tenths of a unit: positions without floating point.
fn tenths(whole: u64, parts: u64, part: u64) -> u64 {
    u64::try_from(u128::from(whole) * 10 * u128::from(part) / u128::from(parts.max(1))).unwrap_or(u64::MAX)
}

/// Tenths of a unit as SVG writes them.
struct Tenths(u64);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

/// The next of 4, 8, 12, 20, 40, 80, 120, 200 and so on: a scale that halves evenly.
fn round_up(number: u64) -> u64 {
    let mut unit = 4_u64;
    loop {
        for factor in [1, 2, 3, 5] {
            let top = unit.saturating_mul(factor);
            if top >= number || top == u64::MAX {
                return top;
            }
        }
        unit = unit.saturating_mul(10);
    }
}
