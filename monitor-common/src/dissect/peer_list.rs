//! Peer lists: addresses and ports of peers, which a server sends to a client that requests sources of some content.
//!
//! Each protocol's folder knows its requests and where its answers have the list. The requested content is skipped, not
//! read.
//!
//! Which servers are trusted is decided elsewhere: see `engine/source_requests.rs`.
#![expect(unsafe_code, reason = "volatile stores: the BPF target must not call memset")]

use super::{bittorrent, edonkey};
use crate::{
    abi::{key::Address, protocol::Protocol},
    bpf::branchless::neg,
    parse::payload::{Payload, Transport},
};

/// Layouts of a list.
pub(super) mod layout {
    /// No list.
    pub(in crate::dissect) const NONE: u32 = 0;
    /// Address and port in network order.
    pub(in crate::dissect) const V4: u32 = 1;
    /// IPv6 address and port in network order.
    pub(in crate::dissect) const V6: u32 = 2;
    /// eDonkey, bit 2: the port in little-endian order; with bit 0 also a byte of options and perhaps a user hash.
    pub(in crate::dissect) const EDONKEY: u32 = 4;
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
    /// Whether the payload names its sender's port (`listen_port.rs`): such a tracker request requests peers.
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
    pub(super) at: u32,
    /// Entries left of the list.
    pub(super) left: u32,
    pub(super) layout: u32,
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
            // SAFETY: an exclusive reference. Volatile keeps LLVM from making a `memset` of it, a loop over bytes on
            // the BPF target.
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
        // Not `announce_peer` of the DHT, which requests nothing.
        if context.announces & (payload.byte(0) != b'd') {
            reader.requests = requests::SERVER | requests::SOURCES;
        } else if context.requested {
            reader.layout = if context.ipv6 { layout::V6 } else { layout::V4 };
            if tcp {
                bittorrent::peer_list::http(payload, reader);
            } else {
                bittorrent::peer_list::udp_tracker(payload, reader);
            }
        }
    }
}

/// Reads one more source or one more eDonkey message; the source's port is 0 when there was none.
#[inline(never)]
pub fn next(payload: &Payload, reader: &mut PeerListReader) {
    reader.port = 0;
    if reader.left == 0 {
        edonkey::peer_list::message(payload, reader);
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
    // A byte of options announces the user hash.
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

/// Helpers for the tests of each protocol's lists.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::abi::limits::WINDOW;

    pub(in crate::dissect) fn context(tcp: bool, protocol: Protocol, ipv6: bool) -> Context {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        Context { transport, protocol: protocol as u8, ipv6, announces: false, requested: true }
    }

    /// Peers in a payload, and its source request.
    pub(in crate::dissect) fn read(context: &Context, bytes: &[u8]) -> (Vec<(Address, u32)>, u32) {
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

    pub(in crate::dissect) fn v4(a: u8, b: u8, c: u8, d: u8) -> Address {
        Address::v4(u32::from_be_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::edonkey::{EDONKEY, opcode},
        testing::{context, read},
    };
    use crate::abi::protocol::Protocol;

    proptest! {
        #[test]
        fn any_payload_is_read_to_its_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            tcp: bool,
            ipv6: bool,
            edonkey: bool,
            number in proptest::sample::select(vec![opcode::GET_SOURCES, opcode::FOUND_SOURCES, opcode::FOUND_SOURCES_OBFUSCATED, 0x34]),
        ) {
            let protocol = if edonkey { Protocol::EDonkey } else { Protocol::BitTorrent };
            let headed = [&[EDONKEY, bytes.len() as u8, 0, 0, 0, number], &bytes[..]].concat();
            for bytes in [&bytes, &headed] {
                for (_, port) in read(&context(tcp, protocol, ipv6), bytes).0 {
                    prop_assert!(port <= 0xffff);
                }
            }
        }
    }
}
