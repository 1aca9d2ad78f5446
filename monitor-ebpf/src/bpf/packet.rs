//! The one accessor that owns all packet pointers.
#![expect(unsafe_code, reason = "the one accessor of packet memory")]

use core::arch::asm;

use aya_ebpf::{
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use monitor_common::{
    abi::limits::{HELD_BYTES, MAX_READ_OFFSET, OFFSET_BOUND, TAIL, WINDOW},
    parse::{packet::Packet, payload::Payload},
    tables::context::Scratch,
};

use super::maps;

/// Mask for the number of bytes before a packet's bytes in the window.
const BEFORE: usize = 0x7f;

/// The last offset of a frame that is read directly: below the verifier's bound for packet offsets
/// (kernel/bpf/verifier.c, `MAX_PACKET_OFF`). Generic XDP and large pages may make a longer first buffer: the helper
/// copies what lies behind.
const DIRECT: usize = 0x7fff;

const _: () = assert!(HELD_BYTES <= BEFORE);
// Required by the verifier, which does not know that both bounds depend on each other.
const _: () = assert!(size_of::<Scratch>() >= WINDOW + BEFORE);

/// A frame in the kernel's `struct xdp_buff`.
pub(super) struct XdpPacket<'a> {
    context: &'a XdpContext,
}

impl<'a> XdpPacket<'a> {
    #[inline(always)]
    pub(super) fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    /// Low 16 bits of the index of the interface on which the frame arrived.
    #[inline(always)]
    pub(super) fn interface(&self) -> u16 {
        // SAFETY: the kernel hands the program a valid `struct xdp_md`; the verifier rewrites this load.
        unsafe { (*self.context.ctx).ingress_ifindex as u16 }
    }

