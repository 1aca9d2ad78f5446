//! File hashes of eDonkey: MD4 of 16 bytes, in TCP and UDP messages.

use super::opcode;
use crate::{abi::watch::ContentHash, dissect::content::raw, parse::payload::Payload};

/// Start of a link that names a file; no bytes of a stream are held after it.
pub(in crate::dissect) const LINK: &[u8; 4] = b"ed2k";

/// The hash in a TCP message about one file.
#[inline(always)]
pub(in crate::dissect) fn tcp(payload: &Payload, found: &mut ContentHash) {
    if matches!(
        payload.byte(5),
        opcode::GET_SOURCES
            | opcode::FOUND_SOURCES
            | opcode::SENDING_PART
            | opcode::REQUEST_PARTS
            | opcode::SET_REQUESTED_FILE
            | opcode::FILE_STATUS
            | opcode::HASH_SET_REQUEST
            | opcode::START_UPLOAD
            | opcode::REQUEST_FILE_NAME
            | opcode::FILE_NAME_ANSWER
    ) {
        raw(payload, 6, 16, found);
    }
}

/// The hash in a UDP message: two source requests to a server, and a file request between clients.
#[inline(always)]
pub(in crate::dissect) fn udp(payload: &Payload, found: &mut ContentHash) {
    if matches!(payload.le16(0), 0x9ae3 | 0x94e3 | 0x90c5) {
        raw(payload, 2, 16, found);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::{protocol::Protocol, watch::ContentHash},
        dissect::content::{HASH, named},
        parse::payload::Transport,
    };

    #[test]
    fn edonkey_names_16_bytes() {
        let expected = ContentHash::from_bytes(&HASH[..16]);
        let request = [&[0xe3, 17, 0, 0, 0, 0x58], &HASH[..16], &[0; 8]].concat();
        assert_eq!(named(Transport::Tcp, Protocol::EDonkey, &request), expected);
        assert_eq!(named(Transport::Udp, Protocol::EDonkey, &[&[0xe3, 0x9a], &HASH[..16]].concat()), expected);
    }
}
