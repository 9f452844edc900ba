//! The crivet binary: arguments, configuration, build, run.
fn main() {}
