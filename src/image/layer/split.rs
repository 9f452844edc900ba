//! An archive that was taken apart, put together again: containers/storage keeps no layer, but next to the files that it unpacked
//! all of the archive that is not a file's data, as tar-split (`github.com/vbatts/tar-split`, `tar/storage`) writes it down.
//!
//! Only the digest of what comes out says that it is the layer. Of what is written down beside it, lengths and checksums, it is
//! told which file is another one when it is not.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::compare::{Change, Collected, Differences};
use super::tree::Kind;
use super::{LayerError, cleaned};
use crate::limits;

/// The data of a file of the archive (`storage.FileType`), with its CRC-64.
const FILE: u64 = 1;
/// Bytes of the archive as they are (`storage.SegmentType`): headers, and what fills blocks up.
const SEGMENT: u64 = 2;

/// The files that an archive was unpacked to.
pub trait Files {
    /// A file's data.
    type Data: Read;

    /// A regular file and its length, at a path whose links are followed as they were when it was unpacked; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be said what there is.
    fn open(&self, path: &[u8]) -> io::Result<Option<(Self::Data, u64)>>;
}

/// A line of what was written down.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(rename = "type")]
    kind: u64,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    /// In base64: what is not UTF-8.
    #[serde(default, borrow)]
    name_raw: Cow<'a, str>,
    #[serde(default)]
    size: u64,
    /// In base64; null for a file without data.
    #[serde(default, borrow)]
    payload: Option<Cow<'a, str>>,
}

/// What is read at the moment.
enum Part<D> {
    Segment(Cursor<Vec<u8>>),
    File {
        data: D,
        left: u64,
        sum: Crc64,
        expected: [u8; 8],
        path: Vec<u8>,
    },
    /// Instead of a file that is not there, or has another length: the headers behind it are where they were.
    Zeros(u64),
    End,
}

/// The archive, read from front to back.
pub struct Archive<R, F: Files> {
    records: BufReader<R>,
    count: u64,
    files: F,
    part: Part<F::Data>,
    differences: Collected,
}

impl<R: Read, F: Files> Archive<R, F> {
    /// The archive of these records and files.
    pub fn new(records: R, files: F) -> Archive<R, F> {
        Archive {
            records: BufReader::new(records),
            count: 0,
            files,
            part: Part::Segment(Cursor::default()),
            differences: Collected::default(),
        }
    }

    /// The files that are not what was written down; says something only where the archive is another one.
    pub fn differences(self) -> Differences {
        self.differences.finish(0)
    }

    fn next(&mut self) -> io::Result<Part<F::Data>> {
        loop {
            let Some(line) = self.line()? else { return Ok(Part::End) };
            let record: Record<'_> =
                serde_json::from_slice(&line).map_err(|_| broken("a record cannot be read"))?;
            let payload = record.payload.as_deref().unwrap_or_default();
            let payload = decoded(payload)?;
            match record.kind {
                SEGMENT => return Ok(Part::Segment(Cursor::new(payload))),
                // Links have no data; nor has an empty file.
                FILE if record.size == 0 => {}
                FILE => {
                    let raw = decoded(&record.name_raw)?;
                    let name = if raw.is_empty() { record.name.as_bytes() } else { &raw };
                    let expected =
                        payload.try_into().map_err(|_| broken("a checksum is not of eight bytes"))?;
                    return self.file(cleaned(name).join(&b'/'), record.size, expected);
                }
                _ => return Err(broken("a record is of a type that is not known")),
            }
        }
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let cap = limits::TAR_SPLIT_LINE_BYTES;
        self.records.by_ref().take(cap + 1).read_until(b'\n', &mut line)?;
        let limit = |what, found, cap, limit| io::Error::other(LayerError::Limit { what, found, cap, limit });
        if line.len() as u64 > cap {
            return Err(limit(
                "bytes in a record of its archive",
                line.len() as u64,
                cap,
                "TAR_SPLIT_LINE_BYTES",
            ));
        }
        self.count += 1;
        if self.count > limits::TAR_SPLIT_RECORDS {
            return Err(limit(
                "records of its archive",
                self.count,
                limits::TAR_SPLIT_RECORDS,
                "TAR_SPLIT_RECORDS",
            ));
        }
        Ok((!line.is_empty()).then_some(line))
    }

