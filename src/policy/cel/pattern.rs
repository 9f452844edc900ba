//! Regular expressions in conditions. CEL's match anywhere in a text, policies' match the whole of it: so that nobody takes
//! one for the other, an expression has to say itself where it begins and ends.

use regex::{Regex, RegexBuilder};

use crate::image::quoted_name;
use crate::limits;

/// An expression, and what a byte costs that it looks at.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub regex: Regex,
    /// Steps for each byte.
    pub weight: u64,
}

/// The smallest size that is tried, bytes; each further one is twice that.
const SMALL: usize = 256;
/// Bytes of a compiled expression that cost a step for each byte of text: all that may be in them are tried at each, for up to
/// a nanosecond each, where an expression is like `((a*)*){100}b`. A step of another kind takes some tens.
const PER_STEP: usize = 128;

impl Pattern {
    pub fn read(written: &str) -> Result<Self, String> {
        let found = || quoted_name(written);
        let inner = written.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
        let Some(inner) = inner.filter(|inner| !ends_escaped(inner)) else {
            return Err(format!(
                "expected an expression from ^ to $, found {}; write .* where anything may stand",
                found()
            ));
        };
        if !alternatives_are_in_brackets(inner) {
            return Err(format!("expected brackets around alternatives, ^(a|b)$, found {}", found()));
        }
        let compile = |text: &str, size| {
            RegexBuilder::new(text).size_limit(size).build().map_err(|error| {
                let last = error.to_string();
                let mut why = last.lines().last().unwrap_or_default().trim().to_owned();
                if matches!(error, regex::Error::CompiledTooBig(_)) {
                    why.push_str(" (limit CONDITION_REGEX_BYTES)");
                }
                format!("expected a regular expression (RE2 syntax), found {}: {why}", found())
            })
        };
        // By itself first: what is one only within the brackets below is none.
        compile(inner, limits::CONDITION_REGEX_BYTES)?;
        let anchored = format!(r"\A(?:{inner})\z");
        let mut size = SMALL;
        loop {
            match compile(&anchored, size.min(limits::CONDITION_REGEX_BYTES)) {
                Ok(regex) => {
                    // Within an eighth of what it needs, rather than twice that.
                    let mut eighths = (5..8).map(|eighths| size / 8 * eighths);
                    let size = eighths.find(|size| compile(&anchored, *size).is_ok()).unwrap_or(size);
                    let weight = u64::try_from(size / PER_STEP).unwrap_or(u64::MAX);
                    return Ok(Self { regex, weight });
                }
                Err(why) if size >= limits::CONDITION_REGEX_BYTES => return Err(why),
                Err(_) => size *= 2,
            }
        }
    }
}

/// Whether what follows is escaped: an odd number of backslashes stands before it.
fn ends_escaped(text: &str) -> bool {
    (text.len() - text.trim_end_matches('\\').len()) % 2 == 1
}

/// `^a|b$` is `^a` or `b$`.
fn alternatives_are_in_brackets(inner: &str) -> bool {
    let (mut depth, mut class, mut escaped) = (0_usize, false, false);
    for c in inner.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            ')' if !class => depth = depth.saturating_sub(1),
            '|' if !class && depth == 0 => return false,
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expression_says_itself_where_it_begins_and_ends() {
        let matches = |written: &str, text: &str| Pattern::read(written).unwrap().regex.is_match(text);
        assert!(matches("^https://github\\.com/acme/.*$", "https://github.com/acme/app"));
        assert!(!matches("^https://github\\.com/acme/.*$", "evil https://github.com/acme/app"));
        assert!(!matches("^a$", "a\n") && !matches("^(?m)a$", "a\nb"));
        assert!(matches("^(a|b)$", "b") && matches("^[|]$", "|") && matches(r"^a\\$", "a\\"));
        for (wrong, said) in [
            ("a", "from ^ to $"),
            ("^a", "from ^ to $"),
            ("a$", "from ^ to $"),
            (r"^a\$", "from ^ to $"),
            ("", "from ^ to $"),
            ("^a|b$", "brackets around alternatives"),
            ("^(a|b)|c$", "brackets around alternatives"),
            ("^a)|(b$", "brackets around alternatives"),
            ("^[$", "regular expression"),
            ("^a{1000}{1000}$", "regular expression"),
        ] {
            let text = Pattern::read(wrong).unwrap_err();
            assert!(text.contains(said), "{wrong}: {text}");
        }
    }

    #[test]
    fn greater_expression_costs_more_steps() {
        let weight = |written| Pattern::read(written).unwrap().weight;
        assert!(weight("^a{200}$") > weight("^a$"));
        // The widest that is let through; each byte of it is charged.
        assert!(
            weight("^((a*)*){100}b$")
                > 5 * u64::try_from(limits::CONDITION_REGEX_BYTES / PER_STEP / 8).unwrap()
        );
    }
}
