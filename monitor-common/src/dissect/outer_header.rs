//! Headers in front of a datagram: what follows is classified as without them.
//!
//! * **SOCKS5** (RFC 1928 section 7): two zeros, fragment number 0, address type, address and port. A client with a
//!   proxy sends its DHT, uTP and trackers so, and gets them so. Types: 1 IPv4 (10 bytes in all), 4 IPv6 (22), 3 name
//!   (7 and the name).
//! * **eMule's address translation** (eMule AI): 0xb2 and 0, then uTP, which carries eDonkey's messages. So uTP behind
//!   it is eDonkey's, and nothing else is looked for.
//!
//! Guard: the rules' own, and these fixed bytes. An answer of a tracker starts with a small number, too: a datagram
//! that repeats the transaction of the other side's pending request has no such header.

use super::rule_state::{RuleState, rule_flags};
use crate::{
    abi::{
        protocol::{Protocol, Verdict},
        rule::Rule,
    },
    parse::payload::Payload,
};

/// Bytes of a datagram that tell its outer header.
pub const HEAD: usize = 8;
/// First byte of eMule's header, and its length.
const EMULE: u8 = 0xb2;
const EMULE_LEN: u32 = 2;
/// Address types of SOCKS5 (RFC 1928 section 5).
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Shortest datagram behind a header: a tracker's connect request.
const SHORTEST: u32 = 16;

/// Whether a datagram that starts with these bytes may have an outer header.
#[inline(always)]
#[must_use]
pub fn may_start(head: [u8; 2]) -> bool {
    (head[1] == 0) & ((head[0] == 0) | (head[0] == EMULE))
}

/// Bytes of the outer header of a datagram that starts with `head`; 0 if it has none. `state` is the flow's before this
/// datagram, which the lower endpoint sent if `from_lower` is not 0.
#[inline(always)]
#[must_use]
pub fn len(head: [u8; HEAD], payload_len: u32, state: &RuleState, from_lower: u32) -> u32 {
    let len = if head[0] == EMULE && head[1] == 0 {
        EMULE_LEN
    } else if head[0] | head[1] | head[2] == 0 {
        socks(head[3], head[4])
    } else {
        0
    };
    let by_other = (state.rule_flags & rule_flags::PENDING_FROM_LOWER != 0) != (from_lower != 0);
    let transaction = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let answers =
        by_other && (state.rule_flags & rule_flags::PENDING_TRACKER != 0) && (transaction == state.rule_value as u32);
    if answers || payload_len < len + SHORTEST { 0 } else { len }
}

/// Bytes of a SOCKS5 header with this address type, and this length of a name.
#[inline(always)]
fn socks(kind: u8, name: u8) -> u32 {
    match kind {
        IPV4 => 10,
        IPV6 => 22,
        NAME if name != 0 => 7 + u32::from(name),
        _ => 0,
    }
}

/// The verdict of a datagram behind an outer header of `len` bytes, given that of the datagram alone.
#[inline(always)]
#[must_use]
pub fn resolve(len: u32, found: Option<Verdict>, payload: &mut Payload) -> Option<Verdict> {
    if len != EMULE_LEN || found.is_none() {
        return found;
    }
    let rule = payload.rule();
    let utp = (rule.wrapping_sub(Rule::UtpSyn as u32) <= Rule::UtpData as u32 - Rule::UtpSyn as u32)
        || rule == Rule::UtpStream as u32;
    if !utp {
        payload.set_rule(0);
        return None;
    }
    payload.set_rule(Rule::EmuleUtp as u32);
    Some(Verdict { protocol: Protocol::EDonkey, confidence: Rule::EmuleUtp.confidence() })
}

