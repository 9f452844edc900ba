//! What of a module can be known before it is evaluated: that it calls nothing that crivet does not have, that no function
//! calls itself, and that nothing in it makes much of little. regorus finds most of this out only when it gets there, and some
//! of it never.

use std::collections::{BTreeMap, BTreeSet};

use super::{Refused, functions};
use crate::image::quoted_name;
use crate::limits;

/// Functions that read and write nothing, and whose results are no greater than what they are given, by the number of their
/// arguments.
const ALLOWED: [&[&str]; 4] = [
    &["time.now_ns"],
    &[
        "abs",
        "array.reverse",
        "ceil",
        "count",
        "floor",
        "intersection",
        "is_array",
        "is_boolean",
        "is_null",
        "is_number",
        "is_object",
        "is_set",
        "is_string",
        "json.unmarshal",
        "lower",
        "max",
        "min",
        "object.keys",
        "round",
        "sort",
        "sum",
        "time.parse_duration_ns",
        "time.parse_rfc3339_ns",
        "to_number",
        "trim_space",
        "type_name",
        "union",
        "upper",
    ],
    &[
        "array.concat",
        "concat",
        "contains",
        "endswith",
        "format_int",
        "indexof",
        "json.filter",
        "json.remove",
        "object.filter",
        "object.remove",
        "object.subset",
        "object.union",
        "re_match",
        "regex.match",
        "split",
        "sprintf",
        "startswith",
        "strings.any_prefix_match",
        "strings.any_suffix_match",
        "strings.count",
        "trim",
        "trim_left",
        "trim_prefix",
        "trim_right",
        "trim_suffix",
    ],
    &["array.slice", "object.get", "replace", "substring"],
];

/// Words that a bracket may follow and that are no functions; `set()` is the empty set.
const WORDS: [&str; 12] =
    ["not", "some", "every", "in", "if", "else", "as", "default", "import", "package", "contains", "set"];

/// Longest text that `concat` puts between, or `replace` puts in the place of one, bytes.
const BETWEEN: usize = 16;

/// Longest number in a module, characters; most digits of its exponent. regorus makes all digits of it.
const NUMBER: usize = 32;
const EXPONENT: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    /// `a`, `a.b.c`.
    Name(&'a str),
    /// As it is written, quotes and all.
    Text(&'a str),
    Number,
    Sign(char),
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind<'a>,
    line: usize,
    /// Whether it is the first of its line.
    first: bool,
    /// How many brackets it stands in.
    depth: usize,
}

impl Token<'_> {
    fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }
}

/// A rule or function, all of its definitions together.
#[derive(Debug, Default)]
struct Rule<'a> {
    line: usize,
    /// Rules that are named in it.
    names: BTreeSet<&'a str>,
    depth: usize,
}

/// Checks a module, and says what rules it has.
pub(super) fn check(text: &str) -> Result<BTreeSet<&str>, Refused> {
    // regorus takes it for the end.
    if let Some((before, _)) = text.split_once('\0') {
        let line = before.matches('\n').count() + 1;
        return Err(Refused::new(line, "expected a text, found the character NUL; remove it"));
    }
    let tokens = tokens(text)?;
    let rules = rules(&tokens);
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        let is_called = tokens.get(at + 1).is_some_and(|next| next.is('('));
        let is_field = before.is_some_and(|before| before.is('.'));
        // `numbers["range"](1, 2)` is a call of numbers.range, however much white space is in it.
        if is_called && (token.is(']') || is_field) {
            let text = "expected the function's name before the bracket, found a part of something; write it as a.b(…), or put a ; before the bracket";
            return Err(Refused::new(token.line, text));
        }
        let Kind::Name(name) = token.kind else { continue };
        if is_field {
            continue;
        }
        let refused = |text: String| Err(Refused::new(token.line, text));
        match name.split('.').next().unwrap_or(name) {
            "with" => return refused("expected a policy without with, found it; leave it out".to_owned()),
            "data" => {
                return refused(format!(
                    "expected input and rules by their own names, found {}; there is no other data",
                    quoted_name(name)
                ));
            }
            _ => {}
        }
        if before.is_some_and(|before| before.kind == Kind::Name("import")) {
            let known =
                name == "rego.v1" || name == "future.keywords" || name.starts_with("future.keywords.");
            if !known {
                let text = format!("expected import rego.v1 or future.keywords, found {}", quoted_name(name));
                return refused(text);
            }
            continue;
        }
        if is_called {
            let takes = ALLOWED.iter().position(|names| names.contains(&name));
            let is_rule = rules.contains_key(name);
            if !(takes.is_some() || is_rule || WORDS.contains(&name)) {
                return refused(format!(
                    "expected a function that crivet has, found {}; docs/dialects.md lists them",
                    quoted_name(name)
                ));
            }
            if let (Some(takes), false) = (takes, is_rule) {
                let after = tokens.get(at + 2..).unwrap_or_default();
                arguments(name, takes, after).map_err(|text| Refused::new(token.line, text))?;
            }
        }
    }
    let mut known = BTreeMap::new();
    for name in rules.keys() {
        depth(name, &rules, &mut Vec::new(), &mut known)?;
    }
    Ok(rules.into_keys().collect())
}