    fn file(&mut self, path: Vec<u8>, size: u64, expected: [u8; 8]) -> io::Result<Part<F::Data>> {
        match self.files.open(&path)? {
            Some((data, found)) if found == size => {
                return Ok(Part::File { data, left: size, sum: Crc64::default(), expected, path });
            }
            Some((_, found)) => self.differences.add(&path, Change::Size { expected: size, found }),
            None => {
                self.differences.add(&path, Change::Missing(Kind::File { size }.to_string()));
            }
        }
        Ok(Part::Zeros(size))
    }
}

impl<R: Read, F: Files> Read for Archive<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.part {
                Part::Segment(bytes) => match bytes.read(buffer)? {
                    0 => {}
                    read => return Ok(read),
                },
                Part::File { left: 0, sum, expected, path, .. } => {
                    if sum.sum() != *expected {
                        self.differences.add(path, Change::Data);
                    }
                }
                Part::File { data, left, sum, path, .. } => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    let read = data.read(buffer.get_mut(..most).unwrap_or_default())?;
                    if read > 0 {
                        sum.add(buffer.get(..read).unwrap_or_default());
                        *left -= read as u64;
                        return Ok(read);
                    }
                    // It became shorter while it was read.
                    self.differences.add(path, Change::Data);
                    self.part = Part::Zeros(*left);
                    continue;
                }
                Part::Zeros(0) => {}
                Part::Zeros(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    buffer.get_mut(..most).unwrap_or_default().fill(0);
                    *left -= most as u64;
                    return Ok(most);
                }
                Part::End => return Ok(0),
            }
            self.part = self.next()?;
        }
    }
}

fn broken(why: &'static str) -> io::Error {
    io::Error::other(LayerError::Split(why))
}

fn decoded(text: &str) -> io::Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|_| broken("a record has no base64 where there has to be"))
}

/// CRC-64 with the polynomial of ISO 3309, as Go's `hash/crc64` has it. Whoever can write files can make it come out as it was.
#[derive(Default)]
struct Crc64(u64);

impl Crc64 {
    const TABLE: [u64; 256] = table();

    fn add(&mut self, bytes: &[u8]) {
        let mut crc = !self.0;
        for byte in bytes {
            let [low, ..] = crc.to_le_bytes();
            crc = Self::TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default() ^ (crc >> 8);
        }
        self.0 = !crc;
    }

    fn sum(&self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

#[allow(clippy::indexing_slicing)]
const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = at as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xd800_0000_0000_0000 } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::tests::{Tar, listed};
    use super::super::{Comparison, Digest, rebuild};
    use super::*;

