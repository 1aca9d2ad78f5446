//! Peer lists: addresses and ports of peers, which a server sends to a client that requests sources of some content.
//!
//! Read here: the answers of HTTP trackers (BEP 23: `5:peers`, BEP 7: `6:peers6`), of UDP trackers (BEP 15: offset 20) and of
//! eDonkey servers (OP_FOUNDSOURCES, OP_FOUNDSOURCES_OBFU), and the requests for them. Source of the eDonkey
//! layouts: eMule's `opcodes.h` and `PartFile.cpp` (`AddSources`). The requested content is skipped, not read.
//!
//! Which servers are trusted is decided elsewhere: see `engine/source_requests.rs`.

use crate::{
    bpf::branchless::neg,
    key::Address,
    limits::WINDOW,
    parse::payload::{Payload, Transport},
    protocol::Protocol,
};

/// Header byte of eDonkey messages.
const EDONKEY: u8 = 0xe3;
/// Bytes before an eDonkey message's body: header byte, length, opcode.
const HEADER: u32 = 6;
/// Opcodes of eDonkey.
const LOGIN: u8 = 0x01;
const GET_SOURCES: u8 = 0x19;
const GET_SOURCES_OBFUSCATED: u8 = 0x23;
const FOUND_SOURCES: u8 = 0x42;
const FOUND_SOURCES_OBFUSCATED: u8 = 0x44;
/// Opcodes from here on are of messages between clients.
const FIRST_OF_CLIENTS: u8 = 0x46;

/// Layouts of a list.
mod layout {
    /// No list.
    pub(super) const NONE: u32 = 0;
    /// Address and port in network order.
    pub(super) const V4: u32 = 1;
    /// IPv6 address and port in network order.
    pub(super) const V6: u32 = 2;
    /// eDonkey, bit 2: the port in little-endian order; with bit 0 also a byte of options and perhaps a user hash.
    pub(super) const EDONKEY: u32 = 4;
}

/// Requests in a payload: bits of [`PeerListReader::requests`].
pub mod requests {
    /// The payload belongs to a conversation between client and server, in which a peer-source request may come.
    pub const SERVER: u32 = 1;
    /// The payload requests sources.
    pub const SOURCES: u32 = 2;
}

/// Facts about a payload that the reader needs before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Transport of the flow.
    pub transport: Transport,
    /// Protocol number of the flow's verdict.
    pub protocol: u8,
    /// IP version of the wanted addresses: the flow's, since a subscriber's block differs between IP versions.
    pub ipv6: bool,
    /// Whether the payload names its sender's port (`listen_port.rs`): such a tracker request asks for peers.
    pub announces: bool,
    /// Whether sources were requested in the flow: otherwise no list is searched.
    pub requested: bool,
}

/// Position of the reader in a payload; kept in memory, so that the verifier walks each step once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PeerListReader {
    /// Address of the peer that was read last.
    pub address: Address,
    /// Port of that peer, host order; 0 if there was none that peers could connect to.
    pub port: u32,
    /// Bits of [`requests`].
    pub requests: u32,
    /// Offset of the next entry or message.
    at: u32,
    /// Entries left of the list.
    left: u32,
    layout: u32,
    reserved: u32,
}

impl PeerListReader {
    /// Nothing to read.
    pub const NONE: Self = Self {
        address: Address { high: 0, low: 0 },
        port: 0,
        requests: 0,
        at: 0,
        left: 0,
        layout: layout::NONE,
        reserved: 0,
    };

    /// Resets the reader. The address stays, which means nothing without a port.
    #[inline(always)]
    fn clear(&mut self) {
        for field in [&mut self.port, &mut self.requests, &mut self.at, &mut self.left, &mut self.layout] {
            // SAFETY: an exclusive reference. Volatile keeps LLVM from making a `memset` of it, a loop over bytes on the BPF target.
            unsafe { core::ptr::from_mut(field).write_volatile(0) };
        }
    }

    /// Whether the reader has reached the end.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.layout == layout::NONE
    }
}

/// Begins to read a payload.
#[inline(never)]
pub fn begin(context: &Context, payload: &Payload, reader: &mut PeerListReader) {
    reader.clear();
    let tcp = context.transport == Transport::Tcp;
    if tcp & (context.protocol == Protocol::EDonkey as u8) {
        reader.layout = layout::EDONKEY;
    } else if context.protocol == Protocol::BitTorrent as u8 {
        // Not `announce_peer` of the DHT, which asks for nothing.
        if context.announces & (payload.byte(0) != b'd') {
            reader.requests = requests::SERVER | requests::SOURCES;
        } else if context.requested {
            reader.layout = if context.ipv6 { layout::V6 } else { layout::V4 };
            if tcp { http(payload, reader) } else { udp_tracker(payload, reader) }
        }
    }
}

