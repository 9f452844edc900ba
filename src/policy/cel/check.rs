//! Names, functions, types and cost of a condition, before anything is evaluated.

mod calls;

use std::fmt::Write;

use super::Refused;
use super::code::{Code, Function};
use super::facts::{About, Fact};
use super::kind::Kind;
use super::parse::{Literal, Node, Operator, Part, too_deep};
use crate::image::quoted;
use crate::limits;

/// What is known of a part.
pub(super) struct Known {
    pub code: Code,
    pub kind: Kind,
    /// Steps that evaluating it takes, roughly; lists of the evidence counted with [`limits::CONDITION_ITEMS`].
    steps: u64,
    /// Elements, if it is a list.
    items: u64,
    /// Whether it depends on the variable of a loop.
    local: bool,
}

/// A checked condition.
pub(super) struct Checked {
    pub code: Code,
    /// Whether it depends on the time at which it is asked.
    pub by_time: bool,
}

pub(super) fn check(node: &Node, about: About) -> Result<Checked, Refused> {
    let mut checker = Checker { about, locals: Vec::new(), facts: 0, by_time: false, depth: 0 };
    let known = checker.node(node)?;
    if !known.kind.may_be(&Kind::Bool) {
        let text = format!("expected a condition that is true or false, found {}", known.kind);
        return Err(Refused { at: node.at, text });
    }
    if checker.facts == 0 {
        let text = format!(
            "expected a condition on {}, found one that names no variable; it would say the same of every image",
            about.name()
        );
        return Err(Refused { at: node.at, text });
    }
    if known.steps > limits::CONDITION_LOAD_STEPS {
        let text = format!(
            "expected a condition of at most {} steps where each list has {} elements (limits CONDITION_LOAD_STEPS, CONDITION_ITEMS), found {}; put no loop over one list into a loop over another",
            limits::CONDITION_LOAD_STEPS,
            limits::CONDITION_ITEMS,
            known.steps
        );
        return Err(Refused { at: node.at, text });
    }
    Ok(Checked { code: known.code, by_time: checker.by_time })
}

struct Checker {
    about: About,
    locals: Vec<(String, Kind)>,
    facts: usize,
    by_time: bool,
    depth: usize,
}

impl Checker {
    fn refused<T>(&self, node: &Node, text: impl Into<String>) -> Result<T, Refused> {
        Err(Refused { at: node.at, text: text.into() })
    }

    fn node(&mut self, node: &Node) -> Result<Known, Refused> {
        self.depth += 1;
        if self.depth > limits::CONDITION_DEPTH {
            return Err(too_deep(node.at));
        }
        let known = self.part(node)?;
        self.depth -= 1;
        Ok(known)
    }

    fn part(&mut self, node: &Node) -> Result<Known, Refused> {
        match &node.part {
            Part::Literal(literal) => {
                let kind = match literal {
                    Literal::Null => Kind::Null,
                    Literal::Bool(_) => Kind::Bool,
                    Literal::Int(_) => Kind::Int,
                    Literal::Double(_) => Kind::Double,
                    Literal::Text(_) => Kind::Text,
                };
                Ok(Known { code: Code::Literal(literal.clone()), kind, steps: 1, items: 0, local: false })
            }
            Part::List(nodes) => self.list(nodes),
            Part::Name(_) | Part::Select(..) => self.path(node, false),
            Part::Index(of, index) => self.index(of, index),
            Part::Call { name, method, arguments } => self.call(node, name, *method, arguments),
            Part::Not(of) => {
                let known = self.expected(of, &Kind::Bool, "!")?;
                Ok(Known { code: Code::Not(Box::new(known.code)), kind: Kind::Bool, ..known }.one_more())
            }
            Part::Negate(of) => {
                let known = self.node(of)?;
                if !(known.kind == Kind::Any || known.kind.is_number()) {
                    return self.refused(of, format!("expected a number after -, found {}", known.kind));
                }
                Ok(Known { code: Code::Negate(Box::new(known.code)), ..known }.one_more())
            }
            Part::Binary(operator, left, right) => self.binary(node, *operator, left, right),
            Part::All(nodes) => self.chain(nodes, "&&", Code::All),
            Part::Any(nodes) => self.chain(nodes, "||", Code::Any),
            Part::If(parts) => {
                let [condition, yes, no] = &**parts;
                let condition = self.expected(condition, &Kind::Bool, "?")?;
                let (yes, no) = (self.node(yes)?, self.node(no)?);
                let (steps, items) = (yes.steps.max(no.steps), yes.items.max(no.items));
                Ok(Known {
                    local: condition.local || yes.local || no.local,
                    code: Code::If(Box::new([condition.code, yes.code, no.code])),
                    kind: yes.kind.joined(no.kind),
                    steps: condition.steps.saturating_add(steps).saturating_add(1),
                    items,
                })
            }
        }
    }

    fn expected(&mut self, node: &Node, kind: &Kind, by: &str) -> Result<Known, Refused> {
        let known = self.node(node)?;
        if known.kind.may_be(kind) {
            return Ok(known);
        }
        self.refused(node, format!("expected {kind} for {by}, found {}", known.kind))
    }

