//! Archives made by hand, for what GNU tar does not make. Those it makes are held against folders in `relay::unpacked`, and
//! containerd's own unpacking in `tests/e2e/content.rs`.

use std::io::Write;

use super::*;

/// An archive, entry by entry.
#[derive(Default)]
pub struct Tar(Vec<u8>);

/// What stands in a header.
struct Head<'a> {
    name: &'a str,
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    target: &'a str,
}

fn head(kind: u8, name: &str) -> Head<'_> {
    Head { name, kind, mode: 0o644, owner: (0, 0), target: "" }
}

impl Tar {
    fn entry(mut self, head: Head<'_>, data: &[u8]) -> Tar {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, head.name.as_bytes());
        put(100, format!("{:07o}", head.mode).as_bytes());
        put(108, format!("{:07o}", head.owner.0).as_bytes());
        put(116, format!("{:07o}", head.owner.1).as_bytes());
        put(124, format!("{:011o}", data.len()).as_bytes());
        put(148, b"        ");
        put(156, &[head.kind]);
        put(157, head.target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn folder(self, name: &str) -> Tar {
        self.entry(Head { mode: 0o755, ..head(b'5', name) }, b"")
    }

    pub fn file(self, name: &str, data: &str) -> Tar {
        self.entry(head(b'0', name), data.as_bytes())
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(Head { target, ..head(b'2', name) }, b"")
    }

    pub fn link(self, name: &str, target: &str) -> Tar {
        self.entry(Head { target, ..head(b'1', name) }, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Tar {
        let mut data = String::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let length = (1..=4).map(|digits| digits + rest.len());
            let mut length = length;
            let length = length.find(|length| length.to_string().len() + rest.len() == *length);
            data += &format!("{}{rest}", length.unwrap());
        }
        self.entry(head(b'x', "PaxHeaders/0"), data.as_bytes())
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn tree(self, lowest: bool) -> Tree {
        unpack(self.end().as_slice(), lowest).unwrap().content.unwrap().tree
    }

    fn stored(self) -> Tree {
        Tree::of(self.end().as_slice(), Rules::Storage).unwrap()
    }

    fn refused(self, lowest: bool) -> String {
        unpack(self.end().as_slice(), lowest).unwrap().content.unwrap_err().to_string()
    }
}

/// A tree as lines: path, what it is, mode and owner.
pub fn listed(tree: &Tree) -> Vec<String> {
    let line = |(path, inode): (&[u8], &tree::Inode)| {
        let Attributes { kind, mode, uid, gid, xattrs } = &inode.attributes;
        let kind = match kind {
            Kind::File { size } => format!("file {size}"),
            Kind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
            other => other.to_string(),
        };
        let xattrs: String =
            xattrs.keys().map(|name| format!(" {}", String::from_utf8_lossy(name))).collect();
        format!("/{} {kind} {mode:o} {uid}:{gid}{xattrs}", String::from_utf8_lossy(path))
    };
    tree.entries().map(line).collect()
}

const ROOT: &str = "/ a directory 755 0:0";

#[test]
fn digests_are_those_of_the_blob_and_of_the_archive() {
    let archive = Tar::default().file("a", "b").end();
    // What is behind the end of the archive belongs to it.
    let archive = [archive, vec![0; 9000]].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive[..700]).unwrap();
    let mut second = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    second.write_all(&archive[700..]).unwrap();
    let gzip = [gzip.finish().unwrap(), second.finish().unwrap()].concat();
    let zstd =
        |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    // zstd:chunked: several frames, and one without data.
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let frames = [zstd(&archive[..700]), skipped.clone(), zstd(&archive[700..]), skipped.clone()].concat();
    let begins_skipped = [skipped, zstd(&archive)].concat();
    for blob in [archive.clone(), gzip, frames, begins_skipped] {
        let unpacked = unpack(blob.as_slice(), true).unwrap();
        assert_eq!(unpacked.blob, Digest::of(&blob));
        let content = unpacked.content.unwrap();
        assert_eq!(content.diff_id, Digest::of(&archive));
        assert_eq!(listed(&content.tree), [ROOT, "/a file 1 644 0:0"]);
    }
}

#[test]
fn a_blob_that_cannot_be_unpacked_has_its_digest_all_the_same() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&Tar::default().file("a", "b").end()).unwrap();
    let mut blob = gzip.finish().unwrap();
    blob[20] ^= 0xff;
    let unpacked = unpack(blob.as_slice(), true).unwrap();
    assert_eq!(unpacked.blob, Digest::of(&blob));
    assert!(unpacked.content.is_err());
}

#[test]
fn whiteouts_of_the_lowest_layer_take_away_what_came_before() {
    let tar = Tar::default().folder("a").file("a/b", "").folder("a/c").file("a/c/d", "");
    let tree = tar.file("a/.wh.c", "").file("a/.wh.never", "").tree(true);
    assert_eq!(listed(&tree), [ROOT, "/a a directory 755 0:0", "/a/b file 0 644 0:0"]);
}

#[test]
fn whiteouts_above_another_layer_are_devices_with_the_entry_s_owner() {
    let gone = Head { owner: (5, 6), ..head(b'0', "a/.wh.c") };
    let tree = Tar::default().folder("a").entry(gone, b"").file("a/.wh..wh..opq", "").tree(false);
    assert_eq!(
        listed(&tree),
        [ROOT, "/a a directory 755 0:0 trusted.overlay.opaque", "/a/c a whiteout 0 5:6"]
    );
}

#[test]
fn an_opaque_directory_of_the_lowest_layer_keeps_what_the_layer_has() {
    let tree = Tar::default().folder("a").file("a/b", "").file("a/.wh..wh..opq", "").tree(true);
    assert_eq!(listed(&tree), [ROOT, "/a a directory 755 0:0", "/a/b file 0 644 0:0"]);
}

#[test]
fn the_last_of_two_entries_counts() {
    let own = Head { mode: 0o700, owner: (1, 2), ..head(b'5', "a") };
    let tar = Tar::default().folder("a").file("a/b", "").entry(own, b"").file("c", "1").file("./c", "22");
    let tree = tar.folder("d").file("d/e", "").file("d", "x").tree(true);
    assert_eq!(
        listed(&tree),
        [ROOT, "/a a directory 700 1:2", "/a/b file 0 644 0:0", "/c file 2 644 0:0", "/d file 1 644 0:0"]
    );
}

#[test]
fn paths_go_over_the_layer_s_own_links_and_never_out_of_it() {
    let tar = Tar::default().folder("usr").folder("usr/lib").symlink("lib", "usr/lib").file("lib/x", "");
    let tree =
        tar.symlink("up", "../../usr").file("up/../y", "").file("../../z", "").file("up/w", "").tree(true);
    let names: Vec<_> =
        listed(&tree).into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["/", "/lib", "/up", "/usr", "/usr/lib", "/usr/lib/x", "/usr/w", "/y", "/z"]);
}