/// What a function must be given as it is written, so that what it makes is no more than a few times what it is given.
fn arguments(name: &str, takes: usize, after: &[Token<'_>]) -> Result<(), String> {
    // Where each argument begins, if it is a text and nothing else.
    let (mut depth, mut alone, mut found) = (0_usize, true, Vec::new());
    for (at, token) in after.iter().enumerate() {
        match token.kind {
            Kind::Sign(')') if depth == 0 => break,
            Kind::Sign('(' | '[' | '{') => depth += 1,
            Kind::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        let ends = after.get(at + 1).is_some_and(|next| depth == 0 && (next.is(',') || next.is(')')));
        match token.kind {
            Kind::Sign(',') if depth == 0 => alone = true,
            Kind::Text(text) if alone && ends => found.push(Some(value(text)?)),
            _ => {
                if alone {
                    found.push(None);
                }
                alone = false;
            }
        }
    }
    if found.len() != takes {
        return Err(format!("{name}: expected {takes} arguments, found {}", found.len()));
    }
    let literal = |nth: usize| found.get(nth).cloned().flatten();
    let told = |what: &str| Err(format!("{name}: expected {what}, found something else; write it out"));
    match name {
        "concat" => match literal(0) {
            Some(between) if between.len() <= BETWEEN => Ok(()),
            _ => told("a text of at most 16 bytes to put between"),
        },
        "replace" => match (literal(1), literal(2)) {
            (Some(old), Some(new)) if !old.is_empty() && new.len() <= BETWEEN => Ok(()),
            _ => told("a text that is not empty, and one of at most 16 bytes in its place"),
        },
        "split" => match literal(1) {
            Some(at) if !at.is_empty() => Ok(()),
            _ => told("a text that is not empty to split at"),
        },
        "sprintf" => match literal(0) {
            Some(format) if is_format(&format) => Ok(()),
            _ => told("a format with %s, %v, %d, %f and the like, widths of at most two digits"),
        },
        "regex.match" | "re_match" => match literal(0) {
            Some(pattern) => functions::expression(&pattern).map(drop).map_err(|why| {
                format!(
                    "{name}: expected a regular expression (RE2 syntax), found {}: {why}",
                    quoted_name(&pattern)
                )
            }),
            None => told("a regular expression"),
        },
        _ => Ok(()),
    }
}

fn is_format(format: &str) -> bool {
    let mut rest = format;
    while let Some((_, after)) = rest.split_once('%') {
        let width = after.len() - after.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).len();
        let Some(verb) = after.get(width..).and_then(|rest| rest.chars().next()) else { return false };
        if width > 3 || !(verb.is_ascii_alphabetic() || (verb == '%' && width == 0)) {
            return false;
        }
        rest = after.get(width + 1..).unwrap_or_default();
    }
    true
}

/// The value of a text as it is written.
fn value(written: &str) -> Result<String, String> {
    match written.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
        Some(raw) => Ok(raw.to_owned()),
        None => serde_json::from_str(written)
            .map_err(|_| format!("expected a text, found {}", quoted_name(written))),
    }
}

/// The rules of a module by their names. A rule begins with a name that is the first of its line and in no brackets.
fn rules<'a>(tokens: &[Token<'a>]) -> BTreeMap<&'a str, Rule<'a>> {
    let mut rules: BTreeMap<&str, Rule<'_>> = BTreeMap::new();
    let mut heads = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        // What ends so goes on.
        let goes_on = before.is_some_and(|before| match before.kind {
            Kind::Sign(sign) => !")]}".contains(sign),
            Kind::Name(word) => WORDS.contains(&word) && word != "set",
            Kind::Text(_) | Kind::Number => false,
        });
        let Kind::Name(name) = token.kind else { continue };
        let is_default = name == "default";
        if token.depth == 0 && token.first && !(goes_on || name == "else") {
            let named = if is_default { tokens.get(at + 1) } else { Some(token) };
            if let Some(Token { kind: Kind::Name(named), .. }) = named
                && !["package", "import"].contains(&name)
            {
                let root = named.split('.').next().unwrap_or(named);
                rules.entry(root).or_insert_with(|| Rule { line: token.line, ..Rule::default() });
                heads.push((at, at + 1 + usize::from(is_default), root));
            }
        }
    }
    let known: BTreeSet<&str> = rules.keys().copied().collect();
    let ends = heads.iter().skip(1).map(|(at, ..)| *at).chain([tokens.len()]);
    for ((_, from, root), to) in heads.iter().zip(ends) {
        let Some(rule) = rules.get_mut(root) else { continue };
        for at in *from..to {
            let Some(token) = tokens.get(at) else { break };
            rule.depth = rule.depth.max(token.depth + 1);
            let is_field =
                at.checked_sub(1).and_then(|before| tokens.get(before)).is_some_and(|before| before.is('.'));
            if let (Kind::Name(name), false) = (token.kind, is_field) {
                let root = name.split('.').next().unwrap_or(name);
                rule.names.extend(known.get(root));
            }
        }
    }
    rules
}

