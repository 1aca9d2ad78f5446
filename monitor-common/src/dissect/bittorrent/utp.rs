//! uTP, the transport that BitTorrent runs over UDP (BEP 29; libutp).
//!
//! Matched:
//! - a SYN that acknowledges nothing and has measured nothing yet. Most attempts end there, because the peer is gone;
//! - on ports below 1024: a SYN with the STATE packet that has its connection id and acknowledges its sequence number;
//! - for flows that started earlier: a DATA packet with the STATE packet that acknowledges it, with the two connection
//!   ids of one connection, which differ by one;
//! - a DATA packet with the peer wire handshake.
//!
//! Each header must be consistent: known type and version 1, an extension chain that ends inside the datagram, exact
//! lengths.
//!
//! Guard: a SYN alone has 72 bits that agree. A DATA header alone has only nine fixed bits, as STUN, DHCPv6 and games
//! do; it never counts.

use crate::{
    abi::rule::Rule,
    bpf::branchless::nonzero_top_bit,
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// Type ST_DATA and version 1.
pub(super) const DATA: u8 = 0x01;
/// Type ST_STATE and version 1.
pub(super) const STATE: u8 = 0x21;
/// Type ST_SYN and version 1.
pub(super) const SYN: u8 = 0x41;
/// Header without extensions, in bytes.
const HEADER: u32 = 20;
/// Highest extension number in use: 1 selective ACK, 2 extension bits, 3 close reason (libutp).
const MAX_EXTENSION: u32 = 3;

/// Packets that may be in progress when an acknowledgement of one of them comes.
const MAX_IN_FLIGHT: u16 = 16;

/// The verdict of a datagram, given the flow's SYN.
#[inline(always)]
pub(super) fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let kind = payload.byte(0);
    if (kind & 0x9f != DATA) || (payload.len < HEADER) || (payload.byte(1) as u32 > MAX_EXTENSION) {
        return None;
    }
    header(payload, state, kind)
}

/// The part of [`udp`] after its gate, which few datagrams pass.
#[inline(never)]
fn header(payload: &Payload, state: &mut RuleState, kind: u8) -> Option<Rule> {
    let mut extension = payload.byte(1) as u32;
    let mut length = HEADER;
    let mut index = 0;
    while index < MAX_EXTENSION {
        if extension == 0 {
            break;
        }
        extension = payload.byte(length as usize) as u32;
        length += 2 + payload.byte(length as usize + 1) as u32;
        index += 1;
    }
    if (extension != 0) || (length > payload.len) {
        return None;
    }
    let connection = payload.be16(2) as u64;
    let (sequence, acknowledged) = (payload.be16(16), payload.be16(18));
    if kind == DATA {
        if payload.has(length as usize, b"\x13BitTorrent protocol") {
            return Some(Rule::UtpHandshake);
        }
        if length < payload.len
            && connection != 0
            && payload.be32(4) != 0
            && state.rule_flags & rule_flags::PENDING_UTP_SYN == 0
        {
            state.remember_request(payload, rule_flags::PENDING_UTP_DATA, connection << 16 | u64::from(sequence));
        }
        return None;
    }
    if length != payload.len {
        return None;
    }
    if kind == SYN {
        if (connection == 0) || (payload.be32(4) == 0) || (payload.be32(8) != 0) {
            return None;
        }
        state.remember_request(payload, rule_flags::PENDING_UTP_SYN, connection << 16 | u64::from(sequence));
        return first(payload).then_some(Rule::UtpSyn);
    }
    if kind != STATE {
        return None;
    }
    let asked = state.rule_value as u32;
    let opened = state.pending_request(payload, rule_flags::PENDING_UTP_SYN)
        && asked == (connection as u32) << 16 | u32::from(acknowledged);
    let continued = state.pending_request(payload, rule_flags::PENDING_UTP_DATA)
        && neighbours(connection as u16, (asked >> 16) as u16)
        && (asked as u16).wrapping_sub(acknowledged) < MAX_IN_FLIGHT
        && payload.be32(4) != 0;
    let agreed = opened || continued;
    state.set_echoed(agreed);
    agreed.then_some(if opened { Rule::UtpState } else { Rule::UtpData })
}

/// Whether a SYN is consistent with the first packet of a connection: nothing to acknowledge, a clock that runs, a
/// window below 16 MiB.
#[inline(never)]
fn first(payload: &Payload) -> bool {
    let (clock, window) = (payload.be32(4), payload.be32(12));
    // The top bit is clear when all is as it should be: no branch for each.
    let differs = nonzero_top_bit(u64::from(payload.be16(18)))
        | !nonzero_top_bit(u64::from(payload.be16(16)))
        | !nonzero_top_bit(u64::from(clock >> 16))
        | !nonzero_top_bit(u64::from(clock & 0xffff))
        | nonzero_top_bit(u64::from(window >> 24));
    differs >> 63 == 0 && payload.has_peer_ports()
}

