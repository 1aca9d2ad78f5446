//! Lists of sources: addresses and ports of peers, with which a server answers a client that asks who has some content.
//!
//! Read here: the answers of HTTP trackers (BEP 23: `5:peers`, BEP 7: `6:peers6`), of UDP trackers (BEP 15: offset 20) and of
//! eDonkey servers (OP_FOUNDSOURCES, OP_FOUNDSOURCES_OBFU), and the questions that these answer. Source of the eDonkey
//! forms: eMule's `opcodes.h` and `PartFile.cpp` (`AddSources`). The content that is asked for is stepped over.
//!
//! Who may be believed is not decided here: see `engine/ask.rs`.

use crate::{
    bpf::branchless::neg,
    key::Address,
    limits::WINDOW,
    payload::{Payload, Transport},
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

/// How a list is laid out.
mod form {
    /// No list.
    pub(super) const NONE: u32 = 0;
    /// Address and port in network order.
    pub(super) const V4: u32 = 1;
    /// The same with IPv6 addresses.
    pub(super) const V6: u32 = 2;
    /// eDonkey, bit 2: the port in little-endian order; with bit 0 also a byte of options and perhaps a user hash.
    pub(super) const EDONKEY: u32 = 4;
}

/// What a payload asks, as bits of [`Walk::asks`].
pub mod asks {
    /// It is of a conversation between a client and its server, in which such a question may come.
    pub const SERVER: u32 = 1;
    /// It asks for sources.
    pub const SOURCES: u32 = 2;
}

/// What is known of a payload before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Transport of the flow.
    pub transport: Transport,
    /// Protocol number of its verdict.
    pub protocol: u8,
    /// Of which addresses a list is wanted: those of the flow, since a subscriber is not the same one under the other IP version.
    pub ipv6: bool,
    /// Whether the payload names its sender's port (`announce.rs`): such a request to a tracker asks for peers.
    pub announces: bool,
    /// Whether somebody asked for sources in the flow: otherwise no list is looked for.
    pub asked: bool,
}

/// Where the reading of a payload stands; in memory, so that the verifier walks each step once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// Address of the source that was read last.
    pub address: Address,
    /// Its port, host order; 0 for no source that peers could connect to.
    pub port: u32,
    /// Bits of [`asks`].
    pub asks: u32,
    /// Offset of the next entry or message.
    at: u32,
    /// Entries left of the list.
    left: u32,
    form: u32,
    reserved: u32,
}

impl Walk {
    /// Nothing to read.
    pub const NONE: Self =
        Self { address: Address { high: 0, low: 0 }, port: 0, asks: 0, at: 0, left: 0, form: form::NONE, reserved: 0 };

    /// Forgets what was read. The address stays, which counts for nothing without a port.
    #[inline(always)]
    fn clear(&mut self) {
        for field in [&mut self.port, &mut self.asks, &mut self.at, &mut self.left, &mut self.form] {
            // SAFETY: an exclusive reference. Volatile keeps LLVM from making a `memset` of it, a loop over bytes on the BPF target.
            unsafe { core::ptr::from_mut(field).write_volatile(0) };
        }
    }

    /// Whether nothing is left to read.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.form == form::NONE
    }
}

/// Begins to read a payload.
#[inline(never)]
pub fn begin(context: &Context, payload: &Payload, walk: &mut Walk) {
    walk.clear();
    let tcp = context.transport == Transport::Tcp;
    if tcp & (context.protocol == Protocol::EDonkey as u8) {
        walk.form = form::EDONKEY;
    } else if context.protocol == Protocol::BitTorrent as u8 {
        // Not `announce_peer` of the DHT, which asks for nothing.
        if context.announces & (payload.byte(0) != b'd') {
            walk.asks = asks::SERVER | asks::SOURCES;
        } else if context.asked {
            walk.form = if context.ipv6 { form::V6 } else { form::V4 };
            if tcp { http(payload, walk) } else { udp_tracker(payload, walk) }
        }
    }
}

/// Reads one more source or one more eDonkey message; the source's port is 0 when there was none.
#[inline(never)]
pub fn next(payload: &Payload, walk: &mut Walk) {
    walk.port = 0;
    if walk.left == 0 {
        message(payload, walk);
    } else {
        entry(payload, walk);
    }
}