    /// Files as they were unpacked, by path.
    #[derive(Clone, Default)]
    struct Unpacked(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Files for Unpacked {
        type Data = Cursor<Vec<u8>>;

        fn open(&self, path: &[u8]) -> io::Result<Option<(Self::Data, u64)>> {
            let data = self.0.get(path);
            Ok(data.map(|data| (Cursor::new(data.clone()), data.len() as u64)))
        }
    }

    /// Takes an archive apart as tar-split does. Its headers are those of these tests: files have a plain length.
    fn taken_apart(archive: &[u8]) -> (Vec<u8>, Unpacked) {
        let (mut lines, mut files, mut raw, mut at) = (Vec::new(), Unpacked::default(), Vec::new(), 0);
        let mut line = |record: serde_json::Value| {
            lines.extend_from_slice(record.to_string().as_bytes());
            lines.push(b'\n');
        };
        while at < archive.len() {
            let header = &archive[at..at + 512];
            raw.extend_from_slice(header);
            at += 512;
            if header == [0; 512] {
                continue;
            }
            let size = std::str::from_utf8(&header[124..135]).unwrap();
            let size = usize::from_str_radix(size, 8).unwrap();
            let data = &archive[at..at + size];
            at += size.next_multiple_of(512);
            if header[156] == b'x' {
                raw.extend_from_slice(&archive[at - size.next_multiple_of(512)..at]);
                continue;
            }
            line(json!({"type": 2, "payload": STANDARD.encode(&raw), "position": 0}));
            let end = header.iter().position(|byte| *byte == 0).unwrap();
            let name = &header[..end];
            let mut sum = Crc64::default();
            sum.add(data);
            let payload = if size == 0 { None } else { Some(STANDARD.encode(sum.sum())) };
            line(match std::str::from_utf8(name) {
                Ok(name) => json!({"type": 1, "name": name, "size": size, "payload": payload, "position": 1}),
                Err(_) => {
                    json!({"type": 1, "name_raw": STANDARD.encode(name), "size": size, "payload": payload})
                }
            });
            if size > 0 {
                files.0.insert(cleaned(name).join(&b'/'), data.to_vec());
            }
            raw = vec![0; size.next_multiple_of(512) - size];
        }
        line(json!({"type": 2, "payload": STANDARD.encode(&raw), "position": 2}));
        (lines, files)
    }

    fn sample() -> Vec<u8> {
        let tar = Tar::default().folder("./a/").file("./a/b", &"data".repeat(500)).file("empty", "");
        tar.symlink("l", "a").link("m", "a/b").file("c", "short").end()
    }

    /// What is said of an archive that does not come out as it was.
    fn said(lines: &[u8], files: Unpacked) -> Vec<String> {
        let rebuilt = rebuild(lines, files).unwrap();
        assert_ne!(rebuilt.diff_id, Digest::of(&sample()));
        rebuilt.differences.first.iter().map(ToString::to_string).collect()
    }

    fn refused(lines: &[u8]) -> String {
        rebuild(lines, Unpacked::default()).unwrap_err().to_string()
    }

    #[test]
    fn the_checksum_is_that_of_go() {
        let mut sum = Crc64::default();
        sum.add(b"1234");
        sum.add(b"56789");
        // The check value of CRC-64/GO-ISO in the catalogue of parametrised CRC algorithms.
        assert_eq!(sum.sum(), 0xb909_56c7_75a4_1001_u64.to_be_bytes());
    }

    #[test]
    fn an_archive_comes_out_as_it_was() {
        let (lines, files) = taken_apart(&sample());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &lines).unwrap();
        for lines in [lines, gzip.finish().unwrap()] {
            let rebuilt = rebuild(lines.as_slice(), files.clone()).unwrap();
            assert_eq!((rebuilt.diff_id, rebuilt.bytes), (Digest::of(&sample()), sample().len() as u64));
            assert_eq!(rebuilt.differences.count, 0);
            let tree = rebuilt.tree;
            assert_eq!(
                listed(&tree),
                [
                    "/ a directory 555 0:0",
                    "/a a directory 755 0:0",
                    "/a/b file 2000 644 0:0",
                    "/c file 5 644 0:0",
                    "/empty file 0 644 0:0",
                    "/l -> a 644 0:0",
                    "/m file 2000 644 0:0",
                ]
            );
            assert!(!Comparison::new(tree).finish().is_same());
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_in_base64() {
        let mut archive = Tar::default().file("caf?", "bytes").end();
        archive[3] = 0xe9;
        let sum: u32 = archive[..512]
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        archive[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let (lines, files) = taken_apart(&archive);
        assert!(files.0.contains_key(&b"caf\xe9"[..]));
        assert_eq!(rebuild(lines.as_slice(), files).unwrap().diff_id, Digest::of(&archive));
    }

    #[test]
    fn a_file_whose_data_are_others_is_named() {
        let (lines, mut files) = taken_apart(&sample());
        files.0.insert(b"a/b".to_vec(), b"DATA".repeat(500));
        files.0.insert(b"c".to_vec(), b"SHORT".to_vec());
        let expected = "expected its data as they were unpacked, found others";
        assert_eq!(said(&lines, files), [format!("\"/a/b\": {expected}"), format!("\"/c\": {expected}")]);
    }

    #[test]
    fn a_file_that_is_gone_is_named() {
        let (lines, mut files) = taken_apart(&sample());
        files.0.remove(&b"a/b"[..]);
        assert_eq!(said(&lines, files), ["\"/a/b\": expected a file, found nothing"]);
    }

    #[test]
    fn a_file_that_is_longer_or_shorter_is_named() {
        for (data, found) in [("shorter", 7), ("x", 1)] {
            let (lines, mut files) = taken_apart(&sample());
            files.0.insert(b"c".to_vec(), data.as_bytes().to_vec());
            assert_eq!(said(&lines, files), [format!("\"/c\": expected 5 bytes, found {found}")]);
        }
    }

    /// Whoever can write to the disk can keep the checksum; the digest tells all the same.
    #[test]
    fn data_whose_checksum_was_adapted_make_another_archive() {
        let mut other = sample();
        let at = other.windows(5).position(|bytes| bytes == b"short").unwrap();
        other[at..at + 5].copy_from_slice(b"SHORT");
        let (lines, files) = taken_apart(&other);
        assert_eq!(said(&lines, files), [""; 0]);
    }

    #[test]
    fn a_header_that_was_changed_makes_another_archive() {
        let tar = Tar::default().folder("./a/").file("./a/b", &"data".repeat(500)).file("empty", "");
        let other = tar.symlink("l", "b").link("m", "a/b").file("c", "short").end();
        let (lines, files) = taken_apart(&other);
        assert_eq!(said(&lines, files), [""; 0]);
    }

    #[test]
    fn records_that_are_cut_off_are_refused() {
        let (lines, _) = taken_apart(&sample());
        let whole: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        assert!(refused(&whole[..whole.len() - 1].concat()).contains("it is cut off"));
        assert!(refused(&lines[..lines.len() - 5]).contains("a record cannot be read"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &lines).unwrap();
        let gzip = gzip.finish().unwrap();
        assert!(refused(&gzip[..gzip.len() / 2]).contains("the layer cannot be read"));
    }

    #[test]
    fn a_record_that_is_none_is_refused() {
        for (line, why) in [
            ("", "it is empty"),
            ("\n", "a record cannot be read"),
            ("[]\n", "a record cannot be read"),
            (r#"{"type":2,"payload":"?"}"#, "no base64"),
            (r#"{"type":1,"name":"a","size":-1,"payload":null}"#, "a record cannot be read"),
            (r#"{"type":1,"name":"a","size":1,"payload":null}"#, "a checksum is not of eight bytes"),
            (r#"{"type":1,"name_raw":"?","size":1,"payload":"AAAAAAAAAAA="}"#, "no base64"),
            (r#"{"type":3,"payload":""}"#, "of a type that is not known"),
        ] {
            let said = refused(line.as_bytes());
            assert!(said.contains(why), "{line}: {said}");
        }
    }

    #[test]
    fn more_than_a_limit_allows_is_refused_and_named() {
        let long = [br#"{"type":2,"payload":""#.to_vec(), vec![b'A'; limits::TAR_SPLIT_LINE_BYTES as usize]]
            .concat();
        assert!(refused(&long).contains("limit TAR_SPLIT_LINE_BYTES"));
        let many = "{\"type\":1,\"payload\":null}\n".repeat(limits::TAR_SPLIT_RECORDS as usize + 1);
        assert!(refused(many.as_bytes()).contains("limit TAR_SPLIT_RECORDS"));
    }
}
