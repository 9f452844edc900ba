//! Keys and signatures. Bytes, digests and the time come in as arguments; no I/O.
