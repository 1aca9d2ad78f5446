//! WebSocket frame heads (RFC 6455 section 5.2), for signatures inside of frames.

use crate::parse::payload::Payload;

/// First byte of a text frame that is the last of its message; without the top bit, of one that is not.
pub(super) const TEXT: u8 = 0x81;
/// First byte of a binary frame that is the last of its message.
pub(super) const BINARY: u8 = 0x82;

/// Where the content of the frame at `frame` starts, and its masking key in memory order; an unmasked frame has the
/// key 0.
#[inline(always)]
pub(super) fn content(payload: &Payload, frame: usize) -> Option<(usize, u32)> {
    let second = payload.byte(frame + 1);
    let key = match second & 0x7f {
        126 => frame + 4,
        127 => frame + 10,
        _ => frame + 2,
    };
    let masked = second & 0x80 != 0;
    let start = if masked { key + 4 } else { key };
    if start >= payload.captured as usize {
        return None;
    }
    Some((start, if masked { payload.le32(key) } else { 0 }))
}
