//! The gate, end to end: the real binary between a scripted runtime and a registry of the test's.

mod audit_is_free;
mod background;
mod break_glass;
mod cli;
mod create;
mod doctor;
mod exemptions;
mod found;
mod inventory;
mod kept;
mod layouts;
mod leak;
mod logins;
mod node;
mod pull;
mod recheck;
mod registry;
mod reload;
mod runtime;
mod sandbox;
mod signer;
mod switch;
mod time;
mod traces;
mod trial;
mod trust;
