//! End-to-end tests with the real parts: containerd, docker-registry, cosign and a kubelet, as `make peers`
//! puts them into a cache. They need root; without root or peers each says that it was skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test reports what went wrong by panicking"
)]

mod bypass;
mod content;
mod content_units;
mod crash;
mod credentials;
mod crio;
mod dialects;
mod doctor;
mod figures;
mod gate;
mod guarantees;
mod hosts;
mod identity;
mod inventory;
mod journal;
mod killed;
mod killing;
mod layers;
mod layout;
mod metrics;
mod modes;
mod monitoring;
mod names;
mod node;
mod packages;
mod parts;
mod pause;
mod policy_controller;
mod proofs;
mod races;
mod recheck;
mod referrers;
mod registries;
mod report;
mod restart;
mod revet;
mod rollout;
mod signers;
mod support;
mod traces;
mod wire;
