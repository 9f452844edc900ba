//! What is on a disk, held against what a layer unpacks to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::tree::{Attributes, Kind, Tree, UNINHERITED};
use crate::image::{Digest, quoted};
use crate::limits;

/// One thing that is not as the layer has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Where, relative to the layer's root.
    pub path: Vec<u8>,
    /// What.
    pub change: Change,
}

/// What is not as the layer has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is not in the layer.
    Added(String),
    /// It is in the layer only.
    Missing(String),
    /// It is something else: a file instead of a directory, or another device.
    Kind {
        /// What the layer has.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file's data are others, of the same length.
    Content {
        /// The layer's.
        expected: Digest,
        /// Those on the disk.
        found: Digest,
    },
    /// A file's data are others, of the same length, by the checksum that the runtime took when it unpacked them.
    Data,
    /// A file has another length.
    Size {
        /// In the layer, bytes.
        expected: u64,
        /// On the disk, bytes.
        found: u64,
    },
    /// Other permissions, setuid, setgid and sticky bit included.
    Mode {
        /// In the layer.
        expected: u32,
        /// On the disk.
        found: u32,
    },
    /// Another owner or group.
    Owner {
        /// In the layer.
        expected: (u32, u32),
        /// On the disk.
        found: (u32, u32),
    },
    /// A symbolic link leads elsewhere.
    Target {
        /// In the layer.
        expected: Vec<u8>,
        /// On the disk.
        found: Vec<u8>,
    },
    /// An extended attribute was set, changed or taken away.
    Attribute(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| quoted(&String::from_utf8_lossy(bytes));
        write!(f, "{}: ", text(&[b"/", self.path.as_slice()].concat()))?;
        match &self.change {
            Change::Added(found) => write!(f, "expected nothing, found {found}"),
            Change::Missing(expected) => write!(f, "expected {expected}, found nothing"),
            Change::Kind { expected, found } => write!(f, "expected {expected}, found {found}"),
            Change::Content { expected, found } => write!(f, "expected content {expected}, found {found}"),
            Change::Data => f.write_str("expected its data as they were unpacked, found others"),
            Change::Size { expected, found } => write!(f, "expected {expected} bytes, found {found}"),
            Change::Mode { expected, found } => write!(f, "expected mode {expected:04o}, found {found:04o}"),
            Change::Owner { expected: (uid, gid), found } => {
                write!(f, "expected owner {uid}:{gid}, found {}:{}", found.0, found.1)
            }
            Change::Target { expected, found } => {
                write!(f, "expected a link to {}, found one to {}", text(expected), text(found))
            }
            Change::Attribute(name) => write!(f, "expected attribute {name} as in the layer, found another"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Directory => f.write_str("a directory"),
            Kind::File { .. } => f.write_str("a file"),
            Kind::Symlink { .. } => f.write_str("a symbolic link"),
            Kind::Character { major: 0, minor: 0 } => f.write_str("a whiteout"),
            Kind::Character { major, minor } => write!(f, "the character device {major}:{minor}"),
            Kind::Block { major, minor } => write!(f, "the block device {major}:{minor}"),
            Kind::Fifo => f.write_str("a named pipe"),
            Kind::Socket => f.write_str("a socket"),
        }
    }
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences {
    /// The first, by path; at most [`limits::LAYER_DIFFERENCES`].
    pub first: Vec<Difference>,
    /// How many there are in all.
    pub count: u64,
    /// Files of which only the content was not compared: with any, nothing can be said for the layer.
    pub unread: u64,
}

impl Differences {
    /// Everything was compared, and is as the layer has it.
    pub fn is_same(&self) -> bool {
        self.count == 0 && self.unread == 0
    }
}

/// Differences as they are found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    first: BTreeSet<Difference>,
    count: u64,
}

impl Collected {
    /// Takes one.
    pub fn add(&mut self, path: &[u8], change: Change) {
        self.count += 1;
        self.first.insert(Difference { path: path.to_vec(), change });
        if self.first.len() > limits::LAYER_DIFFERENCES {
            self.first.pop_last();
        }
    }

    /// All of them.
    pub fn finish(self, unread: u64) -> Differences {
        Differences { first: self.first.into_iter().collect(), count: self.count, unread }
    }
}

/// A comparison under way. Every entry on the disk is given once, in any order, and each file's digest where it is asked for.
#[derive(Debug)]
pub struct Comparison {
    /// What of it was not found yet.
    tree: Tree,
    unread: BTreeMap<Vec<u8>, Digest>,
    differences: Collected,
}

impl Comparison {
    /// A comparison with this tree.
    pub fn new(tree: Tree) -> Comparison {
        Comparison { tree, unread: BTreeMap::new(), differences: Collected::default() }
    }

    /// Takes what was found at a path; the root's is empty. `true`: the digest of its data has to be given.
    pub fn found(&mut self, path: &[u8], found: &Attributes) -> bool {
        let Some(inode) = self.tree.take(path) else {
            self.differs(path, Change::Added(found.kind.to_string()));
            return false;
        };
        let (expected, content, implied) = (inode.attributes.clone(), inode.content, inode.implied);
        let is_uninherited = inode.inherited && (found.mode, found.uid, found.gid) == UNINHERITED;
        let mut to_be_read = None;
        match (&expected.kind, &found.kind) {
            (Kind::File { size: expected }, Kind::File { size }) if expected != size => {
                self.differs(path, Change::Size { expected: *expected, found: *size });
            }
            (Kind::Symlink { target: expected }, Kind::Symlink { target }) if expected != target => {
                self.differs(path, Change::Target { expected: expected.clone(), found: target.clone() });
            }
            (Kind::File { .. }, Kind::File { .. }) => to_be_read = content,
            (Kind::Symlink { .. }, Kind::Symlink { .. }) => {}
            (expected, found) if expected != found => {
                let (expected, found) = (expected.to_string(), found.to_string());
                self.differs(path, Change::Kind { expected, found });
                // Its other attributes are another thing's.
                return false;
            }
            _ => {}
        }
        // Made by a runtime under its umask, whatever that is, but never so that others may write.
        let is_made = is_uninherited || implied && found.mode & 0o7022 == 0;
        if expected.mode != found.mode && !matches!(found.kind, Kind::Symlink { .. }) && !is_made {
            self.differs(path, Change::Mode { expected: expected.mode, found: found.mode });
        }
        let owners = ((expected.uid, expected.gid), (found.uid, found.gid));
        if owners.0 != owners.1 && !is_uninherited {
            self.differs(path, Change::Owner { expected: owners.0, found: owners.1 });
        }
        let names: BTreeSet<_> = expected.xattrs.keys().chain(found.xattrs.keys()).collect();
        for name in names {
            if expected.xattrs.get(name) != found.xattrs.get(name) {
                self.differs(path, Change::Attribute(String::from_utf8_lossy(name).into_owned()));
            }
        }
        let Some(content) = to_be_read else { return false };
        self.unread.insert(path.to_vec(), content);
        true
    }

    /// Takes the digest of a file's data.
    pub fn content(&mut self, path: &[u8], found: Digest) {
        if let Some(expected) = self.unread.remove(path)
            && expected != found
        {
            self.differs(path, Change::Content { expected, found });
        }
    }

    /// What it came to, everything having been given.
    pub fn finish(mut self) -> Differences {
        let missing: Vec<Difference> = self
            .tree
            .entries()
            .map(|(path, inode)| Difference {
                path: path.to_vec(),
                change: Change::Missing(inode.attributes.kind.to_string()),
            })
            .collect();
        for Difference { path, change } in missing {
            self.differs(&path, change);
        }
        self.differences.finish(self.unread.len() as u64)
    }

    fn differs(&mut self, path: &[u8], change: Change) {
        self.differences.add(path, change);
    }
}
