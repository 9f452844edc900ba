//! Policies in Rego (the language of Open Policy Agent) of ClusterImagePolicies, as policy-controller evaluates them. A module
//! is checked when its policy is loaded, and evaluated by `regorus`, which has neither files nor a network nor an
//! environment. Time is an argument; the one clock that is read bounds how long an evaluation may take, and decides
//! nothing else.

mod functions;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod fuzzing;
mod scan;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use regorus::utils::limits::{ExecutionTimerConfig, TimeSource, set_time_source};
use regorus::{Engine, Value};
use serde_json::Value as Json;

use super::cel::Answer;
use crate::image::quoted;
use crate::limits;

/// The package that a module has to be.
const PACKAGE: &str = "data.sigstore";
/// The rule that says whether the policy holds.
const RULE: &str = "data.sigstore.isCompliant";
/// Under what name regorus knows the module; it is part of what it says of errors.
const NAME: &str = "policy";
/// Steps between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::new(32).unwrap();

/// A module that can be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    text: String,
    by_time: bool,
}

/// Why a module is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    /// The line in the module, from 1.
    line: usize,
    text: String,
}

impl Refused {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// What an evaluation came to.
enum Stop {
    /// The module cannot be evaluated on this.
    Error(Refused),
    /// A limit was hit.
    Limit(String),
}

impl Module {
    /// Checks a module.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead, in one line.
    pub fn read(text: &str) -> Result<Self, String> {
        Self::checked(text).map_err(|Refused { line, text }| match line {
            0 => text,
            line => format!("{text} (line {line} of the policy)"),
        })
    }

    fn checked(text: &str) -> Result<Self, Refused> {
        if text.len() > limits::REGO_BYTES {
            let text = format!(
                "expected at most {} bytes of Rego (limit REGO_BYTES), found {}; split the policy",
                limits::REGO_BYTES,
                text.len()
            );
            return Err(Refused::new(0, text));
        }
        let names = scan::check(text)?;
        if !names.contains("isCompliant") {
            let text =
                "expected a rule isCompliant, found none; write one that is true where the policy holds";
            return Err(Refused::new(0, text));
        }
        let (_, package) = engine(text)?;
        if package != PACKAGE {
            let text =
                format!("expected package sigstore, found {}", quoted(package.trim_start_matches("data.")));
            return Err(Refused::new(1, text));
        }
        let by_time = text.contains("time.now_ns");
        let module = Self { text: text.to_owned(), by_time };
        // What can be known to be wrong without the evidence is an error now.
        match module.evaluate("{}", SystemTime::UNIX_EPOCH) {
            Ok(_) => Ok(module),
            Err(Stop::Error(refused)) => Err(refused),
            Err(Stop::Limit(text)) => Err(Refused::new(0, format!("on no evidence at all: {text}"))),
        }
    }

    /// Whether it may come to something else as time passes.
    pub fn by_time(&self) -> bool {
        self.by_time
    }

    /// What it comes to with this as `input`, JSON. It may take as long as [`limits::REGO_MILLISECONDS`], and longer by one
    /// step.
    pub fn answer(&self, input: &[u8], now: SystemTime) -> Answer {
        let Ok(input) = std::str::from_utf8(input) else {
            return Answer::Fails("expected an input in UTF-8, found something else".to_owned());
        };
        match self.evaluate(input, now) {
            Ok(value) => verdict(&value),
            Err(Stop::Error(Refused { line: 0, text })) => Answer::Fails(text),
            Err(Stop::Error(Refused { line, text })) => {
                Answer::Fails(format!("{text} (line {line} of the policy)"))
            }
            Err(Stop::Limit(text)) => Answer::Unknown(text),
        }
    }

    /// A fault of regorus' is none of the image's: nothing is known then.
    fn evaluate(&self, input: &str, now: SystemTime) -> Result<Json, Stop> {
        let evaluated = catch_unwind(AssertUnwindSafe(|| self.evaluate_unguarded(input, now)));
        evaluated.unwrap_or_else(|_| {
            Err(Stop::Limit("its evaluation failed, which is a fault of crivet".to_owned()))
        })
    }

