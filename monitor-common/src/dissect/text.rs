//! Bounded search in text, for signatures whose request line alone proves too little.
//!
//! The verifier walks every iteration of a loop and the CPU every iteration that a packet asks for, so the search looks
//! at aligned words: eight bytes at any place fill one of them with four, which is then one of four values.

use crate::{
    abi::limits::WINDOW,
    bpf::branchless::{EACH_BYTE, nonzero_top_bit, zero_bytes},
    parse::payload::Payload,
};

/// Words of four bytes at the segment's start that are inspected: clients put `info_hash` and their own headers in
/// front.
const SCANNED: usize = 80;

/// Whether these eight bytes occur within the first bytes of the segment, from the second on.
#[inline(always)]
pub(super) fn holds(payload: &Payload, text: u64) -> bool {
    holds_masked(payload, text, 0)
}

/// Whether these eight bytes occur in text with each aligned word masked with `key` (RFC 6455 section 5.3).
#[inline(never)]
pub(super) fn holds_masked(payload: &Payload, text: u64, key: u32) -> bool {
    let words = payload.words32();
    let mut index = 1;
    while index < SCANNED {
        let word = u32::from_le(words[index]) ^ key;
        let candidate = word == text as u32
            || word == (text >> 8) as u32
            || word == (text >> 16) as u32
            || word == (text >> 24) as u32;
        if candidate && around(words, index, key, text) {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether the text covers word number `index` and starts in it or up to three bytes before it.
#[inline(always)]
fn around(words: &[u32; WINDOW / 4], index: usize, key: u32, text: u64) -> bool {
    let word = |number: usize| u64::from(u32::from_le(words[number & (WINDOW / 4 - 1)]) ^ key);
    let (before, at, behind) = (word(index - 1), word(index), word(index + 1));
    let (low, high) = (before | at << 32, at | behind << 32);
    let starts = nonzero_top_bit(high ^ text)
        & nonzero_top_bit((low >> 24 | behind << 40) ^ text)
        & nonzero_top_bit((low >> 16 | behind << 48) ^ text)
        & nonzero_top_bit((low >> 8 | behind << 56) ^ text);
    starts >> 63 == 0
}

/// Bytes of a segment that are searched for the end of its first command or line.
pub(super) const NEAR: usize = 192;

/// Whether `byte`, which is not 0, is among the segment's first [`NEAR`]. Eight at once, and without a branch.
#[inline(never)]
pub(super) fn near(payload: &Payload, byte: u8) -> bool {
    let pattern = EACH_BYTE * u64::from(byte);
    let (mut found, mut index) = (0, 0);
    while index < NEAR / 8 {
        found |= zero_bytes(payload.counted_word(index) ^ pattern);
        index += 1;
    }
    found != 0
}

/// Whether a datagram reads as a DNS message, on whatever port (mDNS, LLMNR, resolvers): one question and few records
/// (RFC 1035 section 4.1.1). Its identifier may be any header and opcode.
#[inline(always)]
pub(super) fn reads_as_dns(payload: &Payload) -> bool {
    (payload.len >= 12) & (payload.be64(4) & 0xffff_ffe0_ffe0_fffc == 0x0001_0000_0000_0000)
}

#[cfg(test)]
mod tests {
    use super::{NEAR, SCANNED, holds, near};
    use crate::parse::payload::Payload;

    fn text(bytes: &[u8]) -> Payload {
        Payload::from_bytes(bytes, 50_000, 80, true)
    }

    #[test]
    fn text_is_found_at_every_offset_and_only_whole() {
        let wanted = u64::from_le_bytes(*b"info_has");
        for offset in 1..4 * SCANNED - 8 {
            let mut bytes = vec![b'i'; offset];
            bytes.extend(b"info_has");
            assert!(holds(&text(&bytes), wanted), "at {offset}");
            bytes[offset + 7] = b'z';
            assert!(!holds(&text(&bytes), wanted), "at {offset}");
        }
    }

    #[test]
    fn a_byte_is_found_anywhere_near_the_start() {
        for offset in 0..NEAR + 8 {
            let mut bytes = vec![b'}'; NEAR + 8];
            bytes[offset] = b'|';
            assert_eq!(near(&text(&bytes), b'|'), offset < NEAR, "{offset}");
        }
        assert!(!near(&text(&[0xfc; NEAR]), b'|'));
    }
}
