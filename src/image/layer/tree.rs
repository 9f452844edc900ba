//! The tree a layer unpacks to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::ops::Bound;

use super::tar::{Archive, Entry, Type};
use super::{Hashed, LayerError, XATTRS};
use crate::image::Digest;
use crate::limits;

/// Prefix of a whiteout: what has the rest for a name is gone.
const WHITEOUT: &[u8] = b".wh.";
/// Nothing of a directory's lower layers is seen.
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &[u8] = b"trusted.overlay.opaque";
const CAPABILITY: &[u8] = b"security.capability";

/// Memory that an entry takes beside its name, about.
const ENTRY_BYTES: u64 = 200;

/// What something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
    /// A character device; 0:0 is a whiteout.
    Character {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket: no layer has one.
    Socket,
}

/// All that counts of an entry but its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky bit; means nothing of a symbolic link.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Those of [`XATTRS`] that it has, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    fn new(kind: Kind, mode: u32, uid: u32, gid: u32) -> Attributes {
        Attributes { kind, mode, uid, gid, xattrs: BTreeMap::new() }
    }
}

/// What a directory has, mode and owner, that no entry of an archive names and that inherits nothing.
pub(super) const UNINHERITED: (u32, u32, u32) = (0o755, 0, 0);

/// By whose rules a layer is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// containerd's overlayfs snapshotter's: a layer with none below it.
    Lowest,
    /// The same, one above another.
    Upper,
    /// containers/storage's overlay driver's (`pkg/archive`, `Unpack`), which knows no difference.
    Storage,
}

/// A file or directory, under one name or several.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub attributes: Attributes,
    /// The runtime gave it a mode of its own choice, as no entry does.
    pub implied: bool,
    /// Its mode and owner are those of the layers below, if the runtime looked at these: containerd 2.2 unpacks without (in parallel), and leaves
    /// [`UNINHERITED`].
    pub inherited: bool,
    /// Of a regular file.
    pub content: Option<Digest>,
}

impl Inode {
    /// What an entry of the archive says, or the snapshotter does; without content.
    fn new(attributes: Attributes) -> Inode {
        Inode { attributes, implied: false, inherited: false, content: None }
    }
}

#[derive(Debug, Clone, Copy)]
struct Name {
    inode: usize,
    /// Made for the sake of what is in it: the archive says nothing of it.
    implied: bool,
    /// Named by the archive, which a whiteout of the same archive does not take away.
    unpacked: bool,
}

/// What one layer unpacks to. Paths are relative, `/` between their parts; the root is empty.
#[derive(Debug)]
pub struct Tree {
    names: BTreeMap<Box<[u8]>, Name>,
    inodes: Vec<Inode>,
    /// Bytes of names, targets and attributes.
    bytes: u64,
    rules: Rules,
}

impl Tree {
    /// The tree of a whole archive.
    pub(super) fn of<R: Read>(archive: R, rules: Rules) -> Result<Tree, LayerError> {
        let mut tree = Tree { names: BTreeMap::new(), inodes: Vec::new(), bytes: 0, rules };
        // Made by the snapshotter; an archive's own entry for it is passed over.
        let is_storage = rules == Rules::Storage;
        let root = Attributes::new(Kind::Directory, if is_storage { 0o555 } else { 0o755 }, 0, 0);
        tree.put(&[], Inode { implied: is_storage, ..Inode::new(root) }, false)?;
        let mut archive = Archive::new(archive);
        while let Some(entry) = archive.next()? {
            tree.add(entry, &mut archive)?;
        }
        Ok(tree)
    }

    /// Directories that this layer implies have what they have below it, by the layers below, the next one first.
    pub fn inherit(&mut self, below: &[&Tree]) {
        let implied = self.names.iter().filter(|(_, name)| name.implied);
        let implied: Vec<(Box<[u8]>, usize)> =
            implied.map(|(path, name)| (path.clone(), name.inode)).collect();
        for (path, inode) in implied {
            let found = below.iter().find_map(|tree| {
                let at = tree.resolve(&path, false).ok()?;
                tree.get(&at).map(|inode| &inode.attributes)
            });
            // What is no directory there was replaced by one.
            let found = found.filter(|attributes| attributes.kind == Kind::Directory);
            if let (Some(found), Some(inode)) = (found, self.inodes.get_mut(inode)) {
                inode.attributes.mode = found.mode;
                inode.attributes.uid = found.uid;
                inode.attributes.gid = found.gid;
                inode.inherited = true;
            }
        }
    }

