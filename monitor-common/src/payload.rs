//! The bounded view of a transport payload that signatures may look at.
//!
//! The window is a copy: signatures never touch packet memory. Bytes past what the frame held are zero, so a fixed-offset
//! comparison needs no bounds test; a rule that must not accept padding asks [`Payload::captured`] or [`Payload::len`].

use crate::{
    bpf::shared_u64::SharedU64,
    limits::{HELD_BYTES, TAIL, WINDOW},
};

/// Transport protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// The first bytes of one packet's transport payload, and what the headers said about it. Where the packet continues what earlier
/// segments of its stream began (`beginning.rs`), their bytes are in front and part of it.
///
/// Aligned to 8 bytes, so that the window can be read as words: the BPF target splits unaligned loads into single bytes.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub struct Payload {
    /// The first bytes of the payload, zero-filled.
    pub window: [u8; WINDOW],
    /// The last bytes of the payload; zero when the payload is shorter or the frame did not hold them.
    pub tail: [u8; TAIL],
    /// Payload length in bytes as the IP and transport headers say.
    pub len: u32,
    /// Bytes of the payload that are in `window`.
    pub captured: u32,
    /// Most bytes that are copied into `window`: from [`crate::limits::HELD_BYTES`] to [`WINDOW`].
    pub depth: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// 1 when the packet came from the flow's numerically lower endpoint: the direction, for state across packets.
    pub from_lower: u32,
    /// Explicit padding.
    reserved: u32,
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
            from_lower: 0,
            reserved: 0,
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

    /// Zeroes what the packet left, by words: the BPF target's `memset` is a loop over bytes, which costs ten times as much.
    ///
    /// Done when a packet has been looked into, not before the next one: nothing of a payload stays in a map. So the window is
    /// always zero when a packet is copied into it.
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
                // SAFETY: window and tail are the first fields and adjoin (asserted above), so the word lies in this struct,
                // aligned; the reference is exclusive. Volatile keeps LLVM from making it a `memset` again.
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

    /// Puts what earlier segments held at the window's start, of which the packet's bytes are copied behind. The window is zero
    /// before, and the words behind what is kept are.
    #[inline(always)]
    pub(crate) fn begin(&mut self, kept: &[SharedU64; HELD_BYTES / 8]) {
        let words = (&raw mut *self).cast::<u64>();
        let mut index = 0;
        while index < HELD_BYTES / 8 {
            // SAFETY: the window is the first field, aligned to 8 bytes and longer (asserted above), so the word lies in it; the
            // reference is exclusive. Volatile keeps LLVM from making the loop a `memcpy`.
            unsafe { words.add(index).write_volatile(kept[index].load()) };
            index += 1;
        }
    }

    /// Returns `value`, but makes the verifier forget what it knew of it: it passes through memory that the verifier does not
    /// track.
    ///
    /// Where paths with different values meet, the verifier would otherwise walk the rest of the program once per value.
    #[inline(always)]
    pub fn verifier_barrier(&mut self, value: u64) -> u64 {
        let room = &raw mut self.barrier;
        // SAFETY: a field of this struct behind an exclusive reference. Volatile, so that the accesses stay.
        unsafe {
            room.write_volatile(value);
            room.read_volatile()
        }
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

    /// Little-endian 64-bit integer at `offset`, which wraps like that of [`Self::byte`]; near the window's end the tail adjoins.
    #[inline(always)]
    #[must_use]
    pub fn le64(&self, offset: usize) -> u64 {
        if statically_known(offset) && offset.is_multiple_of(8) {
            return self.word(offset / 8);
        }
        let start = (&raw const *self).cast::<u8>();
        // SAFETY: window and tail are the first fields and adjoin (asserted above), so from each place in the window on there are
        // eight bytes of this struct.
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

    /// Whether the payload holds `literal` at `offset`, inside what the frame held.
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
        // What the frame did not hold is zero, so a literal with a last byte other than zero needs no length test.
        difference == 0 && (literal[N - 1] != 0 || self.captured as usize >= offset + N)
    }

    /// The last byte of a payload of at least [`TAIL`] bytes; 0 for a shorter one, or when the frame did not hold it.
    #[inline(always)]
    #[must_use]
    pub fn last(&self) -> u8 {
        self.tail[TAIL - 1]
    }

    /// Whether neither port is below 1024: peers choose theirs, services (DNS, NTP, SNMP, RPC, ...) do not.
    #[inline(always)]
    #[must_use]
    pub fn high_ports(&self) -> bool {
        (self.source_port >= 1024) && (self.destination_port >= 1024)
    }
}

