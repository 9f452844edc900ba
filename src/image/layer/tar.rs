//! A layer's tar archive, read as Go's `archive/tar` reads it, which is what both runtimes unpack with.
//!
//! POSIX.1-1988 (ustar), POSIX.1-2001 (pax), GNU and STAR headers. Written for this because every part of it is bounded: a
//! layer is written by anybody who can push, and a long name may say that it has gigabytes.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::LayerError;
use crate::limits;

/// Headers and data come in blocks of so many bytes.
const BLOCK: usize = 512;

/// pax keys of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A regular file, with data.
    File,
    /// Another name of a file that came before.
    Link,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// pax records for all that follows: runtimes take it for an entry, and leave nothing of it.
    Global,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path as written.
    pub name: Vec<u8>,
    /// The target of a link or symbolic link as written.
    pub target: Vec<u8>,
    /// What it is.
    pub kind: Type,
    /// Permissions with setuid, setgid and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data that follow.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An archive that is read from front to back. Reading from it reads the data of the entry that came last.
pub struct Archive<R> {
    from: R,
    /// Of the entry's data.
    left: u64,
    padding: u64,
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Extensions {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// Reads an archive's bytes.
    pub fn new(from: R) -> Archive<R> {
        Archive { from, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the archive's end.
    pub fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            let rest = self.left.saturating_add(self.padding);
            self.skip(rest)?;
            (self.left, self.padding) = (0, 0);
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::read(&block)?;
            match header.typeflag {
                b'x' => extensions.records = records(&self.extension(header.size)?)?,
                b'L' => extensions.long_name = Some(until_nul(&self.extension(header.size)?).to_vec()),
                b'K' => extensions.long_target = Some(until_nul(&self.extension(header.size)?).to_vec()),
                b'g' => {
                    let name = records(&self.extension(header.size)?)?.remove(b"path".as_slice());
                    let name = name.filter(|name| !name.is_empty()).unwrap_or(header.name.clone());
                    return Ok(Some(header.entry(name, Vec::new(), Type::Global)));
                }
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, mut header: Header, extensions: Extensions) -> Result<Entry, LayerError> {
        let Extensions { mut records, long_name, long_target } = extensions;
        if records.keys().any(|key| key.starts_with(b"GNU.sparse.")) || header.typeflag == b'S' {
            return Err(LayerError::Unsupported("a sparse file"));
        }
        // An empty record leaves what the header says.
        let mut take = |key: &[u8]| records.remove(key).filter(|value| !value.is_empty());
        if let Some(uid) = take(b"uid") {
            header.uid = decimal(&uid)?;
        }
        if let Some(gid) = take(b"gid") {
            header.gid = decimal(&gid)?;
        }
        if let Some(size) = take(b"size") {
            header.size = decimal(&size)?;
        }
        let name = long_name.or_else(|| take(b"path")).unwrap_or_else(|| header.name.clone());
        let target = long_target.or_else(|| take(b"linkpath")).unwrap_or_else(|| header.target.clone());
        let kind = match header.typeflag {
            0 if name.ends_with(b"/") => Type::Directory,
            0 | b'0' => Type::File,
            b'1' => Type::Link,
            b'2' => Type::Symlink,
            b'3' => Type::Character,
            b'4' => Type::Block,
            b'5' => Type::Directory,
            b'6' => Type::Fifo,
            _ => return Err(LayerError::Unsupported("an entry of a type that runtimes do not unpack")),
        };
        // Only files have data, whatever the header of another says.
        let size = if kind == Type::File { header.size } else { 0 };
        self.left = size;
        self.padding = padding(size);
        let xattrs = records
            .into_iter()
            .filter_map(|(key, value)| key.strip_prefix(XATTR).map(|name| (name.to_vec(), value)))
            .collect();
        header.size = size;
        Ok(Entry { xattrs, ..header.entry(name, target, kind) })
    }

    /// The next header, unless the archive ends here: with a block of zeros, or with its bytes.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(LayerError::Tar("it is cut off")),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        // Two such blocks end it. One and then something else is no archive for Go either.
        match io::copy(&mut self.from.by_ref().take(BLOCK as u64), &mut AllZero)? {
            0 => Ok(None),
            n if n == BLOCK as u64 => Ok(None),
            _ => Err(LayerError::Tar("it is cut off")),
        }
    }

    /// The data of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > limits::LAYER_EXTENSION_BYTES {
            return Err(LayerError::Limit {
                what: "bytes in an extension header",
                found: size,
                cap: limits::LAYER_EXTENSION_BYTES,
                limit: "LAYER_EXTENSION_BYTES",
            });
        }
        let mut data = Vec::new();
        let read = self.from.by_ref().take(size).read_to_end(&mut data)?;
        if read as u64 != size {
            return Err(LayerError::Tar("it is cut off"));
        }
        self.padding = padding(size);
        Ok(data)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), LayerError> {
        let skipped = io::copy(&mut self.from.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(LayerError::Tar("it is cut off")) }
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let read = self.from.by_ref().take(self.left).read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Takes zeros, and nothing else.
struct AllZero;

impl io::Write for AllZero {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.iter().all(|byte| *byte == 0) {
            true => Ok(bytes.len()),
            false => Err(io::Error::other("one block of zeros is followed by something else")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// A header's fields.
struct Header {
    name: Vec<u8>,
    target: Vec<u8>,
    typeflag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    device: (u32, u32),
}

impl Header {
    fn read(block: &[u8; BLOCK]) -> Result<Header, LayerError> {
        let field = |at: usize, len: usize| block.get(at..at + len).unwrap_or_default();
        let byte = |at: usize| block.get(at).copied().unwrap_or_default();
        let sum = number(field(148, 8))?;
        let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let unsigned: u64 = block.iter().enumerate().map(|(at, b)| u64::from(counted(at, *b))).sum();
        // Some old writers summed up signed bytes; Go takes these too.
        let signed: i64 =
            block.iter().enumerate().map(|(at, b)| i64::from(counted(at, *b).cast_signed())).sum();
        if sum != unsigned && i64::try_from(sum) != Ok(signed) {
            return Err(LayerError::Tar("a header's checksum is wrong"));
        }
        let posix = field(257, 6) == b"ustar\0";
        let gnu = field(257, 8) == b"ustar  \0";
        let star = posix && field(508, 4) == b"tar\0";
        let mut prefix: &[u8] = &[];
        if star {
            prefix = until_nul(field(345, 131));
        } else if posix {
            prefix = until_nul(field(345, 155));
        } else if gnu {
            // GNU has times here. Writers that took it for ustar have a prefix; Go tells it so too.
            let is_time = |field: &[u8]| field.first() == Some(&0) || number(field).is_ok();
            let text = until_nul(field(345, 155));
            if !(is_time(field(345, 12)) && is_time(field(357, 12))) && text.is_ascii() {
                prefix = text;
            }
        }
        let mut name = until_nul(field(0, 100)).to_vec();
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let devices = posix || gnu;
        let device = |at| if devices { narrow(number(field(at, 8))?) } else { Ok(0) };
        Ok(Header {
            name,
            target: until_nul(field(157, 100)).to_vec(),
            typeflag: byte(156),
            mode: (number(field(100, 8))? & 0o7777) as u32,
            uid: narrow(number(field(108, 8))?)?,
            gid: narrow(number(field(116, 8))?)?,
            size: number(field(124, 12))?,
            device: (device(329)?, device(337)?),
        })
    }

    fn entry(&self, name: Vec<u8>, target: Vec<u8>, kind: Type) -> Entry {
        let Header { mode, uid, gid, size, device, .. } = *self;
        Entry { name, target, kind, mode, uid, gid, size, device, xattrs: BTreeMap::new() }
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A field with a number: octal digits among spaces and NULs, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Result<u64, LayerError> {
    const WRONG: LayerError = LayerError::Tar("a header has a number that cannot be read");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        if first & 0x40 != 0 {
            return Err(LayerError::Tar("a header has a negative number"));
        }
        let add = |sum: u64, byte: &u8| Some(sum.checked_mul(256)? + u64::from(*byte));
        return rest.iter().try_fold(u64::from(first & 0x3f), add).ok_or(WRONG);
    }
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_filler(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !is_filler(byte)).map_or(start, |last| last + 1);
    let digits = until_nul(field.get(start..end).unwrap_or_default());
    let add = |sum: u64, digit: &u8| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    digits.iter().try_fold(0, add).ok_or(WRONG)
}

/// A number of a pax record.
fn decimal<N: std::str::FromStr>(text: &[u8]) -> Result<N, LayerError> {
    let digits = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    digits.ok_or(LayerError::Tar("a pax record has a number that cannot be read"))
}

fn narrow(number: u64) -> Result<u32, LayerError> {
    u32::try_from(number).map_err(|_| LayerError::Tar("a header has a number that is out of range"))
}

/// pax records: `length key=value\n`, the length being that of all of it.
fn records(mut data: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, LayerError> {
    const WRONG: LayerError = LayerError::Tar("a pax record cannot be read");
    let mut records = BTreeMap::new();
    while !data.is_empty() {
        let space = data.iter().position(|byte| *byte == b' ').ok_or(WRONG)?;
        let (digits, _) = data.split_at_checked(space).ok_or(WRONG)?;
        let length: usize = decimal(digits)?;
        let (record, rest) = data.split_at_checked(length).ok_or(WRONG)?;
        let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(WRONG)?;
        let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or(WRONG)?;
        let (key, value) = record.split_at_checked(equals).ok_or(WRONG)?;
        let value = value.get(1..).unwrap_or_default();
        let is_text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
        if key.contains(&0) || (is_text && value.contains(&0)) {
            return Err(WRONG);
        }
        records.insert(key.to_vec(), value.to_vec());
        data = rest;
    }
    Ok(records)
}
