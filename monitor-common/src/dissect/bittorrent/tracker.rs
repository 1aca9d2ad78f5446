//! UDP trackers (BEP 15, BEP 41 options).
//!
//! Matched: the connect request, 96 fixed bits in exactly 16 bytes. For flows that started before the program: an
//! announce or scrape request together with the answer that repeats its action and transaction id.
//!
//! Guard: an announce or scrape alone is a small number at offset 8, as in RX/AFS, SOME/IP and ONC RPC, so it needs its
//! answer.

use crate::{
    abi::rule::Rule,
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// The protocol's magic constant, the first eight bytes of a connect request.
const MAGIC: u64 = 0x0417_2710_1980;
/// Action numbers.
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// The verdict of a datagram, given the flow's last request.
#[inline(always)]
pub(super) fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    if (payload.be64(0) == MAGIC) && (payload.be32(8) == 0) && (payload.len == 16) {
        return Some(Rule::UdpTrackerConnect);
    }
    if state.pending_request(payload, rule_flags::PENDING_TRACKER) {
        let answered = answer(payload, state.rule_value);
        state.set_echoed(answered);
        return answered.then_some(Rule::UdpTrackerReply);
    }
    let action = payload.be32(8);
    let announce = (action == ANNOUNCE) && (payload.len >= 98) && (payload.be32(80) <= 3);
    let scrape = (action == SCRAPE) && (payload.len >= 36) && payload.len.wrapping_sub(16).is_multiple_of(20);
    if announce | scrape {
        state.remember_request(payload, rule_flags::PENDING_TRACKER, (action as u64) << 32 | payload.be32(12) as u64);
    }
    None
}

/// Whether this datagram answers the request with the action and transaction id in `rule_value`.
#[inline(always)]
fn answer(payload: &Payload, rule_value: u64) -> bool {
    let (action, asked) = (payload.be32(0), (rule_value >> 32) as u32);
    // 20 bytes and 6 per IPv4 or 18 per IPv6 peer; 8 bytes and 12 per torrent; an error text.
    let announce = (action == ANNOUNCE) && (payload.len >= 20) && payload.len.wrapping_sub(20).is_multiple_of(6);
    let scrape = (action == SCRAPE) && (payload.len >= 20) && payload.len.wrapping_sub(8).is_multiple_of(12);
    let error = (action == ERROR) && (payload.len > 8);
    (payload.be32(4) == rule_value as u32) && (((action == asked) && (announce | scrape)) | error)
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, udp},
    };

    const SIGNATURE: Label = Some((Protocol::BitTorrent, Confidence::Signature));
    const STRUCTURAL: Label = Some((Protocol::BitTorrent, Confidence::Structural));

    fn announce() -> Vec<u8> {
        let mut frame = hex("c95b3d2f8a6e1407 00000001 5eed1234");
        frame.extend([0xab; 64]);
        frame.extend(hex("00000002 00000000 0badcafe ffffffff c8d5"));
        frame
    }

    #[test]
    fn a_connect_request_is_a_signature() {
        let frame = hex("0000041727101980 00000000 5eed1234");
        assert_eq!(udp(&frame), SIGNATURE);
        every_bit_counts(&frame, 0..12, |bytes| udp(bytes));
        every_byte_counts(&frame, |bytes| udp(bytes));
        assert_eq!(udp([frame, vec![0]].concat()), None);
    }

    #[test]
    fn an_announce_needs_its_answer() {
        let mut flow = Flow::udp();
        assert_eq!(announce().len(), 98);
        assert_eq!(flow.ask(announce()), None);
        assert_eq!(flow.answer(hex("00000001 5eed1235 00000708 00000001 00000001")), None);
        assert_eq!(flow.answer(hex("00000001 5eed1234 00000708 00000001 00000001 0102")), None);
        assert_eq!(flow.answer(hex("00000001 5eed1234 00000708 00000001 00000001 c0000201 1ae1")), STRUCTURAL);
    }

    #[test]
    fn a_client_that_stops_may_name_no_port() {
        let mut stopped = announce();
        stopped[83] = 3;
        stopped[96..98].copy_from_slice(&[0, 0]);
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(&stopped), None);
        assert_eq!(flow.answer(hex("00000001 5eed1234 00000708 00000001 00000001")), STRUCTURAL);
        stopped[83] = 4;
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(&stopped), None);
        assert_eq!(flow.answer(hex("00000001 5eed1234 00000708 00000001 00000001")), None, "no such event");
    }

    #[test]
    fn a_scrape_needs_its_answer() {
        let mut flow = Flow::udp();
        let scrape = [hex("c95b3d2f8a6e1407 00000002 5eed1234"), vec![0xab; 40]].concat();
        assert_eq!(flow.ask(&scrape), None);
        assert_eq!(flow.ask(hex("00000002 5eed1234 00000001 00000001 00000001")), None, "from the same side");
        assert_eq!(flow.answer(hex("00000002 5eed1234 00000001 00000001 00000001")), STRUCTURAL);
        let mut flow = Flow::udp();
        assert_eq!(flow.ask(&scrape), None);
        assert_eq!(flow.answer(hex("00000003 5eed1234 6e6f70650000")), STRUCTURAL, "an error answers too");
    }

    #[test]
    fn remote_procedure_calls_do_not_match() {
        // RX (AFS): call number 2 in both directions, the connection's epoch first. ONC RPC: version 2, the call's id
        // first.
        let rx = [hex("e0a1b2c3 10203044 00000002 00000001 00000001 01050000 00000034"), vec![0; 28]].concat();
        let rpc = [hex("5eed1234 00000000 00000002 000186a3 00000003 00000001"), vec![0; 32]].concat();
        for frame in [rx, rpc] {
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(&frame), None);
            assert_eq!(flow.answer(&frame), None);
            assert_eq!(flow.answer([&hex("5eed1234 00000001"), &frame[8..]].concat()), None);
        }
    }
}
