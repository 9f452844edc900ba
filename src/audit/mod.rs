//! The audit log: one JSON line per decision, size-capped, rotated, equal ones merged.
