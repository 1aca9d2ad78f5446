//! The pcapng format: sections of blocks, each block framed by its length on both sides.
//!
//! Section headers, interface descriptions and the three kinds of packet blocks are read; every other block is stepped
//! over without holding it in memory.

use super::{
    HEADROOM, MAX_INTERFACES, MAX_PACKET_BYTES, Record, array,
    error::{Damage, Fault},
    source::ByteSource,
};

/// Block type of a section header, equal in both byte orders: a capture starts with it.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Block types (draft-ietf-opsawg-pcapng section 11.1).
mod block {
    pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
    pub(super) const PACKET: u32 = 2;
    pub(super) const SIMPLE_PACKET: u32 = 3;
    pub(super) const ENHANCED_PACKET: u32 = 6;
}

/// Option codes of an interface description (section 4.2).
mod option {
    pub(super) const END: u16 = 0;
    pub(super) const TIME_RESOLUTION: u16 = 9;
    pub(super) const TIME_OFFSET: u16 = 14;
}

/// Bytes of a block that frame its body: type, length, length again.
const FRAMING: u32 = 12;
/// Longest block that is read into memory: a packet and generous options (Wireshark: `MAX_BLOCK_SIZE`).
const MAX_BLOCK_BYTES: u32 = 16 << 20;
/// Value of the byte-order field in the writer's byte order.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

#[derive(Clone, Copy, Debug)]
struct CaptureInterface {
    link_type: u32,
    /// Most bytes kept of a packet; 0 is no limit.
    snapshot_len: u32,
    /// Timestamp units per second; `None` when it does not fit 128 bits.
    units_per_second: Option<u128>,
    /// Added to timestamps.
    offset_seconds: i64,
}

impl CaptureInterface {
    /// Nanoseconds since 1970 of a timestamp, as near as 64 bits allow.
    fn timestamp_ns(&self, high: u32, low: u32) -> u64 {
        const NS: i128 = 1_000_000_000;
        let units = (u128::from(high) << 32) | u128::from(low);
        let ns = match self.units_per_second {
            // Below 2^64 * 10^9: fits.
            Some(per_second) => (units * NS as u128 / per_second) as i128,
            None => 0,
        };
        u64::try_from((ns + i128::from(self.offset_seconds) * NS).max(0)).unwrap_or(u64::MAX)
    }
}

#[derive(Default)]
pub(super) struct Reader {
    big_endian: bool,
    interfaces: Vec<CaptureInterface>,
    /// The first block's type was read to recognise the format.
    started: bool,
}

impl Reader {
    pub(super) fn next(&mut self, source: &mut ByteSource, buffer: &mut Vec<u8>) -> Result<Option<Record>, Fault> {
        loop {
            let block_type = if self.started {
                let Some(block_type) = source.next::<4>()? else { return Ok(None) };
                block_type
            } else {
                self.started = true;
                SECTION_HEADER
            };
            if block_type == SECTION_HEADER {
                self.section(source)?;
                continue;
            }
            let block_type = self.u32(block_type);
            let length = self.u32(source.next()?.ok_or(Fault::Truncated)?);
            let damaged = || Fault::Damaged(Damage::BlockLength { block_type, length });
            if length < FRAMING || !length.is_multiple_of(4) {
                return Err(damaged());
            }
            let body = (length - FRAMING) as usize;
            match block_type {
                block::INTERFACE_DESCRIPTION | block::PACKET | block::SIMPLE_PACKET | block::ENHANCED_PACKET => {
                    if length > MAX_BLOCK_BYTES {
                        return Err(damaged());
                    }
                    source.read_to(buffer, HEADROOM, body)?;
                }
                _ => source.skip(body as u64)?,
            }
            let last = self.u32(source.next()?.ok_or(Fault::Truncated)?);
            if last != length {
                return Err(Fault::Damaged(Damage::BlockTrailer { first: length, last }));
            }
            let bytes = buffer.get(HEADROOM..HEADROOM + body).unwrap_or_default();
            let record = match block_type {
                block::INTERFACE_DESCRIPTION => {
                    self.interface(bytes).ok_or_else(damaged)??;
                    continue;
                }
                block::ENHANCED_PACKET | block::PACKET => self.packet(block_type, bytes).ok_or_else(damaged)?,
                block::SIMPLE_PACKET => self.simple_packet(bytes).ok_or_else(damaged)?,
                _ => continue,
            };
            return record.map(Some);
        }
    }