#[test]
fn a_link_gives_its_file_its_own_owner_and_mode() {
    let link = Head { mode: 0o4711, owner: (7, 8), target: "a", ..head(b'1', "b") };
    let tree = Tar::default().file("a", "xyz").entry(link, b"").tree(true);
    assert_eq!(listed(&tree), [ROOT, "/a file 3 4711 7:8", "/b file 3 4711 7:8"]);
}

#[test]
fn a_file_that_takes_a_linked_name_leaves_the_other_alone() {
    let tree = Tar::default().file("a", "xyz").link("b", "a").file("b", "").tree(true);
    assert_eq!(listed(&tree), [ROOT, "/a file 3 644 0:0", "/b file 0 644 0:0"]);
}

#[test]
fn capabilities_are_kept_until_the_owner_is_set_again() {
    let capability = ("SCHILY.xattr.security.capability", "x");
    let others = [("SCHILY.xattr.user.note", "y"), ("SCHILY.xattr.trusted.overlay.redirect", "/z")];
    let tar = Tar::default().pax(&[capability, others[0], others[1]]).file("a", "");
    assert_eq!(listed(&tar.tree(true)), [ROOT, "/a file 0 644 0:0 security.capability"]);
    let tar = Tar::default().pax(&[capability]).file("a", "").link("b", "a");
    assert_eq!(listed(&tar.tree(true)), [ROOT, "/a file 0 644 0:0", "/b file 0 644 0:0"]);
}

#[test]
fn pax_records_say_more_than_the_header() {
    let long = "n".repeat(300);
    let records = [("path", long.as_str()), ("uid", "3000000"), ("gid", "4"), ("mtime", "1.5")];
    let tree = Tar::default().pax(&records).file("short", "ab").file("next", "").tree(true);
    let own = format!("/{long} file 2 644 3000000:4");
    assert_eq!(listed(&tree), [ROOT, "/next file 0 644 0:0", &own]);
}

#[test]
fn folders_that_are_implied_have_what_they_have_below() {
    let private = |name| Head { mode: 0o700, owner: (9, 9), ..head(b'5', name) };
    let lowest =
        Tar::default().entry(private("a"), b"").folder("r").symlink("l", "r").tree(true).without_files();
    let middle = Tar::default().entry(private("b"), b"").file("r", "").tree(false);
    let mut upper = Tar::default().file("a/x", "").file("b/y/z", "").file("r/q", "").tree(false);
    upper.inherit(&[&middle, &lowest]);
    assert_eq!(
        listed(&upper),
        [
            ROOT,
            "/a a directory 700 9:9",
            "/a/x file 0 644 0:0",
            "/b a directory 700 9:9",
            "/b/y a directory 755 0:0",
            "/b/y/z file 0 644 0:0",
            "/r a directory 755 0:0",
            "/r/q file 0 644 0:0",
        ]
    );
}