/// Reads the entry that is next. All forms in one, by masks: each branch would be walked again for each source.
#[inline(always)]
fn entry(payload: &Payload, walk: &mut Walk) {
    let at = walk.at as usize;
    let form = u64::from(walk.form);
    let ipv6 = neg(form >> 1 & 1 & !form);
    let edonkey = neg(form >> 2);
    let obfuscated = edonkey & neg(form & 1);
    // A byte of options says whether the user hash follows.
    let options = u64::from(payload.byte(at + 6) >> 7) << 4 | 1;
    let size = 6 + (ipv6 & 12) + (obfuscated & options);
    walk.at += size as u32;
    walk.left -= 1;
    if walk.at > payload.captured {
        walk.form = form::NONE;
        walk.left = 0;
        return;
    }
    let (first, second) = (payload.be64(at), payload.be64(at + 8));
    walk.address = Address { high: first & ipv6, low: Address::v4((first >> 32) as u32).low & !ipv6 | second & ipv6 };
    let port = payload.be16(at + 4 + (ipv6 & 12) as usize);
    // A client that cannot be reached has a number below 2^24 in place of an address, which has its last byte in front.
    let low_id = edonkey & (first >> 32 & 0xff).wrapping_sub(1) >> 32;
    walk.port = u32::from(port) & !edonkey as u32 | u32::from(port.swap_bytes()) & (edonkey & !low_id) as u32;
}

/// Looks at the eDonkey message that is next; other lists have none. Without branches but one, for the same reason.
#[inline(always)]
fn message(payload: &Payload, walk: &mut Walk) {
    let at = walk.at as usize;
    let (header, opcode, length) = (payload.byte(at), payload.byte(at + 5), u64::from(payload.le32(at + 1)));
    let kind = u64::from(KINDS[opcode as usize]);
    // A login has the user hash at once, a client's hello its length before.
    let hello = u64::from(opcode ^ LOGIN) | u64::from(payload.byte(at + 6) ^ 16);
    let hello = 1 ^ (hello | neg(hello)) >> 63;
    let cut = u64::from(payload.captured).wrapping_add(neg(u64::from(walk.at + HEADER))) >> 63;
    let other = u64::from(walk.form >> 2 ^ 1) | u64::from(header ^ EDONKEY) | length.wrapping_sub(1) >> 16;
    walk.form = form::NONE;
    if other | hello | cut | (kind & kinds::SERVER ^ kinds::SERVER) != 0 {
        return;
    }
    walk.asks |= (kind & (kinds::SERVER | kinds::ASKS)) as u32;
    walk.form = form::EDONKEY | (kind & kinds::OBFUSCATED) as u32 >> kinds::OBFUSCATED.trailing_zeros();
    // A list lies behind the file's hash and its own length.
    let list = neg((kind & kinds::LIST) >> kinds::LIST.trailing_zeros());
    walk.left = u32::from(payload.byte(at + 22)) & list as u32;
    walk.at += (u64::from(HEADER + 17) & list | (u64::from(HEADER - 1) + length) & !list) as u32;
}

