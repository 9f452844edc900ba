//! Calls and loops of a condition, before anything is evaluated.

use super::{Checker, Known, root_names};
use crate::image::quoted;
use crate::limits;
use crate::policy::cel::Refused;
use crate::policy::cel::code::{Code, Form, Function, Loop};
use crate::policy::cel::kind::Kind;
use crate::policy::cel::parse::{Literal, Node, Part};
use crate::policy::cel::pattern::Pattern;
use crate::policy::cel::value;

/// The functions there are.
const FUNCTIONS: &str = "size, startsWith, endsWith, contains, matches, int, double, string, timestamp, duration, has, all, exists, exists_one, map, filter";

impl Checker {
    pub(super) fn call(
        &mut self,
        node: &Node,
        name: &str,
        method: bool,
        arguments: &[Node],
    ) -> Result<Known, Refused> {
        let form = match name {
            "all" => Some(Form::All),
            "exists" => Some(Form::Exists),
            "exists_one" | "existsOne" => Some(Form::ExistsOne),
            "map" => Some(Form::Map),
            "filter" => Some(Form::Filter),
            _ => None,
        };
        if let Some(form) = form {
            return self.loops(node, name, form, method, arguments);
        }
        match (name, method, arguments) {
            ("has", false, [of @ Node { part: Part::Select(..), .. }]) => self.path(of, true),
            ("has", ..) => self.refused(node, "expected has(map.field)"),
            ("matches", _, [of, Node { part: Part::Literal(Literal::Text(written)), at }]) => {
                let pattern = Pattern::read(written).map_err(|text| Refused { at: *at, text })?;
                let known = self.expected(of, &Kind::Text, name)?;
                let code = Code::Matches(Box::new(known.code), pattern);
                Ok(Known { code, kind: Kind::Bool, items: 0, ..known }.one_more())
            }
            ("matches", ..) => self.refused(
                node,
                "expected text.matches(r'^…$') with the expression as text, so that it can be checked when it is loaded",
            ),
            ("startsWith", true, [of, with]) => self.of_texts(Function::StartsWith, of, with),
            ("endsWith", true, [of, with]) => self.of_texts(Function::EndsWith, of, with),
            ("contains", true, [of, with]) => self.of_texts(Function::Contains, of, with),
            ("startsWith" | "endsWith" | "contains", ..) => {
                self.refused(node, format!("expected text.{name}(part)"))
            }
            ("size", _, [of]) => {
                let known = self.node(of)?;
                if !matches!(known.kind, Kind::Any | Kind::Text | Kind::List(_) | Kind::Map(_)) {
                    let text = format!("expected a text, a list or a map for size, found {}", known.kind);
                    return self.refused(of, text);
                }
                Ok(known.called(Function::Size, Kind::Int))
            }
            ("int", false, [of]) => self.converted(Function::Int, of, Kind::Int),
            ("double", false, [of]) => self.converted(Function::Double, of, Kind::Double),
            ("string", false, [of]) => self.converted(Function::Text, of, Kind::Text),
            ("timestamp", false, [of]) => {
                if let Part::Literal(Literal::Text(text)) = &of.part
                    && value::time(text).is_none()
                {
                    let found = quoted(text);
                    let text = format!("expected a time like '2026-08-01T12:00:00Z' (RFC 3339), found {found}");
                    return self.refused(of, text);
                }
                Ok(self.expected(of, &Kind::Text, name)?.called(Function::Time, Kind::Time))
            }
            ("duration", false, [of]) => {
                if let Part::Literal(Literal::Text(text)) = &of.part
                    && value::span(text).is_none()
                {
                    let found = quoted(text);
                    let text = format!(
                        "expected a duration in hours, minutes and seconds, like '168h' for a week, found {found}"
                    );
                    return self.refused(of, text);
                }
                Ok(self.expected(of, &Kind::Text, name)?.called(Function::Span, Kind::Span))
            }
            ("size" | "int" | "double" | "string" | "timestamp" | "duration", ..) => {
                self.refused(node, format!("expected {name}(value), with one value"))
            }
            _ => self.refused(
                node,
                format!("expected one of the functions {FUNCTIONS}, found {}", quoted(name)),
            ),
        }
    }

