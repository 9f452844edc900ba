//! What was looked at, as it is shown.

use std::fmt;

use serde::Serialize;

use crate::verify::Checked;

/// One thing that was looked at, as `crivet verify` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// One line.
    pub detail: String,
    /// Each check that was made, in order; one that does not hold is the last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<CheckStep>,
}

/// One check of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckStep {
    /// Which.
    pub name: &'static str,
    /// Where it is written that it has to hold.
    pub clause: &'static str,
    /// Whether it does.
    pub outcome: Outcome,
    /// What was found, one line.
    pub detail: String,
}

impl From<&Checked> for CheckStep {
    fn from(checked: &Checked) -> Self {
        let (name, clause) = (checked.step.name(), checked.step.clause());
        Self { name, clause, outcome: Outcome::Passed, detail: checked.detail.clone() }
    }
}

impl Check {
    pub(super) fn of(name: String, outcome: Outcome, detail: String) -> Self {
        Self { name, outcome, detail, steps: Vec::new() }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
        };
        write!(f, "{}: {outcome}: {}", self.name, self.detail)
    }
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
}
