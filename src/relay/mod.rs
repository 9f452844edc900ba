//! The relay: listener, upstream, passthrough, intercept, and the vetter's keeper.
