//! What the tests share: a scripted runtime, a raw client, and the daemon between them.

pub mod client;
pub mod collector;
pub mod daemon;
pub mod fixtures;
pub mod raw;
pub mod runtime;

use std::time::Duration;

use bytes::Bytes;

/// Waits for something that must happen soon, and fails by its name.
pub async fn within<T>(what: &str, seconds: u64, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {seconds} s"),
    }
}

/// Waits until something holds.
pub async fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, seconds, poll).await;
}

/// A message with gRPC's five-byte prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

/// Bytes that look random and are the same in every run (xorshift64).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
