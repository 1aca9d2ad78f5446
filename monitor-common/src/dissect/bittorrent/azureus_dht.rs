//! The DHT of Azureus, Vuze and BiglyBT: binary messages over UDP. It finds peers of BitTorrent's torrents.
//!
//! Source: the programs' public source (`com.aelitis.azureus.core.dht.transport.udp`). Matched, big-endian:
//! - request: connection id @0 with its top bit set, action @8, transaction @12, version @16, vendor @17, network @18,
//!   the sender's version @22, the length @23 of its address and the address;
//! - answer: action @0, the request's transaction @4 and connection id @8, version @16, vendor @17, network @18.
//!
//! Guard, in bits against random bytes: a request alone 79: top bit 1, action 29, vendor 8, network 30, versions 4,
//! length of the address 7. An answer alone 70: action 29, top bit 1, vendor 8, network 30, version 2. An answer to a
//! request of the flow repeats 64 bits more, which also proves its sender's address.

use crate::{
    abi::rule::Rule,
    bpf::branchless::nonzero_top_bit,
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// Actions of requests and of answers, as bits from [`FIRST_ACTION`] on: ping, store, find node, find value, error,
/// statistics, data, key block, query for store.
const REQUESTS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 10 | 1 << 12 | 1 << 14;
const ANSWERS: u32 = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 15;
/// The lowest action; all have its upper bits.
const FIRST_ACTION: u32 = 1024;
/// Networks: main, the program's test versions, IPv6 of both.
const NETWORKS: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4;
/// Bytes of the shortest request: with an IPv4 address, its port, an instance and a time behind it.
const REQUEST_LEN: u32 = 42;
/// Bytes of the shortest answer: with an instance.
const ANSWER_LEN: u32 = 26;

/// The verdict of a datagram, given the flow's latest request.
#[inline(always)]
pub(super) fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let (first, third) = (payload.be32(0), payload.be32(8));
    // Few other datagrams pass.
    if third & !15 == FIRST_ACTION || first & !15 == FIRST_ACTION {
        message(payload, state, first, third)
    } else {
        None
    }
}

#[inline(never)]
fn message(payload: &Payload, state: &mut RuleState, first: u32, third: u32) -> Option<Rule> {
    // The top bit is clear when the fields that both kinds share are as they should be: no branch for each.
    let network = payload.be32(18);
    let common = u64::from(payload.byte(17)) | u64::from(network / 8) << 8;
    let fits = nonzero_top_bit(common) | !nonzero_top_bit(u64::from(NETWORKS >> (network & 7) & 1));
    if (fits | version(payload.byte(16))) >> 63 != 0 {
        return None;
    }
    let exchange = u64::from(payload.be32(12)) << 32;
    if first >> 31 != 0 {
        let address = payload.byte(23);
        let asks = (third & !15 == FIRST_ACTION)
            && (REQUESTS >> (third & 15) & 1 != 0)
            && ((address == 4) || (address == 16))
            && (version(payload.byte(22)) >> 63 == 0)
            && (payload.len >= REQUEST_LEN);
        if asks {
            let connection = u64::from(payload.be32(4));
            state.remember_request(payload, rule_flags::PENDING_AZUREUS, exchange | connection);
        }
        return asks.then_some(Rule::AzureusDhtRequest);
    }
    let answers = (first & !15 == FIRST_ACTION)
        && (ANSWERS >> (first & 15) & 1 != 0)
        && (third >> 31 != 0)
        && (payload.len >= ANSWER_LEN);
    if answers {
        let repeated = u64::from(payload.be32(4)) << 32 | u64::from(payload.be32(12));
        let asked = state.pending_request(payload, rule_flags::PENDING_AZUREUS) && state.rule_value == repeated;
        state.set_echoed(asked);
    }
    answers.then_some(Rule::AzureusDhtAnswer)
}

