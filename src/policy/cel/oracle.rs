//! Conditions come to the same as in another implementation of CEL.

use std::collections::HashMap;

use cel::objects::{Key, Map};
use cel::{Context, Program, Value as Theirs};
use serde_json::{Value as Json, json};

use super::eval::{Run, Stop};
use super::fuzzing::facts;
use super::{About, Condition};

fn theirs(json: &Json) -> Theirs {
    match json {
        Json::Null => Theirs::Null,
        Json::Bool(value) => Theirs::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Theirs::Int(number),
            None => Theirs::Float(number.as_f64().unwrap()),
        },
        Json::String(text) => Theirs::from(text.as_str()),
        Json::Array(items) => Theirs::from(items.iter().map(theirs).collect::<Vec<_>>()),
        Json::Object(map) => {
            let map: HashMap<Key, Theirs> =
                map.iter().map(|(key, value)| (Key::from(key.as_str()), theirs(value))).collect();
            Theirs::Map(Map::from(map))
        }
    }
}

/// What an expression comes to in both; an error is an error, whatever it says.
fn both(text: &str, predicate: &Json) -> Option<(Result<bool, ()>, Result<bool, ()>)> {
    let condition = Condition::compile(text, None, About::Attestation).ok()?;
    let given = facts(About::Attestation, predicate.to_string().as_bytes());
    let mut run = Run::new(&given, predicate);
    let ours = match run.bool(condition.code().unwrap()) {
        Ok(value) => Ok(value),
        Err(Stop::Error(_)) => Err(()),
        Err(Stop::Limit(text)) => panic!("{text}"),
    };
    let program = Program::compile(text).unwrap_or_else(|why| panic!("{text}: {why}"));
    let mut context = Context::default();
    context.add_variable_from_value("attestation", theirs(&json!({"predicate": predicate})));
    let theirs = match program.execute(&context) {
        Ok(Theirs::Bool(value)) => Ok(value),
        _ => Err(()),
    };
    Some((ours, theirs))
}

/// Expressions by chance, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut next = self.0;
        next = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        next = (next ^ (next >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((next ^ (next >> 31)) % most as u64).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self
                .one(&["true", "false", "attestation.predicate.yes", "attestation.predicate.gone"])
                .to_owned();
        }
        let less = depth - 1;
        match self.below(12) {
            0 => format!("({} && {})", self.truth(less), self.truth(less)),
            1 => format!("({} || {})", self.truth(less), self.truth(less)),
            2 => format!("!({})", self.truth(less)),
            3 => format!("({} ? {} : {})", self.truth(less), self.truth(less), self.truth(less)),
            4 => {
                let sign = self.one(&["==", "!=", "<", "<=", ">", ">="]);
                format!("{} {sign} {}", self.number(less), self.number(less))
            }
            5 => {
                let sign = self.one(&["==", "!=", "<", ">="]);
                format!("{} {sign} {}", self.text(less), self.text(less))
            }
            6 => {
                let method = self.one(&["startsWith", "endsWith", "contains"]);
                format!("({}).{method}({})", self.text(less), self.text(less))
            }
            7 => {
                let (name, of) = self.named(less);
                let form = self.one(&["all", "exists", "exists_one"]);
                format!(
                    "{of}.{form}({name}, {name} {} {})",
                    self.one(&["==", "!=", "<", ">"]),
                    self.number(less)
                )
            }
            8 => format!("{} in {}", self.number(less), self.numbers(less)),
            9 => format!(
                "has({})",
                self.one(&[
                    "attestation.predicate.n",
                    "attestation.predicate.gone",
                    "attestation.predicate.map.k",
                    "attestation.predicate.gone.k",
                    "attestation.predicate.none",
                ])
            ),
            10 => format!("{} == {}", self.numbers(less), self.numbers(less)),
            _ => {
                let (name, of) = self.named(less);
                format!("{of}.exists({name}, {} || {name} == 2)", self.truth(less))
            }
        }
    }

    fn number(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 4 } else { 8 }) {
            0 => self.below(5).to_string(),
            1 => "attestation.predicate.n".to_owned(),
            2 => "attestation.predicate.gone".to_owned(),
            3 => {
                self.one(&["attestation.predicate.list[0]", "attestation.predicate.list[9]", "-3"]).to_owned()
            }
            4 => format!("size({})", self.numbers(depth - 1)),
            5 => format!("size({})", self.text(depth - 1)),
            _ => {
                let sign = self.one(&["+", "-", "*", "/", "%"]);
                format!("({} {sign} {})", self.number(depth - 1), self.number(depth - 1))
            }
        }
    }

    fn text(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => self.one(&["'a'", "\"äb\"", "''", r"'\u00e4\n'", "r'a'"]).to_owned(),
            1 => "attestation.predicate.text".to_owned(),
            2 => "attestation.predicate.map.k".to_owned(),
            3 => self.one(&["attestation.predicate.gone", "attestation.predicate.map['k']"]).to_owned(),
            4 => format!("string({})", self.number(depth - 1)),
            _ => format!("({} + {})", self.text(depth - 1), self.text(depth - 1)),
        }
    }

    fn numbers(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 2 } else { 6 }) {
            0 => "attestation.predicate.list".to_owned(),
            1 => self.one(&["[1, 2]", "[]", "[7]", "[1, 2, 3]"]).to_owned(),
            2 => format!("[{}, {}]", self.number(depth - 1), self.number(depth - 1)),
            3 => {
                let (name, of) = self.named(depth - 1);
                format!("{of}.map({name}, {name} + {})", self.number(depth - 1))
            }
            4 => {
                let (name, of) = self.named(depth - 1);
                format!("{of}.filter({name}, {name} > {})", self.number(depth - 1))
            }
            _ => format!("({} + {})", self.numbers(depth - 1), self.numbers(depth - 1)),
        }
    }

    /// A list and a name for its elements.
    fn named(&mut self, depth: usize) -> (String, String) {
        (format!("v{}", self.below(1_000_000)), self.numbers(depth))
    }
}

#[test]
fn conditions_come_to_the_same_as_in_the_cel_crate() {
    let predicate = json!({"n": 7, "yes": true, "none": null, "text": "äb", "list": [1, 2, 3], "map": {"k": "a", "o": 1}});
    let mut chance = Chance(1);
    let (mut compared, mut outcomes) = (0, HashMap::<Result<bool, ()>, usize>::new());
    for round in 0..4_000 {
        let text = chance.truth(1 + round % 4);
        if let Some((ours, theirs)) = both(&text, &predicate) {
            assert_eq!(ours, theirs, "{text}");
            compared += 1;
            *outcomes.entry(ours).or_default() += 1;
        }
    }
    println!("{compared} compared: {outcomes:?}");
    // What is refused at load (types that do not fit, no variable, too deep) is not compared.
    assert!(compared > 800, "{compared}");
    assert!(outcomes.len() == 3 && outcomes.values().all(|count| *count > 60), "{outcomes:?}");
}
