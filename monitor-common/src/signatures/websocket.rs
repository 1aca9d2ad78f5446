//! WebSocket frame heads (RFC 6455 section 5.2), for signatures inside of frames.

use crate::payload::Payload;

/// First byte of a text frame that is the last of its message; without the top bit, of one that is not.
pub(super) const TEXT: u8 = 0x81;
/// First byte of a binary frame that is the last of its message.
pub(super) const BINARY: u8 = 0x82;

/// Where the frame's content starts, and its masking key in memory order; an unmasked frame has the key 0.
#[inline(always)]
pub(super) fn content(payload: &Payload) -> Option<(usize, u32)> {
    let second = payload.byte(1);
    let key = match second & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let masked = second & 0x80 != 0;
    let start = if masked { key + 4 } else { key };
    if start >= payload.captured as usize {
        return None;
    }
    Some((start, if masked { payload.le32(key) } else { 0 }))
}
