//! Reads captures as a stream of Ethernet frames: pcap and pcapng, also compressed with gzip, from a file or standard
//! input.
//!
//! Memory is bounded by one packet, whatever the capture's length and whatever its length fields claim. A damaged
//! capture yields every packet before the damage, then an error that names the packet; nothing in a capture can make
//! this panic.
//!
//! Why not an existing crate: `pcap-parser` 0.17 and `pcap-file` 2.0 lack what captures of routers need: obsolete
//! packet blocks, byte-swapped "modified" pcap, power-of-two `if_tsresol`, simple packets cut by the interface's
//! snapshot length, I/O errors kept apart from damage, and skipping a block without holding it in memory. The formats
//! are small and frozen, and a test compares every capture of the corpus with what `pcap-parser` reads.
//!
//! Facts: `draft-ietf-opsawg-pcap`, `draft-ietf-opsawg-pcapng`, libpcap `sf-pcap.c`,
//! <https://www.tcpdump.org/linktypes.html>.

#![forbid(unsafe_code)]

mod error;
mod link;
mod pcap;
mod pcapng;
mod source;

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

pub use error::{CaptureError, Damage};
use source::{ByteSource, array};

/// Bytes of the longest packet that is read, as in libpcap (`MAXIMUM_SNAPLEN`) and Wireshark.
pub const MAX_PACKET_BYTES: usize = 262_144;

/// Bytes on the wire beyond which a packet is implausible: Linux makes none of more than 524,280 (`GSO_MAX_SIZE`,
/// include/linux/netdevice.h).
pub const MAX_PLAUSIBLE_BYTES: usize = 1 << 20;

/// Interfaces of one section that are remembered; bounds memory.
const MAX_INTERFACES: usize = 1 << 16;

/// Bytes kept free before a packet, so that a synthetic Ethernet header fits without moving the packet.
const HEADROOM: usize = link::ETHERNET_LEN;

/// One captured frame, starting at its Ethernet header. It may be shorter than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970-01-01 UTC; 0 when the capture holds no time.
    pub timestamp_ns: u64,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// Bytes the frame had on the wire, never fewer than were captured.
    pub wire_len: usize,
}

/// One record of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame, re-framed into Ethernet if it was something else.
    Frame(Frame<'a>),
    /// A packet of a link type that cannot be turned into an Ethernet frame.
    UnsupportedLinkType(u32),
}

/// A packet as the formats below hand it over: where it lies in the buffer.
#[derive(Clone, Debug)]
struct Record {
    timestamp_ns: u64,
    link_type: u32,
    /// The captured bytes, in the buffer.
    captured: Range<usize>,
    /// Bytes on the wire, as the capture claims.
    original_len: usize,
}

enum Format {
    Pcap(pcap::Reader),
    Pcapng(pcapng::Reader),
}

/// A capture being read.
pub struct Capture {
    source: ByteSource,
    format: Format,
    buffer: Vec<u8>,
    packets: u64,
    implausible: u64,
    link_type: Option<u32>,
    failed: bool,
}

impl Capture {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        if path == Path::new("-") {
            return Self::from_reader(Box::new(io::stdin()));
        }
        let file = File::open(path).map_err(CaptureError::Open)?;
        Self::from_reader(Box::new(file))
    }

    /// Reads a capture from any source of bytes.
    ///
    /// # Errors
    /// The first bytes cannot be read, or are not those of a capture.
    pub fn from_reader(reader: Box<dyn Read>) -> Result<Self, CaptureError> {
        let mut source =
            ByteSource::new(reader).map_err(|source| CaptureError::Read { packet: 0, offset: 0, source })?;
        let mut magic = [0; 4];
        let got = source.fill(&mut magic).map_err(|source| CaptureError::Read { packet: 0, offset: 0, source })?;
        if got == 0 {
            return Err(CaptureError::Empty);
        }
        let format = if got == magic.len() {
            if magic == pcapng::SECTION_HEADER {
                Some(Format::Pcapng(pcapng::Reader::default()))
            } else {
                pcap::Variant::from_magic(magic)
                    .map(|variant| pcap::Reader::open(variant, &mut source))
                    .transpose()
                    .map_err(|fault| fault.at(0, source.offset()))?
                    .map(Format::Pcap)
            }
        } else {
            None
        };
        let format = format.ok_or_else(|| CaptureError::NotACapture { first: magic[..got].to_vec() })?;
        Ok(Self {
            source,
            format,
            buffer: vec![0; HEADROOM],
            packets: 0,
            implausible: 0,
            link_type: None,
            failed: false,
        })
    }

    /// The next packet, or `None` at the end.
    ///
    /// # Errors
    /// The capture ends in the middle of a packet, is damaged, or cannot be read further. Nothing follows an error.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, CaptureError> {
        if self.failed {
            return Ok(None);
        }
        let record = match &mut self.format {
            Format::Pcap(reader) => reader.next(&mut self.source, &mut self.buffer),
            Format::Pcapng(reader) => reader.next(&mut self.source, &mut self.buffer),
        };
        let record = match record {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(fault) => {
                self.failed = true;
                return Err(fault.at(self.packets + 1, self.source.offset()));
            }
        };
        self.packets += 1;
        self.link_type = Some(record.link_type);
        Ok(Some(self.item(&record)))
    }

    /// Packets read so far, those of unsupported link types included.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Packets so far that claim more than [`MAX_PLAUSIBLE_BYTES`] on the wire.
    #[must_use]
    pub fn implausible(&self) -> u64 {
        self.implausible
    }

    /// Link type that the latest packet had in the capture; `None` before the first one. 1 is Ethernet
    /// (<https://www.tcpdump.org/linktypes.html>).
    #[must_use]
    pub fn link_type(&self) -> Option<u32> {
        self.link_type
    }

    fn item(&mut self, record: &Record) -> Item<'_> {
        let Some(framed) = link::reframe(record.link_type, &mut self.buffer, record.captured.clone()) else {
            return Item::UnsupportedLinkType(record.link_type);
        };
        let claimed = record.original_len;
        self.implausible += u64::from(claimed > MAX_PLAUSIBLE_BYTES);
        // A frame shorter than its own link-layer header has no length of its own.
        let wire_len = match framed.len() {
            0 => 0,
            captured => (claimed + captured).saturating_sub(record.captured.len()).max(captured),
        };
        Item::Frame(Frame { timestamp_ns: record.timestamp_ns, bytes: &self.buffer[framed], wire_len })
    }
}

#[cfg(test)]
mod tests;
