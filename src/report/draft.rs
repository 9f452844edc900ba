//! A first policy, from what audit records say was run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::Reads;
use super::line::{Line, NotRead};
use super::words::{count, minute_of, moment};
use crate::audit::{Decision, printable};
use crate::image::{ImageName, Reference};
use crate::limits::{DRAFT_POLICIES, DRAFT_REPOSITORIES};
use crate::policy::comparable_registry;

/// Most names that a comment lists.
const LISTED: usize = 5;
/// Longest message that a comment repeats, characters.
const MESSAGE: usize = 300;

/// Signers whose images are in many clusters, and the policy that ships for them.
const KNOWN: [(&str, &str); 4] = [
    ("registry.k8s.io/", "kubernetes-release.yaml"),
    ("gcr.io/distroless/", "distroless.yaml"),
    ("cgr.dev/chainguard/", "chainguard.yaml"),
    ("docker.io/chainguard/", "chainguard.yaml"),
];

/// Adds up what was seen of each repository.
#[derive(Default)]
pub struct Drafter {
    logs: Vec<String>,
    errors: Vec<String>,
    decisions: u64,
    unreadable: u64,
    other_version: u64,
    lost: u64,
    span: Option<(u64, u64)>,
    repositories: BTreeMap<String, Seen>,
    /// Decisions about images that found no room, or have no name.
    crowded: u64,
    nameless: u64,
}

/// What was seen of a repository.
#[derive(Default)]
struct Seen {
    /// Decisions that no policy was asked for.
    uncovered: u64,
    /// Decisions that policies were asked for and held.
    held: u64,
    /// Those that did not hold, by policies and reason: how often, and a message.
    failed: BTreeMap<(String, &'static str), (u64, String)>,
    suffixes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    span: (u64, u64),
}

impl Reads for Drafter {
    fn log(&mut self, name: &str) {
        self.logs.push(printable(name));
    }

    fn file(&mut self) {}

    fn error(&mut self, error: String) {
        self.errors.push(printable(&error));
    }

    fn too_long(&mut self) {
        self.unreadable += 1;
    }

    fn line(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match Line::read(line) {
            Ok(line) if line.idle => {}
            Ok(line) => self.add(&line),
            Err(NotRead::OtherVersion) => self.other_version += 1,
            Err(NotRead::NoRecord) => self.unreadable += 1,
        }
    }
}

impl Drafter {
    /// Whether any log could be read.
    ///
    /// # Errors
    /// Why none could, one line each.
    pub fn read_anything(&self) -> Result<(), Vec<String>> {
        if self.decisions > 0 || self.errors.is_empty() { Ok(()) } else { Err(self.errors.clone()) }
    }

    fn add(&mut self, line: &Line<'_>) {
        self.decisions = self.decisions.saturating_add(line.count);
        self.lost = self.lost.saturating_add(line.lost_before);
        join(&mut self.span, line);
        let Ok(ImageName::Reference(reference)) = ImageName::parse(&line.image) else {
            self.nameless = self.nameless.saturating_add(line.count);
            return;
        };
        let name = format!("{}/{}", comparable_registry(reference.registry()), reference.repository());
        if self.repositories.len() >= DRAFT_REPOSITORIES && !self.repositories.contains_key(&name) {
            self.crowded = self.crowded.saturating_add(line.count);
            return;
        }
        let seen = self
            .repositories
            .entry(name)
            .or_insert_with(|| Seen { span: (line.first, line.last), ..Seen::default() });
        seen.span = (seen.span.0.min(line.first), seen.span.1.max(line.last));
        note(&mut seen.suffixes, &suffix(&reference));
        if !line.namespace.is_empty() {
            note(&mut seen.namespaces, &line.namespace);
        }
        match (line.policies.is_empty(), line.decision) {
            (true, _) => seen.uncovered = seen.uncovered.saturating_add(line.count),
            (false, Decision::Allowed) => seen.held = seen.held.saturating_add(line.count),
            (false, _) => {
                let against = line.policies.iter().filter(|(_, outcome)| *outcome != Decision::Allowed);
                let names: BTreeSet<String> = against.map(|(name, _)| printable(name)).collect();
                let reason = line.reason.map_or("no reason by name", |reason| reason.as_str());
                let names = names.into_iter().take(LISTED).collect::<Vec<_>>().join(", ");
                if seen.failed.len() < LISTED || seen.failed.contains_key(&(names.clone(), reason)) {
                    let (times, message) = seen.failed.entry((names, reason)).or_default();
                    *times = times.saturating_add(line.count);
                    *message = printable(&line.message).chars().take(MESSAGE).collect();
                }
            }
        }
    }