    /// The root, which the layer above has for its own, unless it says something of it. By containers/storage's rules.
    pub fn root(&self) -> Option<Attributes> {
        self.get(&[]).map(|root| root.attributes.clone())
    }

    /// Takes over the root of the layer below. By containers/storage's rules.
    pub fn stand_on(&mut self, below: &Attributes) {
        let root = self.names.get(&[][..]).map(|name| name.inode);
        if let Some(root) = root.and_then(|root| self.inodes.get_mut(root)).filter(|root| root.implied) {
            let Attributes { mode, uid, gid, .. } = *below;
            root.attributes = Attributes { mode, uid, gid, ..root.attributes.clone() };
        }
    }

    /// What the layers above have to know of it: all but its regular files.
    pub fn without_files(&self) -> Tree {
        let mut kept = Tree { names: BTreeMap::new(), inodes: Vec::new(), bytes: 0, rules: self.rules };
        for (path, name) in &self.names {
            let Some(inode @ Inode { content: None, .. }) = self.inodes.get(name.inode) else { continue };
            let target = if let Kind::Symlink { target } = &inode.attributes.kind { target.len() } else { 0 };
            kept.bytes += (path.len() + target) as u64;
            kept.names.insert(path.clone(), Name { inode: kept.inodes.len(), ..*name });
            kept.inodes.push(inode.clone());
        }
        kept
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> u64 {
        self.bytes + ENTRY_BYTES * self.names.len().max(self.inodes.len()) as u64
    }

    /// Every path with what is there, sorted.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &Inode)> {
        self.names.iter().filter_map(|(path, name)| Some((path.as_ref(), self.inodes.get(name.inode)?)))
    }

