//! What a condition comes to, in a bounded number of steps.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::Value as Json;

use super::code::{Code, Form, Function, Loop};
use super::facts::{Fact, Facts};
use super::parse::Operator;
use super::value::{self, Value};
use crate::image::quoted;
use crate::limits;

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// CEL's error: `||` and `&&` may outweigh it.
    Error(String),
    /// A limit was hit: nothing is known.
    Limit(String),
}

pub(super) type Outcome<'a> = Result<Value<'a>, Stop>;

/// One evaluation.
pub(super) struct Run<'a> {
    facts: &'a Facts,
    predicate: &'a Json,
    pub(super) locals: Vec<Value<'a>>,
    left: u64,
}

/// Bytes of text looked at that count as a step.
const BYTES_PER_STEP: usize = 64;

fn error<T>(text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Error(text.into()))
}

fn expected<T>(what: &str, found: &Value<'_>) -> Result<T, Stop> {
    error(format!("expected {what}, found {}", found.shown()))
}

impl<'a> Run<'a> {
    pub fn new(facts: &'a Facts, predicate: &'a Json) -> Self {
        Self { facts, predicate, locals: Vec::new(), left: limits::CONDITION_STEPS }
    }

    /// Steps taken so far.
    #[cfg(test)]
    pub fn spent(&self) -> u64 {
        limits::CONDITION_STEPS - self.left
    }

