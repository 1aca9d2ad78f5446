//! The capture reader over any bytes.

use std::io::Cursor;

use peertally_capture::{Capture, Item};

/// Bytes that re-framing may add to a packet.
const ETHERNET_BYTES: usize = 14;

/// See the module.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let Ok(mut capture) = Capture::from_reader(Box::new(Cursor::new(data.to_vec()))) else { return };
    loop {
        match capture.next_item() {
            Ok(Some(Item::Frame(frame))) => {
                assert!(frame.bytes.len() <= frame.wire_len);
                assert!(frame.wire_len <= u32::MAX as usize + ETHERNET_BYTES);
            }
            Ok(Some(Item::UnsupportedLinkType(_))) => {}
            Ok(None) => return,
            Err(_) => {
                assert!(matches!(capture.next_item(), Ok(None)), "nothing follows an error");
                return;
            }
        }
    }
}
