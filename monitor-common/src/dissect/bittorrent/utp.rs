//! uTP, the transport that BitTorrent runs over UDP (BEP 29; libutp).
//!
//! Matched:
//! - a SYN of which every field is one that a client sends ([`is_clients_syn`]). Most attempts end there, because the
//!   peer is gone;
//! - any other SYN, and any on ports below 1024, with the packet that has its connection id and acknowledges its
//!   sequence number;
//! - for flows that started earlier: a DATA packet with the packet of the other side that acknowledges it, with the two
//!   connection ids of one connection, which differ by one;
//! - of which one side is seen: a SYN and its first DATA packet, or three DATA packets of one connection with
//!   consecutive sequence numbers and a clock that runs;
//! - a DATA packet with the peer wire handshake.
//!
//! Each header must be consistent: known type and version 1, an extension chain that ends inside the datagram, exact
//! lengths.
//!
//! Guard, in bits against random bytes: a SYN alone 83, and 163 with libutp's extension. A SYN without a window, which
//! is mostly zeros, 104, and identifiers that are no small numbers. A SYN and its answer 60. DATA and its
//! acknowledgement 65: types and extensions 28, windows 16, connection ids 15, the acknowledged number 6. Three DATA
//! packets 154: types and extensions 42, windows 24, and twice 16 for the id, 12 for the clock and 16 for the number. A
//! DATA header alone has 14, as STUN, DHCPv6 and games do; it never counts.

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
/// Extension bits of a SYN.
const EXTENSION_BITS: u8 = 2;
/// Difference of clocks that the most used client for Windows sends before it has measured one; others send 0.
const UNMEASURED: u32 = 0x7fff_ffff;
/// Clients give windows in units of this many bytes, below [`MAX_WINDOW`].
const WINDOW_UNIT: u32 = 1 << 12;
const MAX_WINDOW: u32 = 1 << 24;
/// A client whose clock counts milliseconds from its start sends no window in its SYN (rqbit): 4.6 hours.
const MAX_UPTIME: u32 = 1 << 24;

/// Packets that may be in progress when an acknowledgement of one of them comes: a full window.
const MAX_IN_FLIGHT: u16 = 1024;
/// Longest time between two consecutive packets of one side, in microseconds.
const MAX_PAUSE: u32 = 1 << 20;

/// The verdict of a datagram, given the flow's latest SYN or DATA packet.
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
    let connection = payload.be16(2);
    if (extension != 0) || (length > payload.len) || (connection == 0) || (payload.be32(4) == 0) {
        return None;
    }
    let carries_data = length < payload.len;
    if kind == SYN && !carries_data {
        remember(payload, state, rule_flags::PENDING_UTP_SYN);
        return is_clients_syn(payload).then_some(Rule::UtpSyn);
    }
    if carries_data != (kind == DATA) || kind == SYN {
        return None;
    }
    if carries_data && payload.has(length as usize, b"\x13BitTorrent protocol") {
        return Some(Rule::UtpHandshake);
    }
    let (asked, acknowledged) = (state.rule_value as u32, payload.be16(18));
    let opened = state.pending_request(payload, rule_flags::PENDING_UTP_SYN)
        && asked == u32::from(connection) << 16 | u32::from(acknowledged);
    let continued = state.pending_request(payload, rule_flags::PENDING_UTP_DATA)
        && neighbours(connection, (asked >> 16) as u16)
        && (asked as u16).wrapping_sub(acknowledged) < MAX_IN_FLIGHT
        && has_window(payload);
    state.set_echoed(opened | continued);
    if opened {
        return Some(Rule::UtpState);
    }
    if continued {
        return Some(Rule::UtpData);
    }
    if carries_data { follow(payload, state) } else { None }
}

/// The verdict of a DATA packet, given the latest SYN or DATA packet of its side. Stores the packet in its place,
/// unless the other side's SYN waits for its answer.
#[inline(always)]
fn follow(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let same_side = (state.rule_flags & rule_flags::PENDING_FROM_LOWER != 0) == (payload.from_lower != 0);
    let (syn, data) = (rule_flags::PENDING_UTP_SYN, rule_flags::PENDING_UTP_DATA);
    if state.rule_flags & syn != 0 && !same_side {
        return None;
    }
    let before = state.rule_value;
    // The one that opens a connection sends with the id that follows the SYN's.
    let opens = u32::from(state.rule_flags & syn != 0);
    let expected = (before as u32).wrapping_add(opens << 16);
    let clock = payload.be32(4).wrapping_sub((before >> 32) as u32);
    let sequence = payload.be16(16).wrapping_sub(expected as u16);
    let follows = same_side
        && (state.rule_flags & (syn | data) != 0)
        && (payload.be16(2) == (expected >> 16) as u16)
        && (sequence == 1)
        && (clock.wrapping_sub(1) < MAX_PAUSE)
        && has_window(payload);
    if follows && (opens != 0 || state.rule_flags & rule_flags::UTP_FOLLOWED != 0) {
        return Some(Rule::UtpStream);
    }
    // Small numbers are other programs' counters, and identifiers seldom are.
    if payload.byte(2) == 0 || !has_window(payload) {
        return None;
    }
    remember(payload, state, data);
    state.rule_flags |= if follows { rule_flags::UTP_FOLLOWED } else { 0 };
    None
}

