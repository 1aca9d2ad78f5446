//! Barriers against the optimizer, and loads that it would split.
#![expect(unsafe_code, reason = "assembly of single instructions, and unaligned loads")]

/// Eight bytes at any address, in one load. The compiler would make eight loads of it, since some BPF machines lack
/// unaligned loads. Supported machines have them, and the verifier allows them except on the stack.
///
/// # Safety
/// The bytes lie in one object that is not on the stack.
#[inline(always)]
pub(crate) unsafe fn load_unaligned(at: *const u8) -> u64 {
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
pub(crate) const fn statically_known(value: usize) -> bool {
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
/// LLVM drops a mask when an earlier comparison implies it; the verifier does not follow that comparison and would
/// refuse the access.
#[inline(always)]
pub(crate) fn hide_from_optimizer(index: usize) -> usize {
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
