//! The file `containers` in stateDir, so that a restart of crivet does not make strangers of what it let through.
//! Nothing waits for it: it is written beside, and not synced, because a machine that goes down takes its containers
//! with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::config::files::{self, FileError};
use crate::limits;

const NAME: &str = "containers";

/// The file, and whether it is as it should be.
pub struct Store {
    dir: PathBuf,
    file: Option<File>,
    /// Lines added since it was last written whole.
    added: usize,
    /// It may not hold everything, or end in a torn line: it is written whole when that is possible.
    behind: bool,
}

impl Store {
    /// The store in a state folder; nothing is read yet.
    pub fn new(dir: PathBuf) -> Store {
        Store { dir, file: None, added: 0, behind: true }
    }

    /// What an earlier crivet wrote; empty if there was none.
    ///
    /// # Errors
    /// It cannot be read, or others could have written it: then it says nothing.
    pub fn read(&self) -> Result<String, FileError> {
        let cap = 2 * limits::CONTAINERS_KNOWN * 160;
        match files::read_guarded(&self.dir.join(NAME), "CONTAINERS_KNOWN", cap) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether the file should be written whole: what is gone makes up most of it, or something is missing in it.
    pub fn wants_whole(&self, known: usize) -> bool {
        self.behind || self.added > known + 1000
    }

    /// Writes the file whole.
    pub fn write(&mut self, lines: &str) -> Result<(), FileError> {
        self.file = None;
        self.behind = true;
        files::write_state(&self.dir, NAME, lines.as_bytes())?;
        (self.behind, self.added) = (false, 0);
        Ok(())
    }

    /// Adds lines. After a failure a part of them may be there: then the file is behind until it is written whole.
    pub fn add(&mut self, lines: &str) -> io::Result<()> {
        if self.behind {
            return Ok(());
        }
        let added = self.append(lines);
        self.behind = added.is_err();
        self.added += lines.lines().count();
        added
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o600).open(self.dir.join(NAME))?
            }
        };
        self.file.insert(file).write_all(lines.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn written() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path().to_owned());
        assert_eq!(store.read().unwrap(), "");
        store.write("since 1\n").unwrap();
        store.add("container aa\n").unwrap();
        (dir, store)
    }

    #[test]
    fn what_is_added_is_read_by_the_next() {
        let (dir, _store) = written();
        let text = Store::new(dir.path().to_owned()).read().unwrap();
        assert_eq!(text, "since 1\ncontainer aa\n");
    }

    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        let (dir, store) = written();
        let path = dir.path().join(NAME);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(matches!(store.read(), Err(FileError::Guard { .. })));
    }

    #[test]
    fn a_full_disk_is_made_good_when_there_is_room_again() {
        let (dir, mut store) = written();
        // Writing to it fails as on a full disk.
        store.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert!(store.add("container bb\n").is_err());
        store.add("container cc\n").unwrap();
        assert_eq!(store.read().unwrap(), "since 1\ncontainer aa\n");
        assert!(store.wants_whole(3));
        store.write("since 1\ncontainer aa\ncontainer bb\ncontainer cc\n").unwrap();
        store.add("container dd\n").unwrap();
        assert_eq!(store.read().unwrap().lines().count(), 5);
        drop(dir);
    }

    #[test]
    fn the_file_is_written_whole_when_most_of_it_is_gone() {
        let (_dir, mut store) = written();
        store.add(&"container x\n".repeat(1010)).unwrap();
        assert!(store.wants_whole(5) && !store.wants_whole(500));
    }
}