/// Whether a packet gives a window that a client has.
#[inline(always)]
fn has_window(payload: &Payload) -> bool {
    payload.be32(12).wrapping_sub(1) < MAX_WINDOW
}

/// Stores what a later packet is compared with: clock, connection id and sequence number.
#[inline(always)]
fn remember(payload: &Payload, state: &mut RuleState, kind: u32) {
    let clock = u64::from(payload.be32(4)) << 32;
    state.remember_request(payload, kind, clock | u64::from(payload.be16(2)) << 16 | u64::from(payload.be16(16)));
}

/// Whether every field of a SYN, which its caller knows to be whole, is one that a client sends: nothing to
/// acknowledge, no difference of clocks measured, a window of whole units, extension bits that are zero. Between ports
/// that peers choose.
///
/// A SYN without a window is mostly zeros. One client sends it, with a clock that is young; its random numbers are
/// seldom small, as other programs' are.
#[inline(never)]
fn is_clients_syn(payload: &Payload) -> bool {
    let (clock, difference, window) = (payload.be32(4), payload.be32(8), payload.be32(12));
    // The top bits are clear when all is as it should be: no branch for each.
    let extension = nonzero_top_bit(u64::from(payload.byte(1)))
        & (nonzero_top_bit(u64::from(payload.byte(1) ^ EXTENSION_BITS))
            | nonzero_top_bit(u64::from(payload.be16(20) ^ 8))
            | nonzero_top_bit(payload.be64(22))
            | nonzero_top_bit(u64::from(payload.len ^ (HEADER + 10))));
    let unmeasured = nonzero_top_bit(u64::from(difference)) & nonzero_top_bit(u64::from(difference ^ UNMEASURED));
    let common = extension | unmeasured | nonzero_top_bit(u64::from(payload.be16(18)));
    let sized = !nonzero_top_bit(u64::from(window))
        | nonzero_top_bit(u64::from(window & (WINDOW_UNIT - 1)))
        | nonzero_top_bit(u64::from(window / MAX_WINDOW));
    let sizeless = nonzero_top_bit(u64::from(window))
        | nonzero_top_bit(u64::from(difference))
        | nonzero_top_bit(u64::from(payload.byte(1)))
        | nonzero_top_bit(u64::from(clock / MAX_UPTIME))
        | !nonzero_top_bit(u64::from(payload.byte(2)))
        | !nonzero_top_bit(u64::from(payload.byte(16)));
    (common | sized & sizeless) >> 63 == 0 && payload.has_peer_ports()
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
    const FIRST_SYN: &str = "4100 6d0a 4f2b1c9e 00000000 00040000 9f31 0000";
    const YOUNG_SYN: &str = "4100 6d0a 000003ef 00000000 00000000 9f31 0000";
    const WINDOWS_SYN: &str = "4102 6d0a 4f2b1c9e 7fffffff 0000f000 9f31 0000 0008 0000000000000000";
    const LIBUTP_SYN: &str = "4102 6d0a 4f2b1c9e 00000000 00100000 9f31 0000 0008 0000000000000000";
    const STATE: &str = "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31";

    #[test]
    fn a_syn_as_a_client_sends_it_is_structural() {
        for syn in [FIRST_SYN, YOUNG_SYN, LIBUTP_SYN, WINDOWS_SYN] {
            assert_eq!(udp(hex(syn)), STRUCTURAL);
            assert_eq!(Flow::udp().ports(40_000, 443).ask(hex(syn)), None, "a service's port");
            every_bit_counts(&hex(syn), 8..12, |bytes| udp(bytes));
            every_bit_counts(&hex(syn), 18..20, |bytes| udp(bytes));
        }
    }

    #[test]
    fn a_syn_with_a_field_that_no_client_sends_waits_for_its_answer() {
        for syn in [
            // Mostly zeros: no window and a clock that is not young, small numbers, a clock of zero.
            "4100 6d0a 4f2b1c9e 00000000 00000000 9f31 0000",
            "4100 000a 000003ef 00000000 00000000 9f31 0000",
            "4100 6d0a 000003ef 00000000 00000000 0031 0000",
            "4100 0000 4f2b1c9e 00000000 00040000 9f31 0000",
            "4100 6d0a 00000000 00000000 00040000 9f31 0000",
            // Other windows, differences, extensions.
            "4100 6d0a 4f2b1c9e 00000000 01000000 9f31 0000",
            "4100 6d0a 4f2b1c9e 00000000 00040001 9f31 0000",
            "4100 6d0a 4f2b1c9e 7ffffffe 00040000 9f31 0000",
            "4100 6d0a 000003ef 7fffffff 00000000 9f31 0000",
            "4104 6d0a 4f2b1c9e 00000000 00040000 9f31 0000",
            "4101 6d0a 4f2b1c9e 00000000 00040000 9f31 0000 0004 00000000",
            "4102 6d0a 4f2b1c9e 00000000 00040000 9f31 0000 0004 00000000",
            "4102 6d0a 4f2b1c9e 00000000 00040000 9f31 0000 0008 0000000000000001",
            "4100 6d0a 4f2b1c9e 00000000 00040000 9f31 0001",
        ] {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(hex(syn)), None, "{syn}");
            let answered = flow.answer(hex(STATE));
            let answers = syn.contains("6d0a")
                && syn.contains("9f31")
                && !syn.starts_with("4104")
                && !syn.contains("6d0a 00000000");
            assert_eq!(answered.is_some(), answers, "{syn}");
        }
        assert_eq!(udp([hex(FIRST_SYN), vec![0]].concat()), None);
        every_byte_counts(&hex(LIBUTP_SYN), |bytes| udp(bytes));
        every_byte_counts(&hex(WINDOWS_SYN), |bytes| udp(bytes));
    }

    #[test]
    fn a_syn_and_its_answer_are_structural() {
        for (syn, port) in [(SYN, 40_321), (FIRST_SYN, 443), (LIBUTP_SYN, 443), (WINDOWS_SYN, 443)] {
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
            ("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9b33", STRUCTURAL),
            ("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9b32", None),
            ("0100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f32 aabbccdd", STRUCTURAL),
            ("0100 6d0a 1c9e4f2b 00001f40 00100000 1235 9b32 aabbccdd", None),
            ("2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f32 aabbccdd", None),
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

    /// DATA of one side, with its clock and sequence number.
    fn data(clock: u32, sequence: u16) -> Vec<u8> {
        let numbers = [&hex("0000 1f40 0010 0000")[..], &sequence.to_be_bytes(), &hex("1234 aabbccdd")].concat();
        [&hex("0100 6d0b")[..], &clock.to_be_bytes(), &numbers].concat()
    }

    #[test]
    fn consecutive_data_of_one_side_is_structural() {
        let mut flow = Flow::udp();
        for (number, label) in [(0, None), (1, None), (2, STRUCTURAL)] {
            assert_eq!(flow.ask(data(1000 + 300 * number, 0xfffe_u16.wrapping_add(number as u16))), label, "{number}");
        }
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(data(1000, 7)), None);
        assert_eq!(flow.ask(data(1300, 9)), None, "one is missing");
        assert_eq!(flow.ask(data(1600, 10)), None);
        assert_eq!(flow.ask(data(1900, 11)), STRUCTURAL);
        let mut flow = Flow::udp().ports(50_000, 443);
        assert_eq!(flow.ask(hex(WINDOWS_SYN)), None);
        assert_eq!(
            flow.ask(hex("0100 6d0b 4f2b2c9e 00000000 0000f000 9f32 0000 aabbccdd")),
            STRUCTURAL,
            "behind its SYN"
        );
    }

    #[test]
    fn small_numbers_and_other_windows_are_no_utp() {
        let state = "2100 6d0a 1c9e4f2b 00001f40 00100000 1235 9f32";
        for (asked, answer) in [
            (
                "0100 0006 4f2b1c9e 00001f40 00100000 9f32 1234 aabbccdd",
                "2100 0005 1c9e4f2b 00001f40 00100000 1235 9f32",
            ),
            ("0100 6d0b 4f2b1c9e 00001f40 4f100000 9f32 1234 aabbccdd", state),
            ("0100 6d0b 4f2b1c9e 00001f40 00000000 9f32 1234 aabbccdd", state),
            (
                "0100 6d0b 4f2b1c9e 00001f40 00100000 9f32 1234 aabbccdd",
                "2100 6d0a 1c9e4f2b 00001f40 4f100000 1235 9f32",
            ),
        ] {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(hex(asked)), None);
            assert_eq!(flow.answer(hex(answer)), None, "{asked}, {answer}");
        }
    }

    #[test]
    fn counters_of_other_protocols_are_no_utp() {
        let third = |change: fn(&mut Vec<u8>)| {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(data(1000, 7)), None);
            assert_eq!(flow.ask(data(1300, 8)), None);
            let mut last = data(1600, 9);
            change(&mut last);
            assert_eq!(flow.ask(&last), None, "{last:02x?}");
        };
        third(|data| data[0] = 0x11);
        third(|data| data[1] = 4);
        third(|data| data[3] ^= 1);
        third(|data| data[5] = 0x80);
        third(|data| data[6..8].copy_from_slice(&1300_u16.to_be_bytes()));
        third(|data| data[12..16].fill(0));
        third(|data| data[12] = 1);
        third(|data| data[17] = 8);
        third(|data| data[17] = 10);
        third(|data| data.truncate(20));
        let mut flow = Flow::udp();
        for number in 0..8 {
            assert_eq!(flow.ask(data(1000, 7 + number)), None, "a constant in place of a clock");
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
