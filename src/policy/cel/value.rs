//! Values of conditions. What comes from the evidence is looked at where it is, and never copied.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::Value as Json;

use super::parse::Literal;
use crate::audit::{from_rfc3339, rfc3339};
use crate::image::quoted;

#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
    /// Text that the condition made.
    Made(Rc<str>),
    /// Nanoseconds since 1970.
    Time(i128),
    /// Nanoseconds.
    Span(i128),
    /// A list that the condition has or made.
    List(Rc<Vec<Value<'a>>>),
    /// A list of the evidence.
    Array(&'a [Json]),
    /// A map of the evidence.
    Map(&'a serde_json::Map<String, Json>),
}

impl<'a> Value<'a> {
    /// JSON as CEL has it, but for whole numbers, which are `int` where they fit.
    pub fn of(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text),
            Json::Array(items) => Self::Array(items),
            Json::Object(map) => Self::Map(map),
        }
    }

    pub fn literal(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(number) => Self::Int(*number),
            Literal::Double(number) => Self::Double(*number),
            Literal::Text(text) => Self::Text(text),
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Made(text) => Some(text),
            _ => None,
        }
    }

    /// The number of elements of a list or keys of a map.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::List(items) => Some(items.len()),
            Self::Array(items) => Some(items.len()),
            Self::Map(map) => Some(map.len()),
            _ => None,
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Array(_))
    }

    /// An element of a list.
    pub fn item(&self, at: usize) -> Option<Value<'a>> {
        match self {
            Self::List(items) => items.get(at).cloned(),
            Self::Array(items) => items.get(at).map(Value::of),
            _ => None,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a whole number",
            Self::Double(_) => "a number",
            Self::Text(_) | Self::Made(_) => "a text",
            Self::Time(_) => "a time",
            Self::Span(_) => "a duration",
            Self::List(_) | Self::Array(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// In a message.
    pub fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Text(text) => quoted(text),
            Self::Made(text) => quoted(text),
            Self::Time(nanos) => shown_time(*nanos),
            Self::Span(nanos) => shown_span(*nanos),
            Self::List(_) | Self::Array(_) => match self.len() {
                Some(1) => "a list of 1".to_owned(),
                length => format!("a list of {}", length.unwrap_or_default()),
            },
            Self::Map(_) => "a map".to_owned(),
        }
    }

    /// The order of two values; `None` where they have none.
    pub fn order(&self, other: &Self) -> Option<Ordering> {
        if let (Some(one), Some(two)) = (self.text(), other.text()) {
            return Some(one.cmp(two));
        }
        match (self, other) {
            (Self::Bool(one), Self::Bool(two)) => Some(one.cmp(two)),
            (Self::Int(one), Self::Int(two)) => Some(one.cmp(two)),
            (Self::Double(one), Self::Double(two)) => one.partial_cmp(two),
            (Self::Int(one), Self::Double(two)) => int_and_double(*one, *two),
            (Self::Double(one), Self::Int(two)) => int_and_double(*two, *one).map(Ordering::reverse),
            (Self::Time(one), Self::Time(two)) | (Self::Span(one), Self::Span(two)) => Some(one.cmp(two)),
            _ => None,
        }
    }
}

/// Exactly: a whole number beyond 2^53 has no double of its own.
fn int_and_double(int: i64, double: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= BEYOND {
        return Some(Ordering::Less);
    }
    if double < -BEYOND {
        return Some(Ordering::Greater);
    }
    // Within the range of i64, where the whole part is exact.
    #[allow(clippy::cast_possible_truncation)]
    let whole = double.trunc() as i64;
    Some(int.cmp(&whole).then_with(|| 0.0_f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)))
}

const SECOND: i128 = 1_000_000_000;

