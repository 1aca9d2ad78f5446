//! Records of the watchlist: a content hash, and a hit as the kernel reports it to the agent.
#![expect(unsafe_code, reason = "volatile stores: the BPF target must not call memset")]

use crate::abi::key::Address;

/// A content hash as the kernel's map holds it: 20 bytes in memory order, shorter ones filled up with zeros, then 4
/// zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ContentHash(pub [u64; 3]);

impl ContentHash {
    /// Clears the hash, word by word: the BPF target's `memset` is a call and a loop over bytes.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        for word in &mut self.0 {
            // SAFETY: a valid, aligned word behind an exclusive reference. Volatile keeps LLVM from making it a
            // `memset` again.
            unsafe { core::ptr::from_mut(word).write_volatile(0) };
        }
    }

    /// From its bytes; bytes beyond 20 are ignored, missing bytes are zero.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut words = [0; 3];
        for (index, byte) in bytes.iter().take(20).enumerate() {
            words[index / 8] |= u64::from(*byte) << (8 * (index % 8));
        }
        Self(words)
    }

    /// Whether a payload named any content.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(&self) -> bool {
        (self.0[0] | self.0[1] | self.0[2]) != 0
    }
}

/// Message of the program to the agent about a hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WatchHit {
    /// Monotonic time in nanoseconds; when replaying, the capture's second.
    pub time_ns: u64,
    /// Sender of the payload that named the content.
    pub source: Address,
    /// Receiver of the payload.
    pub destination: Address,
    /// Number of the list's entry.
    pub entry: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// [`crate::abi::protocol::Protocol`] number.
    pub protocol: u8,
    /// [`crate::abi::protocol::Confidence`] number of the flow.
    pub confidence: u8,
    /// IP protocol number.
    pub transport: u8,
    /// Explicit padding.
    pub reserved: u8,
    /// Realm of both addresses.
    pub realm: u32,
}

const _: () = assert!(core::mem::size_of::<WatchHit>() == 56);

impl WatchHit {
    /// From the bytes of a message; `None` if their number differs.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 56] = bytes.try_into().ok()?;
        let word = |at: usize| {
            u64::from_ne_bytes([
                bytes[at],
                bytes[at + 1],
                bytes[at + 2],
                bytes[at + 3],
                bytes[at + 4],
                bytes[at + 5],
                bytes[at + 6],
                bytes[at + 7],
            ])
        };
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            time_ns: word(0),
            source: Address { high: word(8), low: word(16) },
            destination: Address { high: word(24), low: word(32) },
            entry: u32::from_ne_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]),
            source_port: half(44),
            destination_port: half(46),
            protocol: bytes[48],
            confidence: bytes[49],
            transport: bytes[50],
            reserved: 0,
            realm: u32::from_ne_bytes([bytes[52], bytes[53], bytes[54], bytes[55]]),
        })
    }
}