/// What an eDonkey opcode means here.
mod kinds {
    /// Clients and servers use it: [`super::asks::SERVER`].
    pub(super) const SERVER: u64 = super::asks::SERVER as u64;
    /// It asks for sources: [`super::asks::SOURCES`].
    pub(super) const ASKS: u64 = super::asks::SOURCES as u64;
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
const fn entry_len(form: u32) -> u32 {
    if form == form::V6 { 18 } else { 6 }
}

/// The answer to an announce: action, transaction, interval and two counts go before the list.
#[inline(always)]
fn udp_tracker(payload: &Payload, walk: &mut Walk) {
    let (size, held) = (entry_len(walk.form), payload.len.wrapping_sub(20));
    if (payload.be32(0) == 1) & (held < 0x1_0000) && held.is_multiple_of(size) {
        walk.at = 20;
        walk.left = held / size;
    } else {
        walk.form = form::NONE;
    }
}

#[inline(always)]
fn http(payload: &Payload, walk: &mut Walk) {
    find_list(payload, walk);
    // Through memory, as in `announce.rs`.
    let start = walk.at as usize;
    if start == 0 {
        walk.form = form::NONE;
    } else {
        string(payload, start, walk);
        walk.left /= entry_len(walk.form);
    }
}

/// Keys of the lists of HTTP trackers by form, and their bits: tables, so that the verifier walks the search for them once.
static KEYS: [u64; 4] = [0, u64::from_be_bytes(*b"\x005:peers"), u64::from_be_bytes(*b"6:peers6"), 0];
static KEY_MASKS: [u64; 4] = [0, u64::MAX >> 8, u64::MAX, 0];

/// The place behind the list's key, into `walk.at`; 0 when it is not seen.
#[inline(never)]
fn find_list(payload: &Payload, walk: &mut Walk) {
    let form = walk.form as usize & 3;
    let (wanted, mask) = (KEYS[form], KEY_MASKS[form]);
    let (mut recent, mut index) = (0u64, 0);
    walk.at = 0;
    while index < WINDOW - 16 {
        recent = recent << 8 | u64::from(payload.counted(index));
        index += 1;
        if (recent ^ wanted) & mask == 0 {
            walk.at = index as u32;
            return;
        }
    }
}

/// Length and place of the bencoded string at `start` (BEP 3), into `walk.left` and `walk.at`; of length 0 if there is none.
#[inline(never)]
fn string(payload: &Payload, start: usize, walk: &mut Walk) {
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
    walk.left = if end == 0 { 0 } else { number & 0xffff };
    walk.at += end;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(tcp: bool, protocol: Protocol, ipv6: bool) -> Context {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        Context { transport, protocol: protocol as u8, ipv6, announces: false, asked: true }
    }

    /// Sources of a payload, and what it asks.
    fn read(context: &Context, bytes: &[u8]) -> (Vec<(Address, u32)>, u32) {
        let payload = Payload::from_bytes(bytes, 6969, 41_000, true);
        let (mut walk, mut sources) = (Walk::NONE, Vec::new());
        begin(context, &payload, &mut walk);
        // A message has six bytes at least, and so has an entry: no payload has more of them.
        for _ in 0..=WINDOW / 6 {
            if walk.is_over() {
                break;
            }
            next(&payload, &mut walk);
            if walk.port != 0 {
                sources.push((walk.address, walk.port));
            }
        }
        assert!(walk.is_over(), "{walk:?}");
        (sources, walk.asks)
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
        assert_eq!(edonkey(&found), (vec![(v4(192, 0, 2, 7), 4662)], asks::SERVER), "the second has a low number");
        let asked = message(GET_SOURCES, &[7; 16]);
        assert_eq!(edonkey(&asked), (vec![], asks::SERVER | asks::SOURCES));
        assert_eq!(edonkey(&[&message(0x34, &[0; 8]), &found[..], &asked].concat()), (edonkey(&found).0, 3));
        let hashed =
            [&[7; 16][..], &[2], &[192, 0, 2, 7, 0x36, 0x12, 0x83], &[9; 16], &[192, 0, 2, 8, 1, 4, 3]].concat();
        let sources = edonkey(&message(FOUND_SOURCES_OBFUSCATED, &hashed)).0;
        assert_eq!(sources, [(v4(192, 0, 2, 7), 4662), (v4(192, 0, 2, 8), 1025)]);
        assert_eq!(edonkey(&found[..found.len() - 7]).0, [], "cut");
    }

    #[test]
    fn clients_messages_are_no_sessions() {
        let asks = |bytes: &[u8]| read(&context(true, Protocol::EDonkey, false), bytes).1;
        assert_eq!(asks(&message(LOGIN, &[&[7; 16][..], &[0; 10]].concat())), asks::SERVER);
        assert_eq!(asks(&message(LOGIN, &[&[16][..], &[7; 16], &[0; 10]].concat())), 0, "a hello");
        assert_eq!(asks(&message(0x58, &[7; 16])), 0);
        assert_eq!(asks(&[&[0xc5][..], &message(GET_SOURCES, &[7; 16])[1..]].concat()), 0);
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
        let mut asked = context(true, Protocol::BitTorrent, false);
        asked.asked = false;
        assert_eq!(read(&asked, body).0, [], "nobody asked");
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