    fn evaluate_unguarded(&self, input: &str, now: SystemTime) -> Result<Json, Stop> {
        let timer = timer();
        let limit = timer.limit;
        let began = Instant::now();
        let (mut engine, _) = engine(&self.text).map_err(Stop::Error)?;
        engine.set_execution_timer_config(timer);
        let hit = functions::add(&mut engine, now).map_err(|error| Stop::Error(told(&error)))?;
        engine.set_input_json(input).map_err(|error| Stop::Error(told(&error.to_string())))?;
        let value = engine.eval_rule(RULE.to_owned());
        if let Some(text) = functions::taken(&hit) {
            return Err(Stop::Limit(text));
        }
        // regorus may go on from where it was stopped, as if a function had come to nothing: what it says then is worth
        // nothing.
        if began.elapsed() > limit {
            return Err(Stop::Limit(format!(
                "expected the Rego policy to take at most {} ms (limit REGO_MILLISECONDS), found that it takes more",
                limits::REGO_MILLISECONDS
            )));
        }
        let value = value.map_err(|error| Stop::Error(told(&error.to_string())))?;
        if value == Value::Undefined {
            return Ok(Json::Null);
        }
        let json = value.to_json_str().map_err(|error| Stop::Error(told(&error.to_string())))?;
        serde_json::from_str(&json).map_err(|error| Stop::Error(told(&error.to_string())))
    }
}

/// An engine with this module, and the package that it is.
fn engine(text: &str) -> Result<(Engine, String), Refused> {
    static CLOCK: Once = Once::new();
    // Set once, for the process; whoever was first has set the same.
    CLOCK.call_once(|| _ = set_time_source(&Clock));
    let mut engine = Engine::new();
    // As policy-controller has it: Rego's version 0, and a function that fails has no value.
    engine.set_rego_v0(true);
    engine.set_strict_builtin_errors(false);
    let package =
        engine.add_policy(NAME.to_owned(), text.to_owned()).map_err(|error| told(&error.to_string()))?;
    Ok((engine, package))
}

/// How long an evaluation may take.
fn timer() -> ExecutionTimerConfig {
    let limit = Duration::from_millis(limits::REGO_MILLISECONDS);
    ExecutionTimerConfig { limit, check_interval: STEPS }
}

/// The clock that evaluations are bounded by.
struct Clock;

impl TimeSource for Clock {
    fn now(&self) -> Option<Duration> {
        static START: OnceLock<Instant> = OnceLock::new();
        Some(START.get_or_init(Instant::now).elapsed())
    }
}

/// What regorus says of an error, in one line. It has several: place, source, and behind `error:` what is wrong.
fn told(said: &str) -> Refused {
    let place = said.split_once(&format!("{NAME}:")).map(|(_, rest)| rest);
    let line = place.and_then(|rest| rest.split(':').next()?.trim().parse().ok()).unwrap_or(0);
    let said = said.rsplit_once("error: ").map_or(said, |(_, said)| said);
    Refused { line, text: one_line(said) }
}

fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a value of `isCompliant` says: `true`, or a set of objects with `result`, `error` and `warning`, of which one says
/// true and warns of nothing. That is how policy-controller reads it: it takes a policy that warns for one that does not hold.
fn verdict(value: &Json) -> Answer {
    let results = match value {
        Json::Bool(true) => return Answer::Holds,
        Json::Array(results) => results,
        _ => return Answer::Fails(String::new()),
    };
    let mut fails = String::new();
    for result in results {
        let text = |key| match result.get(key) {
            None | Some(Json::Null) => Some(""),
            Some(Json::String(text)) => Some(text.as_str()),
            Some(_) => None,
        };
        let holds = match result.get("result") {
            None | Some(Json::Null) => Some(false),
            Some(Json::Bool(holds)) => Some(*holds),
            Some(_) => None,
        };
        let (true, Some(holds), Some(error), Some(warning)) =
            (result.is_object(), holds, text("error"), text("warning"))
        else {
            let text = "expected of isCompliant true, or objects with result (true or false), error and warning (texts)";
            return Answer::Fails(format!("{text}, found {}", quoted(&result.to_string())));
        };
        match (holds, warning) {
            (true, "") => return Answer::Holds,
            (true, warning) => return Answer::Fails(format!("it warns: {}", one_line(warning))),
            (false, _) => fails = one_line(error),
        }
    }
    Answer::Fails(fails)
}
