//! The caller's place in a trace: W3C Trace Context, `traceparent`.

/// The span that a call is below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub span_id: [u8; 8],
    /// Whether the caller records it.
    pub sampled: bool,
}

impl Parent {
    /// Reads a header's value (Trace Context level 1, section 3.2.2); `None` if it is none. A later version may have more
    /// behind the flags (section 3.2.4).
    pub fn parse(text: &str) -> Option<Parent> {
        let mut fields = text.split('-');
        let [version] = hex::<1>(fields.next()?)?;
        let (trace_id, span_id) = (hex::<16>(fields.next()?)?, hex::<8>(fields.next()?)?);
        let [flags] = hex::<1>(fields.next()?)?;
        let more = fields.next().is_some();
        if version == 0xff || (version == 0 && more) || trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Parent { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// Lower-case hexadecimal digits, exactly as many as it takes.
fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_one_is_read() {
        let parent = Parent::parse(VALID).unwrap();
        assert_eq!((parent.trace_id[0], parent.span_id[7], parent.sampled), (0x0a, 0x31, true));
        assert!(!Parent::parse(&VALID.replace("-01", "-02")).unwrap().sampled);
        assert!(Parent::parse(&format!("{}-later", VALID.replacen("00", "cc", 1))).is_some());
    }

    #[test]
    fn each_break_of_a_valid_one_makes_it_none() {
        for (from, to) in [
            ("00-", "ff-"),
            ("00-", "0-"),
            ("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            ("b7ad6b7169203331", "0000000000000000"),
            ("0af7", "0AF7"),
            ("-01", ""),
            ("-01", "-01-more"),
            ("b7ad", "ä7a"),
        ] {
            assert_eq!(Parent::parse(&VALID.replacen(from, to, 1)), None, "{from} {to}");
        }
    }
}
