//! The fuzz targets for layers: whatever an archive says, nothing in the tree is outside it.

use std::io::{self, Empty};

use super::{Comparison, Files, Kind, Tree, rebuild, unpack};
use crate::fuzzing::one_line;
use crate::image::Digest;

/// Whether it is a layer.
///
/// # Panics
/// If something does not hold that has to.
pub fn layer(data: &[u8]) -> bool {
    let (lowest, upper) = (tree(data, true), tree(data, false));
    let is_layer = lowest.is_some();
    if let (Some(lowest), Some(upper)) = (lowest, upper) {
        check_inherited(upper, lowest);
    }
    is_layer
}

/// No files: zeros are read instead of them.
struct NoFiles;

impl Files for NoFiles {
    type Data = Empty;

    fn open(&self, path: &[u8]) -> io::Result<Option<(Empty, u64)>> {
        let is_part = |part: &[u8]| !matches!(part, b"." | b"..");
        assert!(!path.starts_with(b"/") && path.split(|byte| *byte == b'/').all(is_part));
        Ok(None)
    }
}

/// Whether it is what tar-split writes down of an archive.
///
/// # Panics
/// If something does not hold that has to.
pub fn tar_split(data: &[u8]) -> bool {
    // What says that it is gigabytes takes the time that it says.
    let digits = data.split(|byte| !byte.is_ascii_digit());
    if data.starts_with(&[0x1f, 0x8b]) || digits.map(<[u8]>::len).max() > Some(6) {
        return false;
    }
    match rebuild(data, NoFiles) {
        Ok(rebuilt) => {
            check(&rebuilt.tree);
            true
        }
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    }
}

fn tree(data: &[u8], lowest: bool) -> Option<Tree> {
    let unpacked = unpack(data, lowest).expect("bytes in memory can be read");
    assert_eq!(unpacked.blob, Digest::of(data));
    let content = unpacked.content.map_err(|error| one_line(&error.to_string())).ok()?;
    check(&content.tree);
    Some(content.tree)
}

fn check(tree: &Tree) {
    let mut entries = tree.entries();
    let (root, inode) = entries.next().expect("a tree without a root");
    assert!(root.is_empty() && inode.attributes.kind == Kind::Directory);
    for (path, inode) in entries {
        let said = String::from_utf8_lossy(path);
        let is_part = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        assert!(path.split(|byte| *byte == b'/').all(is_part), "{said}");
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
        let parent = tree.get(parent).map(|inode| &inode.attributes.kind);
        assert_eq!(parent, Some(&Kind::Directory), "{said}");
        assert_eq!(inode.content.is_some(), matches!(inode.attributes.kind, Kind::File { .. }), "{said}");
        assert!(inode.attributes.mode <= 0o7777, "{said}");
    }
}

/// A tree is the same as itself, whatever it has from the layers below.
fn check_inherited(mut tree: Tree, below: Tree) {
    tree.inherit(&[&below.without_files()]);
    let entries =
        tree.entries().map(|(path, inode)| (path.to_vec(), inode.attributes.clone(), inode.content));
    let entries: Vec<_> = entries.collect();
    let mut comparison = Comparison::new(tree);
    for (path, attributes, content) in entries {
        assert_eq!(comparison.found(&path, &attributes), content.is_some());
        if let Some(content) = content {
            comparison.content(&path, content);
        }
    }
    assert!(comparison.finish().is_same());
}
