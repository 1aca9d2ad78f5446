//! Verdict record: what the program tells the agent once for each flow and subscriber that it charges with P2P protocol
//! traffic.
//!
//! A notice names an address, a port and a time. Tallies have no ports, so only a record can tell whether a flow fits.

use crate::abi::key::Address;

/// Message of the program to the agent about a flow that charges a subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VerdictRecord {
    /// Coarse monotonic time in seconds; when replaying, the capture's second.
    pub time_s: u64,
    /// First address of the subscriber's block.
    pub block: Address,
    /// The subscriber's end of the flow, as its packets inside any tunnel have it.
    pub own: Address,
    /// The other end.
    pub remote: Address,
    /// Realm of the block.
    pub realm: u32,
    /// Port of the subscriber's end; 0 for protocols without ports.
    pub own_port: u16,
    /// Port of the other end.
    pub remote_port: u16,
    /// Length of the block in bits, out of 128.
    pub block_len: u8,
    /// [`crate::abi::protocol::Protocol`] number.
    pub protocol: u8,
    /// [`crate::abi::protocol::Confidence`] number.
    pub confidence: u8,
    /// [`crate::abi::rule::Rule`] number.
    pub rule: u8,
    /// IP protocol number.
    pub transport: u8,
    /// 1 if the flow is answered, 0 on a router that sees one direction only.
    pub answered: u8,
    /// Explicit padding.
    pub reserved: u16,
}

/// Bytes of a record.
pub const RECORD_BYTES: usize = 72;

const _: () = assert!(core::mem::size_of::<VerdictRecord>() == RECORD_BYTES);

impl VerdictRecord {
    /// From the bytes of a message; `None` if their number differs.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let address = |at: usize| Address { high: word(at), low: word(at + 8) };
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            time_s: word(0),
            block: address(8),
            own: address(24),
            remote: address(40),
            realm: u32::from_ne_bytes([bytes[56], bytes[57], bytes[58], bytes[59]]),
            own_port: half(60),
            remote_port: half(62),
            block_len: bytes[64],
            protocol: bytes[65],
            confidence: bytes[66],
            rule: bytes[67],
            transport: bytes[68],
            answered: bytes[69],
            reserved: 0,
        })
    }
}
