//! What is known about a digest.