    /// What is at a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Inode> {
        self.inodes.get(self.names.get(path)?.inode)
    }

    /// As [`Tree::get`], and takes the path away.
    pub(super) fn take(&mut self, path: &[u8]) -> Option<&Inode> {
        let name = self.names.remove(path)?;
        self.inodes.get(name.inode)
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        self.get(path).is_some_and(|inode| inode.attributes.kind == Kind::Directory)
    }

    fn add<R: Read>(&mut self, entry: Entry, data: &mut Archive<R>) -> Result<(), LayerError> {
        let name = cleaned(&entry.name);
        let Some((base, parent)) = name.split_last() else { return self.add_root(&entry) };
        let is_whiteout = base.starts_with(WHITEOUT);
        let parent = match self.resolve(&parent.join(&b'/'), true) {
            // What is in a folder that is whited out is gone already.
            Err(_) if self.rules == Rules::Storage && is_whiteout => return Ok(()),
            parent => parent?,
        };
        self.make_parents(&parent)?;
        let path = joined(&parent, base);
        if *base == OPAQUE {
            return self.make_opaque(&parent);
        }
        if let Some(gone) = base.strip_prefix(WHITEOUT) {
            return self.white_out(&parent, gone, &entry);
        }
        let is_directory = entry.kind == Type::Directory;
        if !(is_directory && self.is_directory(&path)) {
            self.remove(&path);
        }
        let kind = match entry.kind {
            Type::Global => return Ok(()),
            Type::Link => return self.link(&path, &entry),
            Type::Directory => Kind::Directory,
            Type::File => Kind::File { size: entry.size },
            Type::Symlink => Kind::Symlink { target: entry.target.clone() },
            Type::Character => Kind::Character { major: entry.device.0, minor: entry.device.1 },
            Type::Block => Kind::Block { major: entry.device.0, minor: entry.device.1 },
            Type::Fifo => Kind::Fifo,
        };
        let content = match kind {
            Kind::File { .. } => {
                let mut hashed = Hashed::new(data, u64::MAX);
                io::copy(&mut hashed, &mut io::sink())?;
                Some(hashed.digest())
            }
            _ => None,
        };
        if let Some(name) = self.names.get_mut(path.as_slice()) {
            // A directory that is there already: it gets what this entry says of it.
            (name.implied, name.unpacked) = (false, true);
            let inode = name.inode;
            return self.set(inode, &entry);
        }
        let attributes = Attributes::new(kind, 0, 0, 0);
        let inode = self.put(&path, Inode { content, ..Inode::new(attributes) }, false)?;
        self.set(inode, &entry)
    }

    /// containers/storage passes over `.` and what comes to it, and takes `/` at its word.
    fn add_root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let is_root = entry.name.starts_with(b"/") && entry.kind == Type::Directory;
        match self.names.get(&[][..]).map(|name| name.inode) {
            Some(root) if is_root && self.rules == Rules::Storage => self.set(root, entry),
            _ => Ok(()),
        }
    }

    /// Owner, attributes and mode of an entry, set in the order a runtime does.
    fn set(&mut self, inode: usize, entry: &Entry) -> Result<(), LayerError> {
        let mut added = 0;
        if let Some(Inode { attributes, implied, .. }) = self.inodes.get_mut(inode) {
            *implied = false;
            // containers/storage leaves alone what has its owner already.
            let is_given =
                self.rules != Rules::Storage || (attributes.uid, attributes.gid) != (entry.uid, entry.gid);
            (attributes.uid, attributes.gid) = (entry.uid, entry.gid);
            attributes.mode = entry.mode;
            if attributes.kind != Kind::Directory && is_given {
                // To change its owner takes a file's capabilities away (the kernel's ATTR_KILL_PRIV).
                attributes.xattrs.remove(CAPABILITY);
            }
            for (name, value) in &entry.xattrs {
                // containerd does not let an archive set what only overlayfs may.
                let is_set = self.rules == Rules::Storage || !name.starts_with(b"trusted.");
                if XATTRS.contains(&name.as_slice()) && is_set {
                    added += (name.len() + value.len()) as u64;
                    attributes.xattrs.insert(name.clone(), value.clone());
                }
            }
        }
        self.count(added)
    }

    fn link(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let split = entry.target.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (folder, base) = entry.target.split_at_checked(split).unwrap_or_default();
        let target = joined(&self.resolve(folder, true)?, base);
        let target = self.names.get(target.as_slice()).copied();
        let name = target.ok_or_else(|| refused(path, "it is a link to what is not in the layer"))?;
        if self.inodes.get(name.inode).is_some_and(|inode| inode.attributes.kind == Kind::Directory) {
            return Err(refused(path, "it is a link to a directory"));
        }
        self.insert(path, Name { implied: false, unpacked: true, ..name })?;
        self.set(name.inode, entry)
    }

    fn white_out(&mut self, parent: &[u8], gone: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let path = joined(parent, gone);
        if gone.is_empty() || gone == b"." || gone == b".." {
            return Err(refused(&path, "it is no name for a whiteout"));
        }
        if self.rules == Rules::Lowest {
            self.remove(&path);
            return Ok(());
        }
        if self.names.contains_key(path.as_slice()) {
            return Err(refused(&path, "it is there, and whited out"));
        }
        let whiteout = Attributes::new(Kind::Character { major: 0, minor: 0 }, 0, entry.uid, entry.gid);
        self.put(&path, Inode::new(whiteout), false).map(drop)
    }

    fn make_opaque(&mut self, directory: &[u8]) -> Result<(), LayerError> {
        if self.rules != Rules::Lowest {
            let inode = self.names.get(directory).map(|name| name.inode);
            if let Some(inode) = inode.and_then(|inode| self.inodes.get_mut(inode)) {
                inode.attributes.xattrs.insert(OPAQUE_ATTRIBUTE.to_vec(), b"y".to_vec());
            }
            return self.count(OPAQUE_ATTRIBUTE.len() as u64 + 1);
        }
        // What the archive had before stays, but for what is in a directory it did not name.
        let below: Vec<Box<[u8]>> = self.below(directory).map(|(path, _)| path.clone()).collect();
        for path in below {
            if self.names.get(&path).is_some_and(|name| !name.unpacked) {
                self.remove(&path);
            }
        }
        Ok(())
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let parent = path.get(..end).unwrap_or_default();
            match self.get(parent).map(|inode| &inode.attributes.kind) {
                Some(Kind::Directory) => {}
                Some(_) => return Err(refused(parent, "it is no directory, and something is in it")),
                None => {
                    let (mode, uid, gid) = UNINHERITED;
                    let attributes = Attributes::new(Kind::Directory, mode, uid, gid);
                    // containerd gives it what it has in the layers below.
                    let implied = self.rules == Rules::Storage;
                    self.put(parent, Inode { implied, ..Inode::new(attributes) }, true)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &[u8], inode: Inode, implied: bool) -> Result<usize, LayerError> {
        let target = if let Kind::Symlink { target } = &inode.attributes.kind { target.len() } else { 0 };
        self.count(target as u64)?;
        let at = self.inodes.len();
        self.inodes.push(inode);
        self.insert(path, Name { inode: at, implied, unpacked: !implied })?;
        Ok(at)
    }

    fn insert(&mut self, path: &[u8], name: Name) -> Result<(), LayerError> {
        self.count(path.len() as u64)?;
        self.names.insert(path.into(), name);
        // Replaced ones stay in `inodes`, so both are counted.
        let found = self.names.len().max(self.inodes.len()) as u64;
        if found > limits::LAYER_ENTRIES {
            let (what, cap) = ("entries", limits::LAYER_ENTRIES);
            return Err(LayerError::Limit { what, found, cap, limit: "LAYER_ENTRIES" });
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > limits::LAYER_NAME_BYTES {
            let (what, found, cap) = ("bytes of names", self.bytes, limits::LAYER_NAME_BYTES);
            return Err(LayerError::Limit { what, found, cap, limit: "LAYER_NAME_BYTES" });
        }
        Ok(())
    }

    /// Takes away what is at a path, with all that is below it.
    fn remove(&mut self, path: &[u8]) {
        let below: Vec<Box<[u8]>> = self.below(path).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.names.remove(&path);
        }
        self.names.remove(path);
    }

    fn below(&self, path: &[u8]) -> impl Iterator<Item = (&Box<[u8]>, &Name)> {
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let after = (Bound::Excluded(prefix.as_slice()), Bound::Unbounded);
        let range = self.names.range::<[u8], _>(after);
        range.take_while(move |(path, _)| path.starts_with(&prefix)).collect::<Vec<_>>().into_iter()
    }

    /// Where a path leads within the tree, its symbolic links followed, the last part's too. What is not there is taken as
    /// it is written. `strict`: a part that is no directory is an error, as it is for whoever unpacks.
    fn resolve(&self, path: &[u8], strict: bool) -> Result<Vec<u8>, LayerError> {
        let mut rest: VecDeque<Vec<u8>> = cleaned(path).into_iter().map(<[u8]>::to_vec).collect();
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(part) = rest.pop_front() {
            let next = joined(&at, &part);
            match self.get(&next).map(|inode| &inode.attributes.kind) {
                Some(Kind::Symlink { target }) => {
                    links += 1;
                    if links > limits::LAYER_LINKS {
                        return Err(refused(path, "its symbolic links have no end"));
                    }
                    let base = if target.starts_with(b"/") { &[][..] } else { &at };
                    let whole = joined(base, target);
                    for part in cleaned(&whole).into_iter().rev() {
                        rest.push_front(part.to_vec());
                    }
                    at = Vec::new();
                }
                Some(Kind::Directory) | None => at = next,
                Some(_) if strict => {
                    return Err(refused(&next, "it is no directory, and something is in it"));
                }
                Some(_) => at = next,
            }
        }
        Ok(at)
    }
}

/// A path's parts, `.` and `..` taken out by the letter, as Go's `filepath.Clean` does. None of them leads above the root.
pub(super) fn cleaned(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn refused(path: &[u8], why: &'static str) -> LayerError {
    LayerError::Entry { path: String::from_utf8_lossy(path).into_owned(), why }
}
