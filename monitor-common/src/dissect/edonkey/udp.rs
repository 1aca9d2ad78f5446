//! eDonkey server messages (header 0xe3) and eMule client messages (header 0xc5) over UDP.
//!
//! Source: eMule's `UDPSocket.cpp` and `ClientUDPSocket.cpp`. Matched: a message with fields that agree with its
//! length. A message that has only a header byte, an opcode and a fixed length (16 bits of evidence in a datagram of
//! that size) counts on the default ports, or if the flow shows two different opcodes, as a request and its answer do.
//!
//! Guard: ports below 1024 are excluded: a DNS identifier may be e3 97.

use super::super::text;
use crate::{abi::rule::Rule, dissect::rule_state::RuleState, parse::payload::Payload};

/// Default UDP ports: 4665 of servers (TCP port + 4), 4672 of clients.
const SERVER_PORT: u16 = 4665;
const CLIENT_PORT: u16 = 4672;

/// How much one datagram proves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evidence {
    None,
    /// Too little alone.
    Weak,
    Strong,
}

impl Evidence {
    #[inline(always)]
    const fn new(weak: bool, strong: bool) -> Self {
        if strong {
            Self::Strong
        } else if weak {
            Self::Weak
        } else {
            Self::None
        }
    }
}

/// Server and client messages.
#[inline(always)]
pub fn udp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let header = payload.byte(0);
    if ((header != super::EDONKEY) && (header != super::EMULE))
        | !payload.has_peer_ports()
        | text::reads_as_dns(payload)
    {
        return None;
    }
    let evidence = if header == super::EDONKEY { server(payload) } else { client(payload) };
    if evidence == Evidence::None {
        return None;
    }
    // A bit that no opcode has distinguishes the opcodes after the two headers; Kad's are all below 0x80.
    let kind = if header == super::EMULE { payload.byte(1) | 0x40 } else { payload.byte(1) };
    let enough = evidence == Evidence::Strong || default_port(payload) || state.confirms(kind);
    enough.then_some(if header == super::EDONKEY { Rule::EdonkeyServerUdp } else { Rule::EdonkeyClientUdp })
}

/// Whether either port is a default one.
#[inline(always)]
fn default_port(payload: &Payload) -> bool {
    let (source, destination) = (payload.source_port, payload.destination_port);
    (source == SERVER_PORT) || (destination == SERVER_PORT) || (source == CLIENT_PORT) || (destination == CLIENT_PORT)
}

/// Messages between client and server.
#[inline(never)]
fn server(payload: &Payload) -> Evidence {
    let len = payload.len;
    let body = len.wrapping_sub(2);
    match payload.byte(1) {
        // Status request: a challenge, which eMule builds as 0x55aa0000 + random.
        0x96 => Evidence::new(len == 6, (len == 6) && (payload.le16(4) == 0x55aa)),
        // Status answer: the challenge again, users, files, and more counters in later versions.
        0x97 => Evidence::new(
            (len >= 14) && body.is_multiple_of(4),
            (14..=64).contains(&len) && (payload.le16(4) == 0x55aa),
        ),
        // Description request: alone, or with a challenge that has the low half 0xf0ff.
        0xa2 => Evidence::new(len == 6, (len == 6) && (payload.le16(2) == 0xf0ff)),
        // Description: the challenge again and tags, or two counted strings.
        0xa3 => {
            let name = payload.le16(2) as u32;
            let text = payload.le16(4 + name as usize) as u32;
            let strings = (name < 256) && (text < 512) && (6 + name + text == len);
            Evidence::new(len >= 8, (len >= 8) && (strings | (payload.le16(2) == 0xf0ff)))
        }
        // Source requests: hashes; hashes each with a file size of 4 or 4 + 8 bytes.
        0x9a => Evidence::new(body.is_multiple_of(16) && (len > 2), false),
        0x94 => Evidence::new(
            len > 2 && body.is_multiple_of(20),
            // The form with a 64-bit size is for files above 4 GiB.
            len > 2 && body.is_multiple_of(28) && payload.le32(18) == 0 && payload.le32(26) != 0,
        ),
        // Found sources: hash, count, that many addresses with ports; several answers may follow each other.
        0x9b => {
            let next = 19 + 6 * payload.byte(18) as u32;
            let follows = (payload.byte(next as usize) == super::EDONKEY) && (payload.byte(next as usize + 1) == 0x9b);
            Evidence::new((len >= 25) && (next == len), (len >= 25) && (next < len) && (next < 500) && follows)
        }
        // Search requests: an expression that starts with an operator 00 or a value kind up to 03.
        0x92 | 0x98 | 0x90 => Evidence::new((len >= 5) && (payload.byte(2) <= 3), false),
        // Search answer: hash, address, port, a small number of tags.
        0x99 => Evidence::new(false, (len >= 30) && (payload.le32(24).wrapping_sub(1) < 64)),
        _ => Evidence::None,
    }
}