#[test]
fn folders_that_are_implied_may_have_inherited_nothing_and_no_others() {
    let private = |name| Head { mode: 0o700, owner: (9, 9), ..head(b'5', name) };
    let lowest = Tar::default().entry(private("a"), b"").entry(private("r"), b"").tree(true).without_files();
    // Of `r` nothing is left of a file, and the one below it is inherited.
    let middle = Tar::default().file("r", "").tree(false).without_files();
    let upper = || {
        let mut upper = Tar::default().entry(private("own"), b"").file("a/x", "").file("r/q", "").tree(false);
        upper.inherit(&[&middle, &lowest]);
        upper
    };
    let found = |path: &[u8], mode, (uid, gid)| {
        let mut comparison = Comparison::new(upper());
        let found = Attributes { kind: Kind::Directory, mode, uid, gid, xattrs: Default::default() };
        comparison.found(path, &found);
        comparison.finish().first.into_iter().filter(|one| one.path == path).count()
    };
    for path in [&b"a"[..], b"r"] {
        for (mode, owner, count) in [
            (0o700, (9, 9), 0),
            (0o755, (0, 0), 0),
            (0o755, (9, 9), 1),
            (0o700, (0, 0), 1),
            (0o777, (0, 0), 2),
            (0o1755, (0, 0), 2),
        ] {
            assert_eq!(found(path, mode, owner), count, "{mode:o} {owner:?}");
        }
    }
    assert_eq!(found(b"own", 0o755, (0, 0)), 2);
}

