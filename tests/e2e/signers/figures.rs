//! What asking took, printed past the test runner's capture: the figures are wanted of a run that passes, too.

use super::asked::Question;
use crate::support::measured::Ended;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

/// One answer, and how many requests the registry had for it.
pub struct Asked {
    pub ended: Ended,
    pub requests: usize,
}

impl Asked {
    pub fn yes(&self) -> bool {
        self.ended.code == Some(0)
    }

    fn cell(&self) -> String {
        let said = if self.yes() { "yes" } else { "no" };
        let Self { ended, requests } = self;
        format!("{said:<3} {:>4} ms {:>3} MiB {requests:>2} req", ended.took.as_millis(), ended.peak / 1024)
    }
}

/// Of one program over many questions.
#[derive(Default)]
struct Sum {
    took: Duration,
    /// KiB, the most of any.
    peak: u64,
    requests: usize,
}

impl Sum {
    fn add(&mut self, asked: &Asked) {
        self.took += asked.ended.took;
        self.peak = self.peak.max(asked.ended.peak);
        self.requests += asked.requests;
    }

    fn cell(&self) -> String {
        let took = self.took.as_secs_f64();
        format!("{took:>6.1} s {:>3} MiB at most, {:>4} req", self.peak / 1024, self.requests)
    }
}

#[derive(Default)]
pub struct Figures {
    lines: Vec<String>,
    count: usize,
    cosign: Sum,
    crivet: Sum,
    /// By format, of those that both say yes to: how many requests each has made at least and at most.
    formats: BTreeMap<&'static str, [(usize, usize); 2]>,
}

impl Figures {
    pub fn add(&mut self, question: &Question<'_>, cosign: &Asked, crivet: &Asked, why: &str) {
        let line = format!("{:<52} {:<27} {:<27} {why}", question.name, cosign.cell(), crivet.cell());
        self.lines.push(line.trim_end().to_owned());
        self.count += 1;
        self.cosign.add(cosign);
        self.crivet.add(crivet);
        if let Some(format) = format_of(question).filter(|_| cosign.yes() && crivet.yes()) {
            let ranges = self.formats.entry(format).or_insert([(usize::MAX, 0); 2]);
            for (range, asked) in ranges.iter_mut().zip([cosign, crivet]) {
                *range = (range.0.min(asked.requests), range.1.max(asked.requests));
            }
        }
    }

    pub fn print(&self, of: &str) {
        let mut text = format!("signers: {of}: wall time, peak memory, requests\n");
        text += &format!("{:<52} {:<27} crivet\n", "", "cosign");
        for line in &self.lines {
            text += &format!("{line}\n");
        }
        let (cosign, crivet) = (self.cosign.cell(), self.crivet.cell());
        text += &format!("signers: {} questions: cosign {cosign}; crivet {crivet}\n", self.count);
        for (format, [cosign, crivet]) in &self.formats {
            let range = |(least, most): &(usize, usize)| match least == most {
                true => least.to_string(),
                false => format!("{least} to {most}"),
            };
            text +=
                &format!("signers: requests, {format}: cosign {}, crivet {}\n", range(cosign), range(crivet));
        }
        let _ = write!(std::io::stderr(), "{text}");
    }
}

/// Of the cases that differ in nothing but signer and services: one signature or attestation on one image.
fn format_of(question: &Question<'_>) -> Option<&'static str> {
    let name = question.name.as_str();
    let special =
        ["index-", "platform-", "recursive-", "elsewhere-", "tag-prefix-", "experimental-", "both-"];
    let several = name.contains(", ") || name.contains(": ");
    if several || special.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let bundle = question.case.stored.iter().any(|stored| stored.file == "bundle.json");
    Some(match (question.attestation.is_some(), bundle) {
        (false, false) => "signature by tag",
        (false, true) => "signature in a bundle",
        (true, false) => "attestation by tag",
        (true, true) => "attestation in a bundle",
    })
}
