//! The relay: listener, upstream, passthrough, intercept, and the vetter's keeper.

pub mod body;
pub mod http2;
pub mod upstream;
