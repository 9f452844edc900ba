//! crivet vets what the CRI is asked to run. See ARCHITECTURE.md for where things live.

pub mod audit;
pub mod cli;
pub mod config;
pub mod content;
pub mod control;
pub mod cri;
pub mod decision;
pub mod doctor;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod image;
pub mod inventory;
pub mod kubelet;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod policy;
pub mod proofs;
pub mod registry;
pub mod relay;
pub mod report;
pub mod telemetry;
pub mod trust;
pub mod users;
pub mod verify;
pub mod vetter;
pub mod yaml;
