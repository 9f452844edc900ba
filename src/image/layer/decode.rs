//! A layer's compression, told by its first bytes as the runtimes tell it, never by its media type.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The first bytes of a zstd frame with no data: 0x50 to 0x5f, and these.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// The archive in a layer's bytes.
pub fn decoded<'a>(mut blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut first = Vec::new();
    blob.by_ref().take(4).read_to_end(&mut first)?;
    let is_zstd = first.starts_with(ZSTD)
        || matches!(first.split_first(), Some((0x50..=0x5f, rest)) if rest == ZSTD_SKIPPABLE);
    let is_gzip = first.starts_with(GZIP);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(first).chain(blob));
    Ok(if is_gzip {
        Box::new(MultiGzDecoder::new(whole))
    } else if is_zstd {
        Box::new(Zstd { from: whole, decoder: FrameDecoder::new(), in_frame: false })
    } else {
        Box::new(whole)
    })
}

/// zstd frames one after the other. zstd:chunked layers have many, and some without data.
struct Zstd<R> {
    from: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.in_frame {
                let read = self.decoder.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                if self.decoder.is_finished() {
                    self.in_frame = false;
                } else {
                    let some = BlockDecodingStrategy::UptoBytes(BUFFER);
                    self.decoder.decode_blocks(&mut self.from, some).map_err(broken)?;
                }
            } else if self.from.fill_buf()?.is_empty() {
                return Ok(0);
            } else {
                match self.decoder.reset(&mut self.from) {
                    Ok(()) => self.in_frame = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length,
                        ..
                    })) => {
                        let length = u64::from(length);
                        if io::copy(&mut self.from.by_ref().take(length), &mut io::sink())? != length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                    Err(error) => return Err(broken(error)),
                }
            }
        }
    }
}

fn broken(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
