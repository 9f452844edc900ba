//! The `crivet_` metrics and their exposition.