/// The top bit is clear for a version of the protocol that carries a network, up to twice as many as there are: 9 to
/// 127.
#[inline(always)]
fn version(version: u8) -> u64 {
    let version = u64::from(version);
    (version.wrapping_sub(9)) | nonzero_top_bit(version >> 7)
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::{
            rule_state::{RuleState, rule_flags},
            testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, udp},
        },
        parse::payload::Payload,
    };

    const STRUCTURAL: Label = Some((Protocol::BitTorrent, Confidence::Structural));
    /// Find node: header, the sender's address, its instance and time, then the wanted identifier.
    const REQUEST: &str = "8b5e1d3f2a6c4e70 00000404 5eed1234 33 00 00000000 33 04 c0000207 1ae1 0badcafe \
                           0000019012345678 14 000102030405060708090a0b0c0d0e0f10111213";
    const ANSWER: &str = "00000405 5eed1234 8b5e1d3f2a6c4e70 33 00 00000000 0badcafe 0000";

    /// A request with an IPv6 address.
    fn request6() -> Vec<u8> {
        let head = hex("8b5e1d3f2a6c4e70 00000400 5eed1234 33 00 00000003 33 10");
        [head, vec![0x20; 16], hex("1ae1 0badcafe 0000019012345678")].concat()
    }

    #[test]
    fn requests_are_structural() {
        for request in [hex(REQUEST), request6()] {
            assert_eq!(udp(&request), STRUCTURAL);
            assert_eq!(Flow::udp().answer(&request), STRUCTURAL, "from either side");
            assert_eq!(Flow::udp().ports(50_000, 443).ask(&request), STRUCTURAL, "on any port");
            every_bit_counts(&request, 8..11, |bytes| udp(bytes));
            every_bit_counts(&request, 17..21, |bytes| udp(bytes));
            every_byte_counts(&request[..42], |bytes| udp(bytes));
        }
        for (place, byte) in [(0, 0x0b), (11, 1), (11, 8), (16, 0x80), (16, 3), (17, 1), (21, 2), (22, 0), (23, 6)] {
            let mut other = hex(REQUEST);
            other[place] = byte;
            assert_eq!(udp(&other), None, "{byte:#x} at {place}");
        }
    }

    #[test]
    fn answers_are_structural_and_prove_their_sender() {
        let answer = hex(ANSWER);
        assert_eq!(udp(&answer), STRUCTURAL, "joined midway");
        every_bit_counts(&answer, 0..3, |bytes| udp(bytes));
        every_bit_counts(&answer, 17..21, |bytes| udp(bytes));
        for (place, byte) in [(3, 0), (3, 10), (8, 0x0b), (16, 8), (17, 1), (21, 5)] {
            let mut other = hex(ANSWER);
            other[place] = byte;
            assert_eq!(udp(&other), None, "{byte:#x} at {place}");
        }
        assert_eq!(udp(&answer[..24]), None, "cut");
        let echoes = |bytes: &[u8], from_lower: bool| {
            let mut state = RuleState::default();
            super::udp(&Payload::from_bytes(&hex(REQUEST), 6881, 6882, true), &mut state);
            super::udp(&Payload::from_bytes(bytes, 6882, 6881, from_lower), &mut state);
            state.rule_flags & rule_flags::ECHOED != 0
        };
        assert!(echoes(&answer, false));
        assert!(!echoes(&answer, true), "from the same side");
        for place in [4, 7, 12, 15] {
            let mut other = answer.clone();
            other[place] ^= 1;
            assert!(!echoes(&other, false), "another exchange, byte {place}");
        }
    }

    #[test]
    fn other_datagrams_with_such_numbers_do_not_match() {
        for other in [
            // A tracker's announce (BEP 15), ONC RPC, a length of 1024 in front of zeros, an SNMP-like counter.
            "8b5e1d3f2a6c4e70 00000001 5eed1234 33 00 00000000 33 04 c0000207 1ae1 0badcafe 0000019012345678",
            "8b5e1d3f 00000000 00000002 000186a3 00000003 00000001 00000000 00000000 00000000 00000000 00000000",
            "00000400 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "80000000 00000001 00000400 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "00000401 00000001 80000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
        ] {
            assert_eq!(udp(hex(other)), None, "{other}");
        }
    }
}
