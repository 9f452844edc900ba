//! JSON from outside, read so that it cannot mean one thing here and another to the runtime.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::quoted;
use crate::limits;

/// Why a JSON document was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than the caller allows.
    #[error("expected at most {cap} bytes of JSON (limit {limit}), found {found}")]
    TooLarge {
        /// The name of the limit in [`limits`].
        limit: &'static str,
        /// The limit, bytes.
        cap: usize,
        /// Length found, bytes.
        found: usize,
    },
    /// Not JSON, or JSON with a duplicate key or too many values.
    #[error("expected strict JSON, found: {text}")]
    Syntax {
        /// What is wrong.
        text: String,
        /// The line, from 1; 0: not known.
        line: usize,
    },
    /// A key that Go's decoder, and so the runtime, would take for another one.
    #[error("expected the key \"{expected}\", found {}, which other readers take for the same key", quoted(.found))]
    Spelling {
        /// The key as specified.
        expected: &'static str,
        /// The key as found.
        found: String,
    },
    /// A value of the wrong kind or range, or none where one is needed.
    #[error("expected \"{key}\" to be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
}

impl JsonError {
    /// The line that it is on, from 1, where one is known.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax { line: line @ 1.., .. } => Some(*line),
            _ => None,
        }
    }

    /// Whether it is a limit that was hit: nothing is known then.
    pub fn is_limit(&self) -> bool {
        match self {
            Self::TooLarge { .. } => true,
            Self::Syntax { text, .. } => text.contains("(limit JSON_VALUES)"),
            Self::Spelling { .. } | Self::Value { .. } => false,
        }
    }
}

/// Parses one JSON document without duplicate keys at any depth, of at most `cap` bytes and
/// [`limits::JSON_VALUES`] values. `limit` is the name `cap` has in [`limits`].
///
/// RFC 8259, section 4 leaves duplicate names to the reader; Go's reader takes the last, others the first.
pub fn parse(bytes: &[u8], limit: &'static str, cap: usize) -> Result<Value, JsonError> {
    if bytes.len() > cap {
        return Err(JsonError::TooLarge { limit, cap, found: bytes.len() });
    }
    let mut left = limits::JSON_VALUES;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let syntax = |error: serde_json::Error| JsonError::Syntax { line: error.line(), text: error.to_string() };
    let value = Strict { left: &mut left }.deserialize(&mut reader).map_err(syntax)?;
    reader.end().map_err(syntax)?;
    Ok(value)
}

/// Builds a [`Value`], counting what is `left` of the values allowed.
struct Strict<'a> {
    left: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.left = self.left.checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("more than {} values (limit JSON_VALUES)", limits::JSON_VALUES))
        })?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict { left: self.left })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key {}", quoted(&key))));
            }
            let value = map.next_value_seed(Strict { left: self.left })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// An object of which some keys are read. Keys that are not read may be there, unless Go's decoder would take them
/// for one that is: it matches keys regardless of case, so `"Config"` after `"config"` wins there.
pub struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    /// `value` as an object of whose keys only `known` are read. `what` names it in errors.
    pub fn new(value: &'a Value, what: &'static str, known: &[&'static str]) -> Result<Self, JsonError> {
        let map = value.as_object().ok_or(JsonError::Value { key: what, expected: "an object" })?;
        for key in map.keys() {
            if let Some(expected) = known.iter().find(|known| key != *known && folded(key) == folded(known)) {
                return Err(JsonError::Spelling { expected, found: key.clone() });
            }
        }
        Ok(Self(map))
    }

    /// Any value that is there and not `null`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.keys().map(String::as_str)
    }

    /// A string that has to be there.
    pub fn string(&self, key: &'static str) -> Result<&'a str, JsonError> {
        self.get(key).and_then(Value::as_str).ok_or(JsonError::Value { key, expected: "a string" })
    }

    /// A string that may be absent.
    pub fn optional_string(&self, key: &'static str) -> Result<Option<&'a str>, JsonError> {
        self.get(key).map(|_| self.string(key)).transpose()
    }

    /// An array that has to be there.
    pub fn array(&self, key: &'static str) -> Result<&'a [Value], JsonError> {
        let array = self.get(key).and_then(Value::as_array);
        array.map(Vec::as_slice).ok_or(JsonError::Value { key, expected: "an array" })
    }

    /// A whole number that is not negative.
    pub fn size(&self, key: &'static str) -> Result<u64, JsonError> {
        let expected = "a whole number, not negative";
        self.get(key).and_then(Value::as_u64).ok_or(JsonError::Value { key, expected })
    }

    /// A map of strings that may be absent.
    pub fn strings(&self, key: &'static str) -> Result<BTreeMap<String, String>, JsonError> {
        let wrong = JsonError::Value { key, expected: "an object of strings" };
        let Some(value) = self.get(key) else { return Ok(BTreeMap::new()) };
        let map = value.as_object().ok_or(wrong.clone())?;
        map.iter().map(|(k, v)| Ok((k.clone(), v.as_str().ok_or(wrong.clone())?.to_owned()))).collect()
    }
}

/// `key` as Go's encoding/json compares it: ASCII without case, with the two letters outside ASCII that fold to it.
fn folded(key: &str) -> String {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        _ => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, JsonError> {
        parse(text.as_bytes(), "TEST", 1 << 20)
    }

    #[test]
    fn plain_document_is_read_as_serde_json_does() {
        let text = r#"{"a":[1,-2,3.5,"x\n",null,true],"b":{"a":{}}}"#;
        assert_eq!(read(text), Ok(serde_json::from_str(text).unwrap()));
    }

    #[test]
    fn duplicate_key_is_refused_at_any_depth_and_in_any_spelling() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"x":{"a":1,"b":2,"a":3}}]"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(read(text).unwrap_err().to_string().contains("duplicate key \"a\""), "{text}");
        }
    }

    #[test]
    fn trailing_bytes_deep_nesting_and_bad_utf8_are_refused() {
        assert!(read("{}{}").is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(parse(b"\"\xff\"", "TEST", 100).is_err());
        assert!(read("\u{feff}{}").is_err());
    }

    #[test]
    fn limits_are_named() {
        let many = format!("[{}1]", "1,".repeat(limits::JSON_VALUES));
        assert!(read(&many).unwrap_err().to_string().contains("JSON_VALUES"));
        let error = parse(b"[1,2]", "TEST", 4).unwrap_err();
        assert_eq!(error, JsonError::TooLarge { limit: "TEST", cap: 4, found: 5 });
    }

    #[test]
    fn key_that_go_takes_for_a_known_one_is_refused() {
        for key in ["Layers", "LAYERS", "layer\u{17f}"] {
            let value = serde_json::json!({ key: [] });
            let error = Object::new(&value, "manifest", &["config", "layers"]).err();
            assert_eq!(error, Some(JsonError::Spelling { expected: "layers", found: key.to_owned() }));
        }
        let value = serde_json::json!({ "Other": 1 });
        assert!(Object::new(&value, "manifest", &["config", "layers"]).is_ok());
    }
}
