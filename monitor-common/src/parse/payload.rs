//! The bounded view of a transport payload for the rules.
//!
//! The window is a copy: rules never touch packet memory. Bytes beyond the end of the frame are zero, so a fixed-offset
//! comparison needs no bounds test. A rule that must not accept padding checks [`Payload::captured`] or
//! [`Payload::len`].
#![expect(unsafe_code, reason = "reads within a bound that the compiler cannot see, and verifier barriers")]

use crate::{
    abi::limits::{FIRST_PEER_PORT, HELD_BYTES, TAIL, WINDOW},
    bpf::{
        barrier::{hide_from_optimizer, load_unaligned, statically_known},
        shared_u64::SharedU64,
    },
};

/// Transport protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// The first bytes of one packet's transport payload, with facts from its headers. If earlier segments of the stream
/// were held (`tables/reassembly.rs`), their bytes come first and are part of it.
///
/// Aligned to 8 bytes, so that the window can be read as words: the BPF target splits unaligned loads into single
/// bytes.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub struct Payload {
    /// The first bytes of the payload, zero-filled.
    pub window: [u8; WINDOW],
    /// The last bytes of the payload; zero when the payload is shorter or the frame did not hold them.
    pub tail: [u8; TAIL],
    /// Payload length in bytes by the IP and transport headers.
    pub len: u32,
    /// Bytes of the payload that are in `window`.
    pub captured: u32,
    /// Maximum of bytes that are copied into `window`: from [`crate::abi::limits::HELD_BYTES`] to [`WINDOW`].
    pub depth: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// Last four bytes of a datagram's destination address, host order: all of an IPv4 address.
    pub destination_low: u32,
    /// 1 when the packet came from the flow's numerically lower endpoint: the direction, for state across packets.
    pub from_lower: u32,
    /// Number of the rule that matched, 0 for none.
    rule: u32,
    /// Room of [`Self::verifier_barrier`].
    barrier: u64,
}

const _: () = assert!(core::mem::offset_of!(Payload, window) == 0);
const _: () = assert!(core::mem::offset_of!(Payload, tail) == WINDOW && TAIL.is_multiple_of(8));
const _: () = assert!(core::mem::align_of::<Payload>() == 8 && WINDOW.is_power_of_two());
const _: () = assert!(HELD_BYTES.is_multiple_of(8) && HELD_BYTES < WINDOW);

impl Payload {
    /// An empty payload.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            window: [0; WINDOW],
            tail: [0; TAIL],
            len: 0,
            captured: 0,
            depth: WINDOW as u32,
            source_port: 0,
            destination_port: 0,
            destination_low: 0,
            from_lower: 0,
            rule: 0,
            barrier: 0,
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

    /// Clears the packet's bytes, word by word: the BPF target's `memset` is a loop over bytes.
    ///
    /// Called after each inspection, not before the next one, so that no payload stays in a map. The window is
    /// therefore zero whenever a packet is copied into it.
    #[inline(always)]
    pub fn wipe(&mut self) {
        let words = (&raw mut *self).cast::<u64>();
        let mut index = 0;
        while index < WINDOW / 8 {
            if index * 8 >= self.captured as usize {
                break;
            }
            let mut word = 0;
            while word < 8 {
                // SAFETY: window and tail are the first fields and adjoin (asserted above), so the word lies in this
                // struct, aligned; the reference is exclusive. Volatile keeps LLVM from making it a `memset` again.
                unsafe { words.add(index + word).write_volatile(0) };
                word += 1;
            }
            index += 8;
        }
        // SAFETY: as above, for the tail.
        unsafe { words.add(WINDOW / 8).write_volatile(0) };
        self.captured = 0;
        self.barrier = 0;
    }

    /// Puts held bytes of earlier segments at the window's start; the packet's bytes follow. The window is zero before,
    /// and the words after the held bytes are zero.
    #[inline(always)]
    pub(crate) fn prepend_held(&mut self, held: &[SharedU64; HELD_BYTES / 8]) {
        let words = (&raw mut *self).cast::<u64>();
        let mut index = 0;
        while index < HELD_BYTES / 8 {
            // SAFETY: the window is the first field, aligned to 8 bytes and longer (asserted above), so the word lies
            // in it; the reference is exclusive. Volatile keeps LLVM from making the loop a `memcpy`.
            unsafe { words.add(index).write_volatile(held[index].load()) };
            index += 1;
        }
    }

    /// Returns `value`, but makes the verifier forget what it knew of it: it passes through memory that the verifier
    /// does not track.
    ///
    /// Where paths with different values meet, the verifier would otherwise walk the rest of the program once per
    /// value.
    #[inline(always)]
    pub fn verifier_barrier(&mut self, value: u64) -> u64 {
        let room = &raw mut self.barrier;
        // SAFETY: a field of this struct behind an exclusive reference. Volatile, so that the accesses stay.
        unsafe {
            room.write_volatile(value);
            room.read_volatile()
        }
    }

    /// Stores the number of the rule that matched.
    ///
    /// In memory, whose content the verifier does not track: it walks what follows once, and not once for each rule.
    #[inline(always)]
    pub(crate) fn set_rule(&mut self, rule: u32) {
        // SAFETY: a field of this struct behind an exclusive reference. Volatile, so that the access stays.
        unsafe { (&raw mut self.rule).write_volatile(rule) };
    }

    /// The number that `set_rule` stored.
    #[inline(always)]
    #[must_use]
    pub fn rule(&self) -> u32 {
        // SAFETY: as in `set_rule`.
        unsafe { (&raw const self.rule).read_volatile() }
    }

