//! The one accessor that owns all packet pointers.

use aya_ebpf::{
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use monitor_common::{
    limits::{MAX_READ_OFFSET, TAIL, WINDOW},
    packet::Packet,
    payload::Payload,
};

use super::tables;

/// A frame in the kernel's `struct xdp_buff`.
pub(super) struct XdpPacket<'a> {
    context: &'a XdpContext,
}

impl<'a> XdpPacket<'a> {
    #[inline(always)]
    pub(super) fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    /// Low 16 bits of the index of the interface the frame came in on.
    #[inline(always)]
    pub(super) fn interface(&self) -> u16 {
        // SAFETY: the kernel hands the program a valid `struct xdp_md`; the verifier rewrites this load.
        unsafe { (*self.context.ctx).ingress_ifindex as u16 }
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
        self.context.data_end() - self.context.data()
    }

    #[inline(always)]
    fn wire_len(&self) -> usize {
        match tables::replayed_wire_len() {
            Some(wire_len) => wire_len,
            None => self.buffer_len(),
        }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.context.data();
        if offset > MAX_READ_OFFSET || start + offset + N > self.context.data_end() {
            return None;
        }
        // SAFETY: the test above keeps the read inside the first buffer; the verifier proves it again.
        Some(unsafe { ((start + offset) as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn copy_payload(&self, offset: usize, payload: &mut Payload) {
        payload.window = [0; WINDOW];
        payload.tail = [0; TAIL];
        payload.captured = 0;
        let held = self.buffer_len();
        if offset >= held {
            return;
        }
        let held = held - offset;
        let claimed = payload.len as usize;
        let available = if claimed < held { claimed } else { held };
        let wanted = if available < WINDOW { available } else { WINDOW };
        // Said again for the verifier, which must see both bounds right before the call.
        if wanted == 0 || wanted > WINDOW {
            return;
        }
        // SAFETY: the window has room for `wanted` bytes; the helper checks the packet side.
        let status = unsafe {
            bpf_xdp_load_bytes(self.context.ctx, offset as u32, payload.window.as_mut_ptr().cast(), wanted as u32)
        };
        if status != 0 {
            return;
        }
        payload.captured = wanted as u32;
        if claimed >= TAIL && claimed <= held {
            let tail = (offset + claimed - TAIL) as u32;
            // SAFETY: as above, for `TAIL` bytes. On failure the kernel leaves zeros.
            unsafe { bpf_xdp_load_bytes(self.context.ctx, tail, payload.tail.as_mut_ptr().cast(), TAIL as u32) };
        }
    }
}
