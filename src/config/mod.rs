//! The daemon's settings as written, checked into runtime types.
