//! Outside text, made fit for a one-line message.

use std::fmt::Write;

use crate::limits;

/// Longest excerpt of outside text in a message, characters.
const EXCERPT: usize = 80;

/// `text` in double quotes, cut to [`EXCERPT`] characters, with everything but printable ASCII escaped: no
/// line breaks, terminal controls or bidirectional marks get from outside into a log or a pod's status.
pub fn quoted(text: &str) -> String {
    quoted_up_to(text, EXCERPT)
}

/// As [`quoted`], for names that say nothing when they are cut so early: workflows have some 150 characters.
pub fn quoted_name(text: &str) -> String {
    quoted_up_to(text, limits::QUOTED_CHARS)
}

fn quoted_up_to(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(most.min(text.len()) + 2);
    out.push('"');
    for c in text.chars().take(most) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.extend(c.escape_unicode()),
        }
    }
    out.push('"');
    if text.chars().nth(most).is_some() {
        // Writing to a String cannot fail.
        let _ = write!(out, "... ({} bytes)", text.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn controls_quotes_and_bidi_marks_are_escaped() {
        assert_eq!(quoted("a\n\"b\\\u{202e}\u{1b}[2J"), r#""a\u{a}\"b\\\u{202e}\u{1b}[2J""#);
    }

    #[test]
    fn long_text_is_cut_and_its_length_told() {
        let said = quoted(&"x".repeat(1 << 20));
        assert_eq!(said, format!("\"{}\"... (1048576 bytes)", "x".repeat(80)));
    }
}