    fn of_texts(&mut self, function: Function, of: &Node, with: &Node) -> Result<Known, Refused> {
        let (of, with) = (
            self.expected(of, &Kind::Text, function.name())?,
            self.expected(with, &Kind::Text, function.name())?,
        );
        Ok(Known {
            steps: of.steps.saturating_add(with.steps).saturating_add(1),
            items: 0,
            local: of.local || with.local,
            code: Code::Call(function, Box::new(of.code), Some(Box::new(with.code))),
            kind: Kind::Bool,
        })
    }

    fn converted(&mut self, function: Function, of: &Node, kind: Kind) -> Result<Known, Refused> {
        let known = self.node(of)?;
        let time = known.kind == Kind::Time && function == Function::Text;
        if !(time || matches!(known.kind, Kind::Any | Kind::Int | Kind::Double | Kind::Text)) {
            let text = format!("expected a number or a text for {}, found {}", function.name(), known.kind);
            return self.refused(of, text);
        }
        Ok(known.called(function, kind))
    }

    fn loops(
        &mut self,
        node: &Node,
        name: &str,
        form: Form,
        method: bool,
        arguments: &[Node],
    ) -> Result<Known, Refused> {
        let (range, variable, which, body) = match (method, arguments) {
            (true, [range, Node { part: Part::Name(variable), .. }, body]) => (range, variable, None, body),
            (true, [range, Node { part: Part::Name(variable), .. }, which, body]) if form == Form::Map => {
                (range, variable, Some(which), body)
            }
            _ => return self.refused(node, format!("expected list.{name}(name, expression)")),
        };
        if self.locals.iter().any(|(local, _)| local == variable)
            || root_names(self.about).contains(&variable.as_str())
        {
            let text =
                format!("expected a name of its own for what {name} looks at, found {}", quoted(variable));
            return self.refused(node, text);
        }
        let range_known = self.node(range)?;
        let item = match &range_known.kind {
            Kind::Any => Kind::Any,
            Kind::List(kind) => (**kind).clone(),
            Kind::Map(_) => Kind::Text,
            other => {
                return self.refused(range, format!("expected a list or a map before {name}, found {other}"));
            }
        };
        self.locals.push((variable.clone(), item.clone()));
        if self.locals.len() > limits::CONDITION_LOOPS {
            let text = format!(
                "expected at most {} loops within each other (limit CONDITION_LOOPS), found more; compare with many values by in [...]",
                limits::CONDITION_LOOPS
            );
            return self.refused(node, text);
        }
        let which = which.map(|which| self.expected(which, &Kind::Bool, name)).transpose()?;
        let body = match form {
            Form::Map => self.node(body)?,
            _ => self.expected(body, &Kind::Bool, name)?,
        };
        self.locals.pop();
        let each = which.as_ref().map_or(0, |which| which.steps).saturating_add(body.steps).saturating_add(2);
        let items = range_known.items;
        let kind = match form {
            Form::Map => Kind::List(Box::new(body.kind)),
            Form::Filter => Kind::List(Box::new(item)),
            Form::All | Form::Exists | Form::ExistsOne => Kind::Bool,
        };
        let local = !self.locals.is_empty()
            && (range_known.local || body.local || which.as_ref().is_some_and(|which| which.local));
        let looped = Loop {
            form,
            range: range_known.code,
            variable: variable.clone(),
            which: which.map(|which| which.code),
            body: body.code,
        };
        Ok(Known {
            code: Code::Loop(Box::new(looped)),
            kind,
            steps: range_known.steps.saturating_add(items.saturating_mul(each)).saturating_add(1),
            items,
            local,
        })
    }
}
