//! The pcap format, as libpcap writes and reads it: a 24-byte header, then a record header and the bytes of each
//! packet.

use super::{
    HEADROOM, MAX_PACKET_BYTES, Record, array,
    error::{Damage, Fault},
    source::ByteSource,
};

/// Bytes of the capture header after its magic.
const HEADER_REST: usize = 20;
/// Bits of the header's last field that hold the link type; the others tell of a frame check sequence.
const LINK_TYPE_MASK: u32 = 0x03ff_ffff;

/// Properties that the magic number gives (libpcap `sf-pcap.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    big_endian: bool,
    nanoseconds: bool,
    /// Alexey Kuznetzov's format: eight more bytes per record.
    modified: bool,
}

impl Variant {
    pub(super) fn from_magic(magic: [u8; 4]) -> Option<Self> {
        [false, true].into_iter().find_map(|big_endian| {
            let number = if big_endian { u32::from_be_bytes(magic) } else { u32::from_le_bytes(magic) };
            let (nanoseconds, modified) = match number {
                0xa1b2_c3d4 => (false, false),
                0xa1b2_3c4d => (true, false),
                0xa1b2_cd34 => (false, true),
                _ => return None,
            };
            Some(Self { big_endian, nanoseconds, modified })
        })
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u16(self, bytes: [u8; 2]) -> u16 {
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }
}

/// Which of a record's two lengths comes first: version 2.2 and older wrote the original length first, 2.3 either.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    SmallerIsCaptured,
}

pub(super) struct Reader {
    variant: Variant,
    link_type: u32,
    lengths: Lengths,
}

impl Reader {
    /// Reads what follows the magic of the capture header.
    pub(super) fn open(variant: Variant, source: &mut ByteSource) -> Result<Self, Fault> {
        let rest = source.next::<HEADER_REST>()?.ok_or(Fault::Truncated)?;
        let version = (variant.u16(array(&rest, 0)), variant.u16(array(&rest, 2)));
        let lengths = match version {
            (2, 3) => Lengths::SmallerIsCaptured,
            (2, 0..3) => Lengths::OriginalFirst,
            _ => Lengths::CapturedFirst,
        };
        Ok(Self { variant, link_type: variant.u32(array(&rest, 16)) & LINK_TYPE_MASK, lengths })
    }

    pub(super) fn next(&mut self, source: &mut ByteSource, buffer: &mut Vec<u8>) -> Result<Option<Record>, Fault> {
        let Some(header) = source.next::<16>()? else { return Ok(None) };
        let field = |index: usize| self.variant.u32(array(&header, index * 4));
        let (seconds, fraction) = (field(0), field(1));
        let (captured, original) = match (self.lengths, field(2), field(3)) {
            (Lengths::CapturedFirst, first, second) => (first, second),
            (Lengths::OriginalFirst, first, second) => (second, first),
            (Lengths::SmallerIsCaptured, first, second) => (first.min(second), first.max(second)),
        };
        if captured as usize > MAX_PACKET_BYTES {
            return Err(Fault::Damaged(Damage::PacketLength(captured)));
        }
        if self.variant.modified {
            source.skip(8)?;
        }
        source.read_to(buffer, HEADROOM, captured as usize)?;
        let unit_ns = if self.variant.nanoseconds { 1 } else { 1_000 };
        Ok(Some(Record {
            timestamp_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit_ns,
            link_type: self.link_type,
            captured: HEADROOM..HEADROOM + captured as usize,
            original_len: original as usize,
        }))
    }
}
