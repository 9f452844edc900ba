//! `crivet node` on prepared trees: what is found, what is planned, and what is left when it is killed anywhere.

mod api;
mod apply;
mod detect;
mod fake;

use std::time::Duration;

use crivet::node::host::Host;
use crivet::node::journal::Journal;
use crivet::node::plan::{Plan, Stage, plan};
use crivet::node::{NodeError, detect::detect};
use fake::Fake;

const MINUTE: Duration = Duration::from_secs(60);

fn planned(fake: &Fake, stage: Option<Stage>) -> Result<Plan, NodeError> {
    let host: &dyn Host = fake;
    let journal = Journal::read(host)?.unwrap_or_default();
    plan(host, detect(host)?, &journal, stage, MINUTE)
}

/// Why nothing is planned.
fn refusal(fake: &Fake) -> String {
    planned(fake, None).expect_err("a plan").to_string()
}
