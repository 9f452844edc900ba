//! Decision, Permit, Denial: the only place that can make a permit.
