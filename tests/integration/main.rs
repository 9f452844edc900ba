//! Integration tests.
// A test that meets what it did not expect fails by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod audit;
mod content;
mod documents;
mod fixtures;
mod metrics;
mod monitoring;
mod node;
mod policy;
mod proofs;
mod registry;
mod relay;
mod report;
mod snapshot;
mod support;
mod systemd;
mod trust;
mod vetting;