    fn chain(&mut self, nodes: &[Node], sign: &str, code: fn(Vec<Code>) -> Code) -> Result<Known, Refused> {
        let (mut codes, mut steps, mut local) = (Vec::with_capacity(nodes.len()), 1_u64, false);
        for node in nodes {
            let known = self.expected(node, &Kind::Bool, sign)?;
            steps = steps.saturating_add(known.steps);
            local |= known.local;
            codes.push(known.code);
        }
        Ok(Known { code: code(codes), kind: Kind::Bool, steps, items: 0, local })
    }

    fn list(&mut self, nodes: &[Node]) -> Result<Known, Refused> {
        let (mut codes, mut kind, mut steps, mut local) = (Vec::new(), None::<Kind>, 1_u64, false);
        for node in nodes {
            let known = self.node(node)?;
            steps = steps.saturating_add(known.steps);
            local |= known.local;
            kind = Some(match kind {
                Some(kind) => kind.joined(known.kind),
                None => known.kind,
            });
            codes.push(known.code);
        }
        let items = u64::try_from(codes.len()).unwrap_or(u64::MAX);
        let kind = Kind::List(Box::new(kind.unwrap_or(Kind::Any)));
        Ok(Known { code: Code::List(codes), kind, steps, items, local })
    }

    /// Elements of a list of the evidence. What is within an element of an enclosing loop is part of what that counts.
    fn items(kind: &Kind, local: bool) -> u64 {
        match kind {
            Kind::Any | Kind::List(_) | Kind::Map(_) if local => limits::CONDITION_INNER_ITEMS,
            Kind::Any | Kind::List(_) | Kind::Map(_) => limits::CONDITION_ITEMS,
            _ => 0,
        }
    }

    /// A variable, a field of one, or a field of anything else.
    fn path(&mut self, node: &Node, test: bool) -> Result<Known, Refused> {
        let root = root_of(node).filter(|root| !self.locals.iter().any(|(name, _)| name == root));
        if let (Some(path), Some(root)) = (path_of(node), root) {
            if let Some((fact, name, kind)) = Fact::all(self.about).find(|(_, name, _)| *name == path) {
                self.facts += 1;
                self.by_time |= fact == Fact::Now;
                let (code, kind) = match test {
                    true => (Code::HasFact(fact), Kind::Bool),
                    false => (Code::Fact(fact, name), kind),
                };
                let items = Self::items(&kind, false);
                return Ok(Known { code, kind, steps: 1, items, local: false });
            }
            let names = || Fact::all(self.about).map(|(_, name, _)| name);
            let below =
                |name: &String| path.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'));
            if !names().any(|name| below(&name)) {
                let known = root_names(self.about);
                if !known.contains(&root) {
                    return self.refused(node, unknown_name(root, &known, self.about));
                }
                let fields: Vec<String> = names()
                    .filter(|name| name.strip_prefix(root).is_some_and(|rest| rest.starts_with('.')))
                    .collect();
                let text = format!("expected one of {}, found {}", fields.join(", "), quoted(&path));
                return self.refused(node, text);
            }
        }
        match &node.part {
            Part::Select(of, field) => {
                let of_known = self.node(of)?;
                let kind = match &of_known.kind {
                    Kind::Any => Kind::Any,
                    Kind::Map(kind) => (**kind).clone(),
                    other => {
                        return self.refused(
                            node,
                            format!("expected a map to have the field {field}, found {other}"),
                        );
                    }
                };
                let (kind, code): (_, fn(_, _) -> _) =
                    if test { (Kind::Bool, Code::Has) } else { (kind, Code::Select) };
                let items = Self::items(&kind, of_known.local);
                let code = code(Box::new(of_known.code), field.clone());
                Ok(Known { code, kind, items, ..of_known }.one_more())
            }
            Part::Name(name) => {
                let found = self.locals.iter().enumerate().find(|(_, (local, _))| local == name);
                let Some((depth, (_, kind))) = found else {
                    let known = root_names(self.about);
                    return self.refused(node, unknown_name(name, &known, self.about));
                };
                let (kind, code) = (kind.clone(), Code::Local(depth, name.clone()));
                Ok(Known { code, items: Self::items(&kind, true), kind, steps: 1, local: true })
            }
            _ => self.refused(node, "expected a variable or a field"),
        }
    }

    fn index(&mut self, of: &Node, index: &Node) -> Result<Known, Refused> {
        let of_known = self.node(of)?;
        let (kind, by) = match &of_known.kind {
            Kind::Any => (Kind::Any, Kind::Any),
            Kind::List(kind) => ((**kind).clone(), Kind::Int),
            Kind::Map(kind) => ((**kind).clone(), Kind::Text),
            other => {
                let text = format!("expected a list or a map before [, found {other}");
                return self.refused(of, text);
            }
        };
        let index = self.expected(index, &by, "[]")?;
        let local = of_known.local || index.local;
        Ok(Known {
            code: Code::Index(Box::new(of_known.code), Box::new(index.code)),
            items: Self::items(&kind, local),
            kind,
            steps: of_known.steps.saturating_add(index.steps).saturating_add(1),
            local,
        })
    }

