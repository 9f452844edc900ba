//! Decisions over time, in as many bars as are kept, however long the time.

use std::collections::BTreeMap;

use super::model::{Bar, Counts, Timeline};
use super::words::moment;
use crate::limits::REPORT_BARS;

/// Widths of a bar, seconds: a minute to ten years.
const WIDTHS: [u64; 12] =
    [60, 300, 900, 3_600, 10_800, 21_600, 86_400, 259_200, 604_800, 2_592_000, 31_536_000, 315_360_000];

/// Bars of equal width, which grows with the time they cover.
#[derive(Default)]
pub(super) struct Bars {
    /// Index into [`WIDTHS`].
    width: usize,
    bars: BTreeMap<u64, Counts>,
}

impl Bars {
    pub(super) fn add(&mut self, second: u64, counts: Counts) {
        let start = second - second % self.seconds();
        self.bars.entry(start).or_default().add(counts);
        while self.bars.len() > REPORT_BARS && self.widen() {}
    }

    fn seconds(&self) -> u64 {
        WIDTHS.get(self.width).copied().unwrap_or(u64::MAX)
    }

    fn widen(&mut self) -> bool {
        if self.width + 1 == WIDTHS.len() {
            return false;
        }
        self.width += 1;
        let width = self.seconds();
        for (start, counts) in std::mem::take(&mut self.bars) {
            self.bars.entry(start - start % width).or_default().add(counts);
        }
        true
    }

    /// At most `most` bars, the empty ones between them included.
    pub(super) fn shown(mut self, most: u64) -> Timeline {
        let span = |bars: &BTreeMap<u64, Counts>| match (bars.first_key_value(), bars.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first,
            _ => 0,
        };
        while span(&self.bars) / self.seconds() >= most && self.widen() {}
        let width = self.seconds();
        let (first, count) = (self.bars.keys().next().copied(), (span(&self.bars) / width + 1).min(most));
        let bars = first.into_iter().flat_map(|first| (0..count).map(move |n| first + n * width));
        let bars = bars.map(|start| Bar {
            start: moment(start),
            counts: self.bars.get(&start).copied().unwrap_or_default(),
        });
        Timeline { bar_seconds: width, bars: bars.collect() }
    }
}