/// An RFC 3339 time, in nanoseconds since 1970.
pub(in crate::policy) fn time(text: &str) -> Option<i128> {
    let (local, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let at = text.len().checked_sub(6)?;
            let (local, offset) = (text.get(..at)?, text.get(at..)?);
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = offset.strip_prefix(['+', '-'])?.split_once(':')?;
            let number = |text: &str, most: i128| {
                let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<i128>().ok().filter(|number| digits && *number <= most)
            };
            (local, sign * (number(hours, 23)? * 3600 + number(minutes, 59)? * 60))
        }
    };
    let utc = from_rfc3339(&format!("{}Z", local.replace('t', "T")))?;
    let since = utc.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(i128::try_from(since.as_nanos()).ok()? - offset * SECOND)
}

/// A duration as CEL and Go write it: `168h`, `1h30m`, `1.5s`, `-10m`.
pub(in crate::policy) fn span(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut all: i128 = 0;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (number, after) = rest.split_at_checked(length)?;
        let units = [
            ("ns", 1),
            ("us", 1000),
            ("µs", 1000),
            ("ms", 1_000_000),
            ("h", 3600 * SECOND),
            ("m", 60 * SECOND),
            ("s", SECOND),
        ];
        let (unit, nanos) = units.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.len() > 9 || fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: i128 = format!("{fraction:0<9}").parse().ok()?;
        all = all.checked_add(whole.checked_mul(nanos)?)?.checked_add(part * nanos / SECOND)?;
        rest = after.get(unit.len()..)?;
    }
    Some(sign * all)
}

fn shown_time(nanos: i128) -> String {
    let Ok(since) = u64::try_from(nanos / 1_000_000) else { return "a time before 1970".to_owned() };
    match std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(since)) {
        Some(time) => rfc3339(time),
        None => "a time without a date".to_owned(),
    }
}

/// In the greatest unit that tells it: `-36h`, `90s`.
fn shown_span(nanos: i128) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let second = SECOND.unsigned_abs();
    match nanos {
        _ if nanos >= 3600 * second => {
            let (hours, minutes) = (nanos / (3600 * second), nanos / (60 * second) % 60);
            if minutes == 0 { format!("{sign}{hours}h") } else { format!("{sign}{hours}h{minutes}m") }
        }
        _ if nanos.is_multiple_of(second) || nanos >= 60 * second => format!("{sign}{}s", nanos / second),
        _ => format!("{sign}{}ms", nanos / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_offset_and_only_if_they_exist() {
        let at = |text| time(text).map(|nanos| nanos / SECOND);
        assert_eq!(at("2026-08-01T12:00:00Z"), Some(1_785_585_600));
        assert_eq!(at("2026-08-01T14:00:00.5+02:00"), Some(1_785_585_600));
        assert_eq!(at("2026-08-01t09:30:00-02:30"), Some(1_785_585_600));
        for wrong in
            ["", "2026-08-01", "2026-02-30T00:00:00Z", "2026-08-01T12:00:00", "2026-08-01T12:00:00+2:00", "é"]
        {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [("168h", 604_800), ("1h30m", 5400), ("-10m", -600), ("0s", 0), ("1.5m", 90)] {
            assert_eq!(span(text), Some(seconds * SECOND), "{text}");
        }
        assert_eq!(span("1.5ms"), Some(1_500_000));
        for wrong in
            ["", "-", "7d", "1", "h", ".s", "1.2.3s", "1 h", "99999999999999999999999999999999999999999h"]
        {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        let shown = [604_800, 5400, 61, -36 * 3600].map(|seconds| shown_span(seconds * SECOND));
        assert_eq!(shown, ["168h", "1h30m", "61s", "-36h"]);
    }

    #[test]
    fn whole_numbers_and_doubles_are_compared_exactly() {
        let big = 9_007_199_254_740_993;
        assert_eq!(int_and_double(big, 9_007_199_254_740_992.0), Some(Ordering::Greater));
        assert_eq!(int_and_double(7, 7.0), Some(Ordering::Equal));
        assert_eq!(int_and_double(7, 7.5), Some(Ordering::Less));
        assert_eq!(int_and_double(-7, -7.5), Some(Ordering::Greater));
        assert_eq!(int_and_double(i64::MAX, 1e300), Some(Ordering::Less));
        assert_eq!(int_and_double(0, f64::NAN), None);
    }
}
