//! The relay, as the kubelet and the runtime see it.

mod bad_input;
mod control;
mod messages;
mod methods;
mod settings;
mod shutdown;
mod socket;
mod upstream;
mod vetter;
