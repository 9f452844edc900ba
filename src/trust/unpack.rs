//! A TUF repository out of a TrustRoot document's `mirrorFS`: a gzipped tar archive (RFC 1952, pax). No I/O.

use std::collections::BTreeMap;

use bytes::Bytes;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};

use crate::limits;

/// The unit of a tar archive, bytes.
const BLOCK: usize = 512;

/// The archive's files by their path within the repository. `repository/` in front, as policy-controller's tool
/// writes it, is left out.
///
/// # Errors
/// What was expected.
pub(crate) fn unpack(archive: &[u8]) -> Result<BTreeMap<String, Bytes>, String> {
    let deflated = gzip_content(archive).ok_or("expected a gzipped tar archive, found something else")?;
    let tar = decompress_to_vec_with_limit(deflated, limits::MIRROR_FS_BYTES).map_err(|error| match error
        .status
    {
        TINFLStatus::HasMoreOutput => {
            format!("expected at most {} bytes unpacked (limit MIRROR_FS_BYTES)", limits::MIRROR_FS_BYTES)
        }
        _ => "expected a gzipped tar archive, found a damaged one".to_owned(),
    })?;
    files(&tar)
}

/// What follows a gzip header (RFC 1952, 2.3). The checksum behind it is not looked at: what is inside is signed.
fn gzip_content(bytes: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = bytes.split_at_checked(10)?;
    let [0x1f, 0x8b, 8, flags, ..] = *header else { return None };
    if flags & 4 != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    if flags & 2 != 0 { rest.get(2..) } else { Some(rest) }
}

fn files(mut tar: &[u8]) -> Result<BTreeMap<String, Bytes>, String> {
    const DAMAGED: &str = "expected a tar archive, found a damaged one";
    let mut files = BTreeMap::new();
    let mut long_name: Option<String> = None;
    while let Some((header, rest)) = tar.split_at_checked(BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            return Ok(files);
        }
        let size = octal(header.get(124..136).unwrap_or_default()).ok_or(DAMAGED)?;
        let content = rest.get(..size).ok_or(DAMAGED)?;
        tar = rest.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
        match header.get(156) {
            // pax (POSIX.1-2001) and GNU tar: the name of the next entry, where it is too long for its header.
            Some(b'x') => long_name = pax_path(content),
            Some(b'L') => long_name = Some(text(content)),
            Some(b'0' | 0) => {
                let name = long_name.take().unwrap_or_else(|| name_of(header));
                let name = name.trim_start_matches("./").trim_start_matches('/');
                let name = name.strip_prefix("repository/").unwrap_or(name);
                if files.len() == limits::MIRROR_FS_FILES {
                    return Err(format!(
                        "expected at most {} files (limit MIRROR_FS_FILES)",
                        limits::MIRROR_FS_FILES
                    ));
                }
                files.insert(name.to_owned(), Bytes::copy_from_slice(content));
            }
            // Folders, and what belongs to no file.
            _ => long_name = None,
        }
    }
    // Some writers leave the zeros at the end out.
    if tar.is_empty() { Ok(files) } else { Err(DAMAGED.to_owned()) }
}

fn octal(field: &[u8]) -> Option<usize> {
    usize::from_str_radix(text(field).trim(), 8).ok()
}

/// Text up to the first zero byte.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

fn name_of(header: &[u8]) -> String {
    let name = text(header.get(..100).unwrap_or_default());
    let is_ustar = header.get(257..262) == Some(b"ustar");
    match text(header.get(345..500).unwrap_or_default()) {
        prefix if is_ustar && !prefix.is_empty() => format!("{prefix}/{name}"),
        _ => name,
    }
}

/// The record `path` of a pax header: `<length> path=<value>\n`.
fn pax_path(content: &[u8]) -> Option<String> {
    String::from_utf8_lossy(content)
        .lines()
        .find_map(|record| record.split_once(' ')?.1.strip_prefix("path=").map(str::to_owned))
}
