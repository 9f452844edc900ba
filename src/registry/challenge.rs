//! `WWW-Authenticate` (RFC 9110 section 11.6.1), as far as registries use it. Pure.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A challenge crivet can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// RFC 7617.
    Basic,
    /// The distribution project's token scheme.
    Bearer {
        /// URL of the token endpoint.
        realm: String,
        /// Who the token is for.
        service: Option<String>,
    },
}

impl Challenge {
    /// The best challenge in an answer's headers: Bearer with a realm before Basic, since its token, not the
    /// password, then travels with each request.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for (scheme, parameters) in challenges(text) {
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if scheme.eq_ignore_ascii_case("bearer") {
                    let find = |name: &str| {
                        parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
                    };
                    if let Some(realm) = find("realm") {
                        return Some(Self::Bearer { realm, service: find("service") });
                    }
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// Takes a header value apart into schemes and their parameters. What does not fit the grammar ends the walk:
/// nothing after it is trusted.
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut all: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        if let Some(value) = after.trim_start().strip_prefix('=') {
            let Some((value, after)) = parameter_value(value.trim_start()) else { break };
            let Some((_, parameters)) = all.last_mut() else { break };
            parameters.push((word.to_owned(), value));
            rest = after;
        } else {
            all.push((word.to_owned(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    all
}

/// A token (RFC 9110 section 5.6.2) and what follows it.
fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string, unescaped, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = token(text);
        return (!value.is_empty()).then(|| (value.to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn real_challenges_are_read() {
        assert_eq!(
            of(&[
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a,b:pull""#
            ]),
            bearer("https://auth.example/token", Some("registry.example"))
        );
        assert_eq!(of(&[r#"Basic realm="Registry""#]), Some(Challenge::Basic));
        assert_eq!(of(&["basic"]), Some(Challenge::Basic));
        assert_eq!(of(&[r#"BEARER Realm = "r" , error="x\"y""#]), bearer("r", None));
    }

    #[test]
    fn bearer_is_preferred_in_one_header_or_two() {
        assert_eq!(of(&[r#"Basic realm="a", Bearer realm="b""#]), bearer("b", None));
        assert_eq!(of(&[r#"Basic realm="a""#, r#"Bearer realm="b""#]), bearer("b", None));
    }

    #[test]
    fn a_broken_or_unknown_challenge_is_none() {
        for value in
            ["", "Negotiate", "Bearer", r#"Bearer realm="open"#, r#"realm="x""#, "Bearer realm=", ";;"]
        {
            assert_eq!(of(&[value]), None, "{value}");
        }
    }
}
