//! The one way from a text to the page.

use std::fmt::{self, Display, Write};

use crate::audit::printable;

/// A text as HTML shows it, in elements and in quoted attributes. What is not printable ASCII is escaped as Rust does:
/// no bidirectional mark makes an image look like another.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in printable(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
