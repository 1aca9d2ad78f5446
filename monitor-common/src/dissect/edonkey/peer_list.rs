//! Peer lists of eDonkey servers (OP_FOUNDSOURCES, OP_FOUNDSOURCES_OBFU), and the requests for them.
//!
//! Source: eMule's `opcodes.h` and `PartFile.cpp` (`AddSources`). The hash of the requested file is skipped, not read.

use super::{EDONKEY, HEADER, opcode};
use crate::{
    bpf::branchless::neg,
    dissect::peer_list::{PeerListReader, layout, requests},
    parse::payload::Payload,
};

/// Bytes before a message's body: header byte, length, opcode.
const OPCODE_END: u32 = HEADER + 1;

/// Reads the next eDonkey message; other lists have none. Only one branch, so that the verifier walks the rest once.
#[inline(always)]
pub(in crate::dissect) fn message(payload: &Payload, reader: &mut PeerListReader) {
    let at = reader.at as usize;
    let (header, number, length) = (payload.byte(at), payload.byte(at + 5), u64::from(payload.le32(at + 1)));
    let kind = u64::from(KINDS[number as usize]);
    // A login has the user hash at once, a client's hello its length before.
    let hello = u64::from(number ^ opcode::HELLO) | u64::from(payload.byte(at + 6) ^ 16);
    let hello = 1 ^ (hello | neg(hello)) >> 63;
    let cut = u64::from(payload.captured).wrapping_add(neg(u64::from(reader.at + OPCODE_END))) >> 63;
    let other = u64::from(reader.layout >> 2 ^ 1) | u64::from(header ^ EDONKEY) | length.wrapping_sub(1) >> 16;
    reader.layout = layout::NONE;
    if other | hello | cut | (kind & kinds::SERVER ^ kinds::SERVER) != 0 {
        return;
    }
    reader.requests |= (kind & (kinds::SERVER | kinds::ASKS)) as u32;
    reader.layout = layout::EDONKEY | (kind & kinds::OBFUSCATED) as u32 >> kinds::OBFUSCATED.trailing_zeros();
    // A list lies after the file's hash and the list's length.
    let list = neg((kind & kinds::LIST) >> kinds::LIST.trailing_zeros());
    reader.left = u32::from(payload.byte(at + 22)) & list as u32;
    reader.at += (u64::from(OPCODE_END + 17) & list | (u64::from(HEADER) + length) & !list) as u32;
}

/// Meanings of an eDonkey opcode for peer lists.
mod kinds {
    /// Used between clients and servers: [`super::requests::SERVER`].
    pub(super) const SERVER: u64 = super::requests::SERVER as u64;
    /// Requests sources: [`super::requests::SOURCES`].
    pub(super) const ASKS: u64 = super::requests::SOURCES as u64;
    /// Lists sources.
    pub(super) const LIST: u64 = 4;
    /// Lists sources with options and user hashes.
    pub(super) const OBFUSCATED: u64 = 8;
}

/// Opcodes by number; messages between clients only are 0.
static KINDS: [u8; 256] = {
    let mut table = [0; 256];
    let mut number = opcode::HELLO;
    while number < opcode::FIRST_OF_CLIENTS {
        table[number as usize] = kinds::SERVER as u8;
        number += 1;
    }
    table[opcode::GET_SOURCES as usize] |= kinds::ASKS as u8;
    table[opcode::GET_SOURCES_OBFUSCATED as usize] |= kinds::ASKS as u8;
    table[opcode::FOUND_SOURCES as usize] |= kinds::LIST as u8;
    table[opcode::FOUND_SOURCES_OBFUSCATED as usize] |= (kinds::LIST | kinds::OBFUSCATED) as u8;
    table
};

#[cfg(test)]
mod tests {
    use super::{
        super::{EDONKEY, opcode},
        requests,
    };
    use crate::{
        abi::protocol::Protocol,
        dissect::peer_list::testing::{context, read, v4},
    };

    fn message(opcode: u8, body: &[u8]) -> Vec<u8> {
        [&[EDONKEY], &(body.len() as u32 + 1).to_le_bytes()[..], &[opcode], body].concat()
    }

    #[test]
    fn edonkey_servers_list_sources() {
        let edonkey = |bytes: &[u8]| read(&context(true, Protocol::EDonkey, false), bytes);
        let list = [&[7; 16][..], &[2], &[192, 0, 2, 7, 0x36, 0x12], &[1, 2, 3, 0, 0x36, 0x12]].concat();
        let found = message(opcode::FOUND_SOURCES, &list);
        assert_eq!(edonkey(&found), (vec![(v4(192, 0, 2, 7), 4662)], requests::SERVER), "the second has a low number");
        let requested = message(opcode::GET_SOURCES, &[7; 16]);
        assert_eq!(edonkey(&requested), (vec![], requests::SERVER | requests::SOURCES));
        assert_eq!(edonkey(&[&message(0x34, &[0; 8]), &found[..], &requested].concat()), (edonkey(&found).0, 3));
        let hashed =
            [&[7; 16][..], &[2], &[192, 0, 2, 7, 0x36, 0x12, 0x83], &[9; 16], &[192, 0, 2, 8, 1, 4, 3]].concat();
        let sources = edonkey(&message(opcode::FOUND_SOURCES_OBFUSCATED, &hashed)).0;
        assert_eq!(sources, [(v4(192, 0, 2, 7), 4662), (v4(192, 0, 2, 8), 1025)]);
        assert_eq!(edonkey(&found[..found.len() - 7]).0, [], "cut");
    }

    #[test]
    fn clients_messages_are_no_sessions() {
        let requests = |bytes: &[u8]| read(&context(true, Protocol::EDonkey, false), bytes).1;
        assert_eq!(requests(&message(opcode::HELLO, &[&[7; 16][..], &[0; 10]].concat())), requests::SERVER);
        assert_eq!(requests(&message(opcode::HELLO, &[&[16][..], &[7; 16], &[0; 10]].concat())), 0, "a hello");
        assert_eq!(requests(&message(0x58, &[7; 16])), 0);
        assert_eq!(requests(&[&[0xc5][..], &message(opcode::GET_SOURCES, &[7; 16])[1..]].concat()), 0);
    }
}
