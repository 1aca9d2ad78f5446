//! The bounded view of a transport payload that signatures may look at.
//!
//! The window is a copy: signatures never touch packet memory. Bytes past what the frame held are zero, so a fixed-offset
//! comparison needs no bounds test; a rule that must not accept padding asks [`Payload::captured`] or [`Payload::len`].

use crate::limits::{TAIL, WINDOW};

/// Transport protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// The first bytes of one packet's transport payload, and what the headers said about it.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Payload {
    /// The first bytes of the payload, zero-filled.
    pub window: [u8; WINDOW],
    /// The last bytes of the payload; zero when the payload is shorter or the frame did not hold them.
    pub tail: [u8; TAIL],
    /// Payload length in bytes as the IP and transport headers say.
    pub len: u32,
    /// Bytes of the payload that are in `window`.
    pub captured: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// 1 when the packet came from the flow's numerically lower endpoint: the direction, for state across packets.
    pub from_lower: u32,
}

impl Payload {
    /// An empty payload.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            window: [0; WINDOW],
            tail: [0; TAIL],
            len: 0,
            captured: 0,
            source_port: 0,
            destination_port: 0,
            from_lower: 0,
        }
    }

    /// A payload from bytes, for tests and fuzzers.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], source_port: u16, destination_port: u16, from_lower: bool) -> Self {
        let mut payload = Self::empty();
        let captured = bytes.len().min(WINDOW);
        payload.window[..captured].copy_from_slice(&bytes[..captured]);
        if let Some(tail) = bytes.last_chunk::<TAIL>() {
            payload.tail = *tail;
        }
        payload.len = bytes.len() as u32;
        payload.captured = captured as u32;
        payload.source_port = source_port;
        payload.destination_port = destination_port;
        payload.from_lower = u32::from(from_lower);
        payload
    }

    /// The byte at `offset`; offsets wrap at the window's size, so no offset is out of bounds.
    #[inline(always)]
    #[must_use]
    pub fn byte(&self, offset: usize) -> u8 {
        self.window[offset & (WINDOW - 1)]
    }

    /// Big-endian 16-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn be16(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.byte(offset), self.byte(offset + 1)])
    }

    /// Big-endian 32-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn be32(&self, offset: usize) -> u32 {
        u32::from_be_bytes([self.byte(offset), self.byte(offset + 1), self.byte(offset + 2), self.byte(offset + 3)])
    }

    /// Big-endian 64-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn be64(&self, offset: usize) -> u64 {
        (u64::from(self.be32(offset)) << 32) | u64::from(self.be32(offset + 4))
    }

    /// Little-endian 16-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn le16(&self, offset: usize) -> u16 {
        self.be16(offset).swap_bytes()
    }

    /// Little-endian 32-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn le32(&self, offset: usize) -> u32 {
        self.be32(offset).swap_bytes()
    }

    /// Whether the payload holds `literal` at the constant `offset`, inside what the frame held.
    #[inline(always)]
    #[must_use]
    pub fn has<const N: usize>(&self, offset: usize, literal: &[u8; N]) -> bool {
        let mut equal = (self.captured as usize) >= offset + N;
        let mut index = 0;
        while index < N {
            equal &= self.byte(offset + index) == literal[index];
            index += 1;
        }
        equal
    }
}

/// What inspection remembers about one flow between its first packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowState {
    /// A value a signature keeps for a later packet (for uTP: connection id and sequence number).
    pub memo: u64,
    /// Bits a signature sets for a later packet; each is declared in [`marks`]. TCP and UDP flows never share one.
    pub marks: u32,
    /// Explicit padding.
    pub reserved: u32,
}

/// The bits of [`FlowState::marks`], declared in one place so that two signatures never share one by accident.
pub mod marks {
    /// TCP: the lower endpoint's latest payload was the single byte 0x13.
    pub const LONE_13_FROM_LOWER: u32 = 1 << 0;
    /// TCP: the higher endpoint's latest payload was the single byte 0x13.
    pub const LONE_13_FROM_HIGHER: u32 = 1 << 1;
    /// UDP: a uTP SYN was seen; `memo` holds its connection id and sequence number.
    pub const UTP_SYN: u32 = 1 << 0;
    /// UDP: the SYN above came from the lower endpoint.
    pub const UTP_SYN_FROM_LOWER: u32 = 1 << 1;
    /// UDP: a tracker connect request was seen (BEP 15).
    pub const TRACKER_CONNECT: u32 = 1 << 2;
    /// UDP: a short Kad message was seen that needs a second hit.
    pub const KAD_SHORT: u32 = 1 << 3;
}