/// Eight bytes at any address, in one load: the compiler would make eight of it, since some machines that run BPF have no
/// unaligned loads. Ours have, and there the verifier allows them but on the stack.
///
/// # Safety
/// The bytes lie in one object that is not on the stack.
#[inline(always)]
unsafe fn load_unaligned(at: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: reads what the caller vouches for.
        unsafe {
            core::arch::asm!("{0} = *(u64 *)({1} + 0)", out(reg) word, in(reg) at, options(pure, readonly, nostack, preserves_flags));
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: reads what the caller vouches for.
    unsafe {
        at.cast::<u64>().read_unaligned()
    }
}

/// Whether the compiler knows a value.
#[inline(always)]
const fn statically_known(value: usize) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        core::intrinsics::is_val_statically_known(value)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _any = value;
        false
    }
}

/// Hides from the optimizer what it knows about an index that is not a constant, so that the mask stays in the program.
///
/// LLVM drops a mask when an earlier comparison implies it; the verifier does not follow that comparison and would refuse
/// the access.
#[inline(always)]
fn hide_from_optimizer(index: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        if statically_known(index) {
            return index;
        }
        let mut hidden = index;
        // SAFETY: copies a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) hidden, options(pure, nomem, nostack, preserves_flags)) };
        hidden
    }
    // On the host nothing needs hiding.
    #[cfg(not(target_arch = "bpf"))]
    index
}

/// State of one flow that the rules carry from one of its first packets to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleState {
    /// Value that a rule stores for a later packet. TCP: bytes still missing of a message (`signatures/edonkey.rs`).
    /// UDP: the pending request, of the kind that [`rule_flags`] names.
    pub rule_value: u64,
    /// Bits that rules set for a later packet; each is declared in [`rule_flags`]. TCP and UDP flows never share one.
    pub rule_flags: u32,
    /// Explicit padding.
    pub reserved: u32,
}

impl RuleState {
    /// TCP: stores how many bytes are still missing of a message in this payload's direction.
    #[inline(always)]
    pub fn owe(&mut self, payload: &Payload, bytes: u32) {
        self.rule_value = u64::from(bytes);
        let from = if payload.from_lower != 0 { rule_flags::OWED_FROM_LOWER } else { 0 };
        self.rule_flags = (self.rule_flags & !rule_flags::OWED_FROM_LOWER) | rule_flags::OWED | from;
    }

    /// Stores a pending request of this payload's sender, in place of an earlier one of either side.
    #[inline(always)]
    pub fn remember_request(&mut self, payload: &Payload, kind: u32, rule_value: u64) {
        self.rule_value = rule_value;
        self.rule_flags = (self.rule_flags & !rule_flags::PENDING)
            | kind
            | if payload.from_lower != 0 { rule_flags::PENDING_FROM_LOWER } else { 0 };
    }

    /// Stores a pending request of this payload's sender; the other side's pending request stays.
    #[inline(always)]
    pub fn remember_request_per_side(&mut self, payload: &Payload, kind: u32, value: u32) {
        let shift = 32 * (payload.from_lower & 1);
        let kept = if self.rule_flags & kind != 0 { self.rule_value & !(0xffff_ffff << shift) } else { 0 };
        self.rule_value = kept | u64::from(value) << shift;
        self.rule_flags = (self.rule_flags & !rule_flags::PENDING) | kind;
    }

    /// The pending request of one side that [`Self::remember_request_per_side`] stored; 0 for none. `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub fn pending_request_per_side(&self, from_lower: u32, kind: u32) -> u32 {
        let shift = 32 * (from_lower & 1);
        if self.rule_flags & kind != 0 { (self.rule_value >> shift) as u32 } else { 0 }
    }

    /// Sets bits in the pending request of the other side.
    #[inline(always)]
    pub fn mark_request_of_other_side(&mut self, payload: &Payload, bits: u32) {
        self.rule_value |= u64::from(bits) << (32 * (1 - (payload.from_lower & 1)));
    }

    /// Records whether this payload repeats a value that the other side chose.
    #[inline(always)]
    pub fn set_echoed(&mut self, echoes: bool) {
        self.rule_flags = (self.rule_flags & !rule_flags::ECHOED) | if echoes { rule_flags::ECHOED } else { 0 };
    }

    /// Records whether this payload is certain, and answers the other side's pending request.
    #[inline(always)]
    pub fn set_answered(&mut self, answers: bool) {
        self.rule_flags =
            (self.rule_flags & !rule_flags::ANSWERED) | u32::from(answers) << rule_flags::ANSWERED.trailing_zeros();
    }

    /// Whether the other side has a pending request of this kind.
    #[inline(always)]
    #[must_use]
    pub fn pending_request(&self, payload: &Payload, kind: u32) -> bool {
        let from_lower = self.rule_flags & rule_flags::PENDING_FROM_LOWER != 0;
        (self.rule_flags & kind != 0) && (from_lower != (payload.from_lower != 0))
    }

    /// Records a message that proves too little alone; whether an earlier payload was a different one of them.
    ///
    /// A repeated message proves nothing more: its bytes may be a constant of another protocol. `kind` is not 0.
    #[inline(always)]
    pub fn confirms(&mut self, kind: u8) -> bool {
        let kind = u32::from(kind) << rule_flags::WEAK_SHIFT;
        let earlier = self.rule_flags & rule_flags::WEAK;
        self.rule_flags = (self.rule_flags & !rule_flags::WEAK) | kind;
        (earlier != 0) & (earlier != kind)
    }
}

