#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::UNIX_EPOCH;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// 2026-08-01T12:00:00Z
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_785_585_600)
}

fn until(expires: SystemTime) -> Result<Option<Written>, NotTaken> {
    Ok(Some(Written { reason: "registry is down".to_owned(), expires }))
}

fn ended() -> Option<Event> {
    Some(Event::Ended("it expired"))
}

#[test]
fn a_valid_file_is_in_force_until_it_expires() {
    let mut watched = Watched::default();
    let file = || until(noon() + HOUR);
    assert_eq!(watched.look(file(), noon(), MINUTE), Some(Event::Begun));
    assert_eq!(watched.look(file(), noon() + 59 * MINUTE, 60 * MINUTE), None);
    assert_eq!(watched.left(noon() + 59 * MINUTE, 60 * MINUTE), MINUTE);
    assert_eq!(watched.look(file(), noon() + HOUR, 61 * MINUTE), ended());
    assert_eq!(watched.active(), None);
    // It is said once, and stays to be seen.
    assert_eq!(watched.look(file(), noon() + HOUR, 61 * MINUTE), None);
    assert!(watched.rejected().unwrap().contains("it has expired"));
}

#[test]
fn a_wall_clock_that_jumps_back_extends_nothing() {
    let mut watched = Watched::default();
    let file = || until(noon() + HOUR);
    watched.look(file(), noon(), Duration::ZERO);
    assert_eq!(watched.look(file(), noon() - 24 * HOUR, HOUR - MINUTE), None);
    assert_eq!(watched.look(file(), noon() - 24 * HOUR, HOUR), ended());
    assert_eq!(watched.look(file(), noon() - HOUR, HOUR), None);
    assert_eq!(watched.active(), None);
}

#[test]
fn a_wall_clock_that_jumps_ahead_and_back_does_not_revive_it() {
    let mut watched = Watched::default();
    let file = || until(noon() + HOUR);
    watched.look(file(), noon(), Duration::ZERO);
    assert_eq!(watched.look(file(), noon() + 48 * HOUR, MINUTE), ended());
    assert_eq!(watched.look(file(), noon(), 2 * MINUTE), None);
    assert_eq!(watched.active(), None);
    let another = until(noon() + 2 * HOUR);
    assert_eq!(watched.look(another, noon(), 3 * MINUTE), Some(Event::Begun));
}

#[test]
fn removal_ends_it() {
    let mut watched = Watched::default();
    watched.look(until(noon() + HOUR), noon(), Duration::ZERO);
    assert_eq!(watched.look(Ok(None), noon(), MINUTE), Some(Event::Ended("the file was removed")));
    assert_eq!((watched.active(), watched.rejected()), (None, None));
}

#[test]
fn a_file_that_becomes_wrong_ends_it_and_one_that_cannot_be_read_does_not() {
    let mut watched = Watched::default();
    watched.look(until(noon() + HOUR), noon(), Duration::ZERO);
    assert_eq!(watched.look(Err(NotTaken::Unread("io".into())), noon(), MINUTE), None);
    assert!(watched.active().is_some());
    let wrong = || Err(NotTaken::Wrong("mode 0666".into()));
    assert_eq!(watched.look(wrong(), noon(), MINUTE), Some(Event::Ended("the file is no longer valid")));
    assert_eq!((watched.active(), watched.rejected()), (None, Some("mode 0666")));
}

#[test]
fn a_file_that_was_away_or_wrong_for_a_while_is_in_force_again_for_what_was_left_of_it() {
    for away in [Ok(None), Err(NotTaken::Wrong("mode 0666".into()))] {
        let mut watched = Watched::default();
        let file = || until(noon() + HOUR);
        watched.look(file(), noon(), Duration::ZERO);
        assert!(matches!(watched.look(away, noon(), MINUTE), Some(Event::Ended(_))));
        // The clock was set back meanwhile.
        assert_eq!(watched.look(file(), noon() - HOUR, 2 * MINUTE), Some(Event::Begun));
        assert_eq!(watched.rejected(), None);
        assert_eq!(watched.left(noon() - HOUR, 2 * MINUTE), 58 * MINUTE);
        assert_eq!(watched.look(file(), noon() - HOUR, HOUR), ended());
        assert_eq!(watched.look(file(), noon() - HOUR, HOUR), None);
        assert_eq!(watched.active(), None);
    }
}

#[test]
fn expired_and_over_long_files_change_nothing_and_are_said_once() {
    for (expires, said) in [
        (noon(), "it has expired"),
        (noon() - HOUR, "it has expired"),
        (noon() + LONGEST + Duration::from_secs(1), "limits::BREAK_GLASS_SECONDS"),
    ] {
        let mut watched = Watched::default();
        let Some(Event::Rejected(why)) = watched.look(until(expires), noon(), MINUTE) else {
            panic!("{said}")
        };
        assert!(why.contains(said) && why.contains("--reason TEXT --for 1h"), "{why}");
        assert_eq!(watched.look(until(expires), noon(), MINUTE), None);
        assert_eq!(watched.active(), None);
    }
    let mut watched = Watched::default();
    assert_eq!(watched.look(until(noon() + LONGEST), noon(), MINUTE), Some(Event::Begun));
}

#[test]
fn a_file_is_read_strictly_and_each_break_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(folder.path());
    assert_eq!(read(&path), Ok(None));
    let valid = "reason: registry is down\nexpires: 2026-08-01T12:00:00Z\n";
    let write = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read(&path)
    };
    let expected = Written { reason: "registry is down".to_owned(), expires: noon() };
    assert_eq!(write(valid, 0o600), Ok(Some(expected)));
    for (from, to, mode, said) in [
        ("", "", 0o620, "mode 0620"),
        ("", "", 0o602, "mode 0602"),
        ("reason: registry is down\n", "", 0o600, "missing field `reason`"),
        ("registry is down", "' '", 0o600, "break-glass:1: reason: expected one line"),
        ("expires: 2026", "expires: 26", 0o600, "break-glass:2: expires: expected a time"),
        ("12:00:00Z", "12:00:00+02:00", 0o600, "RFC 3339"),
        ("reason:", "for: 1h\nreason:", 0o600, "unknown field `for`"),
        ("reason:", "---\nreason: x\n---\nreason:", 0o600, "found 2 documents"),
    ] {
        let Err(NotTaken::Wrong(why)) = write(&valid.replacen(from, to, 1), mode) else { panic!("{said}") };
        assert!(why.contains(said), "{said}: {why}");
    }
    assert!(write("", 0o600).is_err());
}
