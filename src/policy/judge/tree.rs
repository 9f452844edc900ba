//! What came of requirements together: all, any, and at least so many by different signers.

use std::collections::BTreeSet;

use super::words::one_of;
use super::{Case, Found, Rank, Short, Shortfall, Verifies};
use crate::image::Digest;
use crate::limits;
use crate::policy::model::Need;
use crate::verify::{Signer, Verified};

/// By what a signer is known. Two that share one of these are one: a key that is written twice, one that is also a
/// certificate's, and whoever has several certificates in one name count once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Key(Digest),
    Name(String),
}

/// One way in which something holds: all whom it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way(BTreeSet<Mark>);

impl Way {
    fn and(&self, other: &Way) -> Way {
        Way(self.0.union(&other.0).cloned().collect())
    }

    fn shares_with(&self, other: &Way) -> bool {
        !self.0.is_disjoint(&other.0)
    }
}

/// The ways in which something holds, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Ways {
    all: BTreeSet<Way>,
    /// There may be more: [`limits::POLICY_WAYS`], or [`limits::POLICY_SEARCH`].
    cut: bool,
}

impl Ways {
    /// Of a requirement that each of these satisfies by itself.
    pub fn of(verified: &[Verified]) -> Ways {
        let mut ways = Ways::default();
        for verified in verified {
            let mut marks = BTreeSet::from([Mark::Key(verified.key)]);
            if let Signer::Certificate(certificate) = &verified.signer {
                let names = certificate.names.iter().map(|name| name.as_str().to_ascii_lowercase());
                marks.extend(names.map(Mark::Name));
            }
            ways.add(Way(marks));
        }
        ways
    }

    fn add(&mut self, way: Way) {
        if self.all.len() < limits::POLICY_WAYS || self.all.contains(&way) {
            self.all.insert(way);
        } else {
            self.cut = true;
        }
    }

    fn or(&mut self, other: Ways) {
        self.cut |= other.cut;
        other.all.into_iter().for_each(|way| self.add(way));
    }

    fn and(&self, other: &Ways) -> Ways {
        let mut both = Ways { cut: self.cut || other.cut, ..Ways::default() };
        for (one, other) in self.all.iter().flat_map(|one| other.all.iter().map(move |other| (one, other))) {
            both.add(one.and(other));
            if both.cut {
                break;
            }
        }
        both
    }
}

/// Looks for branches that hold with no signer in two of them.
struct Search<'a> {
    branches: Vec<&'a Ways>,
    count: usize,
    steps: usize,
    /// Most that were found to hold so together.
    most: usize,
    found: Ways,
}

impl Search<'_> {
    fn from(&mut self, branch: usize, chosen: usize, taken: &Way) {
        self.most = self.most.max(chosen);
        if chosen == self.count {
            return self.found.add(taken.clone());
        }
        let left = self.branches.len().saturating_sub(branch);
        // Neither enough nor more than is known can come of what is left.
        if self.found.cut || chosen + left <= self.most.min(self.count.saturating_sub(1)) {
            return;
        }
        if self.steps == limits::POLICY_SEARCH {
            self.found.cut = true;
            return;
        }
        self.steps += 1;
        let Some(ways) = self.branches.get(branch).copied() else { return };
        for way in ways.all.iter().filter(|way| !way.shares_with(taken)) {
            self.from(branch + 1, chosen + 1, &taken.and(way));
        }
        self.from(branch + 1, chosen, taken);
    }
}

impl Case<'_> {
    /// What came of a requirement, or of several together.
    pub(super) fn need(&self, need: &Need, verify: &mut Verifies<'_>) -> Found {
        match need {
            Need::One(requirement) => self.requirement(requirement, verify),
            Need::All(needs) => all(needs.iter().map(|need| self.need(need, verify)).collect()),
            Need::Any(needs) => {
                let mut branches = Vec::with_capacity(needs.len());
                for need in needs {
                    branches.push(self.need(need, verify));
                    // By whom else it holds is asked only where signers are counted.
                    if !self.counts && branches.last().is_some_and(|branch| branch.holds) {
                        break;
                    }
                }
                any(branches, &self.listed(needs))
            }
            Need::Reviewed(review) => self.review(review, verify),
            Need::AtLeast { count, of } => {
                let branches = of.iter().map(|need| self.need(need, verify)).collect();
                at_least(*count, branches, &self.listed(of))
            }
        }
    }

    pub(super) fn listed(&self, needs: &[Need]) -> String {
        one_of(needs.iter().map(|need| self.brief(need)))
    }

    /// What is asked for, in the words of its first part: a tree in full would be no line.
    fn brief(&self, need: &Need) -> String {
        let first = |needs: &[Need]| needs.first().map(|need| self.brief(need)).unwrap_or_default();
        let more = |needs: &[Need], word: &str| match needs.len().saturating_sub(1) {
            0 => String::new(),
            more => format!(" {word} {more} more"),
        };
        match need {
            Need::One(requirement) => self.expected(requirement),
            Need::All(needs) => format!("{}{}", first(needs), more(needs, "and")),
            Need::Any(needs) => format!("{}{}", first(needs), more(needs, "or")),
            Need::AtLeast { count, of } => format!("{count} of: {}{}", first(of), more(of, "or")),
            Need::Reviewed(review) => self.brief(&Need::Any(review.alternatives())),
        }
    }
}

