//! Messages about rare events, through aya-log's ring buffer.
//!
//! Off unless asked for: at level 0 the verifier finds the call unreachable and removes it. Never one per packet.

use aya_log_ebpf::warn;

/// Logs an event if its count on this CPU is a power of two, so that an event at packet rate makes few messages.
///
/// A global function of BPF, which takes and returns numbers: the verifier walks it once, and not once for each place
/// and state from which it is called (kernel/bpf/verifier.c, `do_check_subprogs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn peertally_rare(event: u32, count: u64) -> u32 {
    if count & (count - 1) == 0 {
        warn!((), "event {} on this CPU for the time number {}", event, count);
    }
    0
}
