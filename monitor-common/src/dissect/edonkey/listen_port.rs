//! Listen ports of eDonkey: hello, its answer, and the login to a server (user hash, client id, port).

use super::{EDONKEY, EMULE, opcode};
use crate::{dissect::listen_port::valid, parse::payload::Payload};

/// OP_HELLO of clients (its hash has a length byte), OP_HELLO of the login to a server, OP_HELLOANSWER.
#[inline(always)]
pub(in crate::dissect) fn listen_port(payload: &Payload) -> u32 {
    let (header, number) = (payload.byte(0), payload.byte(5));
    if ((header != EDONKEY) & (header != EMULE)) | (payload.captured < 29) {
        return 0;
    }
    match number {
        opcode::HELLO if payload.byte(6) == 16 => valid(u32::from(payload.le16(27))),
        opcode::HELLO | opcode::HELLO_ANSWER => valid(u32::from(payload.le16(26))),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use crate::{abi::protocol::Protocol, dissect::listen_port::named, parse::payload::Transport};

    #[test]
    fn hellos_name_the_port() {
        let client = |opcode: u8, with_len: bool| {
            let mut bytes = vec![0xe3, 60, 0, 0, 0, opcode];
            if with_len {
                bytes.push(16);
            }
            bytes.extend([0xab; 16]);
            bytes.extend([1, 2, 3, 4]);
            bytes.extend(4662u16.to_le_bytes());
            bytes.extend([0; 30]);
            bytes
        };
        for bytes in [client(0x01, true), client(0x01, false), client(0x4c, false)] {
            assert_eq!(named(Transport::Tcp, Protocol::EDonkey, &bytes), 4662);
        }
        assert_eq!(named(Transport::Tcp, Protocol::EDonkey, &client(0x46, false)), 0);
    }
}
