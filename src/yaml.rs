//! YAML as the operator writes it, read strictly, with errors of one line that name line and key. No I/O.

use std::fmt;

use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{MergeKeyPolicy, Spanned};

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: u64,
    /// One line of text.
    pub text: String,
}

/// One YAML document of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Lines of the file before this document.
    before: u64,
    text: &'a str,
}

/// A Kubernetes object, as it is written or exported.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Object<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    /// What it is called.
    pub metadata: Metadata,
    /// What it says.
    pub spec: S,
    /// The cluster's own record in an exported object.
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// An object's name. An exported object's metadata has much besides that is the cluster's own.
#[derive(Deserialize)]
pub struct Metadata {
    /// Its name.
    pub name: Spanned<String>,
    /// Its namespace.
    pub namespace: Option<Spanned<String>>,
}

/// A value without a null in it, whatever it is. A key that is written with nothing behind it reads as if it were not there, and
/// what is not there may say more than was meant: no namespaces are all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled;

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Filled {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Err(E::custom("expected a value, found none (null); write one, or remove the key"))
    }

    fn visit_none<E: Error>(self) -> Result<Self, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<IgnoredAny, Self>()?.is_some() {}
        Ok(self)
    }
}

/// Longest message about a document, characters; what a parser echoes has no bound of its own.
const MESSAGE: usize = 500;

/// The documents of a file. YAML 1.2.2, 9.1.2: a line that begins with `---` and white space (or ends there) is
/// always a document marker, in block scalars too. Documents of nothing but comments are left out.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut before, mut at) = (0, 0, 0);
    let mut take = |start: usize, end: usize, before: u64| {
        let text = text.get(start..end).unwrap_or_default();
        let has_content = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---" && line != "..."
        };
        if text.lines().any(has_content) {
            documents.push(Document { before, text });
        }
    };
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            take(start, at, before);
            (start, before) = (at, number);
        }
        at += line.len();
    }
    take(start, text.len(), before);
    documents
}

impl Document<'_> {
    /// Reads the document as `T`. Duplicate keys, merge keys and booleans other than `true` and `false` are
    /// errors; unknown keys are where `T` denies them.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            with_snippet: false,
            merge_keys: MergeKeyPolicy::Error,
        };
        serde_saphyr::from_str_with_options(self.text, options).map_err(|error| self.fault(&error))
    }

    /// A fault at a value that was read from this document.
    pub fn fault_at<V>(&self, value: &Spanned<V>, text: String) -> Fault {
        Fault { line: self.line_of(value), text }
    }

    /// The line in the file of a value that was read from this document.
    pub fn line_of<V>(&self, value: &Spanned<V>) -> u64 {
        self.before + value.referenced.line().max(1)
    }

    /// A fault of the whole document.
    pub fn fault_at_start(&self, text: String) -> Fault {
        let marker = u64::from(self.text.starts_with("---"));
        Fault { line: self.before + marker + 1, text }
    }

    /// The line in the file at which the document begins.
    pub fn line(&self) -> u64 {
        self.fault_at_start(String::new()).line
    }

    fn fault(&self, error: &serde_saphyr::Error) -> Fault {
        let line = error.location().map_or(1, |location| location.line().max(1));
        let said = error.to_string();
        // The position is said once, in front, and as the file's.
        let said = said.split(" at line ").next().unwrap_or_default();
        let said = said.split(" (defined at line ").next().unwrap_or_default();
        let said = match said.strip_suffix(", set DuplicateKeyPolicy in Options if acceptable") {
            Some(said) => format!("{said}; keep one of them"),
            None => said.to_owned(),
        };
        let mut text = match self.key_on(line) {
            // A message about keys names them itself.
            Some(key)
                if !["missing field", "unknown field", "duplicate"].iter().any(|m| said.starts_with(m)) =>
            {
                format!("{key}: {said}")
            }
            _ => said,
        };
        text = text.chars().take(MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Fault { line: self.before + line, text }
    }

    /// The key that is written on a line of the document, if there is one.
    fn key_on(&self, line: u64) -> Option<&str> {
        let line = self.text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
        let (key, _) = line.trim_start_matches([' ', '-']).split_once(':')?;
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        plain.then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        a: String,
        b: Option<bool>,
        n: Option<u8>,
    }

    fn only(text: &str) -> Result<Sample, Fault> {
        let documents = documents(text);
        assert_eq!(documents.len(), 1, "{text}");
        documents[0].read()
    }

    #[test]
    fn documents_are_told_apart_by_their_markers_alone() {
        let text = "# head\n---\na: |\n  -----BEGIN X-----\n  ---\nb: true\n---\n# nothing\n---\t\na: y\n";
        let documents = documents(text);
        let read: Vec<Sample> = documents.iter().map(|d| d.read().unwrap()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].a, "-----BEGIN X-----\n---\n");
        assert_eq!(documents.iter().map(Document::line).collect::<Vec<_>>(), [3, 10]);
    }

    #[test]
    fn key_without_a_value_is_refused_with_its_line_wherever_it_is() {
        for (text, line) in [
            ("a: {b: [1, x, {c: true}], d: 'null', e: \"\", f: {}, g: []}\nh: |\n  null\n", None),
            ("a:\n  b:\n    c: null\n", Some(3)),
            ("a: x\nb: ~\n", Some(2)),
            ("a: x\nb:\nc: y\n", Some(2)),
            ("a:\n- x\n-\n", Some(3)),
            ("a: x\nb: {c: [Null]}\n", Some(2)),
        ] {
            let read = documents(text)[0].read::<Filled>();
            assert_eq!(read.as_ref().err().map(|fault| fault.line), line, "{text}: {read:?}");
            if let Err(Fault { text: said, .. }) = read {
                assert!(said.contains("expected a value, found none (null)"), "{said}");
            }
        }
    }

    #[test]
    fn faults_name_line_and_key_in_one_line() {
        let fault = |text| {
            let Fault { line, text } = only(text).unwrap_err();
            format!("{line}: {text}")
        };
        assert_eq!(fault("---\na: x\nA: y\n"), "3: unknown field `A`, expected one of a, b, n");
        assert_eq!(fault("a: x\na: y\n"), "2: duplicate mapping key: a; keep one of them");
        assert_eq!(fault("a: x\nb: yes\n"), "2: b: invalid boolean (strict mode expects true/false)");
        assert_eq!(fault("a: x\nn: 300\n"), "2: n: invalid u8");
        assert_eq!(fault("b: true\n"), "1: missing field `a`");
        assert!(fault("a: x\n<<: {b: true}\n").starts_with("2: "));
        assert!(fault(&format!("a: x\n\"{}\\n\": y\n", "k".repeat(10_000))).len() < 400);
    }
}
