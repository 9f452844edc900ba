//! Functions that modules have besides regorus' own: those that would read a clock, and those that could take more than their
//! share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use regex::{Regex, RegexBuilder};
use regorus::{Engine, Extension, Value};

use crate::limits;
use crate::policy::cel::{since_1970, span, time};

/// The limit that a function has hit, if one has.
pub(super) type Hit = Arc<Mutex<Option<String>>>;

/// Takes what was hit.
pub(super) fn taken(hit: &Hit) -> Option<String> {
    hit.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Longest text that is read as a number, bytes.
const NUMBER: usize = 32;

/// Compiles an expression of `regex.match`, which matches anywhere in a text.
pub(super) fn expression(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(limits::CONDITION_REGEX_BYTES).build();
    regex.map_err(|error| {
        let said = error.to_string();
        let why = said.lines().last().unwrap_or_default().trim().to_owned();
        match error {
            regex::Error::CompiledTooBig(_) => format!("{why} (limit CONDITION_REGEX_BYTES)"),
            _ => why,
        }
    })
}

/// Adds them; `now` is what they take for the time.
pub(super) fn add(engine: &mut Engine, now: SystemTime) -> Result<Hit, String> {
    let hit = Hit::default();
    let nanos = i64::try_from(since_1970(now)).unwrap_or(i64::MAX);
    let mut add = |name: &str, arguments, function: Box<dyn Extension>| {
        engine.add_extension(name.to_owned(), arguments, function).map_err(|error| error.to_string())
    };
    add("time.now_ns", 0, Box::new(move |_: Vec<Value>| Ok(Value::from(nanos))))?;
    add("time.parse_rfc3339_ns", 1, Box::new(|of: Vec<Value>| Ok(nanos_of(&of, time))))?;
    add("time.parse_duration_ns", 1, Box::new(|of: Vec<Value>| Ok(nanos_of(&of, span))))?;
    add("to_number", 1, Box::new(|of: Vec<Value>| Ok(to_number(of))))?;
    for name in ["regex.match", "re_match"] {
        let (hit, mut known) = (Arc::clone(&hit), Vec::<(String, Regex)>::new());
        let matches = move |of: Vec<Value>| {
            let (Some(Ok(pattern)), Some(Ok(text))) =
                (of.first().map(Value::as_string), of.get(1).map(Value::as_string))
            else {
                return Ok(Value::Undefined);
            };
            if text.len() > limits::REGO_MATCHED_BYTES {
                let told = format!(
                    "expected a text of at most {} bytes for regex.match (limit REGO_MATCHED_BYTES), found {}",
                    limits::REGO_MATCHED_BYTES,
                    text.len()
                );
                hit.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(told);
                return Ok(Value::Undefined);
            }
            // They are written in the module, and were read when it was loaded.
            if !known.iter().any(|(other, _)| **other == **pattern) {
                let Ok(regex) = expression(pattern) else { return Ok(Value::Undefined) };
                known.push((pattern.to_string(), regex));
            }
            let regex = known.iter().find(|(other, _)| **other == **pattern);
            Ok(regex.map_or(Value::Undefined, |(_, regex)| Value::from(regex.is_match(text))))
        };
        add(name, 2, Box::new(matches))?;
    }
    Ok(hit)
}

fn nanos_of(of: &[Value], read: fn(&str) -> Option<i128>) -> Value {
    let text = of.first().and_then(|value| value.as_string().ok());
    let nanos = text.and_then(|text| read(text)).and_then(|nanos| i64::try_from(nanos).ok());
    nanos.map_or(Value::Undefined, Value::from)
}

/// regorus would make a number of a billion digits of `1e1000000000`.
fn to_number(mut of: Vec<Value>) -> Value {
    let Some(value) = of.pop() else { return Value::Undefined };
    match &value {
        Value::Number(_) => value,
        Value::Null => Value::from(0_i64),
        Value::Bool(value) => Value::from(i64::from(*value)),
        Value::String(text) if text.len() <= NUMBER => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => Value::from(number),
            (Err(_), Ok(number)) if number.is_finite() => Value::from(number),
            _ => Value::Undefined,
        },
        _ => Value::Undefined,
    }
}