    fn spend(&mut self, steps: u64) -> Result<(), Stop> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Stop::Limit(format!(
                "expected at most {} steps (limit CONDITION_STEPS), found that it takes more",
                limits::CONDITION_STEPS
            ))),
        }
    }

    fn spend_bytes(&mut self, bytes: usize) -> Result<(), Stop> {
        self.spend(u64::try_from(bytes / BYTES_PER_STEP).unwrap_or(u64::MAX))
    }

    pub fn value(&mut self, code: &'a Code) -> Outcome<'a> {
        self.spend(1)?;
        match code {
            Code::Literal(literal) => Ok(Value::literal(literal)),
            Code::List(items) => {
                let items: Result<Vec<_>, Stop> = items.iter().map(|item| self.value(item)).collect();
                Ok(Value::List(Rc::new(items?)))
            }
            Code::Fact(fact, name) => self.fact(*fact, name),
            Code::Local(depth, name) => match self.locals.get(*depth) {
                Some(value) => Ok(value.clone()),
                None => error(format!("there is no {name}")),
            },
            Code::Select(of, field) => match self.value(of)? {
                Value::Map(map) => match map.get(field) {
                    Some(json) => Ok(Value::of(json)),
                    None => error(format!("there is no {}.{}", path(of), shown_field(field))),
                },
                other => error(format!("expected {} to be a map, found {}", path(of), other.shown())),
            },
            Code::Has(of, field) => match self.value(of)? {
                Value::Map(map) => Ok(Value::Bool(map.contains_key(field))),
                other => error(format!("expected {} to be a map, found {}", path(of), other.shown())),
            },
            Code::HasFact(fact) => {
                let value = self.facts.value(*fact, self.predicate);
                Ok(Value::Bool(value.is_some_and(|value| value.text() != Some(""))))
            }
            Code::Index(of, index) => {
                let of_value = self.value(of)?;
                let index = self.value(index)?;
                self.index(of, &of_value, &index)
            }
            Code::Call(function, of, with) => {
                let of = self.value(of)?;
                let with = with.as_ref().map(|with| self.value(with)).transpose()?;
                self.call(*function, &of, with.as_ref())
            }
            Code::Matches(of, pattern) => {
                let of = self.value(of)?;
                let Some(text) = of.text() else { return expected("a text for matches", &of) };
                if text.len() > limits::CONDITION_MATCHED_BYTES {
                    return Err(Stop::Limit(format!(
                        "expected a text of at most {} bytes for matches (limit CONDITION_MATCHED_BYTES), found {}",
                        limits::CONDITION_MATCHED_BYTES,
                        text.len()
                    )));
                }
                let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
                self.spend(bytes.saturating_mul(pattern.weight))?;
                Ok(Value::Bool(pattern.regex.is_match(text)))
            }
            Code::Not(of) => self.bool(of).map(|value| Value::Bool(!value)),
            Code::Negate(of) => match self.value(of)? {
                Value::Int(number) => {
                    number.checked_neg().map_or_else(too_big, |number| Ok(Value::Int(number)))
                }
                Value::Double(number) => Ok(Value::Double(-number)),
                other => expected("a number after -", &other),
            },
            Code::Binary(operator, left, right) => {
                let left = self.value(left)?;
                let right = self.value(right)?;
                self.binary(*operator, &left, &right)
            }
            Code::All(parts) => self.chain(parts, false),
            Code::Any(parts) => self.chain(parts, true),
            Code::If(parts) => {
                let [condition, yes, no] = &**parts;
                let part = if self.bool(condition)? { yes } else { no };
                self.value(part)
            }
            Code::Loop(looped) => self.looped(looped),
        }
    }

    /// True or false; anything else is an error.
    pub fn bool(&mut self, code: &'a Code) -> Result<bool, Stop> {
        match self.value(code)? {
            Value::Bool(value) => Ok(value),
            other => error(format!("expected {} to be true or false, found {}", path(code), other.shown())),
        }
    }

    fn fact(&self, fact: Fact, name: &str) -> Outcome<'a> {
        self.facts.value(fact, self.predicate).ok_or_else(|| {
            Stop::Error(match fact {
                Fact::Time => {
                    format!("there is no {name}: no log and no timestamp authority vouches for one")
                }
                _ => format!("there is no {name}"),
            })
        })
    }

    /// `&&` ends with the first that is false, `||` with the first that is true; errors count where nothing ends it.
    fn chain(&mut self, parts: &'a [Code], ends: bool) -> Outcome<'a> {
        let mut failed = None;
        for part in parts {
            match self.bool(part) {
                Ok(value) if value == ends => return Ok(Value::Bool(ends)),
                Ok(_) => {}
                Err(Stop::Limit(text)) => return Err(Stop::Limit(text)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!ends)), Err)
    }

    fn index(&self, of: &Code, value: &Value<'a>, index: &Value<'a>) -> Outcome<'a> {
        match (value, index) {
            (Value::Map(map), index) => match index.text() {
                Some(key) => match map.get(key) {
                    Some(json) => Ok(Value::of(json)),
                    None => error(format!("there is no {}[{}]", path(of), quoted(key))),
                },
                None => expected("a text within []", index),
            },
            (list, Value::Int(at)) if list.is_list() => {
                let item = usize::try_from(*at).ok().and_then(|at| list.item(at));
                item.ok_or_else(|| {
                    let length = list.len().unwrap_or_default();
                    Stop::Error(format!("there is no {}[{at}], it has {length} elements", path(of)))
                })
            }
            (list, index) if list.is_list() => expected("a whole number within []", index),
            (other, _) => {
                error(format!("expected {} to be a list or a map, found {}", path(of), other.shown()))
            }
        }
    }

    fn call(&mut self, function: Function, of: &Value<'a>, with: Option<&Value<'a>>) -> Outcome<'a> {
        if let Some(text) = of.text() {
            self.spend_bytes(text.len())?;
        }
        match function {
            Function::Size => {
                let size = of.text().map(|text| text.chars().count()).or_else(|| of.len());
                match size.and_then(|size| i64::try_from(size).ok()) {
                    Some(size) => Ok(Value::Int(size)),
                    None => expected("a text, a list or a map for size", of),
                }
            }
            Function::StartsWith | Function::EndsWith | Function::Contains => {
                let (Some(of_text), Some(with_text)) = (of.text(), with.and_then(|with| with.text())) else {
                    let other = with.filter(|_| of.text().is_some()).unwrap_or(of);
                    return expected(&format!("a text for {}", function.name()), other);
                };
                self.spend_bytes(with_text.len())?;
                Ok(Value::Bool(match function {
                    Function::StartsWith => of_text.starts_with(with_text),
                    Function::EndsWith => of_text.ends_with(with_text),
                    _ => of_text.contains(with_text),
                }))
            }
            Function::Int => match of {
                Value::Int(number) => Ok(Value::Int(*number)),
                // Towards zero, as CEL has it. The bounds are exact as doubles.
                #[allow(clippy::cast_possible_truncation)]
                Value::Double(number) if (-9.2e18..=9.2e18).contains(number) => {
                    Ok(Value::Int(*number as i64))
                }
                _ => match of.text().and_then(|text| text.parse().ok()) {
                    Some(number) => Ok(Value::Int(number)),
                    None => expected("a whole number for int", of),
                },
            },
            Function::Double => match of {
                // As exactly as a double can.
                #[allow(clippy::cast_precision_loss)]
                Value::Int(number) => Ok(Value::Double(*number as f64)),
                Value::Double(number) => Ok(Value::Double(*number)),
                _ => match of
                    .text()
                    .and_then(|text| text.parse().ok())
                    .filter(|number: &f64| number.is_finite())
                {
                    Some(number) => Ok(Value::Double(number)),
                    None => expected("a number for double", of),
                },
            },
            Function::Text => match of {
                Value::Int(_) | Value::Double(_) | Value::Time(_) => Ok(Value::Made(of.shown().into())),
                Value::Text(_) | Value::Made(_) => Ok(of.clone()),
                _ => expected("a number or a text for string", of),
            },
            Function::Time => match of.text().and_then(value::time) {
                Some(time) => Ok(Value::Time(time)),
                None => expected("a time (RFC 3339, from 1970) for timestamp", of),
            },
            Function::Span => match of.text().and_then(value::span) {
                Some(span) => Ok(Value::Span(span)),
                None => expected("a duration like '168h' for duration", of),
            },
        }
    }

    fn binary(&mut self, operator: Operator, left: &Value<'a>, right: &Value<'a>) -> Outcome<'a> {
        match operator {
            Operator::Equal => self.equal(left, right).map(Value::Bool),
            Operator::NotEqual => self.equal(left, right).map(|equal| Value::Bool(!equal)),
            Operator::Less => self.ordered(left, right, |order| order == Ordering::Less),
            Operator::LessOrEqual => self.ordered(left, right, |order| order != Ordering::Greater),
            Operator::Greater => self.ordered(left, right, |order| order == Ordering::Greater),
            Operator::GreaterOrEqual => self.ordered(left, right, |order| order != Ordering::Less),
            Operator::In => self.is_in(left, right),
            _ => self.arithmetic(operator, left, right),
        }
    }

    /// Values of different types are not equal; numbers are compared by what they are.
    fn equal(&mut self, one: &Value<'a>, two: &Value<'a>) -> Result<bool, Stop> {
        self.spend(1)?;
        match (one, two) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Map(one), Value::Map(two)) => {
                if one.len() != two.len() {
                    return Ok(false);
                }
                for (key, value) in *one {
                    let Some(other) = two.get(key) else { return Ok(false) };
                    self.spend_bytes(key.len())?;
                    if !self.equal(&Value::of(value), &Value::of(other))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (one, two) if one.is_list() && two.is_list() => {
                if one.len() != two.len() {
                    return Ok(false);
                }
                for at in 0..one.len().unwrap_or_default() {
                    if let (Some(one), Some(two)) = (one.item(at), two.item(at))
                        && !self.equal(&one, &two)?
                    {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (one, two) => {
                if let (Some(one), Some(two)) = (one.text(), two.text()) {
                    self.spend_bytes(one.len().min(two.len()))?;
                }
                Ok(one.order(two) == Some(Ordering::Equal))
            }
        }
    }

    fn ordered(&mut self, one: &Value<'a>, two: &Value<'a>, is: fn(Ordering) -> bool) -> Outcome<'a> {
        if let (Some(one), Some(two)) = (one.text(), two.text()) {
            self.spend_bytes(one.len().min(two.len()))?;
        }
        match one.order(two) {
            Some(order) => Ok(Value::Bool(is(order))),
            // Numbers without an order are no numbers (IEEE 754): nothing holds of them.
            None if matches!((one, two), (Value::Double(_), _) | (_, Value::Double(_)))
                && one.kind() == two.kind() =>
            {
                Ok(Value::Bool(false))
            }
            None => {
                error(format!("expected two values with an order, found {} and {}", one.shown(), two.shown()))
            }
        }
    }

    fn is_in(&mut self, one: &Value<'a>, all: &Value<'a>) -> Outcome<'a> {
        match (all, one.text()) {
            (Value::Map(map), Some(key)) => Ok(Value::Bool(map.contains_key(key))),
            (Value::Map(_), None) => expected("a text before in", one),
            (list, _) if list.is_list() => {
                for at in 0..list.len().unwrap_or_default() {
                    if let Some(item) = list.item(at)
                        && self.equal(one, &item)?
                    {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            (other, _) => expected("a list or a map after in", other),
        }
    }

    fn arithmetic(&mut self, operator: Operator, one: &Value<'a>, two: &Value<'a>) -> Outcome<'a> {
        use Operator::{Add, Divide, Multiply, Subtract};
        if let (Add, Some(one), Some(two)) = (operator, one.text(), two.text()) {
            let length = one.len() + two.len();
            if length > limits::CONDITION_MADE_BYTES {
                return Err(Stop::Limit(format!(
                    "expected a text of at most {} bytes from + (limit CONDITION_MADE_BYTES), found {length}",
                    limits::CONDITION_MADE_BYTES
                )));
            }
            self.spend_bytes(length)?;
            return Ok(Value::Made(format!("{one}{two}").into()));
        }
        if one.is_list() && two.is_list() && operator == Add {
            let items = |list: &Value<'a>| {
                (0..list.len().unwrap_or_default()).filter_map(|at| list.item(at)).collect()
            };
            let length = one.len().unwrap_or_default() + two.len().unwrap_or_default();
            self.spend(u64::try_from(length).unwrap_or(u64::MAX))?;
            let both: [Vec<Value<'a>>; 2] = [items(one), items(two)];
            return Ok(Value::List(Rc::new(both.concat())));
        }
        let made = match (operator, one, two) {
            (_, Value::Int(one), Value::Int(two)) => match operator {
                Add => one.checked_add(*two),
                Subtract => one.checked_sub(*two),
                Multiply => one.checked_mul(*two),
                _ if *two == 0 => return error("expected a number other than 0 to divide by"),
                Divide => one.checked_div(*two),
                _ => one.checked_rem(*two),
            }
            .map(Value::Int),
            (Add, Value::Double(one), Value::Double(two)) => Some(Value::Double(one + two)),
            (Subtract, Value::Double(one), Value::Double(two)) => Some(Value::Double(one - two)),
            (Multiply, Value::Double(one), Value::Double(two)) => Some(Value::Double(one * two)),
            (Divide, Value::Double(one), Value::Double(two)) => Some(Value::Double(one / two)),
            (Add, Value::Time(time), Value::Span(span)) | (Add, Value::Span(span), Value::Time(time)) => {
                time.checked_add(*span).map(Value::Time)
            }
            (Subtract, Value::Time(time), Value::Span(span)) => time.checked_sub(*span).map(Value::Time),
            (Subtract, Value::Time(one), Value::Time(two)) => one.checked_sub(*two).map(Value::Span),
            (Add, Value::Span(one), Value::Span(two)) => one.checked_add(*two).map(Value::Span),
            (Subtract, Value::Span(one), Value::Span(two)) => one.checked_sub(*two).map(Value::Span),
            _ => {
                return error(format!(
                    "expected operands that {} can take, found {} and {}",
                    operator.sign(),
                    one.shown(),
                    two.shown()
                ));
            }
        };
        made.map_or_else(too_big, Ok)
    }

    /// The elements of a list, or the keys of a map.
    fn element(range: &Value<'a>, keys: &[&'a str], at: usize) -> Option<Value<'a>> {
        match range {
            Value::Map(_) => keys.get(at).map(|key| Value::Text(key)),
            list => list.item(at),
        }
    }

    fn looped(&mut self, looped: &'a Loop) -> Outcome<'a> {
        let range = self.value(&looped.range)?;
        let Some(length) = range.len() else {
            return error(format!(
                "expected {} to be a list or a map, found {}",
                path(&looped.range),
                range.shown()
            ));
        };
        let keys: Vec<&'a str> = match &range {
            Value::Map(map) => map.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        let (mut failed, mut found, mut made) = (None, 0_usize, Vec::new());
        let depth = self.locals.len();
        for at in 0..length {
            let Some(element) = Self::element(&range, &keys, at) else { break };
            self.locals.push(element.clone());
            let outcome = self.once(looped, &mut made, &element);
            self.locals.truncate(depth);
            match (looped.form, outcome) {
                (_, Err(Stop::Limit(text))) => return Err(Stop::Limit(text)),
                (Form::All, Ok(false)) => return Ok(Value::Bool(false)),
                (Form::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                (Form::All | Form::Exists, Err(error)) => failed = failed.or(Some(error)),
                (_, Err(error)) => return Err(error),
                (_, Ok(holds)) => found += usize::from(holds),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(match looped.form {
            Form::All => Value::Bool(true),
            Form::Exists => Value::Bool(false),
            Form::ExistsOne => Value::Bool(found == 1),
            Form::Map | Form::Filter => Value::List(Rc::new(made)),
        })
    }

    /// One turn of a loop: whether its condition holds of the element, and what is made of that.
    fn once(
        &mut self,
        looped: &'a Loop,
        made: &mut Vec<Value<'a>>,
        element: &Value<'a>,
    ) -> Result<bool, Stop> {
        self.spend(1)?;
        match looped.form {
            Form::Map => {
                let holds = match &looped.which {
                    Some(which) => self.bool(which)?,
                    None => true,
                };
                if holds {
                    made.push(self.value(&looped.body)?);
                }
                Ok(holds)
            }
            Form::Filter => {
                let holds = self.bool(&looped.body)?;
                if holds {
                    made.push(element.clone());
                }
                Ok(holds)
            }
            Form::All | Form::Exists | Form::ExistsOne => self.bool(&looped.body),
        }
    }
}

fn too_big<'a>() -> Outcome<'a> {
    error("expected a number of at most 64 bits, found a greater one")
}

/// A field after its point, harmless in a message.
fn shown_field(field: &str) -> String {
    field.chars().take(64).collect()
}

/// How a part is written, as far as that can be told in a few words.
pub(super) fn path(code: &Code) -> String {
    match code {
        Code::Fact(_, name) | Code::Local(_, name) => name.clone(),
        Code::Select(of, field) => format!("{}.{}", path(of), shown_field(field)),
        Code::Index(of, index) => match &**index {
            Code::Literal(literal) => format!("{}[{}]", path(of), Value::literal(literal).shown()),
            _ => format!("{}[…]", path(of)),
        },
        Code::Call(function, of, None) => format!("{}({})", function.name(), path(of)),
        _ => "the value".to_owned(),
    }
}
