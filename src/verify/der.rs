//! Just enough DER (X.690, 10) to walk structures whose exact bytes matter: what is signed is a part of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `SEQUENCE`.
pub(super) const SEQUENCE: u8 = 0x30;
/// `SET`.
pub(super) const SET: u8 = 0x31;
/// `INTEGER`.
pub(super) const INTEGER: u8 = 0x02;
/// `BIT STRING`.
pub(super) const BIT_STRING: u8 = 0x03;
/// `OCTET STRING`.
pub(super) const OCTET_STRING: u8 = 0x04;
/// `OBJECT IDENTIFIER`.
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
/// `UTF8String`.
pub(super) const UTF8_STRING: u8 = 0x0c;
/// `GeneralizedTime`.
pub(super) const GENERALIZED_TIME: u8 = 0x18;

/// `[number]`, constructed.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// The tag byte.
    pub tag: u8,
    /// What is in it.
    pub content: &'a [u8],
    /// All of it, tag and length included.
    pub raw: &'a [u8],
}

/// What is left of a structure's content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The one element that `bytes` are, with this tag.
    pub fn only(bytes: &'a [u8], tag: u8) -> Option<Element<'a>> {
        let mut reader = Self(bytes);
        let element = reader.expect(tag)?;
        reader.is_empty().then_some(element)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element. `None`: no more, or not DER.
    pub fn next(&mut self) -> Option<Element<'a>> {
        let (tag, rest) = self.0.split_first()?;
        // Tags of more than one byte do not occur in what is read here.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            // The definite form in as few bytes as it takes; four are 4 GiB.
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                let length = bytes.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
                if bytes.first() == Some(&0) || length < 0x80 {
                    return None;
                }
                (length, rest)
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        let raw = self.0.get(..self.0.len() - after.len())?;
        self.0 = after;
        Some(Element { tag: *tag, content, raw })
    }

    /// The next element, if it has this tag.
    pub fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }

    /// The next element, which has to have this tag.
    pub fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

impl<'a> Element<'a> {
    pub fn reader(&self) -> Reader<'a> {
        Reader(self.content)
    }
}

/// `content` with tag and length before it.
pub(super) fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let significant: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            // At most eight.
            out.push(0x80 | significant.len() as u8);
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A GeneralizedTime in UTC with seconds, with or without a fraction of them (RFC 3161, 2.4.2; RFC 5280 allows none).
pub(super) fn generalized_time(content: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, fraction),
        None => (text, "0"),
    };
    // X.690, 11.7: no fraction that ends with zeros, but for the one made here. Beyond nanoseconds nothing is told.
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14 || !digits(whole) || !digits(fraction) || text.ends_with(['0']) && text.contains('.')
    {
        return None;
    }
    let part = |from: usize, to: usize| whole.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month).ok()?.checked_sub(1)?;
    if day == 0 || day > *lengths.get(before)? {
        return None;
    }
    let past = year - 1;
    // Days from year 1 to the year before, less those to the end of 1969.
    let days = past * 365 + past / 4 - past / 100 + past / 400 - 719_162
        + lengths.iter().take(before).sum::<u64>()
        + day
        - 1;
    let nanos: u32 = format!("{:0<9}", fraction.get(..9.min(fraction.len()))?).parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::new(days * 86_400 + hour * 3600 + minute * 60 + second, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_der_is_not_read() {
        assert_eq!(Reader::only(&[4, 1, 7], OCTET_STRING).unwrap().content, [7]);
        // Cut, with more after it, an indefinite length, a length in too many bytes, a tag of two bytes, another tag.
        for bad in [
            &[4, 2, 7][..],
            &[4, 1, 7, 0],
            &[4, 0x80, 0, 0],
            &[4, 0x81, 1, 7],
            &[4, 0x82, 0, 1, 7],
            &[0x1f, 4, 1, 7],
            &[2, 1, 7],
            &[4],
            &[],
        ] {
            assert_eq!(Reader::only(bad, OCTET_STRING), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 70_000] {
            let content = vec![7; length];
            assert_eq!(Reader::only(&encode(SEQUENCE, &content), SEQUENCE).unwrap().content, content);
        }
    }

    #[test]
    fn generalized_times_with_and_without_a_fraction_are_read() {
        let read = |text: &str| {
            generalized_time(text.as_bytes()).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_millis())
        };
        assert_eq!(read("19700101000000Z"), Some(0));
        assert_eq!(read("20240229235959Z"), Some(1_709_251_199_000));
        assert_eq!(read("20240301000000.125Z"), Some(1_709_251_200_125));
        assert_eq!(read("20240301000000.1234567890123Z"), Some(1_709_251_200_123));
        for bad in [
            "20240301000000",
            "20240301000000.Z",
            "20240301000000.10Z",
            "202403010000Z",
            "20230229000000Z",
            "20241301000000Z",
            "20240301240000Z",
            "20240301000000+0100",
            "2024030100000xZ",
            "",
            "Z",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
