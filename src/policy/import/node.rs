//! YAML as it is written.

/// A value; maps keep the order that they are written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Map(Vec<(&'static str, Node)>),
    List(Vec<Node>),
    Text(String),
    /// Lines of printable ASCII, each with its newline.
    Block(String),
    Number(u64),
    True,
    /// A map of texts, by keys that are somebody else's.
    Labels(Vec<(String, String)>),
}

impl Node {
    /// The lines of a map, from the margin on.
    pub fn yaml(&self) -> String {
        let mut out = String::new();
        self.lines(&mut out, 0);
        out
    }

    fn lines(&self, out: &mut String, indent: usize) {
        let margin = " ".repeat(indent);
        match self {
            Self::Map(entries) => {
                for (n, (key, value)) in entries.iter().enumerate() {
                    // The first stands where the caller is.
                    let margin = if n == 0 { "" } else { &margin };
                    out.push_str(&format!("{margin}{key}:"));
                    value.after_key(out, indent);
                }
            }
            _ => self.after_key(out, indent),
        }
    }

    /// What stands after `key:`, or after the dash of a list.
    fn after_key(&self, out: &mut String, indent: usize) {
        let margin = " ".repeat(indent);
        match self {
            Self::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
            Self::Map(_) => {
                out.push_str(&format!("\n{margin}  "));
                self.lines(out, indent + 2);
            }
            Self::List(items) if items.is_empty() => out.push_str(" []\n"),
            Self::List(items) => {
                out.push('\n');
                for item in items {
                    out.push_str(&format!("{margin}-"));
                    match item {
                        Self::Map(entries) if !entries.is_empty() => {
                            out.push(' ');
                            item.lines(out, indent + 2);
                        }
                        _ => item.after_key(out, indent),
                    }
                }
            }
            Self::Text(text) => out.push_str(&format!(" {}\n", quoted(text))),
            Self::Block(text) => {
                out.push_str(" |\n");
                text.lines().for_each(|line| out.push_str(&format!("{margin}  {line}\n")));
            }
            Self::Number(number) => out.push_str(&format!(" {number}\n")),
            Self::True => out.push_str(" true\n"),
            Self::Labels(labels) => {
                out.push('\n');
                let lines = labels
                    .iter()
                    .map(|(key, value)| format!("{margin}  {}: {}\n", quoted(key), quoted(value)));
                out.extend(lines);
            }
        }
    }
}

/// Between quotes, whatever it is: JSON's strings are YAML's (1.2.2, 1.1).
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./@".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text);
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
