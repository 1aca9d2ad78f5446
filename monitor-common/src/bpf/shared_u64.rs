//! A 64-bit counter or word that several CPUs, and the agent through a memory mapping, may access at once.
//!
//! On the host this is an [`core::sync::atomic::AtomicU64`]. The BPF target has no read-modify-write methods on that
//! type, so the operations use compiler intrinsics, which become the kernel's `BPF_ATOMIC` instructions (cpu v3).
#![cfg_attr(target_arch = "bpf", expect(unsafe_code, reason = "memory that the kernel and other CPUs share"))]

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

/// A shared 64-bit counter or word, with the size and layout of a `u64`.
#[derive(Default)]
#[repr(transparent)]
pub struct SharedU64(
    #[cfg(not(target_arch = "bpf"))] AtomicU64,
    #[cfg(target_arch = "bpf")] core::cell::UnsafeCell<u64>,
);

#[cfg(not(target_arch = "bpf"))]
impl SharedU64 {
    /// Creates one that holds `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Reads the value.
    #[inline(always)]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Writes the value.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds without returning the old value: the cheapest atomic the kernel offers.
    #[inline(always)]
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Sets bits.
    #[inline(always)]
    pub fn or(&self, bits: u64) {
        self.0.fetch_or(bits, Ordering::Relaxed);
    }

    /// Adds and returns the old value.
    #[inline(always)]
    pub fn fetch_add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, Ordering::AcqRel)
    }

    /// Writes a value and returns the old one.
    #[inline(always)]
    pub fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, Ordering::AcqRel)
    }

    /// Writes `new` if the value is `expected`; returns whether it did.
    #[inline(always)]
    pub fn replace(&self, expected: u64, new: u64) -> bool {
        self.0.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(target_arch = "bpf")]
mod bpf {
    use super::SharedU64;
    use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg};

    // SAFETY: every access below is one aligned 64-bit load, store or BPF_ATOMIC instruction.
    unsafe impl Sync for SharedU64 {}

    #[expect(missing_docs, reason = "documented where the host has the same")]
    impl SharedU64 {
        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: the pointer comes from a reference, so it is valid and aligned; volatile keeps it one load.
            unsafe { core::ptr::read_volatile(self.0.get()) }
        }

        #[inline(always)]
        pub fn store(&self, value: u64) {
            // SAFETY: as in `load`.
            unsafe { core::ptr::write_volatile(self.0.get(), value) }
        }

        #[inline(always)]
        pub fn add(&self, value: u64) {
            // SAFETY: as in `load`. The unused result lets LLVM choose the instruction without fetch.
            unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(self.0.get(), value) };
        }

        #[inline(always)]
        pub fn or(&self, bits: u64) {
            // SAFETY: as in `load`.
            unsafe { atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(self.0.get(), bits) };
        }

        #[inline(always)]
        pub fn fetch_add(&self, value: u64) -> u64 {
            // SAFETY: as in `load`.
            unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0.get(), value) }
        }

        #[inline(always)]
        pub fn swap(&self, value: u64) -> u64 {
            // SAFETY: as in `load`.
            unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.0.get(), value) }
        }

        #[inline(always)]
        pub fn replace(&self, expected: u64, new: u64) -> bool {
            // SAFETY: as in `load`.
            unsafe {
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(self.0.get(), expected, new)
                    .1
            }
        }
    }
}

impl core::fmt::Debug for SharedU64 {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{}", self.load())
    }
}