    /// The draft: YAML with comments that say what it rests on.
    pub fn draft(&self) -> String {
        let mut groups: BTreeMap<String, Vec<(&str, &Seen)>> = BTreeMap::new();
        for (name, seen) in self.repositories.iter().filter(|(_, seen)| seen.uncovered > 0) {
            groups.entry(group(name)).or_default().push((name, seen));
        }
        let mut out = self.head(groups.len());
        let mut names = BTreeSet::new();
        for (group, repositories) in groups.iter().take(DRAFT_POLICIES) {
            policy(&mut out, unique(group, &mut names), repositories);
        }
        if groups.len() > DRAFT_POLICIES {
            let more = groups.len() - DRAFT_POLICIES;
            comment(
                &mut out,
                &format!(
                    "{more} more groups were left out (limit DRAFT_POLICIES): draft again when these are covered."
                ),
            );
        }
        self.covered(&mut out);
        out
    }

    fn head(&self, groups: usize) -> String {
        let mut out = String::new();
        let (first, last) = self.span.unwrap_or_default();
        comment(&mut out, &format!("A draft by crivet policy draft, from {}.", self.logs.join(", ")));
        comment(
            &mut out,
            &match self.decisions {
                0 => "No decision is recorded there: there is nothing to draft from.".to_owned(),
                some => format!(
                    "It rests on {}, {} to {} UTC, about {}.",
                    count(some, "decision", "decisions"),
                    minute_of(&moment(first)),
                    minute_of(&moment(last)),
                    count(self.repositories.len() as u64, "repository", "repositories")
                ),
            },
        );
        for (number, what) in [
            (self.nameless, "decisions about images without a name, which only ** covers: not in the draft"),
            (
                self.crowded,
                "decisions about more repositories than are kept (limit DRAFT_REPOSITORIES): not in the draft",
            ),
            (self.lost, "decisions that could not be written to the log"),
            (self.unreadable, "lines that are no records"),
            (self.other_version, "records of another crivet's schema"),
        ] {
            if number > 0 {
                comment(&mut out, &format!("Left out: {number} {what}."));
            }
        }
        self.errors.iter().for_each(|error| comment(&mut out, &format!("Not read: {error}")));
        out.push_str("#\n");
        if groups > 0 {
            for line in [
                "Read it before you use it. The log says which images ran, not who signed them: where no policy covers an image",
                "nobody has looked. So each policy below accepts what was seen UNSIGNED, and is one to replace: write requirements",
                "with your signers in place of insecureAcceptAnything (docs/policy.md). A policy with a signer and mode: audit",
                "records whom the signatures it finds are by; crivet verify IMAGE shows it at once.",
                "Put it into policyDir when crivet policy check is content, and set unmatched: deny when all that runs is covered.",
            ] {
                comment(&mut out, line);
            }
        } else {
            comment(&mut out, "Every image that was seen is covered by a policy: there is nothing to draft.");
        }
        out
    }

