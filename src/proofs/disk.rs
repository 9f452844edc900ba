//! The store on disk: a redb database in the vetter's state folder, checked whole whenever it is opened.
//!
//! redb's checksums find what changed in its pages (without the check it gives wrong data for flipped bits); the records'
//! own digests find what they do not cover. A store in which anything is wrong is set aside, and what of it is beyond doubt
//! is taken over into a new one.

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};

use super::known::{Batch, Content};
use super::record::{self, Table};
use crate::config::files::{self, FileError};
use crate::limits;

/// The store's file.
pub(super) const NAME: &str = "proofs.redb";
/// A store that is being made, until it says what it is.
const NEW: &str = "proofs.redb.new";
/// Held by the crivet whose store it is.
const LOCK: &str = "proofs.lock";
/// How many times reading was begun and not ended.
const READING: &str = "proofs.reading";
/// Set-aside stores; followed by the time, seconds of Unix time.
const ASIDE: &str = "proofs.redb.aside-";

/// For half a second.
const LOCK_TRIES: u32 = 25;
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// An open store.
pub(super) struct Disk {
    /// Present but while it is dropped.
    database: Option<Database>,
    path: PathBuf,
    _lock: File,
}

/// What came of opening a store.
pub(super) struct Opened {
    pub disk: Disk,
    pub content: Content,
    /// Why the store that was there was set aside: this one is new, and `content` is not in it.
    pub set_aside: Option<String>,
}

/// There is no store for now.
#[derive(Default)]
pub(super) struct Unopened {
    /// One line.
    pub why: String,
    /// What could be read all the same.
    pub content: Content,
}

/// Why there is no store, or not this one.
enum Failure {
    /// It may be there later: a full disk, another crivet.
    Away(String),
    /// It is not what was written.
    Damaged(String),
}

/// Opens the store in a folder; it is made if need be. `now`: seconds of Unix time, to name what is set aside.
///
/// # Errors
/// There can be none for now.
pub(super) fn open(dir: &Path, now: u64) -> Result<Opened, Unopened> {
    let lock = match lock(dir) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            let held = "another crivet keeps its proofs there; give each a stateDir of its own";
            let why = format!("{}: {held}", dir.display());
            return Err(Unopened { why, ..Unopened::default() });
        }
        Err(why) => return Err(Unopened { why, content: without_writing(dir) }),
    };
    let tries = fs::read_to_string(dir.join(READING)).ok().and_then(|text| text.trim().parse().ok());
    let tries: u32 = tries.unwrap_or_default();
    let was_read = match tries < limits::PROOF_STORE_TRIES {
        true => {
            // On a full disk it is read without.
            let _ = fs::write(dir.join(READING), (tries + 1).to_string());
            read(dir)
        }
        false => Err(Failure::Damaged(format!("the vetter ended {tries} times in a row while it was read"))),
    };
    let (set_aside, content) = match was_read {
        Ok((database, content, None)) => {
            let opened = finished(dir, lock, database, content, None);
            return Ok(opened);
        }
        Ok((database, content, Some(damage))) => {
            close(database);
            (damage, content)
        }
        Err(Failure::Damaged(damage)) => (damage, Content::default()),
        Err(Failure::Away(why)) => {
            let unopened = Unopened { why, content: without_writing(dir) };
            let _ = fs::remove_file(dir.join(READING));
            return Err(unopened);
        }
    };
    let anew = put_aside(dir, now).map_err(Failure::Away).and_then(|()| read(dir));
    match anew {
        Ok((database, _, None)) => Ok(finished(dir, lock, database, content, Some(set_aside))),
        Ok((_, _, Some(why))) | Err(Failure::Away(why) | Failure::Damaged(why)) => {
            Err(Unopened { why, content })
        }
    }
}

fn finished(
    dir: &Path,
    lock: File,
    database: Database,
    content: Content,
    set_aside: Option<String>,
) -> Opened {
    let _ = fs::remove_file(dir.join(READING));
    let disk = Disk { database: Some(database), path: dir.join(NAME), _lock: lock };
    Opened { disk, content, set_aside }
}

