//! Arithmetic without branches.
//!
//! A branch costs twice: the processor may mispredict it, and the verifier walks all that follows once for each side.
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "instructions that the compiler would replace by branches")
)]

/// The two's complement of a value, by an instruction that the compiler cannot see through.
///
/// So `(x | neg(x)) >> 63` stays arithmetic, where `x != 0` would become a branch.
#[inline(always)]
#[must_use]
pub fn neg(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one arithmetic instruction.
        unsafe { core::arch::asm!("{0} = -{0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value.wrapping_neg()
}

/// All ones when the top bit of a value is set, else 0, by an instruction that the compiler cannot see through.
#[inline(always)]
#[must_use]
pub fn sign_mask(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one arithmetic instruction.
        unsafe { core::arch::asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (value as i64 >> 63) as u64
    }
}

/// `value & MASK`, by an instruction that the compiler cannot leave out.
///
/// Older verifiers know no other bound of the value.
#[inline(always)]
#[must_use]
pub fn bound<const MASK: usize>(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one arithmetic instruction.
        unsafe { core::arch::asm!("{0} &= {1}", inout(reg) value, const MASK, options(pure, nomem, nostack)) };
        // SAFETY: the instruction above made it so. The hint removes the compiler's own bounds test, which could panic.
        unsafe { core::hint::assert_unchecked(value <= MASK) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value & MASK
    }
}

/// 1 if `a` is less than `b`, else 0 (Warren, Hacker's Delight, section 2-12).
#[inline(always)]
#[must_use]
pub fn is_less(a: u64, b: u64) -> u64 {
    ((!a & b) | ((!a | b) & a.wrapping_add(neg(b)))) >> 63
}

/// 1 if `a` equals `b`, else 0.
#[inline(always)]
#[must_use]
pub fn is_equal(a: u64, b: u64) -> u64 {
    let difference = a ^ b;
    1 ^ ((difference | neg(difference)) >> 63)
}

/// A word that has its top bit set if and only if `word` is not zero.
///
/// Unlike a comparison it needs no branch, so the verifier walks one path.
#[inline(always)]
#[must_use]
pub const fn nonzero_top_bit(word: u64) -> u64 {
    word | word.wrapping_neg()
}

/// The value 1 in each byte.
pub const EACH_BYTE: u64 = 0x0101_0101_0101_0101;

/// A word whose lowest set bit is the top bit of the lowest zero byte; 0 if no byte is zero.
#[inline(always)]
#[must_use]
pub const fn zero_bytes(word: u64) -> u64 {
    bytes_below(word, 1)
}

/// A word whose lowest set bit is the top bit of the lowest byte below `bound` (at most 0x80); 0 if no byte is below
/// it.
#[inline(always)]
#[must_use]
pub const fn bytes_below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(EACH_BYTE * bound as u64) & !word & TOP_BITS
}

/// How many top bits of bytes are set in a word that has no others.
#[inline(always)]
#[must_use]
pub const fn count(tops: u64) -> u64 {
    (tops >> 7).wrapping_mul(EACH_BYTE) >> 56
}

/// Index of the byte (of eight) that the lowest set top bit belongs to.
///
/// The bit times this constant leaves the index in the topmost byte.
#[inline(always)]
#[must_use]
pub const fn first_byte_index(tops: u64) -> usize {
    (((tops & tops.wrapping_neg()) >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56) as usize
}

/// The lower seven bits of each byte.
pub const LOW_BITS: u64 = EACH_BYTE * 0x7f;
/// The top bit of each byte.
pub const TOP_BITS: u64 = EACH_BYTE * 0x80;

/// The top bit of each byte of a word that equals `byte`.
#[inline(always)]
#[must_use]
pub const fn bytes_equal(word: u64, byte: u8) -> u64 {
    let word = word ^ (EACH_BYTE * byte as u64);
    !(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS)
}

/// The top bit of each byte of a word that is printable ASCII (0x20 to 0x7e).
///
/// No carry leaves a byte: 0x7f + 0x60 and 0x7f + 0x01 are below 0x100.
#[inline(always)]
#[must_use]
pub const fn printable_bytes(word: u64) -> u64 {
    ((word & LOW_BITS) + EACH_BYTE * 0x60) & !((word & LOW_BITS) + EACH_BYTE) & !word & TOP_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_first_zero_byte() {
        for byte in 0..8 {
            let word: u64 = !(0xff << (8 * byte));
            assert_eq!(first_byte_index(zero_bytes(word)), byte);
            assert_eq!(first_byte_index(zero_bytes(word & (u64::MAX >> 8))), byte);
        }
        assert_eq!(zero_bytes(u64::MAX), 0);
        assert_eq!(zero_bytes(0x0101_0101_0101_0101), 0);
    }
}
