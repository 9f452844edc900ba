//! Conditions in CEL (Common Expression Language) on what a signature or an attestation says. A condition is read and
//! checked whole when its policy is loaded, and evaluated in a bounded number of steps. No I/O.

mod asked;
mod check;
mod code;
mod eval;
mod facts;
mod found;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod fuzzing;
mod kind;
mod lex;
#[cfg(test)]
mod oracle;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use serde_json::Value as Json;

pub use asked::{Conditions, Question};
pub use facts::Facts;

pub(super) use facts::{About, since_1970};
pub(super) use value::{span, time};

use super::rego::Module;
use crate::image::{quoted, quoted_name};
use code::Code;
use eval::{Run, Stop};

/// Most characters that are told of why a condition does not hold.
const FOUND: usize = 500;

/// A condition that can be evaluated.
#[derive(Debug, Clone)]
pub struct Condition {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    text: String,
    message: Option<String>,
    language: Language,
    by_time: bool,
}

#[derive(Debug)]
enum Language {
    Cel(Code),
    Rego(Module),
}

/// What is wrong with a condition, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    /// Bytes from the beginning.
    at: usize,
    text: String,
}

/// What a condition comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It holds.
    Holds,
    /// It does not, because of this.
    Fails(String),
    /// A limit was hit.
    Unknown(String),
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &Inner, other: &Inner| {
            let language = match (&one.language, &other.language) {
                (Language::Cel(_), Language::Cel(_)) => true,
                (Language::Rego(one), Language::Rego(other)) => one == other,
                _ => false,
            };
            language && one.text == other.text && one.message == other.message
        };
        Arc::ptr_eq(&self.inner, &other.inner) || same(&self.inner, &other.inner)
    }
}

impl Condition {
    /// Checks a condition about one signature or attestation, and makes it fit to be evaluated.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead, in one line.
    pub(super) fn compile(text: &str, message: Option<String>, about: About) -> Result<Self, String> {
        let checked = parse::parse(text).and_then(|node| check::check(&node, about));
        let check::Checked { code, by_time } = checked.map_err(|refused| refused.told(text))?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self { inner: Arc::new(Inner { text, message, language: Language::Cel(code), by_time }) })
    }

    /// Checks a policy in Rego; `text` is what messages call it.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead, in one line.
    pub(super) fn rego(module: &str, text: String) -> Result<Self, String> {
        let module = Module::read(module)?;
        let by_time = module.by_time();
        let language = Language::Rego(module);
        Ok(Self { inner: Arc::new(Inner { text, message: None, language, by_time }) })
    }

    /// In one line, as messages quote it: its text, or what it is if it is in Rego.
    pub fn shown(&self) -> String {
        match &self.inner.language {
            Language::Cel(_) => quoted_name(&self.inner.text),
            Language::Rego(_) => self.inner.text.clone(),
        }
    }

    /// Whether it is in Rego.
    pub(super) fn is_rego(&self) -> bool {
        matches!(self.inner.language, Language::Rego(_))
    }

    #[cfg(any(test, fuzzing))]
    fn code(&self) -> Option<&Code> {
        match &self.inner.language {
            Language::Cel(code) => Some(code),
            Language::Rego(_) => None,
        }
    }

    /// What its author wants to have said where it does not hold.
    pub fn message(&self) -> Option<&str> {
        self.inner.message.as_deref()
    }

    /// Whether it may come to something else as time passes.
    pub(super) fn by_time(&self) -> bool {
        self.inner.by_time
    }

    fn answer(&self, facts: &Facts, predicate: &Json) -> Answer {
        let code = match &self.inner.language {
            Language::Cel(code) => code,
            Language::Rego(module) => {
                return match module.answer(&facts.input, facts.now) {
                    Answer::Holds => Answer::Holds,
                    Answer::Fails(text) => Answer::Fails(cut(text)),
                    Answer::Unknown(text) => Answer::Unknown(cut(text)),
                };
            }
        };
        match Run::new(facts, predicate).bool(code) {
            Ok(true) => Answer::Holds,
            // With a budget of its own: it is told, and decides nothing.
            Ok(false) => Answer::Fails(cut(Run::new(facts, predicate).found(code, false))),
            Err(Stop::Error(text)) => Answer::Fails(cut(text)),
            Err(Stop::Limit(text)) => Answer::Unknown(cut(text)),
        }
    }
}

/// Part of the one line that a denial is: paths have no bound of their own.
fn cut(text: String) -> String {
    match text.char_indices().nth(FOUND) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

/// What conditions come to in one case, each by itself. It takes up to some tenths of a second.
pub(super) fn answer(conditions: &[Condition], facts: &Facts) -> Vec<Answer> {
    if conditions.iter().all(Condition::is_rego) {
        return conditions.iter().map(|condition| condition.answer(facts, &Json::Null)).collect();
    }
    // It was read strictly when the attestation was verified.
    match serde_json::from_slice::<Json>(&facts.predicate) {
        Ok(predicate) => conditions.iter().map(|condition| condition.answer(facts, &predicate)).collect(),
        Err(error) => {
            let text = format!("expected a predicate that is JSON, found {}", quoted(&error.to_string()));
            vec![Answer::Fails(text); conditions.len()]
        }
    }
}

impl Refused {
    /// With the place: the line if there are several, and the character in it.
    fn told(&self, text: &str) -> String {
        let before = text.get(..self.at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let character = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        match text.trim_end().contains('\n') {
            true => format!("{} (line {line}, character {character} of the condition)", self.text),
            false => format!("{} (character {character})", self.text),
        }
    }
}