/// The bits of [`RuleState::rule_flags`], declared in one place so that two rules never share one by accident.
pub mod rule_flags {
    /// TCP: the lower endpoint sent the single byte "1" (WinMX).
    pub const LONE_1_FROM_LOWER: u32 = 1 << 0;
    /// TCP: the higher endpoint sent the single byte "1" (WinMX).
    pub const LONE_1_FROM_HIGHER: u32 = 1 << 1;
    /// TCP: `rule_value` belongs to the lower endpoint's direction.
    pub const OWED_FROM_LOWER: u32 = 1 << 2;
    /// TCP: `rule_value` holds how many bytes of a message are still missing in its direction.
    pub const OWED: u32 = 1 << 3;
    /// TCP: the lower endpoint sent the peer-source request that `rule_value` refers to (`engine/source_requests.rs`).
    pub const REQUEST_FROM_LOWER: u32 = 1 << 7;
    /// TCP: first bytes of the lower endpoint's stream are held (`signatures/hold_rules.rs`). For this and the next five, the
    /// next higher bit is the higher endpoint's ([`of`]).
    pub const HELD: u32 = 1 << 8;
    /// TCP: the lower endpoint's stream is past its start.
    pub const BEGUN: u32 = 1 << 10;
    /// TCP: the stream started with text of no P2P protocol, so later segments are skipped (`signatures/hold_rules.rs`).
    pub const OTHER: u32 = 1 << 12;
    /// TCP: the stream may go on with WebSocket frames, which are not skipped.
    pub const FRAMES: u32 = 1 << 14;
    /// TCP: the stream started with text that is too short to decide.
    pub const TEXT: u32 = 1 << 16;
    /// TCP: the stream started with a few binary bytes, so later text belongs to the message that they frame.
    pub const FRAMING: u32 = 1 << 18;

    /// One of the flags that both directions have, for the direction of a packet; `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn of(flag: u32, from_lower: u32) -> u32 {
        flag << (1 - (from_lower & 1))
    }

    /// UDP: the pending request came from the lower endpoint.
    pub const PENDING_FROM_LOWER: u32 = 1 << 0;
    /// UDP: the pending request is a uTP SYN's connection id and sequence number (BEP 29).
    pub const PENDING_UTP_SYN: u32 = 1 << 1;
    /// UDP: the pending request is a tracker request's action and transaction id (BEP 15).
    pub const PENDING_TRACKER: u32 = 1 << 2;
    /// UDP: the pending request is a uTP DATA packet's connection id and sequence number.
    pub const PENDING_UTP_DATA: u32 = 1 << 7;
    /// UDP: the pending requests are transaction ids of DHT queries (BEP 5): the higher endpoint's latest in the low half, the
    /// lower one's in the high half.
    pub const PENDING_DHT: u32 = 1 << 8;
    /// UDP: the pending request is a Kad request, stored as the opcode of its answer.
    pub const PENDING_KAD: u32 = 1 << 9;
    /// UDP: every bit that describes the pending request.
    pub const PENDING: u32 =
        PENDING_FROM_LOWER | PENDING_UTP_SYN | PENDING_TRACKER | PENDING_UTP_DATA | PENDING_DHT | PENDING_KAD;
    /// UDP: lowest bit of the opcode of the latest Kad, eDonkey or eMule message whose bytes alone prove too little.
    pub const WEAK_SHIFT: u32 = 16;
    /// UDP: the bits of that opcode.
    pub const WEAK: u32 = 0xff << WEAK_SHIFT;
    /// UDP: this payload answers a request of the other side that was too short to be certain. It repeats no value that the
    /// other side chose, so it proves the sender of the request, and not its own.
    pub const ANSWERED: u32 = 1 << 30;
    /// UDP: this payload repeats a value that the other side chose in an earlier one, so its sender's address is not forged.
    pub const ECHOED: u32 = 1 << 31;
    /// UDP: flags of one payload, which are cleared before the next.
    pub const OF_PAYLOAD: u32 = ANSWERED | ECHOED;
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
