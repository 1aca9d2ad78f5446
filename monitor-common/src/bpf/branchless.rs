//! Arithmetic without branches.
//!
//! A branch costs twice: the processor may guess it wrong, and the verifier walks all that follows once for each side.

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