/// Reads one more source or one more eDonkey message; the source's port is 0 when there was none.
#[inline(never)]
pub fn next(payload: &Payload, reader: &mut PeerListReader) {
    reader.port = 0;
    if reader.left == 0 {
        message(payload, reader);
    } else {
        entry(payload, reader);
    }
}

/// Reads the entry that is next. All forms in one, by masks: each branch would be walked again for each source.
#[inline(always)]
fn entry(payload: &Payload, reader: &mut PeerListReader) {
    let at = reader.at as usize;
    let layout = u64::from(reader.layout);
    let ipv6 = neg(layout >> 1 & 1 & !layout);
    let edonkey = neg(layout >> 2);
    let obfuscated = edonkey & neg(layout & 1);
    // A byte of options says whether the user hash follows.
    let options = u64::from(payload.byte(at + 6) >> 7) << 4 | 1;
    let size = 6 + (ipv6 & 12) + (obfuscated & options);
    reader.at += size as u32;
    reader.left -= 1;
    if reader.at > payload.captured {
        reader.layout = layout::NONE;
        reader.left = 0;
        return;
    }
    let (first, second) = (payload.be64(at), payload.be64(at + 8));
    reader.address = Address { high: first & ipv6, low: Address::v4((first >> 32) as u32).low & !ipv6 | second & ipv6 };
    let port = payload.be16(at + 4 + (ipv6 & 12) as usize);
    // A client that cannot be reached has a number below 2^24 in place of an address, which has its last byte in front.
    let low_id = edonkey & (first >> 32 & 0xff).wrapping_sub(1) >> 32;
    reader.port = u32::from(port) & !edonkey as u32 | u32::from(port.swap_bytes()) & (edonkey & !low_id) as u32;
}

/// Looks at the eDonkey message that is next; other lists have none. Without branches but one, for the same reason.
#[inline(always)]
fn message(payload: &Payload, reader: &mut PeerListReader) {
    let at = reader.at as usize;
    let (header, opcode, length) = (payload.byte(at), payload.byte(at + 5), u64::from(payload.le32(at + 1)));
    let kind = u64::from(KINDS[opcode as usize]);
    // A login has the user hash at once, a client's hello its length before.
    let hello = u64::from(opcode ^ LOGIN) | u64::from(payload.byte(at + 6) ^ 16);
    let hello = 1 ^ (hello | neg(hello)) >> 63;
    let cut = u64::from(payload.captured).wrapping_add(neg(u64::from(reader.at + HEADER))) >> 63;
    let other = u64::from(reader.layout >> 2 ^ 1) | u64::from(header ^ EDONKEY) | length.wrapping_sub(1) >> 16;
    reader.layout = layout::NONE;
    if other | hello | cut | (kind & kinds::SERVER ^ kinds::SERVER) != 0 {
        return;
    }
    reader.requests |= (kind & (kinds::SERVER | kinds::ASKS)) as u32;
    reader.layout = layout::EDONKEY | (kind & kinds::OBFUSCATED) as u32 >> kinds::OBFUSCATED.trailing_zeros();
    // A list lies behind the file's hash and its own length.
    let list = neg((kind & kinds::LIST) >> kinds::LIST.trailing_zeros());
    reader.left = u32::from(payload.byte(at + 22)) & list as u32;
    reader.at += (u64::from(HEADER + 17) & list | (u64::from(HEADER - 1) + length) & !list) as u32;
}

/// What an eDonkey opcode means here.
mod kinds {
    /// Clients and servers use it: [`super::requests::SERVER`].
    pub(super) const SERVER: u64 = super::requests::SERVER as u64;
    /// It asks for sources: [`super::requests::SOURCES`].
    pub(super) const ASKS: u64 = super::requests::SOURCES as u64;
    /// It lists sources.
    pub(super) const LIST: u64 = 4;
    /// It does so with options and user hashes.
    pub(super) const OBFUSCATED: u64 = 8;
}

/// Opcodes by number; what only clients say to each other is 0.
static KINDS: [u8; 256] = {
    let mut table = [0; 256];
    let mut opcode = LOGIN;
    while opcode < FIRST_OF_CLIENTS {
        table[opcode as usize] = kinds::SERVER as u8;
        opcode += 1;
    }
    table[GET_SOURCES as usize] |= kinds::ASKS as u8;
    table[GET_SOURCES_OBFUSCATED as usize] |= kinds::ASKS as u8;
    table[FOUND_SOURCES as usize] |= kinds::LIST as u8;
    table[FOUND_SOURCES_OBFUSCATED as usize] |= (kinds::LIST | kinds::OBFUSCATED) as u8;
    table
};