    fn binary(
        &mut self,
        node: &Node,
        operator: Operator,
        left: &Node,
        right: &Node,
    ) -> Result<Known, Refused> {
        let (left, right) = (self.node(left)?, self.node(right)?);
        let (one, two) = (&left.kind, &right.kind);
        let kind = match operator {
            Operator::Equal | Operator::NotEqual if one.may_equal(two) => Kind::Bool,
            Operator::Equal | Operator::NotEqual => {
                return self
                    .refused(node, format!("expected values that can be equal, found {one} and {two}"));
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                let has_order = |kind: &Kind| !matches!(kind, Kind::Null | Kind::List(_) | Kind::Map(_));
                if !(has_order(one) && has_order(two) && one.may_equal(two)) {
                    let sign = operator.sign();
                    return self.refused(
                        node,
                        format!("expected two numbers, texts, times or durations for {sign}, found {one} and {two}"),
                    );
                }
                Kind::Bool
            }
            Operator::In => match two {
                Kind::Any => Kind::Bool,
                Kind::List(item) if one.may_equal(item) => Kind::Bool,
                Kind::Map(_) if one.may_be(&Kind::Text) => Kind::Bool,
                Kind::Text => {
                    return self.refused(
                        node,
                        "expected a list or a map after in, found a text; write text.contains(part)",
                    );
                }
                other => {
                    return self
                        .refused(node, format!("expected a list that {one} can be in, found {other}"));
                }
            },
            _ => match arithmetic(operator, one, two) {
                Some(kind) => kind,
                None => {
                    let sign = operator.sign();
                    let more = if one.is_number() && two.is_number() {
                        "; write double(…) around the whole number"
                    } else {
                        ""
                    };
                    return self.refused(
                        node,
                        format!("expected operands that {sign} can take, found {one} and {two}{more}"),
                    );
                }
            },
        };
        let looked_at = if operator == Operator::In { right.items } else { 0 };
        Ok(Known {
            steps: left.steps.saturating_add(right.steps).saturating_add(looked_at).saturating_add(1),
            items: left.items.saturating_add(right.items),
            local: left.local || right.local,
            code: Code::Binary(operator, Box::new(left.code), Box::new(right.code)),
            kind,
        })
    }
}

impl Known {
    fn one_more(self) -> Self {
        Self { steps: self.steps.saturating_add(1), ..self }
    }

    fn called(self, function: Function, kind: Kind) -> Self {
        Self { code: Code::Call(function, Box::new(self.code), None), kind, items: 0, ..self }.one_more()
    }
}

/// What an operation on these comes to; `None` where there is none.
fn arithmetic(operator: Operator, one: &Kind, two: &Kind) -> Option<Kind> {
    use Kind::{Any, Double, Int, List, Span, Text, Time};
    use Operator::{Add, Divide, Multiply, Remainder, Subtract};
    let known = match (operator, one, two) {
        (Add | Subtract | Multiply | Divide | Remainder, Int, Int) => Int,
        (Add | Subtract | Multiply | Divide, Double, Double) => Double,
        (Add, Text, Text) => Text,
        (Add, List(one), List(two)) => List(Box::new(one.as_ref().clone().joined(two.as_ref().clone()))),
        (Add, Time, Span) | (Add, Span, Time) | (Subtract, Time, Span) => Time,
        (Subtract, Time, Time) | (Add | Subtract, Span, Span) => Span,
        // Of what only one side is known the other may be anything that goes with it.
        (Add | Subtract, Any, _) | (Add | Subtract, _, Any) => Any,
        (_, Any, Any | Int | Double) | (_, Int | Double, Any) => Any,
        _ => return None,
    };
    Some(known)
}

/// `a.b.c`, if it is made of names alone.
fn path_of(node: &Node) -> Option<String> {
    match &node.part {
        Part::Name(name) => Some(name.clone()),
        Part::Select(of, field) => {
            let mut path = path_of(of)?;
            // Writing to a String cannot fail.
            let _ = write!(path, ".{field}");
            Some(path)
        }
        _ => None,
    }
}

fn root_of(node: &Node) -> Option<&str> {
    match &node.part {
        Part::Name(name) => Some(name),
        Part::Select(of, _) => root_of(of),
        _ => None,
    }
}

fn root_names(about: About) -> [&'static str; 4] {
    ["image", "pod", about.name(), "now"]
}

fn unknown_name(found: &str, known: &[&str], about: About) -> String {
    let more = match (found, about) {
        ("attestation", About::Signature) => {
            "; conditions on an attestation stand in attestations[].conditions"
        }
        ("signature", About::Attestation) => {
            "; conditions on a signature stand beside the signers, not in attestations"
        }
        ("predicate" | "predicateType", About::Attestation) => "; write attestation. before it",
        _ => "",
    };
    format!("expected one of the variables {}, found {}{more}", known.join(", "), quoted(found))
}