    /// Returns `self` through a register copy that the compiler cannot see through, so that it loads values anew.
    #[inline(always)]
    #[must_use]
    pub fn barrier_ref(&self) -> &Self {
        #[cfg(target_arch = "bpf")]
        {
            let mut pointer: *const Self = self;
            // SAFETY: copies a register to itself.
            unsafe { core::arch::asm!("{0} = {0}", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
            // SAFETY: the pointer comes from the reference.
            unsafe { &*pointer }
        }
        #[cfg(not(target_arch = "bpf"))]
        self
    }

    /// The byte at `offset`; offsets wrap at the window's size, so no offset is out of bounds.
    #[inline(always)]
    #[must_use]
    pub fn byte(&self, offset: usize) -> u8 {
        self.window[hide_from_optimizer(offset) & (WINDOW - 1)]
    }

    /// The aligned word number `index` of the window; the index wraps like an offset.
    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> u64 {
        // SAFETY: `window` is the first field of a type aligned to 8 bytes (asserted above), so it is a valid, aligned
        // array of `WINDOW / 8` words; every bit pattern is a valid `u64`.
        let words = unsafe { &*(&raw const self.window).cast::<[u64; WINDOW / 8]>() };
        u64::from_le(words[hide_from_optimizer(index) & (WINDOW / 8 - 1)])
    }

    /// The byte at an `offset` that a loop with a constant bound counts; like [`Self::byte`], but costs no mask there.
    #[inline(always)]
    #[must_use]
    pub fn counted(&self, offset: usize) -> u8 {
        self.window[offset & (WINDOW - 1)]
    }

    /// The word number `index` of the window that a loop with a constant bound counts, like [`Self::counted`].
    #[inline(always)]
    pub(crate) fn counted_word(&self, index: usize) -> u64 {
        // SAFETY: as in `word`.
        let words = unsafe { &*(&raw const self.window).cast::<[u64; WINDOW / 8]>() };
        u64::from_le(words[index & (WINDOW / 8 - 1)])
    }

    /// The window as words of 32 bits in memory order, for loops with a constant bound.
    #[inline(always)]
    #[must_use]
    pub fn words32(&self) -> &[u32; WINDOW / 4] {
        // SAFETY: as in `word`.
        unsafe { &*(&raw const self.window).cast::<[u32; WINDOW / 4]>() }
    }

    /// Little-endian 64-bit integer at `offset`, which wraps like that of [`Self::byte`]; near the window's end the
    /// tail adjoins.
    #[inline(always)]
    #[must_use]
    pub fn le64(&self, offset: usize) -> u64 {
        if statically_known(offset) && offset.is_multiple_of(8) {
            return self.word(offset / 8);
        }
        let start = (&raw const *self).cast::<u8>();
        // SAFETY: window and tail are the first fields and adjoin (asserted above), so from each place in the window on
        // there are eight bytes of this struct.
        let word = unsafe { load_unaligned(start.add(hide_from_optimizer(offset) & (WINDOW - 1))) };
        u64::from_le(word)
    }

    /// Little-endian 32-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn le32(&self, offset: usize) -> u32 {
        self.le64(offset) as u32
    }

    /// Little-endian 16-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn le16(&self, offset: usize) -> u16 {
        self.le64(offset) as u16
    }

    /// Big-endian 64-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn be64(&self, offset: usize) -> u64 {
        self.le64(offset).swap_bytes()
    }

    /// Big-endian 32-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn be32(&self, offset: usize) -> u32 {
        self.le32(offset).swap_bytes()
    }

    /// Big-endian 16-bit integer at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn be16(&self, offset: usize) -> u16 {
        self.le16(offset).swap_bytes()
    }

    /// Whether the payload holds `literal` at `offset`, within the captured bytes.
    #[inline(always)]
    #[must_use]
    pub fn has<const N: usize>(&self, offset: usize, literal: &[u8; N]) -> bool {
        let mut difference = 0;
        let mut start = 0;
        while start < N {
            let (mut wanted, mut mask) = (0, 0);
            let mut index = 0;
            while index < 8 && start + index < N {
                wanted |= (literal[start + index] as u64) << (8 * index);
                mask |= 0xff << (8 * index);
                index += 1;
            }
            difference |= (self.le64(offset + start) ^ wanted) & mask;
            start += 8;
        }
        // Bytes that the frame did not hold are zero, so a literal that ends with another byte needs no length test.
        difference == 0 && (literal[N - 1] != 0 || self.captured as usize >= offset + N)
    }

    /// The last byte of a payload of at least [`TAIL`] bytes; 0 for a shorter one, or when the frame did not hold it.
    #[inline(always)]
    #[must_use]
    pub fn last(&self) -> u8 {
        self.tail[TAIL - 1]
    }

    /// Whether neither port is below [`FIRST_PEER_PORT`]: peers choose theirs, services (DNS, NTP, SNMP, RPC, ...) do
    /// not.
    #[inline(always)]
    #[must_use]
    pub fn has_peer_ports(&self) -> bool {
        (self.source_port >= FIRST_PEER_PORT) && (self.destination_port >= FIRST_PEER_PORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_at_any_place_up_to_the_tail() {
        let bytes: Vec<u8> = (0..WINDOW + TAIL).map(|index| (index * 7 % 251) as u8).collect();
        let payload = Payload::from_bytes(&bytes, 50_000, 80, true);
        let at = |offset: usize| bytes[offset..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        for offset in 0..WINDOW {
            assert_eq!(payload.le64(offset), at(offset));
            assert_eq!(payload.le64(offset + WINDOW), at(offset), "offsets wrap");
            assert_eq!(payload.be32(offset), (at(offset) as u32).swap_bytes());
        }
    }
}
