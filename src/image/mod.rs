//! References, digests, and the proof that ties an image ID to a digest. No I/O.
