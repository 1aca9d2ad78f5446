//! Messages about rare events, through aya-log's ring buffer.
//!
//! Off unless asked for: at level 0 the verifier finds the call unreachable and removes it. Never one per packet.

use aya_log_ebpf::warn;

/// Logs an event if its count on this CPU is a power of two, so that an event at packet rate makes few messages.
#[inline(never)]
pub(super) fn rare(event: u8, count: u64) {
    if count & (count - 1) == 0 {
        warn!((), "event {} on this CPU for the time number {}", event, count);
    }
}