#[cfg(test)]
mod tests {
    use super::{HEAD, len};
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::{
            rule_state::{RuleState, rule_flags},
            testing::{Flow, Label, every_byte_counts, hex, udp},
        },
    };

    const BITTORRENT: Protocol = Protocol::BitTorrent;
    const STRUCTURAL: Label = Some((BITTORRENT, Confidence::Structural));
    const SIGNATURE: Label = Some((BITTORRENT, Confidence::Signature));
    const EDONKEY: Label = Some((Protocol::EDonkey, Confidence::Structural));
    const SYN: &str = "4102 6d0a 4f2b1c9e 00000000 00100000 9f31 0000 0008 0000000000000000";
    const STATE: &str = "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31";
    const PING: &[u8] = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";

    /// A header of each address type.
    fn socks() -> [Vec<u8>; 3] {
        [
            hex("000000 01 c0000207 1ae1"),
            hex("000000 04 20010db8000000000000000000000007 1ae1"),
            [&hex("000000 03 0f")[..], b"tracker.example", &hex("1ae1")].concat(),
        ]
    }

    #[test]
    fn datagrams_behind_socks_are_found_as_without() {
        let announce = [hex("c95b3d2f8a6e1407 00000001 5eed1234"), vec![0xab; 64], hex("00000002")].concat();
        let announce = [announce, hex("00000000 0badcafe ffffffff c8d5")].concat();
        let answer = hex("00000001 5eed1234 00000708 00000003 00000009 c000 0207 1ae1");
        for head in socks() {
            let behind = |bytes: &[u8]| [&head, bytes].concat();
            assert_eq!(udp(behind(PING)), SIGNATURE);
            assert_eq!(udp(behind(&hex("0000041727101980 00000000 5eed1234"))), SIGNATURE);
            assert_eq!(udp(behind(&hex(SYN))), STRUCTURAL);
            let mut flow = Flow::udp().ports(50_000, 443);
            assert_eq!(flow.ask(behind(&hex(SYN))), None, "a service's port");
            assert_eq!(flow.answer(behind(&hex(STATE))), STRUCTURAL);
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(behind(&announce)), None);
            assert_eq!(flow.answer(behind(&answer)), STRUCTURAL);
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(&announce), None);
            assert_eq!(flow.answer(&answer), STRUCTURAL, "a tracker's answer starts as SOCKS does");
            every_byte_counts(&behind(&hex(SYN)), |bytes| udp(bytes));
        }
    }

    #[test]
    fn other_headers_are_none() {
        for (place, byte) in [(0, 1), (1, 1), (2, 1), (3, 2), (3, 4)] {
            let mut other = [socks()[0].clone(), hex(SYN)].concat();
            other[place] = byte;
            assert_eq!(udp(&other), None, "{byte} at {place}");
        }
        assert_eq!(udp([hex("000000 03 00 1ae1 00"), PING.to_vec()].concat()), None, "a name of no bytes");
        assert_eq!(udp([hex("000000 01 c0000207 1ae1"), vec![0x5a; 200]].concat()), None);
        assert_eq!(udp([socks()[0].clone(), socks()[0].clone(), PING.to_vec()].concat()), None, "one header only");
    }

    #[test]
    fn utp_in_frames_of_emule_is_edonkeys() {
        let framed = |bytes: &str| [hex("b200"), hex(bytes)].concat();
        let data = "0100 6d0b 4f2b1c9e 00001f40 00100000 9f32 1234 e35a000000 01";
        assert_eq!(udp(framed(SYN)), EDONKEY);
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(hex("b2ff 6465666768696a6b6c6d6e6f70717273")), None, "a user hash alone");
        assert_eq!(flow.ask(framed(data)), None);
        assert_eq!(flow.answer(framed("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f32")), EDONKEY);
        assert_eq!(udp([hex("b200"), PING.to_vec()].concat()), None, "uTP only");
        assert_eq!(udp([hex("b201"), hex(SYN)].concat()), None);
        assert_eq!(udp([hex("b300"), hex(SYN)].concat()), None);
    }

    #[test]
    fn lengths_stay_inside_the_datagram() {
        let state = RuleState::default();
        let head = |bytes: &str| -> [u8; HEAD] { hex(bytes).try_into().expect("eight bytes") };
        assert_eq!(len(head("00000001 c0000207"), 26, &state, 1), 10);
        assert_eq!(len(head("00000001 c0000207"), 25, &state, 1), 0);
        assert_eq!(len(head("00000003 ff000000"), 278, &state, 1), 262);
        assert_eq!(len(head("00000003 ff000000"), 277, &state, 1), 0);
        assert_eq!(len(head("00000000 00000000"), 500, &state, 1), 0);
        let pending = RuleState { rule_value: 0xc000_0207, rule_flags: rule_flags::PENDING_TRACKER };
        assert_eq!(len(head("00000001 c0000207"), 26, &pending, 1), 0, "the answer to the higher endpoint's announce");
        assert_eq!(len(head("00000001 c0000207"), 26, &pending, 0), 10, "its own");
    }
}