    fn u32(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u16(&self, bytes: [u8; 2]) -> u16 {
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    /// Reads a section header after its type: byte order and version; interfaces are numbered anew (section 4.1).
    fn section(&mut self, source: &mut ByteSource) -> Result<(), Fault> {
        let header = source.next::<12>()?.ok_or(Fault::Truncated)?;
        self.big_endian = match array(&header, 4) {
            magic if u32::from_be_bytes(magic) == BYTE_ORDER_MAGIC => true,
            magic if u32::from_le_bytes(magic) == BYTE_ORDER_MAGIC => false,
            _ => return Err(Fault::Damaged(Damage::ByteOrder)),
        };
        self.interfaces.clear();
        let length = self.u32(array(&header, 0));
        let version = self.u16(array(&header, 8));
        if version != 1 {
            return Err(Fault::Damaged(Damage::Version(version)));
        }
        // Type and `header` are 16 bytes; section length and the second block length follow.
        if length < 28 || !length.is_multiple_of(4) {
            let block_type = u32::from_be_bytes(SECTION_HEADER);
            return Err(Fault::Damaged(Damage::BlockLength { block_type, length }));
        }
        source.skip(u64::from(length) - 20)?;
        let last = self.u32(source.next()?.ok_or(Fault::Truncated)?);
        if last != length {
            return Err(Fault::Damaged(Damage::BlockTrailer { first: length, last }));
        }
        Ok(())
    }

    /// Remembers an interface (section 4.2). `None` when the block is too short.
    fn interface(&mut self, body: &[u8]) -> Option<Result<(), Fault>> {
        let fixed = body.first_chunk::<8>()?;
        if self.interfaces.len() == MAX_INTERFACES {
            return Some(Err(Fault::Damaged(Damage::Interfaces)));
        }
        let mut interface = CaptureInterface {
            link_type: u32::from(self.u16(array(fixed, 0))),
            snapshot_len: self.u32(array(fixed, 4)),
            units_per_second: Some(1_000_000),
            offset_seconds: 0,
        };
        let mut options = &body[8..];
        while let Some((header, rest)) = options.split_first_chunk::<4>() {
            let (code, length) = (self.u16(array(header, 0)), usize::from(self.u16(array(header, 2))));
            // Options only say more about packets: a malformed one ends the list, not the capture.
            let Some(value) = rest.get(..length) else { break };
            match (code, value) {
                (option::END, _) => break,
                (option::TIME_RESOLUTION, [resolution]) => {
                    let exponent = u32::from(resolution & 0x7f);
                    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
                    interface.units_per_second = base.checked_pow(exponent);
                }
                (option::TIME_OFFSET, value) if value.len() == 8 => {
                    let bytes = array(value, 0);
                    interface.offset_seconds =
                        if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        self.interfaces.push(interface);
        Some(Ok(()))
    }

    /// An enhanced packet (section 4.3) or an obsolete packet block (appendix A), which differ in the interface field
    /// only. `None` when the block is too short for what it says.
    fn packet(&self, block_type: u32, body: &[u8]) -> Option<Result<Record, Fault>> {
        let fixed = body.first_chunk::<20>()?;
        let field = |index: usize| self.u32(array(fixed, index * 4));
        let number = match block_type {
            block::PACKET => u32::from(self.u16(array(fixed, 0))),
            _ => field(0),
        };
        let captured = field(3);
        if captured as usize > MAX_PACKET_BYTES {
            return Some(Err(Fault::Damaged(Damage::PacketLength(captured))));
        }
        if captured as usize > body.len() - 20 {
            return None;
        }
        let Some(interface) = self.interfaces.get(number as usize) else {
            return Some(Err(Fault::Damaged(Damage::Interface(number))));
        };
        let start = HEADROOM + 20;
        Some(Ok(Record {
            timestamp_ns: interface.timestamp_ns(field(1), field(2)),
            link_type: interface.link_type,
            captured: start..start + captured as usize,
            original_len: field(4) as usize,
        }))
    }

    /// A simple packet (section 4.4): of the first interface, without a time, cut at the interface's snapshot length.
    fn simple_packet(&self, body: &[u8]) -> Option<Result<Record, Fault>> {
        let original = self.u32(*body.first_chunk()?);
        let Some(interface) = self.interfaces.first() else {
            return Some(Err(Fault::Damaged(Damage::Interface(0))));
        };
        let captured = if interface.snapshot_len == 0 { original } else { original.min(interface.snapshot_len) };
        let captured = (captured as usize).min(body.len() - 4);
        if captured > MAX_PACKET_BYTES {
            return Some(Err(Fault::Damaged(Damage::PacketLength(captured as u32))));
        }
        let start = HEADROOM + 4;
        Some(Ok(Record {
            timestamp_ns: 0,
            link_type: interface.link_type,
            captured: start..start + captured,
            original_len: original as usize,
        }))
    }
}
