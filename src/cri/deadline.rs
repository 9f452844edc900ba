//! `grpc-timeout` (gRPC over HTTP/2, "Timeout"): at most eight digits and a unit.

use std::time::{Duration, Instant};

/// The time a call has left, as its client says it; `None` where it has no deadline, as a PullImage has none.
/// A header that is no timeout counts as none: the runtime is the one to refuse it.
pub fn timeout(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The time vetting may take: at most half of what the call has left whenever it is asked for, so that the other
/// half is the runtime's, and at most what is configured.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    started: Instant,
    timeout: Option<Duration>,
    configured: Duration,
}

impl Budget {
    /// The budget of a call with these headers that came at `now`.
    pub fn new(headers: &http::HeaderMap, configured: Duration, now: Instant) -> Budget {
        Budget { started: now, timeout: timeout(headers), configured }
    }

    /// What the next piece of vetting may take.
    pub fn left(&self, now: Instant) -> Duration {
        let gone = now.saturating_duration_since(self.started);
        self.timeout.map_or(self.configured, |timeout| self.configured.min(timeout.saturating_sub(gone) / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn with(timeout: &'static str) -> HeaderMap {
        HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), HeaderValue::from_static(timeout))])
    }

    #[test]
    fn half_of_what_is_left_and_no_more_than_configured() {
        let (configured, now) = (Duration::from_secs(30), Instant::now());
        let left =
            |headers, after| Budget::new(&headers, configured, now).left(now + Duration::from_secs(after));
        assert_eq!(left(with("119986m"), 0), configured);
        assert_eq!(left(with("4S"), 0), Duration::from_secs(2));
        assert_eq!(left(with("4S"), 3), Duration::from_millis(500));
        assert_eq!(left(with("4S"), 5), Duration::ZERO);
        assert_eq!(left(HeaderMap::new(), 1000), configured);
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for text in ["", "m", "S", "-1S", "123456789S", "1x", "1.5S", "+1S"] {
            assert_eq!(timeout(&with(text)), None, "{text}");
        }
    }
}
