//! Audit logs as files: the log, and what it was rotated to.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::audit::printable;
use crate::limits::REPORT_LINE_BYTES;
use crate::report::Reads;

/// Most rotated files looked for: what `auditLog.maxBackups` may be.
const BACKUPS: u32 = 1000;

/// Reads logs, each file once, whatever names it has.
#[derive(Default)]
pub struct Logs {
    read: HashSet<(u64, u64)>,
}

impl Logs {
    /// Reads a log and its rotated files. What cannot be read is said in the report.
    ///
    /// The newest file first and then upwards: a rotation meanwhile moves files to higher numbers, so that each is either
    /// still to come or met again, and one that was met is known by its inode.
    pub fn read(&mut self, path: &Path, gatherer: &mut impl Reads) {
        gatherer.log(&path.display().to_string());
        let mut any = false;
        for number in 0..=BACKUPS {
            let path = numbered(path, number);
            match open(&path) {
                Ok(file) => {
                    any = true;
                    if let Err(error) = self.file(&file, gatherer) {
                        gatherer.error(fault(&path, &error));
                    }
                }
                // Right after a rotation the log itself is not there yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    any = true;
                    gatherer.error(fault(&path, &error));
                }
            }
        }
        if !any {
            gatherer.error(fault(path, &Errno::NOENT.into()));
        }
    }

    fn file(&mut self, file: &File, gatherer: &mut impl Reads) -> io::Result<()> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if !self.read.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        gatherer.file();
        // What is written from now on is another report's.
        lines(BufReader::with_capacity(1 << 16, file.take(metadata.len())), gatherer)
    }
}

/// Feeds whole lines. One without a newline at the end is being written, or was torn and is closed off later.
fn lines(mut from: impl BufRead, gatherer: &mut impl Reads) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let room = REPORT_LINE_BYTES as u64 + 1;
        from.by_ref().take(room).read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_some() {
            gatherer.line(&line);
        } else if line.len() > REPORT_LINE_BYTES {
            gatherer.too_long();
            if !skip_line(&mut from)? {
                return Ok(());
            }
        } else {
            return Ok(());
        }
    }
}

/// Passes over the rest of a line; `false` at the end.
fn skip_line(from: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = from.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let passed = end.map_or(buffer.len(), |end| end + 1);
        from.consume(passed);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Not a pipe or device that would hold the reader.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn fault(path: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; check the path, and whether anything was vetted yet",
        io::ErrorKind::PermissionDenied => "; run as root or as the vetter's user",
        _ => "",
    };
    printable(&format!("{}: cannot be read: {error}{hint}", path.display()))
}
