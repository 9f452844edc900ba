//! What is under a folder that only root may read: described, not judged. Nothing of it is parsed.
//!
//! Whoever could alter the folder may alter it while it is read. So nothing is reached by a path that leads out of it, over
//! a symbolic link or onto another file system, only files and folders are opened, and what a file is, is asked of what was opened.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, fstat, major, minor, openat,
    openat2, readlinkat, statat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::image::Digest;
use crate::image::layer::{Attributes, Files, Kind, XATTRS};
use crate::limits;

/// A folder with an unpacked layer.
pub struct Unpacked {
    root: OwnedFd,
}

impl Unpacked {
    /// Opens a folder. The way to it is the runtime's, which may have its own links.
    ///
    /// To see all that is in it takes CAP_DAC_READ_SEARCH, for what only its owner may read, and CAP_SYS_ADMIN: without that
    /// the kernel says that there are no `trusted.` attributes.
    pub fn open(folder: &Path) -> io::Result<Unpacked> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Unpacked { root: openat(CWD, folder, flags, Mode::empty())? })
    }

    /// Hands everything in it to `each`, by its path: the folder itself first, with an empty one.
    ///
    /// # Errors
    /// Something in it cannot be read, or there is more than [`limits::LAYER_ENTRIES`].
    pub fn walk(&self, mut each: impl FnMut(Vec<u8>, Attributes)) -> io::Result<()> {
        let mut folders = vec![Vec::new()];
        let mut entries = 0;
        while let Some(path) = folders.pop() {
            let folder = self.open_beneath(&path, OFlags::DIRECTORY)?;
            let stat = fstat(&folder)?;
            each(path.clone(), attributes(&stat, Kind::Directory, xattrs(&folder)?));
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                entries += 1;
                if entries > limits::LAYER_ENTRIES {
                    return Err(io::Error::other(format!(
                        "expected at most {} entries (limit LAYER_ENTRIES), found more",
                        limits::LAYER_ENTRIES
                    )));
                }
                let below = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
                let stat = statat(&folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)?;
                let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
                let (stat, kind, xattrs) = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => {
                        folders.push(below);
                        continue;
                    }
                    FileType::RegularFile => {
                        let file = self.open_beneath(&below, OFlags::NONBLOCK)?;
                        let stat = fstat(&file)?;
                        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                            return Err(io::Error::other("a file became something else while it was read"));
                        }
                        let size = u64::try_from(stat.st_size).unwrap_or_default();
                        (stat, Kind::File { size }, xattrs(&file)?)
                    }
                    FileType::Symlink => {
                        let target = readlinkat(&folder, OsStr::from_bytes(name), Vec::new())?;
                        (stat, Kind::Symlink { target: target.into_bytes() }, BTreeMap::new())
                    }
                    FileType::CharacterDevice => (stat, Kind::Character { major, minor }, BTreeMap::new()),
                    FileType::BlockDevice => (stat, Kind::Block { major, minor }, BTreeMap::new()),
                    FileType::Fifo => (stat, Kind::Fifo, BTreeMap::new()),
                    FileType::Socket | FileType::Unknown => (stat, Kind::Socket, BTreeMap::new()),
                };
                each(below, attributes(&stat, kind, xattrs));
            }
        }
        Ok(())
    }

    /// The digest of a file's data, which may be `size` bytes long; of one that grew meanwhile, that of something else.
    pub fn digest(&self, path: &[u8], size: u64) -> io::Result<Digest> {
        let file = self.open_beneath(path, OFlags::NONBLOCK)?;
        let mut file = File::from(file).take(size.saturating_add(1));
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(Digest::from_raw(hash.finalize().into())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(buffer.get(..read).unwrap_or_default());
        }
    }

    /// The folder itself.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn root(&self) -> io::Result<Attributes> {
        Ok(attributes(&fstat(&self.root)?, Kind::Directory, xattrs(&self.root)?))
    }

    /// An attribute of the folder itself that only containers/storage sets: the files in it have other modes and owners than the layer says,
    /// which are written down beside them (`force_mask` in storage.conf).
    pub fn has_forced_modes(&self) -> io::Result<bool> {
        match fgetxattr(&self.root, "user.containers.override_stat", &mut [0_u8; 0][..]) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = OsStr::from_bytes(if path.is_empty() { b"." } else { path });
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        match openat2(&self.root, path, flags | OFlags::NOATIME, Mode::empty(), resolve) {
            // Only for the file's owner, or with CAP_FOWNER.
            Err(Errno::PERM) => Ok(openat2(&self.root, path, flags, Mode::empty(), resolve)?),
            opened => Ok(opened?),
        }
    }
}