    /// Start of the first buffer.
    ///
    /// Loaded by inline assembly: the compiler treats the 32-bit field as a number and may truncate it later, after the
    /// verifier's rewrite has made it a 64-bit packet pointer.
    #[inline(always)]
    fn start(&self) -> usize {
        let start: usize;
        // SAFETY: reads the field `data` of the context, which the verifier turns into the packet pointer.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) start, in(reg) self.context.ctx, options(pure, readonly, nostack));
        }
        start
    }

    /// End of the first buffer.
    #[inline(always)]
    fn end(&self) -> usize {
        let end: usize;
        // SAFETY: as in `start`, for the field `data_end`.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 4)", out(reg) end, in(reg) self.context.ctx, options(pure, readonly, nostack));
        }
        end
    }

    /// Bytes of the frame in all its buffers.
    #[inline(always)]
    fn buffer_len(&self) -> usize {
        // SAFETY: the context is the one the kernel gave us.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) as usize }
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn readable(&self) -> usize {
        self.end() - self.start()
    }

    #[inline(always)]
    fn wire_len(&self) -> usize {
        match maps::replayed_wire_len() {
            Some(wire_len) => wire_len,
            None => self.buffer_len(),
        }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_READ_OFFSET {
            return None;
        }
        let mut at = self.start();
        if offset != 0 {
            // SAFETY: an addition. Done by hand, it keeps the compiler from computing the tested and the read address
            // apart: the verifier must see the test on the very register that is read through.
            unsafe { asm!("{0} += {1}", inout(reg) at, in(reg) offset, options(pure, nomem, nostack)) };
        }
        if at + N > self.end() {
            return None;
        }
        // SAFETY: the test above keeps the read inside the first buffer; the verifier proves it again.
        Some(unsafe { (at as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn verifier_barrier(&self, value: usize) -> usize {
        // The verifier tracks a value through the stack only if it is read back as it was written.
        let mut word = 0_u64;
        let start = (&raw mut word).cast::<u16>();
        // SAFETY: both halves and the 32-bit read are inside the aligned word.
        let mut value = unsafe {
            start.write_volatile(value as u16);
            start.add(1).write_volatile((value >> 16) as u16);
            start.cast::<u32>().read_volatile() as usize
        };
        // The bound belongs to the value, not to a later test: the compiler may test one copy and use another, and only
        // kernels after 6.1 follow a value through the stack.
        // SAFETY: an operation on a register.
        unsafe { asm!("{0} &= {1}", inout(reg) value, const OFFSET_BOUND - 1, options(pure, nomem, nostack)) };
        value
    }

    #[inline(always)]
    fn copy_payload(&self, offset: usize, payload: &mut Payload) {
        let before = masked::<BEFORE>(payload.captured as usize);
        let claimed = (payload.len as usize).wrapping_sub(before);
        if offset + claimed <= self.readable() && offset + claimed <= DIRECT {
            self.copy_directly(offset, before, claimed, payload);
        } else {
            self.copy_by_helper(offset, before, claimed, payload);
        }
    }
}

/// The value, of which the verifier then knows that it is at most `MASK`. The caller knows that: nothing changes.
#[inline(always)]
fn masked<const MASK: usize>(mut value: usize) -> usize {
    // SAFETY: an operation on a register.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK, options(pure, nomem, nostack)) };
    value
}

impl XdpPacket<'_> {
    /// Copies a payload that ends within the first buffer.
    #[inline(always)]
    fn copy_directly(&self, offset: usize, before: usize, claimed: usize, payload: &mut Payload) {
        let room = (payload.depth as usize).wrapping_sub(before);
        let wanted = masked::<{ 2 * WINDOW - 1 }>(if claimed < room { claimed } else { room });
        let window = payload.window.as_mut_ptr().wrapping_add(before);
        let offset = masked::<{ OFFSET_BOUND - 1 }>(offset);
        let mut chunk = 0;
        while chunk < WINDOW / 64 {
            if wanted < chunk * 64 + 64 || !self.copy::<8, u64>(offset + chunk * 64, window.wrapping_add(chunk * 64)) {
                break;
            }
            chunk += 1;
        }
        // The rest, by the bits of its length.
        let mut done = wanted & (WINDOW - 64);
        if wanted & 32 != 0 && self.copy::<4, u64>(offset + done, window.wrapping_add(done)) {
            done += 32;
        }
        if wanted & 16 != 0 && self.copy::<2, u64>(offset + done, window.wrapping_add(done)) {
            done += 16;
        }
        if wanted & 8 != 0 && self.copy::<1, u64>(offset + done, window.wrapping_add(done)) {
            done += 8;
        }
        if wanted & 4 != 0 && self.copy::<1, u32>(offset + done, window.wrapping_add(done)) {
            done += 4;
        }
        if wanted & 2 != 0 && self.copy::<1, u16>(offset + done, window.wrapping_add(done)) {
            done += 2;
        }
        if wanted & 1 != 0 {
            self.copy::<1, u8>(offset + done, window.wrapping_add(done));
        }
        payload.captured = (before + wanted) as u32;
        let whole = before + claimed;
        if whole < TAIL {
            return;
        }
        if whole <= payload.depth as usize {
            payload.tail = payload.le64(whole - TAIL).to_le_bytes();
        } else if payload.depth as usize == WINDOW {
            self.copy::<1, u64>(masked::<DIRECT>(offset + claimed - TAIL), payload.tail.as_mut_ptr());
        }
    }

    /// Copies `N` words of the frame to a place in the scratch memory; `false`, and nothing is copied, if they are not
    /// all in the first buffer. The caller knows that they are: only the verifier does not.
    #[inline(always)]
    fn copy<const N: usize, W: Copy>(&self, offset: usize, to: *mut u8) -> bool {
        let mut from = self.start();
        // SAFETY: an addition, as in `read`.
        unsafe { asm!("{0} += {1}", inout(reg) from, in(reg) offset, options(pure, nomem, nostack)) };
        if from + N * size_of::<W>() > self.end() {
            return false;
        }
        let (from, to) = (from as *const W, to.cast::<W>());
        let mut index = 0;
        while index < N {
            // SAFETY: the test above keeps the reads inside the first buffer; the window has room for them. The
            // verifier proves both again.
            unsafe { to.wrapping_add(index).write_unaligned(from.wrapping_add(index).read_unaligned()) };
            index += 1;
        }
        true
    }

    /// Copies a payload that goes on in further buffers, or that was cut off by a capture.
    #[inline(always)]
    fn copy_by_helper(&self, offset: usize, before: usize, claimed: usize, payload: &mut Payload) {
        let held = self.buffer_len();
        if offset >= held {
            return;
        }
        let held = held - offset;
        let available = if claimed < held { claimed } else { held };
        let depth = payload.depth as usize;
        let room = depth.wrapping_sub(before);
        let wanted = if available < room { available } else { room };
        if wanted == 0 {
            return;
        }
        // From 1 to `WINDOW` for the verifier, too: before Linux 6.8 it learns nothing from a test for "not 0".
        let wanted = masked::<{ WINDOW - 1 }>(wanted - 1) + 1;
        // SAFETY: the window has room for `wanted` bytes behind the `before` that are in it; the helper checks the
        // packet side.
        let status = unsafe {
            let room = payload.window.as_mut_ptr().add(before);
            bpf_xdp_load_bytes(self.context.ctx, offset as u32, room.cast(), wanted as u32)
        };
        if status != 0 {
            return;
        }
        payload.captured = (before + wanted) as u32;
        let whole = before + claimed;
        if whole < TAIL || claimed > held {
            return;
        }
        if whole <= depth {
            // All of it is in the window: a load there is cheaper than another call.
            payload.tail = payload.le64(whole - TAIL).to_le_bytes();
        } else if depth == WINDOW {
            let tail = (offset + claimed - TAIL) as u32;
            // SAFETY: as above, for `TAIL` bytes. On failure the kernel leaves zeros.
            unsafe { bpf_xdp_load_bytes(self.context.ctx, tail, payload.tail.as_mut_ptr().cast(), TAIL as u32) };
        }
    }
}