/// A lock of its own: a store must not be set aside under another crivet either. A vetter that is just ending may still
/// hold it, and so may a process that is just being started, until it has its own program. `None`: it is another's.
fn lock(dir: &Path) -> Result<Option<File>, String> {
    let file = files::open_state(dir, LOCK).map_err(|error| error.to_string())?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_AGAIN),
            Err(TryLockError::Error(error)) => {
                return Err(format!("{}: {error}", dir.join(LOCK).display()));
            }
        }
    }
    Ok(None)
}

/// Moves the store out of the way, and forgets the oldest that were.
fn put_aside(dir: &Path, now: u64) -> Result<(), String> {
    let (from, to) = (dir.join(NAME), dir.join(format!("{ASIDE}{now:011}")));
    if let Err(error) = fs::rename(&from, &to)
        && let Err(again) = fs::remove_file(&from)
    {
        return Err(format!("{}: cannot be set aside ({error}) nor removed ({again})", from.display()));
    }
    let aside = aside(dir);
    for old in aside.iter().take(aside.len().saturating_sub(limits::PROOF_STORES_ASIDE)) {
        let _ = fs::remove_file(old);
    }
    Ok(())
}

/// The stores that were set aside and are still there, oldest first.
pub(super) fn aside(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE));
    let mut found: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Reads a store whole. Beside what holds: what is wrong with the rest.
fn read(dir: &Path) -> Result<(Database, Content, Option<String>), Failure> {
    let is_new = match fs::symlink_metadata(dir.join(NAME)) {
        Ok(there) => there.is_file() && there.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    // Under its own name only when it says what it is: one whose maker was killed before would be taken for damaged.
    let name = if is_new { NEW } else { NAME };
    if is_new {
        let _ = fs::remove_file(dir.join(NEW));
    }
    let file = match files::open_state(dir, name) {
        Ok(file) => file,
        Err(error @ (FileError::Guard { kind: "file", .. } | FileError::NotAFile { .. })) => {
            return Err(Failure::Damaged(error.to_string()));
        }
        Err(error) => return Err(Failure::Away(error.to_string())),
    };
    let length = file.metadata().map_err(|error| Failure::Away(error.to_string()))?.len();
    if length > limits::PROOF_STORE_BYTES {
        let cap = limits::PROOF_STORE_BYTES;
        return Err(Failure::Damaged(format!(
            "expected at most {cap} bytes (limit PROOF_STORE_BYTES), found {length}"
        )));
    }
    let mut database = caught(|| Ok(builder().create_with_backend(FileBackend::new(file)?)?))?;
    let read = caught(|| {
        let read = content(&mut database, is_new)?;
        if is_new {
            fs::rename(dir.join(NEW), dir.join(NAME))?;
            let _ = File::open(dir).and_then(|dir| dir.sync_all());
        }
        Ok(read)
    });
    match read {
        Ok((content, damage)) => Ok((database, content, damage)),
        Err(failure) => {
            close(database);
            Err(failure)
        }
    }
}

/// What is in a store on a disk that takes no write, be it full or read-only: opening it there would write. A copy in
/// memory is opened instead.
fn without_writing(dir: &Path) -> Content {
    let cap = limits::PROOF_STORE_COPY_BYTES;
    let Ok(bytes) = files::read_guarded(&dir.join(NAME), "PROOF_STORE_COPY_BYTES", cap) else {
        return Content::default();
    };
    let read = caught(|| {
        let copy = InMemoryBackend::new();
        copy.set_len(bytes.len() as u64)?;
        copy.write(0, &bytes)?;
        let mut database = builder().create_with_backend(copy)?;
        content(&mut database, false)
    });
    read.map(|(content, _)| content).unwrap_or_default()
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(limits::PROOF_STORE_CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// redb panics about some files that are not what it wrote; so does closing them.
fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let damaged = || Failure::Damaged("reading it failed".to_owned());
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged()))
}

