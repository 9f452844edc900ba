//! A process of its own that keeps proofs, killed in mid-write or short of room on its disk.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crivet::proofs::{Kept, Proofs};

use super::{Numbers, hold, keep, opened, rounds, until_written};

const DIR: &str = "CRIVET_TEST_PROOFS_DIR";

/// About how many images one folder gets.
const MOST: usize = 2000;

/// The child keeps images in their order: those that can be known.
fn known(proofs: &Proofs) -> usize {
    let summary = proofs.summary();
    summary.walked.max(summary.with_evidence)
}

/// What the child does: keeps one image after the other, and says which are on disk.
#[tokio::test]
#[ignore = "run by the tests below"]
async fn keeping() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let proofs = opened(Path::new(&dir)).await;
    let (ties, sets) = hold(&proofs, known(&proofs), "in the child");
    println!("\nready {}", proofs.summary().store.kept.as_str());
    println!("\nknown {}", ties.min(sets));
    // Of the last one the tie may be there without its evidence.
    for n in ties.min(sets).. {
        keep(&proofs, n);
        if n % 50 == 49 {
            let written = async { until_written(&proofs).await };
            let short = async {
                while proofs.summary().store.kept != Kept::MemoryOnly {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::select! {
                _ = written => println!("\nwritten {}", n + 1),
                () = short => {
                    // All of it is still known here.
                    assert_eq!(hold(&proofs, n + 1, "without room"), (n + 1, n + 1));
                    println!("\nshort {}", proofs.summary().store.why);
                    return;
                }
            }
        }
    }
}

/// Starts it, by way of `sh` where `before` is to be done first.
fn start(dir: &Path, before: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let binary = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before} exec \"$0\" \"$@\"")).arg(binary);
    command.args(["proofs::child::keeping", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// The value of the next line of this name.
fn next(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> Option<String> {
    lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

/// Kills it again and again in one folder, at moments of its own; what it had said was written has to be there.
async fn killed(seed: u64, times: usize) {
    let mut numbers = Numbers(seed);
    let mut dir = tempfile::tempdir().unwrap();
    let mut written = 0;
    for round in 0..times {
        if round % 12 == 0 || written > MOST {
            (dir, written) = (tempfile::tempdir().unwrap(), 0);
        }
        let (mut child, mut lines) = start(dir.path(), "");
        // Some are killed while they read.
        if numbers.below(8) > 0 {
            assert_eq!(next(&mut lines, "ready").as_deref(), Some("persistent"));
        }
        // Asleep, this thread holds up no other that kills.
        tokio::time::sleep(Duration::from_micros(numbers.below(400_000) as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(count) = next(&mut lines, "written") {
            written = written.max(count.parse().unwrap());
        }
        let proofs = opened(dir.path()).await;
        let store = proofs.summary().store;
        let what = format!("seed {seed}, kill {round}, {written} written");
        assert_eq!((store.kept, store.set_aside), (Kept::Persistent, 0), "{what}: {store:?}");
        let (ties, sets) = hold(&proofs, known(&proofs), &what);
        assert!(ties >= written && sets >= written, "{what}: {ties} and {sets} are there");
        super::close(&proofs);
    }
}

/// It was set aside as one that lost what every store has: seen on a slow disk, by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_while_it_is_made_it_is_made_anew_and_nothing_is_set_aside() {
    let mut numbers = Numbers(31);
    for round in 0..rounds().div_ceil(5) {
        let dir = tempfile::tempdir().unwrap();
        // What it says is not read, and has to go somewhere.
        let (mut child, _lines) = start(dir.path(), "");
        let is_begun = || std::fs::read_dir(dir.path()).into_iter().flatten().count() > 0;
        // From its first file on: its start takes as long as it takes.
        while !is_begun() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        tokio::time::sleep(Duration::from_micros(numbers.below(20_000) as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let proofs = opened(dir.path()).await;
        let store = proofs.summary().store;
        assert_eq!((store.kept, store.set_aside), (Kept::Persistent, 0), "kill {round}: {store:?}");
        super::close(&proofs);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_in_mid_write_it_has_what_was_written_and_nothing_else() {
    let each = rounds().div_ceil(8);
    let all: Vec<_> = (1..=8).map(|seed| tokio::spawn(killed(seed * 7919, each))).collect();
    for one in all {
        one.await.unwrap();
    }
    println!("killed {} times", each * 8);
}

/// Without room it goes on in memory, and what is on the disk is whole.
async fn short(dir: &Path, before: &str, expected: &str) {
    let (mut child, lines) = start(dir, before);
    let lines: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let why = lines.iter().find_map(|line| line.strip_prefix("short ")).unwrap();
    assert!(why.contains(expected), "{why}");
    let written = lines.iter().filter_map(|line| line.strip_prefix("written ")).next_back();
    let written: usize = written.unwrap().parse().unwrap();
    let proofs = opened(dir).await;
    let (ties, sets) = hold(&proofs, known(&proofs), "after it was short of room");
    assert!(
        written >= 50 && ties >= written && sets >= written,
        "{written} written, {ties} and {sets} there"
    );
    let store = proofs.summary().store;
    assert_eq!((store.kept, store.set_aside), (Kept::Persistent, 0), "{store:?}");
}

#[tokio::test]
async fn a_file_that_may_not_grow_leaves_the_proofs_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    // 512 bytes each; writing beyond is an error and not the end.
    short(dir.path(), "trap '' XFSZ; ulimit -f 6000;", "File too large").await;
}

/// Needs root, for a small disk.
#[tokio::test]
async fn a_full_disk_and_one_that_takes_no_write_leave_the_proofs_in_memory() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: a small disk needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let (disk, copy) = (dir.path().join("disk"), dir.path().join("copy"));
    std::fs::create_dir(&disk).unwrap();
    // In a mount namespace of its own, which ends with it: what is on the disk is taken out before.
    let before = format!(
        "exec 3>&1; unshare -m sh -ec 'mount -t tmpfs -o size=3m,mode=755 none {0}; \"$0\" \"$@\" >&3; \
         cat /dev/zero >{0}/filler 2>/dev/null || \"$0\" \"$@\" >&3; rm {0}/filler; \
         mount -o remount,ro {0}; \"$0\" \"$@\" >&3; cp -r {0} {1}' \"$0\" \"$@\"; exit $?;",
        disk.display(),
        copy.display()
    );
    let (mut child, lines) = start(&disk, &before);
    let lines: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let all = |name| lines.iter().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
    let short = all("short ");
    let says = |nth: usize, text: &str| short.get(nth).is_some_and(|why| why.contains(text));
    let full = "No space left on device";
    assert!(says(0, full) && says(1, full) && says(2, "Read-only file system"), "{lines:?}");
    let written = all("written ").iter().map(|count| count.parse::<usize>().unwrap()).max().unwrap();
    // The second one started on the full disk, the third on one that takes no write at all: each knew what was there.
    let found: Vec<usize> = all("known ").iter().map(|count| count.parse().unwrap()).collect();
    assert!(matches!(found[..], [0, second, third] if second >= 50 && third >= written), "{lines:?}");
    let proofs = opened(&copy).await;
    let (ties, sets) = hold(&proofs, known(&proofs), "after the disk was full");
    assert!(
        written >= 50 && ties >= written && sets >= written,
        "{written} written, {ties} and {sets} there"
    );
    assert_eq!(proofs.summary().store.set_aside, 0);
}