/// Whether these are the two connection ids of one connection, which differ by one.
#[inline(always)]
const fn neighbours(a: u16, b: u16) -> bool {
    a.wrapping_sub(b) == 1 || b.wrapping_sub(a) == 1
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, udp},
    };

    const STRUCTURAL: Label = Some((Protocol::BitTorrent, Confidence::Structural));
    /// One that acknowledges something, so that it proves nothing alone.
    const SYN: &str = "4100 6d0a 4f2b1c9e 00000000 00000000 9f31 0001";
    const FIRST_SYN: &str = "4100 6d0a 4f2b1c9e 00000000 00000000 9f31 0000";
    const LIBUTP_SYN: &str = "4102 6d0a 4f2b1c9e 00000000 00100000 9f31 0000 0008 0000000000000000";
    const STATE: &str = "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31";

    #[test]
    fn a_first_syn_is_structural() {
        for syn in [FIRST_SYN, LIBUTP_SYN] {
            assert_eq!(udp(hex(syn)), STRUCTURAL);
            assert_eq!(Flow::udp().ports(40_000, 443).ask(hex(syn)), None, "a service's port");
            every_bit_counts(&hex(syn), 8..12, |bytes| udp(bytes));
            every_bit_counts(&hex(syn), 18..20, |bytes| udp(bytes));
            every_byte_counts(&hex(syn), |bytes| udp(bytes));
            assert_eq!(udp([hex(syn), vec![0]].concat()), None);
        }
        for sparse in [
            "4100 6d0a 4f2b0000 00000000 00000000 9f31 0000",
            "4100 6d0a 00001c9e 00000000 00000000 9f31 0000",
            "4100 0000 4f2b1c9e 00000000 00000000 9f31 0000",
            "4100 6d0a 4f2b1c9e 00000000 01000000 9f31 0000",
            "4100 6d0a 4f2b1c9e 00000000 00000000 0000 0000",
            "4104 6d0a 4f2b1c9e 00000000 00000000 9f31 0000",
        ] {
            assert_eq!(udp(hex(sparse)), None, "{sparse}");
        }
    }

    #[test]
    fn a_syn_and_its_answer_are_structural() {
        for (syn, port) in [(SYN, 40_321), (FIRST_SYN, 443), (LIBUTP_SYN, 443)] {
            let mut flow = Flow::udp().ports(50_123, port);
            assert_eq!(flow.ask(hex(syn)), None);
            assert_eq!(flow.answer(hex(STATE)), STRUCTURAL);
            let mut flow = Flow::udp().ports(50_123, port);
            assert_eq!(flow.answer(hex(syn)), None);
            assert_eq!(flow.ask(hex(STATE)), STRUCTURAL, "either side may open");
        }
    }

    #[test]
    fn an_answer_that_does_not_agree_is_not_one() {
        for state in [
            "2100 6d0b 1c9e4f2b 00001f40 00100000 1234 9f31",
            "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f32",
            "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31 00",
            "2101 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31",
            "3100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31",
        ] {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(hex(SYN)), None);
            assert_eq!(flow.answer(hex(state)), None, "{state}");
        }
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(hex(SYN)), None);
        assert_eq!(flow.ask(hex(STATE)), None, "an answer comes from the other side");
        assert_eq!(Flow::udp().answer(hex(STATE)), None, "an answer needs a question");
    }

    #[test]
    fn data_and_its_acknowledgement_are_structural() {
        let data = "0100 6d0b 4f2b1c9e 00001f40 00100000 9f32 1234 aabbccdd";
        for (state, label) in [
            ("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f32", STRUCTURAL),
            ("2100 6d0c 1c9e4f2b 00001f40 00100000 1235 9f30", STRUCTURAL),
            ("2100 6d0b 1c9e4f2b 00001f40 00100000 1235 9f32", None),
            ("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f33", None),
            ("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f00", None),
            ("2100 6d0a 00000000 00001f40 00100000 1235 9f32", None),
        ] {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(hex(data)), None);
            assert_eq!(flow.answer(hex(state)), label, "{state}");
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(hex(data)), None);
            assert_eq!(flow.ask(hex(state)), None, "from the same side");
        }
    }

    #[test]
    fn data_counts_with_a_handshake_only() {
        let data = hex("0100 6d0b 4f2b1c9e 00001f40 00000000 9f32 1234");
        let handshake = [&data, b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat();
        assert_eq!(udp(&handshake), Some((Protocol::BitTorrent, Confidence::Signature)));
        let selective = hex("0101 6d0b 4f2b1c9e 00001f40 00000000 9f32 1234 0004 00000001");
        let handshake = [&selective, b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat();
        assert_eq!(udp(&handshake), Some((Protocol::BitTorrent, Confidence::Signature)));
        assert_eq!(udp(&data), None);
        assert_eq!(udp([&data, b"\x13BitTorrent protocoI".as_slice()].concat()), None);
    }

    #[test]
    fn stun_and_dhcpv6_do_not_match() {
        let stun = hex("0101 000c 2112a442 b7e7a701bc34d686fa87dfae 0020 0008 0001a147e112a643");
        let solicit = hex("01 10d7e2 0001 000a 00030001 0004233f5b21 0006 0004 00170018 0008 0002 0000");
        for frame in [stun, solicit] {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(&frame), None);
            assert_eq!(flow.answer(&frame), None);
        }
    }
}