#[test]
fn what_no_runtime_unpacks_is_refused() {
    let tar = Tar::default;
    for (archive, why) in [
        (tar().link("a", "b"), "\"a\": it is a link to what is not in the layer"),
        (tar().folder("b").link("a", "b"), "\"a\": it is a link to a directory"),
        (tar().file("a", "").file("a/b", ""), "\"a\": it is no directory"),
        (tar().symlink("a", "b").symlink("b", "a").file("a/c", ""), "its symbolic links have no end"),
        (tar().file(".wh.", ""), "it is no name for a whiteout"),
        (tar().file(".wh...", ""), "it is no name for a whiteout"),
        (tar().file("a", "").file(".wh.a", ""), "\"a\": it is there, and whited out"),
        (tar().entry(head(b'7', "a"), b""), "an entry of a type that runtimes do not unpack"),
        (tar().entry(head(b'S', "a"), b""), "a sparse file"),
        (tar().pax(&[("GNU.sparse.major", "1")]).file("a", ""), "a sparse file"),
        (tar().pax(&[("size", "x")]).file("a", ""), "a pax record has a number that cannot be read"),
        (tar().entry(head(b'x', "p"), b"9 nonsense"), "a pax record cannot be read"),
        (tar().entry(head(b'x', "p"), b"99 a=b\n"), "a pax record cannot be read"),
    ] {
        let said = archive.refused(false);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_broken_archive_is_refused() {
    let whole = Tar::default().file("a", "some bytes").end();
    let refused = |archive: &[u8]| unpack(archive, true).unwrap().content.unwrap_err().to_string();
    assert!(refused(&whole[..700]).contains("cut off"));
    assert!(refused(&whole[..1000]).contains("cut off"));
    let mut checksum = whole.clone();
    checksum[150] ^= 1;
    assert!(refused(&checksum).contains("checksum"));
    let mut half_an_end = whole.clone();
    half_an_end[1600] = 1;
    assert!(refused(&half_an_end).contains("one block of zeros"));
    // An archive may end without its two blocks of zeros.
    assert!(unpack(&whole[..1024], true).unwrap().content.is_ok());
}

#[test]
fn more_than_a_limit_allows_is_refused_and_named() {
    let longest = vec![b'n'; limits::LAYER_EXTENSION_BYTES as usize];
    let mut many = Tar::default();
    for n in 0..=limits::LAYER_NAME_BYTES / limits::LAYER_EXTENSION_BYTES {
        many = many.entry(head(b'K', "l"), &longest).symlink(&n.to_string(), "");
    }
    assert!(many.refused(true).contains("limit LAYER_NAME_BYTES"));
    let huge = [&longest[..], b"n"].concat();
    assert!(
        Tar::default().entry(head(b'L', "l"), &huge).refused(true).contains("limit LAYER_EXTENSION_BYTES")
    );
}

#[test]
fn sixteen_differences_are_told_and_all_are_counted() {
    let mut comparison = Comparison::new(Tar::default().tree(true));
    let kind = Kind::File { size: 0 };
    let found = Attributes { kind, mode: 0o644, uid: 0, gid: 0, xattrs: Default::default() };
    for n in 0..100 {
        assert!(!comparison.found(format!("{n:03}").as_bytes(), &found));
    }
    let differences = comparison.finish();
    assert_eq!((differences.first.len(), differences.count), (limits::LAYER_DIFFERENCES, 101));
    assert_eq!(differences.first[0].to_string(), "\"/\": expected a directory, found nothing");
}

#[test]
fn a_file_that_was_not_read_is_not_the_same() {
    let mut comparison = Comparison::new(Tar::default().file("a", "x").tree(true));
    let found = |kind, mode| Attributes { kind, mode, uid: 0, gid: 0, xattrs: Default::default() };
    assert!(!comparison.found(b"", &found(Kind::Directory, 0o755)));
    assert!(comparison.found(b"a", &found(Kind::File { size: 1 }, 0o644)));
    let differences = comparison.finish();
    assert_eq!((differences.count, differences.unread, differences.is_same()), (0, 1, false));
}

#[test]
fn an_attribute_that_only_the_disk_has_is_a_difference() {
    let mut comparison = Comparison::new(Tar::default().tree(true));
    let xattrs = [(b"trusted.overlay.redirect".to_vec(), b"/x".to_vec())].into();
    comparison.found(b"", &Attributes { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, xattrs });
    let said = comparison.finish().first[0].to_string();
    assert!(said.contains("trusted.overlay.redirect"), "{said}");
}

#[test]
fn containers_storage_makes_devices_of_whiteouts_in_any_layer() {
    let gone = Head { owner: (5, 6), ..head(b'0', "a/.wh.c") };
    let tar = Tar::default().folder("a").entry(gone, b"").file("a/.wh..wh..opq", "");
    // What is in a folder that is gone is gone.
    let tree = tar.file(".wh.d", "").file("d/.wh.e", "").stored();
    assert_eq!(
        listed(&tree),
        [
            "/ a directory 555 0:0",
            "/a a directory 755 0:0 trusted.overlay.opaque",
            "/a/c a whiteout 0 5:6",
            "/d a whiteout 0 0:0"
        ]
    );
}

#[test]
fn containers_storage_keeps_capabilities_unless_the_owner_changes() {
    let capability = ("SCHILY.xattr.security.capability", "x");
    let tar = || Tar::default().pax(&[capability]).file("a", "");
    let with = "/a file 0 644 0:0 security.capability";
    assert_eq!(listed(&tar().link("b", "a").stored())[1], with);
    let owned = Head { owner: (7, 8), target: "a", ..head(b'1', "b") };
    assert_eq!(listed(&tar().entry(owned, b"").stored())[1], "/a file 0 644 7:8");
    // It sets what containerd does not.
    let redirect = ("SCHILY.xattr.trusted.overlay.redirect", "/z");
    let tree = Tar::default().pax(&[redirect]).file("a", "").stored();
    assert_eq!(listed(&tree)[1], "/a file 0 644 0:0 trusted.overlay.redirect");
}

#[test]
fn containers_storage_takes_a_root_of_that_name_at_its_word() {
    let root = |name| Head { mode: 0o700, owner: (1, 2), ..head(b'5', name) };
    let below = Tar::default().entry(root("/"), b"").stored();
    assert_eq!(listed(&below), ["/ a directory 700 1:2"]);
    assert_eq!(listed(&Tar::default().entry(root("./"), b"").stored()), ["/ a directory 555 0:0"]);
    let mut above = Tar::default().stored();
    above.stand_on(&below.root().unwrap());
    assert_eq!(listed(&above), ["/ a directory 700 1:2"]);
    let mut own = Tar::default().entry(root("//"), b"").stored();
    own.stand_on(&Tar::default().stored().root().unwrap());
    assert_eq!(listed(&own), ["/ a directory 700 1:2"]);
}

#[test]
fn folders_that_containers_storage_made_itself_may_have_any_umask_that_lets_nobody_else_write() {
    let tree = || Tar::default().file("a/b", "").stored();
    let found = |path: &[u8], mode| {
        let mut comparison = Comparison::new(tree());
        comparison.found(
            path,
            &Attributes { kind: Kind::Directory, mode, uid: 0, gid: 0, xattrs: Default::default() },
        );
        comparison.finish().first.into_iter().filter(|one| one.path == path).count()
    };
    for path in [&b""[..], b"a"] {
        for (mode, count) in [(0o755, 0), (0o700, 0), (0o555, 0), (0o775, 1), (0o757, 1), (0o1755, 1)] {
            assert_eq!(found(path, mode), count, "{mode:o}");
        }
    }
}
