//! Fields of vetted messages that this crivet has never heard of.
//!
//! They are forwarded like everything else, and alerted: an image reference once arrived in a field that the
//! proxies of the day did not know.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// `(message, known number ranges, (field, message of that field) pairs)`, from `proto/cri.proto`.
type Known = (&'static str, &'static [(i32, i32)], &'static [(i32, &'static str)]);

static KNOWN: &[Known] = include!(concat!(env!("OUT_DIR"), "/known_fields.rs"));

/// Paths reported for one message; more would only repeat the news.
const REPORTED: usize = 8;
/// Depth of the messages of proto/cri.proto; deeper is not looked at.
const DEPTH: usize = 8;

/// Paths such as `CreateContainerRequest.config.99` of unknown fields, sorted, each once, at most eight.
/// Bytes that do not parse yield what was found before them: deciding on them is the decoder's business.
pub fn unknown_fields(message: &str, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    scan(message, message, bytes, DEPTH, &mut found);
    found.sort();
    found.dedup();
    found.truncate(REPORTED);
    found
}

fn scan(path: &str, message: &str, mut bytes: &[u8], depth: usize, found: &mut Vec<String>) -> Option<()> {
    let (_, known, children) = KNOWN.iter().find(|(name, ..)| *name == message)?;
    let depth = depth.checked_sub(1)?;
    while !bytes.is_empty() && found.len() < REPORTED * DEPTH {
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let number = i32::try_from(number).ok()?;
        if !known.iter().any(|(first, last)| (*first..=*last).contains(&number)) {
            let field = format!("{path}.{number}");
            if !found.contains(&field) {
                found.push(field);
            }
        }
        let child = children.iter().find(|(field, _)| *field == number);
        match child {
            Some((_, child)) if wire_type == WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                let (inner, rest) = bytes.split_at_checked(length)?;
                scan(&format!("{path}.{number}"), child, inner, depth, found);
                bytes = rest;
            }
            _ => skip_field(wire_type, number.cast_unsigned(), &mut bytes, DecodeContext::default()).ok()?,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{ContainerConfig, CreateContainerRequest, ImageSpec, Mount, PodSandboxConfig};
    use prost::Message;

    fn valid() -> CreateContainerRequest {
        let image = ImageSpec { image: "sha256:ab".into(), ..Default::default() };
        CreateContainerRequest {
            pod_sandbox_id: "p".into(),
            config: Some(ContainerConfig {
                image: Some(image.clone()),
                mounts: vec![Mount { image: Some(image) }],
                ..Default::default()
            }),
            sandbox_config: Some(PodSandboxConfig {
                labels: [("a".into(), "b".into())].into(),
                ..Default::default()
            }),
        }
    }

    /// Field 99, a string, as it stands on the wire.
    const FIELD_99: &[u8] = &[0x9a, 0x06, 0x01, b'x'];

    #[test]
    fn nothing_unknown_in_what_we_write_ourselves() {
        assert_eq!(unknown_fields("CreateContainerRequest", &valid().encode_to_vec()), [""; 0]);
    }

    #[test]
    fn an_unknown_field_at_the_top() {
        let mut bytes = valid().encode_to_vec();
        bytes.extend_from_slice(FIELD_99);
        bytes.extend_from_slice(FIELD_99);
        assert_eq!(unknown_fields("CreateContainerRequest", &bytes), ["CreateContainerRequest.99"]);
    }

    #[test]
    fn an_unknown_field_in_a_mount_s_image() {
        let mut image = ImageSpec { image: "x".into(), ..Default::default() }.encode_to_vec();
        image.extend_from_slice(FIELD_99);
        let wrap = |field: u8, inner: &[u8]| [&[field << 3 | 2, inner.len() as u8], inner].concat();
        let bytes = wrap(2, &wrap(7, &wrap(9, &image)));
        assert_eq!(unknown_fields("CreateContainerRequest", &bytes), ["CreateContainerRequest.2.7.9.99"]);
    }

    #[test]
    fn garbage_ends_the_search() {
        assert_eq!(unknown_fields("CreateContainerRequest", &[0xff; 64]), [""; 0]);
    }
}
