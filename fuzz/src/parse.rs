//! The header parser over any frame.

use monitor_common::parse::{headers, packet::Frame};

/// See the module.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let Some((extra, bytes)) = data.split_first_chunk::<2>() else { return };
    let wire_len = bytes.len() + usize::from(u16::from_be_bytes(*extra));
    let Ok(headers) = headers(&Frame::new(bytes, wire_len)) else { return };
    assert!(headers.ip_bytes as usize <= wire_len, "IP bytes are bounded by the wire");
    assert!(headers.payload_offset as usize + headers.payload_len as usize <= wire_len, "so is the payload");
    let (key, _) = headers.flow_key();
    assert!(key.lower <= key.higher);
}
