//! Numbers, times and foreign texts as people read them.

use std::time::{Duration, UNIX_EPOCH};

use crate::audit::rfc3339;
use crate::limits::AUDIT_FIELD_BYTES;

/// `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 image`, `2,000 images`.
pub(super) fn count(number: u64, one: &str, more: &str) -> String {
    format!("{} {}", thousands(number), if number == 1 { one } else { more })
}

/// Unix seconds as RFC 3339.
pub(super) fn moment(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    rfc3339(time).replace(".000Z", "Z")
}

/// A moment for people: `2026-08-01 12:00`, in UTC.
pub(super) fn minute_of(moment: &str) -> String {
    moment.replace('T', " ").get(..16).unwrap_or_default().to_owned()
}

/// A length of time in the largest unit of which there are two: `13 days`, `25 hours`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => count(seconds, "second", "seconds"),
        120..7_200 => count(seconds / 60, "minute", "minutes"),
        7_200..172_800 => count(seconds / 3_600, "hour", "hours"),
        _ => count(seconds / 86_400, "day", "days"),
    }
}

/// A part of a whole: `97.2 %`; never 0 or 100 unless it is exactly that.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part == 0 {
        return "0 %".to_owned();
    }
    if part >= whole {
        return "100 %".to_owned();
    }
    let thousandths = (u128::from(part) * 1000 / u128::from(whole)).clamp(1, 999);
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

/// A text of a log, cut to the length that crivet itself writes.
pub(super) fn bounded(text: &str) -> String {
    text.get(..text.floor_char_boundary(AUDIT_FIELD_BYTES)).unwrap_or_default().to_owned()
}
