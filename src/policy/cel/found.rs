//! Why a condition does not hold: what of the evidence decided it, in one line.

use super::code::{Code, Form, Function};
use super::eval::{Run, Stop, path};
use super::parse::Operator;
use super::value::Value;

/// Values told at most.
const TOLD: usize = 3;

impl<'a> Run<'a> {
    /// What made `code` come out as `was`.
    pub fn found(&mut self, code: &'a Code, was: bool) -> String {
        let mut told = Vec::new();
        self.tell(code, was, &mut told);
        told.truncate(TOLD);
        told.join(", ")
    }

    fn tell(&mut self, code: &'a Code, was: bool, told: &mut Vec<String>) {
        match code {
            Code::Not(of) => self.tell(of, !was, told),
            // One part decided it: the first that came out so.
            Code::All(parts) | Code::Any(parts) => {
                let by_one = matches!(code, Code::Any(_)) == was;
                for part in parts {
                    match self.bool(part) {
                        Ok(value) if value == was => self.tell(part, was, told),
                        Ok(_) => continue,
                        Err(Stop::Error(text)) if !by_one => told.push(text),
                        Err(_) => continue,
                    }
                    if by_one || told.len() >= TOLD {
                        return;
                    }
                }
            }
            Code::If(parts) => {
                let [condition, yes, no] = &**parts;
                if let Ok(value) = self.bool(condition) {
                    self.tell(if value { yes } else { no }, was, told);
                }
            }
            Code::Has(of, field) if !was => told.push(format!("there is no {}.{field}", path(of))),
            Code::Has(of, field) => told.push(format!("there is {}.{field}", path(of))),
            Code::Loop(looped) => {
                let Ok(range) = self.value(&looped.range) else { return };
                let name = path(&looped.range);
                // One element decided it.
                let by_one = match looped.form {
                    Form::All => !was,
                    Form::Exists => was,
                    _ => false,
                };
                let length = range.len().unwrap_or_default();
                if !by_one || matches!(range, Value::Map(_)) {
                    told.push(match length {
                        1 => format!("{name} has 1 element"),
                        length => format!("{name} has {length} elements"),
                    });
                    return;
                }
                for at in 0..length {
                    let Some(element) = range.item(at) else { return };
                    let shown = if element.len().is_none() {
                        format!(" is {}", element.shown())
                    } else {
                        String::new()
                    };
                    self.locals.push(element);
                    let decides = self.bool(&looped.body) == Ok(was);
                    if decides {
                        let mut within = Vec::new();
                        self.tell(&looped.body, was, &mut within);
                        // Its own value says more than that it is what it is.
                        within.retain(|text| *text != format!("{}{shown}", looped.variable));
                        within.truncate(TOLD);
                        let where_ = format!("{name}[{at}]{shown}");
                        told.push(match within.is_empty() {
                            true => where_,
                            false => format!("{where_} ({})", within.join(", ")),
                        });
                    }
                    self.locals.pop();
                    if decides {
                        return;
                    }
                }
            }
            other => self.operands(other, told),
        }
    }

    /// The values that come from the evidence.
    fn operands(&mut self, code: &'a Code, told: &mut Vec<String>) {
        match code {
            Code::Fact(..) | Code::Local(..) | Code::Select(..) | Code::Index(..) => self.operand(code, told),
            Code::Call(Function::Size, of, None) => match self.value(code) {
                Ok(size) => told.push(format!("size({}) is {}", path(of), size.shown())),
                Err(_) => self.operands(of, told),
            },
            Code::Call(_, of, with) => {
                self.operands(of, told);
                if let Some(with) = with {
                    self.operands(with, told);
                }
            }
            Code::Matches(of, _) | Code::Not(of) | Code::Negate(of) => self.operands(of, told),
            // What is looked for says more than the list it is not in.
            Code::Binary(Operator::In, one, all) => {
                self.operands(one, told);
                if told.is_empty() {
                    self.operands(all, told);
                }
            }
            Code::Binary(_, one, two) => {
                self.operands(one, told);
                self.operands(two, told);
            }
            _ => {}
        }
    }

    fn operand(&mut self, code: &'a Code, told: &mut Vec<String>) {
        if told.len() < TOLD
            && let Ok(value) = self.value(code)
        {
            let text = format!("{} is {}", path(code), value.shown());
            if !told.contains(&text) {
                told.push(text);
            }
        }
    }
}
