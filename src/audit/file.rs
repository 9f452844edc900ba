//! A file of whole lines with a size limit and numbered backups.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Appends whole lines. When the next line would take it over the limit, the file becomes `.1`, `.1` becomes
/// `.2` and so on; the last is dropped.
pub(super) struct LineFile {
    path: PathBuf,
    max_bytes: u64,
    backups: u32,
    open: Option<Open>,
}

struct Open {
    file: File,
    size: u64,
    /// Whether the file ends in part of a line.
    torn: bool,
}

impl LineFile {
    /// Opens nothing yet: each write does, if need be.
    pub(super) fn new(path: PathBuf, max_bytes: u64, backups: u32) -> Self {
        Self { path, max_bytes, backups, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line, which ends in a newline.
    ///
    /// # Errors
    /// The line is not in the file. A later write tries everything again; what a failed one left of a line
    /// is taken back or closed off with a newline first.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&self.path)?,
        };
        // Somebody may have cut it (logrotate's copytruncate): what goes wrong is taken back to where it ends now.
        open.size = open.file.metadata()?.len();
        open.torn &= open.size > 0;
        let after = open.size.saturating_add(line.len() as u64 + u64::from(open.torn));
        if open.size > 0 && after > self.max_bytes {
            self.rotate()?;
            open = Open::new(&self.path)?;
        }
        let result = open.append(line);
        self.open = Some(open);
        result
    }

    /// Lets go of a file that is no longer the one at the path: moved by logrotate, or removed.
    pub(super) fn reopen_if_replaced(&mut self) {
        if let Some(open) = &self.open {
            let same = open.file.metadata().and_then(|ours| {
                fs::metadata(&self.path).map(|at| (at.dev(), at.ino()) == (ours.dev(), ours.ino()))
            });
            if !matches!(same, Ok(true)) {
                self.open = None;
            }
        }
    }

    fn rotate(&self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        if self.backups == 0 {
            return absent_is_fine(fs::remove_file(&self.path));
        }
        for n in (1..self.backups).rev() {
            absent_is_fine(fs::rename(numbered(n), numbered(n + 1)))?;
        }
        absent_is_fine(fs::rename(&self.path, numbered(1)))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            // A link could lead anywhere; opening a device may hold the caller.
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            // Rotation would rename a device away.
            return Err(io::Error::other("not a regular file"));
        }
        let size = metadata.len();
        let mut last = [b'\n'];
        if size > 0 {
            // A crash, or a disk that was full, may have left part of a line.
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { file, size, torn: last != [b'\n'] })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.torn = false;
        }
        if let Err(error) = self.file.write_all(line) {
            // Take back what did go in; where that fails too, the next line starts on a new one.
            let taken_back = self.file.set_len(self.size).is_ok();
            self.torn = !taken_back;
            return Err(error);
        }
        self.size += line.len() as u64;
        Ok(())
    }
}
