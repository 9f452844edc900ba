//! A condition's text as tokens.

use super::Refused;
use crate::image::quoted;

/// A token, and where in the text it begins, bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lexed {
    pub token: Token,
    pub at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Int(i64),
    Double(f64),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// The longer ones first.
const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

impl Token {
    /// As messages show it.
    pub fn shown(&self) -> String {
        match self {
            Self::Name(name) => quoted(name),
            Self::Text(text) => format!("the text {}", quoted(text)),
            Self::Int(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Sign(sign) => quoted(sign),
            Self::End => "the end".to_owned(),
        }
    }
}

/// All tokens, the last of which is [`Token::End`].
pub(super) fn lex(text: &str) -> Result<Vec<Lexed>, Refused> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        let token = lexer.token()?;
        let ended = token == Token::End;
        tokens.push(Lexed { token, at });
        if ended {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn refused<T>(&self, at: usize, text: impl Into<String>) -> Result<T, Refused> {
        Err(Refused { at, text: text.into() })
    }

    /// White space and comments.
    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']).len();
            self.at += blank;
            match self.rest().strip_prefix("//") {
                Some(comment) => self.at += 2 + comment.find('\n').unwrap_or(comment.len()),
                None if blank == 0 => return,
                None => {}
            }
        }
    }

    fn token(&mut self) -> Result<Token, Refused> {
        let (rest, at) = (self.rest(), self.at);
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        match first {
            '"' | '\'' => return self.quoted(false),
            '0'..='9' => return self.number(),
            '.' if rest.get(1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) => {
                return self.number();
            }
            'a'..='z' | 'A'..='Z' | '_' => {}
            _ => {
                if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                    self.at += sign.len();
                    return Ok(Token::Sign(sign));
                }
                let found = quoted(&first.to_string());
                let more = match first {
                    '`' => "; write such a field as ['name']",
                    '=' => "; write ==",
                    '&' => "; write &&",
                    '|' => "; write ||",
                    _ => "",
                };
                return self.refused(at, format!("expected CEL, found the character {found}{more}"));
            }
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default();
        if rest.get(end..).is_some_and(|rest| rest.starts_with(['"', '\''])) {
            match name {
                "r" | "R" => {
                    self.at += 1;
                    return self.quoted(true);
                }
                _ => {
                    let text =
                        format!("expected text in quotes, found the prefix {}; leave it out", quoted(name));
                    return self.refused(at, text);
                }
            }
        }
        self.at += end;
        Ok(Token::Name(name.to_owned()))
    }

    fn number(&mut self) -> Result<Token, Refused> {
        let (rest, at) = (self.rest(), self.at);
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (token, end) = if let Some(hex) = rest.strip_prefix("0x") {
            let length = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            let number = i64::from_str_radix(hex.get(..length).unwrap_or_default(), 16);
            (number.ok().map(Token::Int), 2 + length)
        } else {
            let mut end = digits(rest);
            let mut whole = true;
            let fraction = rest.get(end..).and_then(|rest| rest.strip_prefix('.')).map_or(0, digits);
            if fraction > 0 {
                (end, whole) = (end + 1 + fraction, false);
            }
            if let Some(power) = rest.get(end..).and_then(|rest| rest.strip_prefix(['e', 'E'])) {
                let sign = usize::from(power.starts_with(['+', '-']));
                let length = digits(power.get(sign..).unwrap_or_default());
                if length > 0 {
                    (end, whole) = (end + 1 + sign + length, false);
                }
            }
            let written = rest.get(..end).unwrap_or_default();
            let token = match whole {
                true => written.parse().ok().map(Token::Int),
                false => written.parse().ok().filter(|n: &f64| n.is_finite()).map(Token::Double),
            };
            (token, end)
        };
        let after = rest.get(end..).unwrap_or_default();
        let Some(token) = token.filter(|_| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        else {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(rest.len());
            let found = quoted(rest.get(..length).unwrap_or_default());
            return self.refused(
                at,
                format!("expected a number of at most 64 bits, without letters behind it, found {found}"),
            );
        };
        self.at += end;
        Ok(token)
    }

    /// Text in quotes; raw: without escapes.
    fn quoted(&mut self, raw: bool) -> Result<Token, Refused> {
        let start = self.at;
        let rest = self.rest();
        let mut chars = rest.char_indices();
        let Some((_, quote)) = chars.next() else { return Ok(Token::End) };
        let triple: String = [quote; 3].iter().collect();
        if rest.starts_with(&triple) {
            return self
                .refused(start, "expected text in single or double quotes, found three of them; write one");
        }
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' | '\r' => break,
                '\\' if !raw => {
                    let rest = rest.get(at + 1..).unwrap_or_default();
                    let Some((c, length)) = escape(rest) else {
                        let found = quoted(&rest.chars().take(4).collect::<String>());
                        return self.refused(
                            start + at,
                            format!(
                                "expected \\\\, \\n, \\t, \\', \\\", \\xHH, \\uHHHH or \\UHHHHHHHH, found a backslash before {found}; write \\\\ for a backslash, or r'…' for text without escapes"
                            ),
                        );
                    };
                    text.push(c);
                    // All of an escape is ASCII.
                    for _ in 0..length {
                        chars.next();
                    }
                }
                c if c == quote => {
                    self.at += at + quote.len_utf8();
                    return Ok(Token::Text(text));
                }
                c => text.push(c),
            }
        }
        self.refused(start, format!("expected {quote} at the end of the text, in the same line, found none"))
    }
}

/// The character of an escape after its backslash, and how many characters that takes (CEL spec, "String and Bytes
/// Values").
fn escape(rest: &str) -> Option<(char, usize)> {
    let hex = |digits: usize| {
        let text = rest.get(1..=digits).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        Some((char::from_u32(u32::from_str_radix(text, 16).ok()?)?, digits + 1))
    };
    Some(match rest.chars().next()? {
        c @ ('\\' | '\'' | '"' | '`' | '?') => (c, 1),
        'a' => ('\u{7}', 1),
        'b' => ('\u{8}', 1),
        'f' => ('\u{c}', 1),
        'n' => ('\n', 1),
        'r' => ('\r', 1),
        't' => ('\t', 1),
        'v' => ('\u{b}', 1),
        'x' | 'X' => hex(2)?,
        'u' => hex(4)?,
        'U' => hex(8)?,
        '0'..='3' => {
            let text = rest.get(..3).filter(|text| text.bytes().all(|b| (b'0'..=b'7').contains(&b)))?;
            (char::from_u32(u32::from_str_radix(text, 8).ok()?)?, 3)
        }
        _ => return None,
    })
}