/// Messages between clients.
#[inline(never)]
fn client(payload: &Payload) -> Evidence {
    let len = payload.len;
    match payload.byte(1) {
        // File status request: hash, then in later versions the part bitmap and the number of complete sources.
        // A file without parts has a count of 0 and nothing else.
        0x90 => Evidence::new(len == 18 || len == 20, bitmap(payload, 18) || (len == 20 && payload.le16(18) == 0)),
        // The answer: the part bitmap in later versions, and the rank in the queue.
        0x91 => Evidence::new(len == 4, bitmap(payload, 2)),
        // File not found, queue full.
        0x92 | 0x93 => Evidence::new(len == 2, false),
        // Callback over a buddy: two hashes and the above; direct callback: port, hash, options.
        0x94 => Evidence::new((38..=70).contains(&len), false),
        0x95 => Evidence::new(len == 21, false),
        _ => Evidence::None,
    }
}

/// Whether a part bitmap at `offset`, a count and that many bits, and two bytes after it fill the datagram.
#[inline(always)]
fn bitmap(payload: &Payload, offset: u32) -> bool {
    let parts = payload.le16(offset as usize) as u32;
    offset + 2 + parts.div_ceil(8) + 2 == payload.len
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::{Confidence, Protocol},
        dissect::testing::{Flow, Label, hex, udp},
    };

    const STRUCTURAL: Label = Some((Protocol::EDonkey, Confidence::Structural));

    #[test]
    fn messages_whose_fields_agree_match_on_any_port() {
        for frame in [
            hex("e396 1234aa55"),
            hex("e397 1234aa55 00000100 00002000"),
            hex("e3a2 fff01234"),
            [hex("e394"), vec![7; 16], hex("00000000 0000000001000000")].concat(),
            [hex("e39b"), vec![7; 16], hex("01 c0000201 3612 e39b"), vec![7; 16], hex("00")].concat(),
            [hex("c590"), vec![7; 16], hex("0000")].concat(),
            [hex("e399"), vec![7; 16], hex("c0000201 3612 03000000"), vec![2; 40]].concat(),
            [hex("c590"), vec![7; 16], hex("0a00 ff03 0200")].concat(),
            hex("c591 0a00 ff03 0500"),
        ] {
            assert_eq!(udp(&frame), STRUCTURAL, "{frame:02x?}");
            assert_eq!(Flow::udp().ports(53, 40_000).ask(&frame), None, "ports below 1024 are left out");
        }
    }

    #[test]
    fn weak_messages_need_a_default_port_or_another_one() {
        for (request, answer) in [
            (hex("e396 12340000"), hex("e397 12340000 00000100 00002000")),
            ([hex("c590"), vec![7; 16]].concat(), hex("c592")),
            ([hex("c590"), vec![7; 16]].concat(), hex("c591 0500")),
            ([hex("e39a"), vec![7; 16]].concat(), hex("e3a3 12345678 9abc")),
            ([hex("e39a"), vec![7; 16]].concat(), hex("e396 12340000")),
            (hex("e396 12340000"), [hex("e397 12340000"), vec![7; 64]].concat()),
            (
                [hex("e39a"), vec![7; 16]].concat(),
                [hex("e39b"), vec![7; 16], hex("02 c0000201 3612 c0000202 3612")].concat(),
            ),
        ] {
            for frame in [&request, &answer] {
                assert_eq!(udp(frame), None, "{frame:02x?}");
                assert_eq!(Flow::udp().ports(40_000, 4665).ask(frame), STRUCTURAL);
                let mut flow = Flow::udp();
                assert_eq!(flow.ask(frame), None);
                assert_eq!(flow.answer(frame), None, "the same again proves nothing: {frame:02x?}");
            }
            let mut flow = Flow::udp();
            assert_eq!(flow.ask(&request), None);
            assert_eq!(flow.answer(&answer), STRUCTURAL, "{answer:02x?}");
        }
    }

    #[test]
    fn wrong_lengths_do_not_match() {
        for frame in
            [hex("e396 1234aa5500"), hex("e39a 00"), hex("c592 00"), hex("e3ff"), hex("c590 00"), hex("e3"), hex("c5")]
        {
            assert_eq!(Flow::udp().ports(40_000, 4665).ask(&frame), None, "{frame:02x?}");
        }
    }
}
