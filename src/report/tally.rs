//! Counts by name, for as many names as are kept.

use std::collections::HashMap;

use super::model::{Counts, Named};
use super::words::bounded;
use crate::limits::REPORT_NAMES;

/// Counts by name. Names that find no room are counted together.
#[derive(Default)]
pub(super) struct Tally {
    names: HashMap<String, Counts>,
    others: Counts,
}

impl Tally {
    pub(super) fn add(&mut self, name: &str, counts: Counts) {
        if let Some(known) = self.names.get_mut(name) {
            known.add(counts);
        } else if self.names.len() < REPORT_NAMES {
            self.names.entry(bounded(name)).or_default().add(counts);
        } else {
            self.others.add(counts);
        }
    }

    /// Most refusals first, then by name. The others, if any, are one entry at the end.
    pub(super) fn sorted(self) -> Vec<Named> {
        let mut all: Vec<Named> =
            self.names.into_iter().map(|(name, counts)| Named { name, counts }).collect();
        all.sort_by(|a, b| b.counts.against().cmp(&a.counts.against()).then_with(|| a.name.cmp(&b.name)));
        if self.others.decisions() > 0 {
            let name = format!("(others: more than {REPORT_NAMES} names, limits::REPORT_NAMES)");
            all.push(Named { name, counts: self.others });
        }
        all
    }
}
