//! The only access to packet bytes: a length, bounded fixed-size reads, and one copy of the payload's first bytes.
//!
//! The XDP program implements [`Packet`] over `data`/`data_end` of the kernel's `struct xdp_md`; replay, tests and
//! fuzzers use [`Frame`] over a slice. Every read is bounds-tested by the implementation; nothing hands out slices of
//! packet memory.

use crate::{
    abi::limits::{MAX_READ_OFFSET, OFFSET_BOUND, TAIL, WINDOW},
    parse::payload::Payload,
};

/// One received frame, starting at its Ethernet header.
pub trait Packet {
    /// Bytes of the frame that can be read.
    fn readable(&self) -> usize;

    /// Bytes the frame had on the wire: more than [`Self::readable`] for multi-buffer frames and truncated captures.
    fn wire_len(&self) -> usize;

    /// The `N` bytes at `offset`, or `None` when they are not all readable or `offset` is beyond [`MAX_READ_OFFSET`].
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Returns `value`, but makes the kernel's verifier forget all it knew of it except that it is below
    /// [`OFFSET_BOUND`].
    ///
    /// The code that follows is then verified once for all values, not once for each path. The caller tests closer
    /// bounds again.
    #[inline(always)]
    fn verifier_barrier(&self, value: usize) -> usize {
        debug_assert!(value < OFFSET_BOUND, "no offset of the parser is that large");
        value
    }

    /// Copies the bytes at `offset` into the payload's window, after the `payload.captured` bytes in it, and into the
    /// tail.
    ///
    /// The copy is bounded by `payload.len` (those bytes and the length that the headers claim), by `payload.depth` and
    /// by the frame. Sets `payload.captured`. The rest of the window and the tail must be zero before (see
    /// [`Payload::wipe`]) and stay so where the frame has no bytes. The tail also stays zero if the payload is longer
    /// than a depth below [`WINDOW`]. At most [`crate::abi::limits::HELD_BYTES`] are in the window before.
    fn copy_payload(&self, offset: usize, payload: &mut Payload);
}

/// A frame in plain memory.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    wire_len: usize,
}

impl<'a> Frame<'a> {
    /// A frame of which `bytes` were captured and that had `wire_len` bytes on the wire.
    #[must_use]
    pub fn new(bytes: &'a [u8], wire_len: usize) -> Self {
        Self { bytes, wire_len: wire_len.max(bytes.len()) }
    }
}

impl Packet for Frame<'_> {
    fn readable(&self) -> usize {
        self.bytes.len()
    }

    fn wire_len(&self) -> usize {
        self.wire_len
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_READ_OFFSET {
            return None;
        }
        self.bytes.get(offset..)?.first_chunk::<N>().copied()
    }

    fn copy_payload(&self, offset: usize, payload: &mut Payload) {
        let held = self.bytes.get(offset..).unwrap_or_default();
        let before = payload.captured as usize;
        let claimed = payload.len as usize - before;
        let bytes = &held[..held.len().min(claimed)];
        let depth = payload.depth as usize;
        let copied = bytes.len().min(depth - before);
        payload.window[before..before + copied].copy_from_slice(&bytes[..copied]);
        payload.captured = (before + copied) as u32;
        if bytes.len() < claimed || (depth < WINDOW && before + claimed > depth) {
            return;
        }
        if let Some(tail) = bytes.last_chunk::<TAIL>() {
            payload.tail = *tail;
        } else if let Some(tail) = payload.window[..before + copied].last_chunk::<TAIL>() {
            payload.tail = *tail;
        }
    }
}
