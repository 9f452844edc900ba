//! A thin OCI distribution client with a cap on everything.