/// Bytes of a tracker's entry.
#[inline(always)]
const fn entry_len(layout: u32) -> u32 {
    if layout == layout::V6 { 18 } else { 6 }
}

/// The answer to an announce: action, transaction, interval and two counts go before the list.
#[inline(always)]
fn udp_tracker(payload: &Payload, reader: &mut PeerListReader) {
    let (size, held) = (entry_len(reader.layout), payload.len.wrapping_sub(20));
    if (payload.be32(0) == 1) & (held < 0x1_0000) && held.is_multiple_of(size) {
        reader.at = 20;
        reader.left = held / size;
    } else {
        reader.layout = layout::NONE;
    }
}

#[inline(always)]
fn http(payload: &Payload, reader: &mut PeerListReader) {
    find_list(payload, reader);
    // Through memory, as in `listen_port.rs`.
    let start = reader.at as usize;
    if start == 0 {
        reader.layout = layout::NONE;
    } else {
        string(payload, start, reader);
        reader.left /= entry_len(reader.layout);
    }
}

/// Keys of the lists of HTTP trackers by form, and their bits: tables, so that the verifier walks the search for them once.
static KEYS: [u64; 4] = [0, u64::from_be_bytes(*b"\x005:peers"), u64::from_be_bytes(*b"6:peers6"), 0];
static KEY_MASKS: [u64; 4] = [0, u64::MAX >> 8, u64::MAX, 0];

/// The place behind the list's key, into `reader.at`; 0 when it is not seen.
#[inline(never)]
fn find_list(payload: &Payload, reader: &mut PeerListReader) {
    let layout = reader.layout as usize & 3;
    let (wanted, mask) = (KEYS[layout], KEY_MASKS[layout]);
    let (mut recent, mut index) = (0u64, 0);
    reader.at = 0;
    while index < WINDOW - 16 {
        recent = recent << 8 | u64::from(payload.counted(index));
        index += 1;
        if (recent ^ wanted) & mask == 0 {
            reader.at = index as u32;
            return;
        }
    }
}