/// How deep an evaluation of a rule goes: its brackets, and those of what it names.
fn depth<'a>(
    name: &'a str,
    rules: &BTreeMap<&'a str, Rule<'a>>,
    within: &mut Vec<&'a str>,
    known: &mut BTreeMap<&'a str, usize>,
) -> Result<usize, Refused> {
    if let Some(depth) = known.get(name) {
        return Ok(*depth);
    }
    let Some(rule) = rules.get(name) else { return Ok(0) };
    if within.contains(&name) {
        let text =
            format!("expected rules that do not need themselves, found {} to do so", quoted_name(name));
        return Err(Refused::new(rule.line, text));
    }
    if within.len() >= limits::REGO_DEPTH {
        return Err(too_deep(rule.line));
    }
    within.push(name);
    let mut deepest = 0;
    for name in &rule.names {
        deepest = deepest.max(depth(name, rules, within, known)?);
    }
    within.pop();
    let all = deepest + rule.depth.max(1);
    if all > limits::REGO_DEPTH {
        return Err(too_deep(rule.line));
    }
    known.insert(name, all);
    Ok(all)
}

fn too_deep(line: usize) -> Refused {
    let text = format!(
        "expected at most {} brackets and rules within each other (limit REGO_DEPTH), found more; make it simpler",
        limits::REGO_DEPTH
    );
    Refused::new(line, text)
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Refused> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let (mut at, mut line, mut depth, mut first) = (0, 1, 0_usize, true);
    // Round brackets are read once.
    let (mut lists, mut readings) = (0_u32, 0_usize);
    while let Some(rest) = text.get(at..)
        && let Some(c) = rest.chars().next()
    {
        let length = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (kind, bytes) = match c {
            '\n' => {
                (line, first, at) = (line + 1, true, at + 1);
                continue;
            }
            _ if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '#' => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            '"' | '`' => {
                let bytes = text_length(rest, c)
                    .ok_or_else(|| Refused::new(line, "expected the end of a text, found none"))?;
                (Kind::Text(rest.get(..bytes).unwrap_or_default()), bytes)
            }
            _ if c.is_ascii_digit() => {
                let bytes = number_length(rest);
                let number = rest.get(..bytes).unwrap_or_default();
                let digits = number
                    .split(['e', 'E'])
                    .nth(1)
                    .map_or(0, |exponent| exponent.trim_start_matches(['+', '-']).len());
                if bytes > NUMBER || digits > EXPONENT {
                    let text = format!(
                        "expected a number of at most {NUMBER} characters and two digits of exponent, found {}",
                        quoted_name(number)
                    );
                    return Err(Refused::new(line, text));
                }
                (Kind::Number, bytes)
            }
            _ if c.is_ascii_alphabetic() || c == '_' => {
                let bytes = length(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
                (Kind::Name(rest.get(..bytes).unwrap_or_default()), bytes)
            }
            _ => (Kind::Sign(c), c.len_utf8()),
        };
        if matches!(kind, Kind::Sign(')' | ']' | '}')) {
            depth = depth.saturating_sub(1);
            lists = lists.saturating_sub(u32::from(c != ')'));
        }
        tokens.push(Token { kind, line, first, depth });
        readings = readings.saturating_add(3_usize.saturating_pow(lists));
        if readings > limits::REGO_READINGS {
            let text = format!(
                "expected a policy that is parsed by reading its words at most {} times (limit REGO_READINGS), found lists within each other that take more; make rules of the inner ones",
                limits::REGO_READINGS
            );
            return Err(Refused::new(line, text));
        }
        if matches!(kind, Kind::Sign('(' | '[' | '{')) {
            depth += 1;
            lists += u32::from(c != '(');
        }
        line += rest.get(..bytes).unwrap_or_default().matches('\n').count();
        (at, first) = (at + bytes, false);
    }
    Ok(tokens)
}

/// Bytes of the text that begins here.
fn text_length(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            '\n' if quote == '"' => return None,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Bytes of the number that begins here.
fn number_length(rest: &str) -> usize {
    let mut before = ' ';
    for (at, c) in rest.char_indices() {
        let sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
        if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || sign) {
            return at;
        }
        before = c;
    }
    rest.len()
}