fn close(database: Database) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
}

const fn table(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// What a store holds, and what is wrong with the rest.
fn content(database: &mut Database, is_new: bool) -> Result<(Content, Option<String>), Failure> {
    if is_new {
        // Every store has this record: one without it lost it.
        write(database, &Batch::default())?;
    }
    let transaction = database.begin_read()?;
    let mut content = Content::default();
    let mut damaged = 0_usize;
    let mut about = None;
    each(&transaction, Table::About, |key, record| {
        if key == record::ABOUT {
            about = record::read_about(record);
        }
    })?;
    let Some((format, highest)) = about else {
        return Err(Failure::Damaged("it does not say what it is".to_owned()));
    };
    if format != record::FORMAT {
        let expected = record::FORMAT;
        return Err(Failure::Damaged(format!(
            "expected format {expected}, found {format}, of another crivet"
        )));
    }
    content.highest = highest;
    each(&transaction, Table::Ties, |key, record| match record::read_ties(key, record) {
        Some(ties) => content.ties.push(ties),
        None => damaged += 1,
    })?;
    each(&transaction, Table::Evidence, |key, record| match record::read_evidence(key, record) {
        Some(found) => content.evidence.push(found),
        None => damaged += 1,
    })?;
    let damage = (damaged > 0).then(|| format!("{damaged} records are not what was written"));
    Ok((content, damage))
}

fn each(transaction: &ReadTransaction, of: Table, mut tell: impl FnMut(&[u8], &[u8])) -> Result<(), Failure> {
    for entry in transaction.open_table(table(of))?.iter()? {
        let (key, record) = entry?;
        tell(key.value(), record.value());
    }
    Ok(())
}

fn write(database: &Database, batch: &Batch) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    if batch.whole {
        transaction.delete_table(table(Table::Ties))?;
        transaction.delete_table(table(Table::Evidence))?;
    }
    {
        let mut ties = transaction.open_table(table(Table::Ties))?;
        for (root, walked) in &batch.ties {
            match walked {
                Some(walked) => drop(ties.insert(&root.raw()[..], &record::ties(root, walked)[..])?),
                None => drop(ties.remove(&root.raw()[..])?),
            }
        }
        let mut evidence = transaction.open_table(table(Table::Evidence))?;
        for (place, found) in &batch.evidence {
            let key = record::evidence_key(place);
            match found {
                Some(found) => drop(evidence.insert(&key[..], &record::evidence(&key, found)[..])?),
                None => drop(evidence.remove(&key[..])?),
            }
        }
        let mut about = transaction.open_table(table(Table::About))?;
        about.insert(record::ABOUT, &record::about(batch.highest)[..])?;
    }
    Ok(transaction.commit()?)
}

impl Disk {
    /// Writes a batch, whole or not at all, also after a power cut.
    ///
    /// # Errors
    /// It cannot be written, one line; the store has to be opened anew.
    pub fn write(&self, batch: &Batch) -> Result<(), String> {
        let Some(database) = &self.database else { return Err("the store is closed".to_owned()) };
        match caught(|| write(database, batch)) {
            Ok(()) => Ok(()),
            Err(Failure::Away(why) | Failure::Damaged(why)) => Err(why),
        }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.database.take().into_iter().for_each(close);
    }
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        let away = match &error {
            redb::Error::DatabaseAlreadyOpen
            | redb::Error::LockProtocolMismatch
            | redb::Error::PreviousIo
            | redb::Error::DatabaseClosed => true,
            redb::Error::Io(io) => !is_damage(io),
            _ => false,
        };
        let text = error.to_string().replace('\n', " ");
        if away { Failure::Away(text) } else { Failure::Damaged(text) }
    }
}

/// Whether an error tells of the file's content: then another file may do. Otherwise room, rights or the like are missing.
fn is_damage(error: &io::Error) -> bool {
    let unreadable = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    unreadable || matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