/// As runtimes unpack: over the layer's own links, whose targets begin at its folder.
impl Files for &Unpacked {
    type Data = File;

    fn open(&self, path: &[u8]) -> io::Result<Option<(File, u64)>> {
        let path = OsStr::from_bytes(path);
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |flags| openat2(&self.root, path, flags, Mode::empty(), resolve);
        // A device is not opened: that alone may do something.
        let found = match open(flags | OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => {
                return Ok(None);
            }
            found => fstat(found?)?,
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let file = open(flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("a file became something else while it was read"));
        }
        Ok(Some((File::from(file), u64::try_from(stat.st_size).unwrap_or_default())))
    }
}

/// Bytes of a file that are read at once.
const CHUNK: usize = 256 * 1024;

fn attributes(stat: &Stat, kind: Kind, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Attributes {
    Attributes { kind, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, xattrs }
}

/// Those of [`XATTRS`] that a file or folder has.
fn xattrs(of: impl AsFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in XATTRS {
        let mut value = [0; XATTR_BYTES];
        match fgetxattr(&of, OsStr::from_bytes(name), &mut value[..]) {
            Ok(length) => {
                found.insert(name.to_vec(), value.get(..length).unwrap_or_default().to_vec());
            }
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            // It is there, and none of these is so long.
            Err(Errno::RANGE) => {
                found.insert(name.to_vec(), b"too long".to_vec());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Longest value of an extended attribute that is read: capabilities have 24 bytes, overlayfs' own a path at most.
const XATTR_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;
    use crate::image::layer::{Comparison, unpack};

    /// A folder like a layer's, and what GNU tar makes of it.
    struct Sample {
        folder: tempfile::TempDir,
        archive: Vec<u8>,
    }

    impl Sample {
        fn new() -> Sample {
            let folder = tempfile::tempdir().unwrap();
            let at = |path: &str| folder.path().join(path);
            for path in ["bin", "etc/empty", &deep()] {
                fs::create_dir_all(at(path)).unwrap();
            }
            fs::write(at("bin/tool"), vec![7; 300_000]).unwrap();
            fs::set_permissions(at("bin/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
            fs::hard_link(at("bin/tool"), at("bin/other")).unwrap();
            fs::write(at("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
            fs::write(at(&deep()).join("x".repeat(200)), "far away").unwrap();
            fs::write(at("etc/caf\u{e9} \n"), "").unwrap();
            symlink("../etc/passwd", at("bin/link")).unwrap();
            symlink("y".repeat(180), at("etc/long")).unwrap();
            for (path, mode) in [("", 0o755), ("etc", 0o755), ("etc/passwd", 0o644)] {
                fs::set_permissions(at(path), PermissionsExt::from_mode(mode)).unwrap();
            }
            let archive = tar(folder.path(), "posix");
            Sample { folder, archive }
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.folder.path().join(path)
        }

        fn differences(&self) -> Vec<String> {
            differences(self.folder.path(), &self.archive)
        }
    }

    fn deep() -> String {
        ["d".repeat(120), "e".repeat(120)].join("/")
    }

    fn tar(folder: &Path, format: &str) -> Vec<u8> {
        let mut command = Command::new("tar");
        command.arg("-C").arg(folder).args(["-c", "--format", format, "."]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn differences(folder: &Path, archive: &[u8]) -> Vec<String> {
        let tree = unpack(archive, true).unwrap().content.unwrap().tree;
        let folder = Unpacked::open(folder).unwrap();
        let (mut comparison, mut to_read) = (Comparison::new(tree), Vec::new());
        folder
            .walk(|path, found| {
                // The root is the snapshotter's; here it is whoever runs the test's.
                let found = if path.is_empty() { Attributes { uid: 0, gid: 0, ..found } } else { found };
                if let (true, Kind::File { size }) = (comparison.found(&path, &found), found.kind) {
                    to_read.push((path, size));
                }
            })
            .unwrap();
        for (path, size) in to_read {
            comparison.content(&path, folder.digest(&path, size).unwrap());
        }
        let found = comparison.finish();
        assert_eq!((found.count, found.unread), (found.first.len() as u64, 0));
        found.first.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_folder_is_as_gnu_tar_has_it() {
        let sample = Sample::new();
        for format in ["posix", "gnu"] {
            assert_eq!(
                differences(sample.folder.path(), &tar(sample.folder.path(), format)),
                [""; 0],
                "{format}"
            );
        }
    }

    #[test]
    fn each_alteration_is_found() {
        type Alter = fn(&Sample);
        let cases: [(Alter, &str); 9] = [
            (
                |s| fs::write(s.path("etc/passwd"), "root:x:0:0::/:/bin/SH\n").unwrap(),
                "\"/etc/passwd\": expected content ",
            ),
            (
                |s| fs::write(s.path("etc/passwd"), "short").unwrap(),
                "\"/etc/passwd\": expected 22 bytes, found 5",
            ),
            (|s| fs::write(s.path("etc/new"), "").unwrap(), "\"/etc/new\": expected nothing, found a file"),
            (
                |s| fs::remove_file(s.path("bin/link")).unwrap(),
                "\"/bin/link\": expected a symbolic link, found nothing",
            ),
            (
                |s| fs::remove_dir(s.path("etc/empty")).unwrap(),
                "\"/etc/empty\": expected a directory, found nothing",
            ),
            (
                |s| fs::set_permissions(s.path("etc/passwd"), PermissionsExt::from_mode(0o4644)).unwrap(),
                "\"/etc/passwd\": expected mode 0644, found 4644",
            ),
            (
                |s| fs::set_permissions(s.path("etc"), PermissionsExt::from_mode(0o1777)).unwrap(),
                "\"/etc\": expected mode 0755, found 1777",
            ),
            (
                |s| {
                    fs::remove_file(s.path("bin/link")).unwrap();
                    symlink("/tmp/elsewhere", s.path("bin/link")).unwrap();
                },
                "\"/bin/link\": expected a link to \"../etc/passwd\", found one to \"/tmp/elsewhere\"",
            ),
            (
                |s| {
                    fs::remove_file(s.path("etc/passwd")).unwrap();
                    symlink("/tmp/elsewhere", s.path("etc/passwd")).unwrap();
                },
                "\"/etc/passwd\": expected a file, found a symbolic link",
            ),
        ];
        for (alter, said) in cases {
            let sample = Sample::new();
            alter(&sample);
            let found = sample.differences();
            assert!(matches!(found.as_slice(), [one] if one.starts_with(said)), "{said}: {found:?}");
        }
    }

    /// What an archive's name leads to when it is put together again.
    #[test]
    fn names_of_an_archive_lead_over_the_layer_s_own_links_and_never_out_of_it() {
        let sample = Sample::new();
        symlink("/etc", sample.path("bin/out")).unwrap();
        symlink("../../../..", sample.path("bin/up")).unwrap();
        let folder = Unpacked::open(sample.folder.path()).unwrap();
        for path in ["etc/passwd", "bin/out/passwd", "bin/up/etc/passwd", "/etc/passwd", "../etc/passwd"] {
            let (mut file, size) = Files::open(&&folder, path.as_bytes()).unwrap().expect(path);
            let mut data = String::new();
            file.read_to_string(&mut data).unwrap();
            assert_eq!((data.as_str(), size), ("root:x:0:0::/:/bin/sh\n", 22), "{path}");
        }
        // The last is a link itself, which has no data.
        for path in ["etc/hostname", "etc/passwd/x", "etc", "bin/link"] {
            assert!(Files::open(&&folder, path.as_bytes()).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn what_is_reached_over_a_link_is_not_read() {
        let sample = Sample::new();
        symlink("/etc", sample.path("etc/out")).unwrap();
        let folder = Unpacked::open(sample.folder.path()).unwrap();
        for path in ["etc/out/passwd", "../x", "bin/link", "/etc/passwd"] {
            assert!(folder.digest(path.as_bytes(), 1 << 20).is_err(), "{path}");
        }
        assert!(folder.digest(b"etc/passwd", 1 << 20).is_ok());
    }
}
