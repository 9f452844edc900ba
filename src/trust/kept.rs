//! The last good material of each root, on disk: one file a root, there whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::audit::{from_rfc3339, rfc3339};
use crate::config::files::{self, FileError};
use crate::limits;

/// The folder within the vetter's state.
pub const FOLDER: &str = "trust";

/// What is kept of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// When it was taken over: everything in it held then.
    pub at: SystemTime,
    /// Contents by name. A file's is `trusted_root.json` alone; a TUF repository's are its metadata, its targets below
    /// `targets/`.
    pub files: BTreeMap<String, Bytes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    at: String,
    files: BTreeMap<String, String>,
}

/// Reads what is kept of the root `name`; `None` if nothing is.
///
/// # Errors
/// One line. What is kept is of no use then, and the next good one replaces it.
pub fn read(state: &Path, name: &str) -> Result<Option<Kept>, String> {
    let path = state.join(FOLDER).join(format!("{name}.json"));
    let bytes = match files::read_guarded(&path, "TRUST_KEPT_BYTES", limits::TRUST_KEPT_BYTES) {
        Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| error.to_string())?,
    };
    let damaged = || format!("{}: damaged; it is replaced by the next good one", path.display());
    let written: Written = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    let decode = |(name, text): (String, String)| Some((name, STANDARD.decode(text).ok()?.into()));
    let files: Option<_> = written.files.into_iter().map(decode).collect();
    let (at, files) = from_rfc3339(&written.at).zip(files).ok_or_else(damaged)?;
    Ok(Some(Kept { at, files }))
}

/// Keeps this of the root `name`.
///
/// # Errors
/// One line: the disk is full, or the folder is not the daemon's.
pub fn write(state: &Path, name: &str, kept: &Kept) -> Result<(), String> {
    let files = kept.files.iter().map(|(name, bytes)| (name.clone(), STANDARD.encode(bytes))).collect();
    let text =
        serde_json::to_vec(&Written { at: rfc3339(kept.at), files }).map_err(|error| error.to_string())?;
    if text.len() > limits::TRUST_KEPT_BYTES {
        let cap = limits::TRUST_KEPT_BYTES;
        return Err(format!("expected at most {cap} bytes (limit TRUST_KEPT_BYTES), found {}", text.len()));
    }
    files::write_state(&state.join(FOLDER), &format!("{name}.json"), &text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn kept() -> Kept {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        Kept { at, files: [("a/b.json".to_owned(), Bytes::from_static(b"\x00\xff{}"))].into() }
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path(), "corp"), Ok(None));
        write(state.path(), "corp", &kept()).unwrap();
        assert_eq!(read(state.path(), "corp"), Ok(Some(kept())));
        assert_eq!(read(state.path(), "other"), Ok(None));
        assert_eq!(std::fs::read_dir(state.path().join(FOLDER)).unwrap().count(), 1);
    }

    #[test]
    fn damaged_file_is_an_error_and_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        write(state.path(), "corp", &kept()).unwrap();
        let path = state.path().join(FOLDER).join("corp.json");
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            good.get(..good.len() / 2).unwrap(),
            &good.replace("AP97fQ==", "AP97fQ="),
            &good.replace('T', " "),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(read(state.path(), "corp").unwrap_err().contains("damaged"), "{bad}");
        }
        write(state.path(), "corp", &kept()).unwrap();
        assert_eq!(read(state.path(), "corp"), Ok(Some(kept())));
    }

    #[test]
    fn more_than_the_limit_is_not_kept() {
        let state = tempfile::tempdir().unwrap();
        let mut large = kept();
        large.files.insert("x".to_owned(), vec![0; limits::TRUST_KEPT_BYTES].into());
        assert!(write(state.path(), "corp", &large).unwrap_err().contains("TRUST_KEPT_BYTES"));
        assert_eq!(read(state.path(), "corp"), Ok(None));
    }
}