pub(super) fn all(parts: Vec<Found>) -> Found {
    let held = parts.iter().filter(|part| part.holds).count();
    let may_hold = parts.iter().all(|part| part.holds || part.open.is_some());
    let mut all = Found { holds: true, ..Found::default() };
    all.ways.add(Way::default());
    for part in parts {
        all.ways = all.ways.and(&part.ways);
        all.holds &= part.holds;
        all.by.extend(part.by);
        all.checks.extend(part.checks);
        all.open = all.open.or(part.open).filter(|_| may_hold);
        // What is undecided may be denied by another part: that is told, and is final.
        all.short = match (all.short, part.short) {
            (Some(first), Some(other)) if first.why.is_undecided() && !other.why.is_undecided() => {
                Some(other)
            }
            (first, other) => first.or(other),
        };
    }
    if let Some(short) = &mut all.short {
        short.rank.held += held;
    }
    all
}

pub(super) fn any(branches: Vec<Found>, expected: &str) -> Found {
    let (of, mut any) = (branches.len(), Found::default());
    let mut shorts = Vec::new();
    for (n, branch) in (1..).zip(branches) {
        any.open = any.open.or(branch.open);
        any.ways.or(branch.ways);
        if branch.holds && !any.holds {
            // What does not hold beside it is of no interest.
            any.checks.clear();
            any.holds = true;
        }
        if branch.holds == any.holds {
            any.by.extend(branch.by);
            any.checks.extend(branch.checks);
        }
        shorts.extend(branch.short.map(|short| (n, short)));
    }
    if !any.holds {
        any.short = nearest(shorts).map(|(n, short)| {
            let found = match of {
                1 => short.found,
                _ => format!("in the nearest of {of} branches, number {n}: {}", short.found),
            };
            Short { expected: expected.to_owned(), found, ..short }
        });
    }
    any
}

fn at_least(count: usize, branches: Vec<Found>, expected: &str) -> Found {
    let mut search = Search {
        branches: branches.iter().map(|branch| &branch.ways).collect(),
        count,
        steps: 0,
        most: 0,
        found: Ways::default(),
    };
    search.from(0, 0, &Way::default());
    let Search { most, found: ways, .. } = search;
    let cut = ways.cut || branches.iter().any(|branch| branch.ways.cut);
    let (of, holding) = (branches.len(), branches.iter().filter(|branch| branch.holds).count());
    let may_add = branches.iter().filter(|branch| branch.open.is_some()).count();
    let mut found = Found { holds: most >= count, ways, ..Found::default() };
    let mut shorts = Vec::new();
    for (n, branch) in (1..).zip(branches) {
        found.open = found.open.or(branch.open);
        found.by.extend(branch.by);
        found.checks.extend(branch.checks);
        shorts.extend(branch.short.map(|short| (n, short)));
    }
    found.open = found.open.filter(|_| most + may_add >= count);
    if found.holds {
        return found;
    }
    if cut {
        found.open = Some(Shortfall::Limit);
    }
    // What could not be told is no reason where it would not suffice.
    shorts.retain(|(_, short)| found.open.is_some() || !short.why.is_undecided());
    let holds = match holding {
        0 => "none of them".to_owned(),
        holding if holding > most => format!("{holding} of them, by {most} in all"),
        holding => holding.to_string(),
    };
    let nearest = nearest(shorts).filter(|_| holding == most);
    let (told, why, remedy, furthest) = match nearest {
        _ if cut => {
            let told =
                format!("{holds}, and more ways to count than are tried (limits POLICY_WAYS, POLICY_SEARCH)");
            (told, Shortfall::Limit, "ask for fewer, or of fewer signers each".to_owned(), (0, None))
        }
        Some((n, short)) => {
            let told = format!("{holds}; the nearest other, branch {n}: {}", short.found);
            (told, short.why, short.remedy, short.rank.furthest)
        }
        None => (holds, Shortfall::TooFewSigners, "have another signer sign it, too".to_owned(), (3, None)),
    };
    let rank = Rank { undecided: found.open.is_some(), held: most, furthest };
    let expected = format!("at least {count} of {of}, each by another signer: {expected}");
    found.short = Some(Short { why: found.open.unwrap_or(why), expected, found: told, remedy, rank });
    found
}

/// What is nearest to holding, and which branch it is; of equally near ones the first. As long as one may hold, that is
/// told.
fn nearest(shorts: Vec<(usize, Short)>) -> Option<(usize, Short)> {
    shorts.into_iter().reduce(|near, other| if other.1.rank > near.1.rank { other } else { near })
}
