//! Policies as written, compiled to one inner form; who must have signed what. No I/O.