    /// What policies cover already, and what they said.
    fn covered(&self, out: &mut String) {
        let covered: Vec<_> =
            self.repositories.iter().filter(|(_, seen)| seen.held > 0 || !seen.failed.is_empty()).collect();
        if covered.is_empty() {
            return;
        }
        out.push('\n');
        comment(out, "Covered by policies already:");
        for (name, seen) in covered {
            comment(out, &format!("  {name}: held {}", times(seen.held)));
            for ((policies, reason), (often, message)) in &seen.failed {
                comment(
                    out,
                    &format!("    did not hold {} ({policies}: {reason}): {message}", times(*often)),
                );
            }
        }
    }
}

/// One policy for the repositories of a group.
fn policy(out: &mut String, name: String, repositories: &[(&str, &Seen)]) {
    out.push('\n');
    for (repository, seen) in repositories {
        let list = |all: &BTreeSet<String>| {
            let more = if all.len() > LISTED { ", …" } else { "" };
            all.iter().take(LISTED).map(|text| printable(text)).collect::<Vec<_>>().join(", ") + more
        };
        let namespaces = match seen.namespaces.is_empty() {
            true => "in no namespace".to_owned(),
            false => format!("in {}", list(&seen.namespaces)),
        };
        comment(
            out,
            &format!(
                "{repository} ({}): seen {} {namespaces}, last {} UTC",
                list(&seen.suffixes),
                times(seen.uncovered),
                minute_of(&moment(seen.span.1))
            ),
        );
    }
    let first = repositories.first().map_or("", |(repository, _)| *repository);
    if let Some((_, file)) = KNOWN.iter().find(|(prefix, _)| first.starts_with(prefix)) {
        comment(
            out,
            &format!("Who signs these is known: take the policy {file} that ships with crivet instead."),
        );
    }
    if let (true, Some(shared)) = (repositories.len() > 1, shared(repositories)) {
        comment(
            out,
            &format!("If one signer signs them all, and nothing else is there: images: [\"{shared}/**\"]."),
        );
    }
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "---\napiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata:\n  name: {name}\nspec:\n  images:\n"
    );
    for (repository, _) in repositories {
        let _ = writeln!(out, "  - \"{repository}\"");
    }
    out.push_str("  # UNSAFE: anybody who can push there decides what runs. Replace it by requirements.\n");
    out.push_str("  insecureAcceptAnything:\n    reason: drafted from the audit log; nobody has said yet who signs these\n");
}

fn comment(out: &mut String, line: &str) {
    let _ = writeln!(out, "# {line}");
}

fn times(number: u64) -> String {
    count(number, "time", "times")
}

fn join(span: &mut Option<(u64, u64)>, line: &Line<'_>) {
    let (first, last) = span.unwrap_or((line.first, line.last));
    *span = Some((first.min(line.first), last.max(line.last)));
}

/// Remembers a text, as long as there are few: one more than is listed says that there are more.
fn note(all: &mut BTreeSet<String>, text: &str) {
    if all.len() <= LISTED {
        all.insert(text.to_owned());
    }
}

fn suffix(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(_), _) => "by digest".to_owned(),
        (None, tag) => tag.unwrap_or_default().to_owned(),
    }
}

/// Repositories of one registry and, where there is more than one segment, of one first segment belong together.
fn group(repository: &str) -> String {
    let parts: Vec<&str> = repository.split('/').collect();
    match parts.as_slice() {
        [registry, first, _, ..] => format!("{registry}/{first}"),
        _ => repository.to_owned(),
    }
}

fn shared<'a>(repositories: &[(&'a str, &Seen)]) -> Option<&'a str> {
    let (first, _) = repositories.first()?;
    let mut slashes = first.match_indices('/').map(|(at, _)| at);
    first.get(..slashes.nth(1)?)
}

/// A name for a policy, as Kubernetes has them.
fn unique(group: &str, taken: &mut BTreeSet<String>) -> String {
    let plain: String = group
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .take(200)
        .collect();
    let base = format!("draft-{}", plain.trim_matches(['-', '.']));
    let mut name = base.clone();
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}
