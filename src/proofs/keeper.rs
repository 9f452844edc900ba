//! The one thread that touches the store. It learns from memory what is to be written; nobody waits for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant as Clock, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::disk::{self, Disk};
use super::known::Known;

/// What is learned at once is written at once: a walk, its evidence, and those of the pod's other images.
const LINGER: Duration = Duration::from_millis(50);

/// How long a store that cannot be had is left alone.
const AGAIN: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };

/// What memory and the thread share.
#[derive(Default)]
pub(super) struct Shared {
    known: Mutex<Known>,
    /// There may be something to write, or the thread is to end.
    changed: Condvar,
    store: Mutex<Store>,
    /// Since when the first store is being read.
    opening: watch::Sender<Option<Instant>>,
}

/// Whether proofs are kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Nobody asked for it.
    #[default]
    NotAsked,
    /// The store is being read.
    Opening,
    /// What is known is on disk, or about to be.
    Persistent,
    /// There is no store for now: what is learned is lost at the vetter's end.
    MemoryOnly,
}

impl Kept {
    /// All that a store can be.
    pub const ALL: [Kept; 3] = [Kept::Opening, Kept::Persistent, Kept::MemoryOnly];

    /// A short name, for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kept::NotAsked => "not_asked",
            Kept::Opening => "opening",
            Kept::Persistent => "persistent",
            Kept::MemoryOnly => "memory_only",
        }
    }
}

/// How the store is.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Whether there is one.
    pub kept: Kept,
    /// Why not, one line; empty where there is one.
    pub why: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// Times it could not be written or opened.
    pub failures: u64,
    /// Stores that were set aside and are still there.
    pub set_aside: u64,
    /// Why the last of them was, if this process did it.
    pub set_aside_because: String,
}

/// A thread that keeps a store.
pub(super) struct Keeper {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    /// Ends with the thread.
    ended: mpsc::Receiver<()>,
    shared: Arc<Shared>,
}

impl Shared {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known.
    pub fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known();
        let changed = change(&mut known);
        if known.has_unwritten() {
            self.changed.notify_all();
        }
        changed
    }

    pub fn opening(&self) -> watch::Receiver<Option<Instant>> {
        self.opening.subscribe()
    }
}

impl Keeper {
    /// Starts a thread that keeps what is known in a store in this folder, when the one before has ended.
    pub fn start(shared: &Arc<Shared>, dir: &Path, before: Option<Keeper>) -> Keeper {
        if before.is_none() {
            shared.opening.send_replace(Some(Instant::now()));
        }
        shared.store().kept = Kept::Opening;
        let (stop, (alive, ended)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
        let work = Work { shared: Arc::clone(shared), dir: dir.to_owned(), stop: Arc::clone(&stop) };
        let thread = std::thread::Builder::new().name("proofs".to_owned());
        let spawned = thread.spawn(move || {
            if let Some(before) = before {
                before.stop();
                let _ = before.ended.recv();
            }
            work.run();
            drop(alive);
        });
        let keeper = Keeper { dir: dir.to_owned(), stop, ended, shared: Arc::clone(shared) };
        if let Err(error) = spawned {
            failed(shared, &format!("no thread for it: {error}"));
            shared.opening.send_replace(None);
        }
        keeper
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Has the thread write what there is, and end.
    fn stop(&self) {
        let _known = self.shared.known();
        self.stop.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
    }

    /// Has the thread write what there is, and waits for its end, but not longer than this.
    pub fn close(self, longest: Duration) {
        self.stop();
        let _ = self.ended.recv_timeout(longest);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// There is no store for now. Said once.
fn failed(shared: &Shared, why: &str) {
    let mut store = shared.store();
    store.failures += 1;
    if store.kept != Kept::MemoryOnly || store.why != why {
        tracing::error!(why, "proofs are kept in memory only: a restart will have to ask the registries");
    }
    (store.kept, store.why) = (Kept::MemoryOnly, why.to_owned());
}

struct Work {
    shared: Arc<Shared>,
    dir: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(self) {
        self.shared.known().want_store();
        while !self.stopped() {
            let opened = self.open().inspect_err(|why| failed(&self.shared, why));
            // Whoever waits for it sees what came of it.
            self.shared.opening.send_replace(None);
            if let Ok(disk) = opened {
                let Some(why) = self.serve(&disk) else { return };
                failed(&self.shared, &why);
            }
            let known = self.shared.known();
            drop(self.shared.changed.wait_timeout_while(known, AGAIN, |_| !self.stopped()));
        }
    }

    fn open(&self) -> Result<Disk, String> {
        let (began, now) = (Clock::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let opened = disk::open(&self.dir, now.as_secs()).map_err(|unopened| {
            self.shared.known().load(unopened.content);
            unopened.why
        })?;
        let (ties, evidence) = (opened.content.ties.len(), opened.content.evidence.len());
        let mut known = self.shared.known();
        known.load(opened.content);
        if opened.set_aside.is_some() {
            known.want_whole();
        }
        drop(known);
        let mut store = self.shared.store();
        let took = began.elapsed().as_millis();
        tracing::info!(walked = ties, evidence, ms = took, folder = %self.dir.display(), "proofs are kept on disk");
        (store.kept, store.why) = (Kept::Persistent, String::new());
        store.bytes = opened.disk.bytes();
        store.set_aside = disk::aside(&self.dir).len() as u64;
        if let Some(why) = opened.set_aside {
            tracing::error!(
                why,
                kept = ties + evidence,
                "the proofs' store was damaged: set aside, and made anew"
            );
            store.set_aside_because = why;
        }
        Ok(opened.disk)
    }

    /// Writes what is to be written, until the end; or why it cannot.
    fn serve(&self, disk: &Disk) -> Option<String> {
        loop {
            let known = self.shared.known();
            let idle = |known: &mut Known| !known.has_unwritten() && !self.stopped();
            let known = self.shared.changed.wait_while(known, idle).unwrap_or_else(PoisonError::into_inner);
            let lingered = self.shared.changed.wait_timeout_while(known, LINGER, |_| !self.stopped());
            let (mut known, _) = lingered.unwrap_or_else(PoisonError::into_inner);
            let last = self.stopped();
            let batch = known.batch();
            drop(known);
            if let Err(why) = disk.write(&batch) {
                self.shared.known().not_written(batch);
                return Some(why);
            }
            self.shared.store().bytes = disk.bytes();
            let mut known = self.shared.known();
            known.written();
            if last && !known.has_unwritten() {
                return None;
            }
        }
    }
}
