//! Generates the wire types from `proto/`.

fn main() {}