/// Length and place of the bencoded string at `start` (BEP 3), into `reader.left` and `reader.at`; of length 0 if there is none.
#[inline(never)]
fn string(payload: &Payload, start: usize, reader: &mut PeerListReader) {
    let (mut number, mut end) = (0, 0);
    let mut index = 0;
    while index < 5 {
        let byte = payload.byte(start + index);
        let digit = u32::from(byte.wrapping_sub(b'0'));
        index += 1;
        if digit < 10 && end == 0 {
            number = number * 10 + digit;
        } else if byte == b':' && end == 0 {
            end = index as u32;
        } else if end == 0 {
            break;
        }
    }
    reader.left = if end == 0 { 0 } else { number & 0xffff };
    reader.at += end;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(tcp: bool, protocol: Protocol, ipv6: bool) -> Context {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        Context { transport, protocol: protocol as u8, ipv6, announces: false, requested: true }
    }

    /// Sources of a payload, and what it asks.
    fn read(context: &Context, bytes: &[u8]) -> (Vec<(Address, u32)>, u32) {
        let payload = Payload::from_bytes(bytes, 6969, 41_000, true);
        let (mut reader, mut sources) = (PeerListReader::NONE, Vec::new());
        begin(context, &payload, &mut reader);
        // A message has six bytes at least, and so has an entry: no payload has more of them.
        for _ in 0..=WINDOW / 6 {
            if reader.is_over() {
                break;
            }
            next(&payload, &mut reader);
            if reader.port != 0 {
                sources.push((reader.address, reader.port));
            }
        }
        assert!(reader.is_over(), "{reader:?}");
        (sources, reader.requests)
    }

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Address {
        Address::v4(u32::from_be_bytes([a, b, c, d]))
    }

    fn message(opcode: u8, body: &[u8]) -> Vec<u8> {
        [&[EDONKEY], &(body.len() as u32 + 1).to_le_bytes()[..], &[opcode], body].concat()
    }

    #[test]
    fn edonkey_servers_list_sources() {
        let edonkey = |bytes: &[u8]| read(&context(true, Protocol::EDonkey, false), bytes);
        let list = [&[7; 16][..], &[2], &[192, 0, 2, 7, 0x36, 0x12], &[1, 2, 3, 0, 0x36, 0x12]].concat();
        let found = message(FOUND_SOURCES, &list);
        assert_eq!(edonkey(&found), (vec![(v4(192, 0, 2, 7), 4662)], requests::SERVER), "the second has a low number");
        let requested = message(GET_SOURCES, &[7; 16]);
        assert_eq!(edonkey(&requested), (vec![], requests::SERVER | requests::SOURCES));
        assert_eq!(edonkey(&[&message(0x34, &[0; 8]), &found[..], &requested].concat()), (edonkey(&found).0, 3));
        let hashed =
            [&[7; 16][..], &[2], &[192, 0, 2, 7, 0x36, 0x12, 0x83], &[9; 16], &[192, 0, 2, 8, 1, 4, 3]].concat();
        let sources = edonkey(&message(FOUND_SOURCES_OBFUSCATED, &hashed)).0;
        assert_eq!(sources, [(v4(192, 0, 2, 7), 4662), (v4(192, 0, 2, 8), 1025)]);
        assert_eq!(edonkey(&found[..found.len() - 7]).0, [], "cut");
    }

    #[test]
    fn clients_messages_are_no_sessions() {
        let requests = |bytes: &[u8]| read(&context(true, Protocol::EDonkey, false), bytes).1;
        assert_eq!(requests(&message(LOGIN, &[&[7; 16][..], &[0; 10]].concat())), requests::SERVER);
        assert_eq!(requests(&message(LOGIN, &[&[16][..], &[7; 16], &[0; 10]].concat())), 0, "a hello");
        assert_eq!(requests(&message(0x58, &[7; 16])), 0);
        assert_eq!(requests(&[&[0xc5][..], &message(GET_SOURCES, &[7; 16])[1..]].concat()), 0);
    }

    #[test]
    fn trackers_list_peers() {
        let http = |ipv6, bytes: &[u8]| read(&context(true, Protocol::BitTorrent, ipv6), bytes).0;
        let body = b"d8:intervali1800e5:peers12:\xc0\0\x02\x07\x1a\xe1\xc0\0\x02\x08\x1a\xe26:peers618:\
              \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe3e";
        let whole = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), body].concat();
        for answer in [whole.as_slice(), body] {
            assert_eq!(http(false, answer), [(v4(192, 0, 2, 7), 6881), (v4(192, 0, 2, 8), 6882)]);
            assert_eq!(http(true, answer), [(Address { high: 0x2001_0db8_0000_0000, low: 1 }, 6883)]);
        }
        for other in [
            b"d8:intervali1800e5:peersld2:ip9:192.0.2.74:porti6881eeee".as_slice(),
            b"d8:intervali1800e5:peers0:e",
            b"d8:intervali1800e5:peers",
            b"d8:intervali1800e5:peers999999:\xc0\0\x02\x07\x1a\xe1",
            b"d14:failure reason11:not allowede",
        ] {
            assert_eq!(http(false, other), [], "{}", String::from_utf8_lossy(other));
        }
        let mut requested = context(true, Protocol::BitTorrent, false);
        requested.requested = false;
        assert_eq!(read(&requested, body).0, [], "nobody asked");
        let udp = |ipv6, bytes: &[u8]| read(&context(false, Protocol::BitTorrent, ipv6), bytes).0;
        let head = [0, 0, 0, 1, 5, 6, 7, 8, 0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 1];
        let answer = [&head[..], &[192, 0, 2, 7, 0x1a, 0xe1]].concat();
        assert_eq!(udp(false, &answer), [(v4(192, 0, 2, 7), 6881)]);
        assert_eq!(udp(true, &answer), [], "half an address");
        assert_eq!(udp(false, &[&[0, 0, 0, 2], &answer[4..]].concat()), [], "a scrape's answer");
    }

    proptest! {
        #[test]
        fn any_payload_is_read_to_its_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            tcp: bool,
            ipv6: bool,
            edonkey: bool,
            opcode in proptest::sample::select(vec![GET_SOURCES, FOUND_SOURCES, FOUND_SOURCES_OBFUSCATED, 0x34]),
        ) {
            let protocol = if edonkey { Protocol::EDonkey } else { Protocol::BitTorrent };
            let headed = [&[EDONKEY, bytes.len() as u8, 0, 0, 0, opcode], &bytes[..]].concat();
            for bytes in [&bytes, &headed] {
                for (_, port) in read(&context(tcp, protocol, ipv6), bytes).0 {
                    prop_assert!(port <= 0xffff);
                }
            }
        }
    }
}
