//! Facts of one protocol that the gate and the hold rules are made of: first bytes, and prefixes that may be held.
//!
//! Each protocol's module has one [`Dissector`]. `dissect.rs` lists them, and concatenates their bytes into tables at
//! compile time. A rule with a constant for its message gives that constant to [`prefix`], so its bytes are written
//! once.

use super::byte_set::ByteSet;
use crate::abi::protocol::Protocol;

/// First bytes of a TCP stream that may be held until more of the message arrives.
///
/// At most eight bytes are compared.
#[derive(Clone, Copy)]
pub(super) struct Prefix {
    /// The bytes as a little-endian word.
    pub(super) head: u64,
    /// All ones where `head` has a byte.
    pub(super) mask: u64,
    /// Most bytes of the stream that are held. A rule may need as many, and none of them names a person or content.
    pub(super) most: u32,
}

/// The first eight bytes, at most, of a message, and the most bytes that are held of a stream that starts with them.
pub(super) const fn prefix(message: &[u8], most: usize) -> Prefix {
    assert!(!message.is_empty(), "a prefix has a byte");
    let (mut head, mut mask, mut index) = (0, 0, 0);
    while index < message.len() && index < 8 {
        head |= (message[index] as u64) << (8 * index);
        mask |= 0xff << (8 * index);
        index += 1;
    }
    Prefix { head, mask, most: most as u32 }
}

/// Facts of one protocol.
#[derive(Clone, Copy)]
pub(super) struct Dissector {
    /// The protocol.
    pub(super) protocol: Protocol,
    /// TCP: prefixes of messages that are also matched when they are split across segments.
    pub(super) prefixes: &'static [Prefix],
    /// TCP: first bytes of WebSocket frames that carry the protocol. Such frames may be split, too.
    pub(super) frames: &'static [u8],
    /// TCP: first bytes of messages that are matched whole or in the middle of a stream only, if they are fixed.
    pub(super) unsplit: &'static [u8],
    /// UDP: first bytes, if they are fixed.
    pub(super) udp: &'static [u8],
}

impl Dissector {
    /// A protocol whose rules take any first byte.
    pub(super) const fn new(protocol: Protocol) -> Self {
        Self { protocol, prefixes: &[], frames: &[], unsplit: &[], udp: &[] }
    }

    /// First bytes over TCP of messages that may be split across segments.
    pub(super) const fn split_tcp_bytes(&self) -> ByteSet {
        first_bytes(self.prefixes).union(ByteSet::of(self.frames))
    }

    /// First bytes over TCP of all messages that start with a fixed one.
    pub(super) const fn tcp_bytes(&self) -> ByteSet {
        self.split_tcp_bytes().union(ByteSet::of(self.unsplit))
    }
}

/// First bytes of prefixes.
pub(super) const fn first_bytes(prefixes: &[Prefix]) -> ByteSet {
    let (mut set, mut index) = (ByteSet::EMPTY, 0);
    while index < prefixes.len() {
        set = set.with(prefixes[index].head as u8);
        index += 1;
    }
    set
}
