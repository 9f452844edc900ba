//! The other process: its socket, its workers, the order of work.

pub mod wire;
