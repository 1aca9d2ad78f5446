//! Bounded search in the text of an HTTP-like head, for signatures whose request line alone proves too little.

use crate::payload::Payload;

/// Bytes of the head that are looked into.
const SCANNED: usize = 384;

/// Whether a header line within the first bytes of the segment starts with these six characters, as they are spelled.
#[inline(always)]
pub(super) fn has_header(payload: &Payload, name: &[u8; 6]) -> bool {
    let [a, b, c, d, e, f] = *name;
    find(payload, u64::from_be_bytes([b'\r', b'\n', a, b, c, d, e, f]))
}

/// Whether these eight bytes occur within the first bytes of the segment.
#[inline(never)]
fn find(payload: &Payload, wanted: u64) -> bool {
    let mut recent = 0u64;
    let mut index = 0;
    while index < SCANNED {
        if index >= payload.captured as usize {
            break;
        }
        recent = recent << 8 | payload.byte(index) as u64;
        if recent == wanted {
            return true;
        }
        index += 1;
    }
    false
}
