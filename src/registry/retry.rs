//! What is tried again, how often, and after how long.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use tokio::time::Instant;

use super::error::{Cause, Unreachable};
use super::transport::Answer;
use crate::limits::REGISTRY_RETRIES;

/// First wait before a retry without `Retry-After`; four times that before the next.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// How often a request may be sent.
#[derive(Clone, Copy)]
pub(super) struct Tries(u32);

impl Tries {
    /// Once.
    pub(super) const ONE: Self = Self(1);
    /// As often as `REGISTRY_RETRIES` allows.
    pub(super) const SOME: Self = Self(REGISTRY_RETRIES + 1);

    /// Sends, and sends again after 429 and passing 5xx, if the wait fits the deadline. A connection that broke off is
    /// worth one more try; a timeout is not: it has used up what time there is, and more requests do not help a server
    /// that is too slow.
    pub(super) async fn run<F>(self, deadline: Instant, send: impl Fn() -> F) -> Result<Answer, Cause>
    where
        F: Future<Output = Result<Answer, Cause>>,
    {
        let (mut wait, mut left, mut broke_off) = (RETRY_WAIT, self.0, false);
        loop {
            left = left.saturating_sub(1);
            let (failure, asked_for, passing) = match send().await {
                Err(Cause::Unreachable(Unreachable::BrokenOff)) => {
                    let first = !std::mem::replace(&mut broke_off, true);
                    (Cause::Unreachable(Unreachable::BrokenOff), None, first)
                }
                Err(cause) => return Err(cause),
                Ok(answer) => match answer.status.as_u16() {
                    429 => {
                        let retry_after = retry_after(&answer.headers);
                        (Cause::TooManyRequests { retry_after }, retry_after, true)
                    }
                    status @ 500..=599 => {
                        let passing = matches!(status, 500 | 502 | 503 | 504);
                        (Cause::ServerError { status }, retry_after(&answer.headers), passing)
                    }
                    _ => return Ok(answer),
                },
            };
            let pause = asked_for.map_or(wait, Duration::from_secs);
            let fits = Instant::now().checked_add(pause).is_some_and(|at| at < deadline);
            if !passing || left == 0 || !fits {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            wait *= 4;
        }
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3) in seconds: as a number, or as a date, which is held against the server's own
/// `Date` so that no clock of the node's matters.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(seconds);
    }
    Some(http_date(after)?.saturating_sub(http_date(text(DATE)?)?))
}

/// Seconds since 1970 of an IMF-fixdate (RFC 9110 section 5.6.7), the only form servers may send.
fn http_date(text: &str) -> Option<u64> {
    let (_, rest) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let mut parts = rest.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|number| *number <= most);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (number(day, 31)?, number(year, 9999).filter(|year| *year >= 1970)?);
    let mut clock = time.splitn(3, ':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    let seconds = number(hour, 23)? * 3600 + number(minute, 59)? * 60 + number(second, 60)?;
    // Years that begin in March, so that the day that is sometimes there is the last one.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day.checked_sub(1)?;
    // 719,468 days lie between the first of March of the year 0 and 1970.
    Some(days.checked_sub(719_468)? * 86_400 + seconds)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn after(retry_after: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        super::retry_after(&headers)
    }

    #[test]
    fn dates_are_read_as_date_reads_them() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("Sun, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ] {
            assert_eq!(http_date(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 00 Jan 1970 00:00:00 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn wait_is_a_number_or_a_date_by_the_servers_own_clock() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(after("120", None), Some(120));
        assert_eq!(after("Sun, 06 Nov 1994 08:51:37 GMT", now), Some(120));
        assert_eq!(after("Sun, 06 Nov 1994 08:40:00 GMT", now), Some(0));
        assert_eq!(after("Sun, 06 Nov 1994 08:51:37 GMT", None), None);
        assert_eq!(after("soon", now), None);
    }
}
