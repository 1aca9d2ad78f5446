//! Where a capture's bytes come from: buffered, unpacked if they are gzip (RFC 1952, any number of members), and
//! counted.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::Fault;

/// Bytes asked for at once.
const READ_BYTES: usize = 1 << 18;
/// Steps in which memory grows while a packet is read, so that a false length costs no memory.
const GROW_BYTES: usize = 1 << 16;
/// First bytes of a gzip member (RFC 1952 section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

pub(super) struct ByteSource {
    reader: Box<dyn Read>,
    offset: u64,
}

impl ByteSource {
    pub(super) fn new(reader: Box<dyn Read>) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(READ_BYTES, reader);
        let mut first = [0; 2];
        let got = fill(&mut reader, &mut first)?;
        let chained = io::Cursor::new(first).take(got as u64).chain(reader);
        let reader: Box<dyn Read> = if first[..got] == GZIP {
            Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(chained)))
        } else {
            Box::new(chained)
        };
        Ok(Self { reader, offset: 0 })
    }

    /// Bytes read so far, uncompressed.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until `buffer` is full or the capture ends; returns how many bytes were read.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = fill(&mut self.reader, buffer)?;
        self.offset += got as u64;
        Ok(got)
    }

    /// Reads `N` bytes, or `None` when the capture ends right here.
    pub(super) fn next<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Fault> {
        let mut bytes = [0; N];
        match self.fill(&mut bytes).map_err(Fault::Read)? {
            0 => Ok(None),
            got if got == N => Ok(Some(bytes)),
            _ => Err(Fault::Truncated),
        }
    }

    /// Reads `length` bytes to `start` of `buffer`, which grows only as bytes arrive.
    pub(super) fn read_to(&mut self, buffer: &mut Vec<u8>, start: usize, length: usize) -> Result<(), Fault> {
        let end = start + length;
        let mut at = start;
        while at < end {
            let step = end.min(at + GROW_BYTES);
            if buffer.len() < step {
                buffer.resize(step, 0);
            }
            if self.fill(&mut buffer[at..step]).map_err(Fault::Read)? != step - at {
                return Err(Fault::Truncated);
            }
            at = step;
        }
        Ok(())
    }

    /// Steps over `length` bytes without keeping them.
    pub(super) fn skip(&mut self, length: u64) -> Result<(), Fault> {
        let skipped = io::copy(&mut (&mut self.reader).take(length), &mut io::sink()).map_err(Fault::Read)?;
        self.offset += skipped;
        if skipped == length { Ok(()) } else { Err(Fault::Truncated) }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// The `N` bytes at `offset`, zero where `bytes` is too short: callers have tested the length.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
