//! Soulseek: server login, peer connections, and their obfuscated form.
//!
//! Source: the protocol documentation of Nicotine+ (`doc/SLSKPROTOCOL.md`) and of aioslsk (obfuscation). A message is a
//! little-endian length of the rest, a code (32 bits to the server, 8 bits between peers that introduce
//! themselves), and strings with 32-bit lengths. Matched, on any port:
//! - login: code 1, name and password with lengths that lead to the client version and, in later clients, to a
//!   32-character digest;
//! - PeerInit: code 1, a name, a connection type P, F or D in a string of one character, a token;
//! - PierceFirewall: nine bytes, length 5, code 0, alone in its segment or followed by a transfer's token or a message;
//! - the two peer messages obfuscated: a key of 32 bits, rotated left by one for every word it is applied to.
//!
//! Guard: every length must agree with the others and with the segment. Any protocol with such lengths may send the
//! nine bytes of a PierceFirewall, so they do not count on a port below 1024, nor after other data. Names are never
//! stored.

use super::dissector::Dissector;
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::{RuleState, rule_flags},
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector::new(Protocol::Soulseek);

/// Bits that are clear in the length field of every message that is matched: such a field, sent in a segment of its
/// own, is held.
pub(super) const LENGTH_CLEAR: u32 = 0xffff_ff00;
/// Longest name the server accepts, in characters.
const MAX_NAME: u32 = 30;
/// No client has a longer password, in characters.
const MAX_PASSWORD: u32 = 64;
/// Length of the MD5 digest of name and password as hexadecimal digits.
const DIGEST: u32 = 32;

/// Server and peer connections.
#[inline(always)]
pub fn tcp(payload: &Payload, state: &mut RuleState) -> Option<Rule> {
    let head = payload.le64(0);
    let length = head as u32;
    // Plain: all matched messages are shorter than 256 bytes, and their codes are 0 and 1.
    let plain = length & 0xffff_ff00 == 0 && (head >> 32) & 0xff <= 1;
    if plain {
        message(payload, state.rule_flags).then_some(Rule::SoulseekMessage)
    } else {
        obfuscated(payload, head, state.rule_flags).then_some(Rule::SoulseekObfuscated)
    }
}

/// Whether the segment starts with a login, a PeerInit or a PierceFirewall.
#[inline(always)]
fn message(payload: &Payload, seen: u32) -> bool {
    let length = payload.le32(0);
    if payload.byte(4) == 0 {
        return length == 5 && pierces(payload, seen, 9, 9, 0);
    }
    if payload.len < length + 4 || length < 15 {
        return false;
    }
    let name = payload.le32(5);
    if name.wrapping_sub(1) < MAX_NAME && length == 14 + name {
        return peer_init(payload, name as usize);
    }
    let name = payload.le32(8);
    name.wrapping_sub(1) < MAX_NAME && payload.le32(4) == 1 && login(payload, length, name)
}

/// Whether a PierceFirewall of `len` bytes opens the flow: alone, followed by a transfer's token, or followed by a
/// whole message of peers at `behind`: a length and a code, both of 32 bits, over which `key` is rotated.
///
/// Whoever pierces a firewall speaks first, as nobody has in a flow of which nothing was seen before. The flags come as
/// they are: with more knowledge of them, the verifier would walk the rest twice.
#[inline(never)]
fn pierces(payload: &Payload, seen: u32, len: u32, behind: u32, key: u32) -> bool {
    if seen & (rule_flags::PAST_START | rule_flags::of(rule_flags::PAST_START, 0)) != 0 || !payload.has_peer_ports() {
        return false;
    }
    if payload.len == len || payload.len == 13 {
        return true;
    }
    let length = payload.le32(behind as usize) ^ key.rotate_left(1);
    let code = payload.le32(behind as usize + 4) ^ key.rotate_left(2);
    let room = payload.len.wrapping_sub(behind + 8);
    payload.len > behind + 7 && code.wrapping_sub(1) < 0xff && length.wrapping_sub(4) <= room
}

/// Whether the rest of a PeerInit after its lengths fits: the connection type, and a name that starts with a
/// printable.
#[inline(always)]
fn peer_init(payload: &Payload, name: usize) -> bool {
    let kind = payload.byte(13 + name);
    payload.le32(9 + name) == 1 && (kind == b'P' || kind == b'F' || kind == b'D') && payload.byte(9) > b' '
}

/// Whether the rest of a login fits: the password's length, the version, the digest's length.
#[inline(always)]
fn login(payload: &Payload, length: u32, name: u32) -> bool {
    let password = payload.le32(12 + name as usize);
    if password > MAX_PASSWORD || payload.byte(12) <= b' ' {
        return false;
    }
    let behind = 16 + name + password;
    let version = payload.le32(behind as usize);
    let short = length == behind;
    // Not all clients send the minor version after the digest.
    let digest = length >= behind + 4 + DIGEST && payload.le32(behind as usize + 4) == DIGEST;
    (short || digest) && version.wrapping_sub(100) < 1900
}

/// Whether the segment starts with an obfuscated PeerInit or PierceFirewall.
#[inline(always)]
fn obfuscated(payload: &Payload, head: u64, seen: u32) -> bool {
    let key = head as u32;
    let length = (head >> 32) as u32 ^ key.rotate_left(1);
    if length.wrapping_sub(5) > 39 || key == 0 {
        return false;
    }
    let code = payload.le32(8) ^ key.rotate_left(2);
    if length == 5 {
        return code & 0xff == 0 && pierces(payload, seen, 13, 17, payload.le32(13));
    }
    length >= 15 && payload.len >= length + 8 && code == 1 | (length - 14) << 8
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Flow, Label, every_bit_counts, every_byte_counts, hex, tcp};
    use crate::abi::protocol::{Confidence, Protocol};
    use proptest::prelude::*;

    const STRUCTURAL: Label = Some((Protocol::Soulseek, Confidence::Structural));

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    fn message(body: &[Vec<u8>]) -> Vec<u8> {
        let body = body.concat();
        [&(body.len() as u32).to_le_bytes(), body.as_slice()].concat()
    }

    fn login(name: &str, password: &str, digest: &str) -> Vec<u8> {
        message(&[hex("01000000"), string(name), string(password), hex("a0000000"), string(digest), hex("01000000")])
    }

    fn peer_init(name: &str, kind: &str) -> Vec<u8> {
        message(&[hex("01"), string(name), string(kind), hex("02000000")])
    }

    /// Obfuscates a message as peers do, with a fresh key.
    fn obfuscate(message: &[u8], mut key: u32) -> Vec<u8> {
        let mut bytes = key.to_le_bytes().to_vec();
        for word in message.chunks(4) {
            key = key.rotate_left(1);
            bytes.extend(word.iter().zip(key.to_le_bytes()).map(|(byte, key)| byte ^ key));
        }
        bytes
    }

    #[test]
    fn plain_messages_match() {
        let digest = "d51c9a7e9353746a6020f9602d452929";
        assert_eq!(tcp(login("someone", "secret", digest)), STRUCTURAL);
        every_byte_counts(&login("someone", "secret", digest), |bytes| tcp(bytes));
        assert_eq!(tcp(message(&[hex("01000000"), string("someone"), string("secret"), hex("9d000000")])), STRUCTURAL);
        let no_minor = [hex("01000000"), string("someone"), string("secret"), hex("a0000000"), string(digest)];
        assert_eq!(tcp(message(&no_minor)), STRUCTURAL);
        assert_eq!(tcp(message(&[&no_minor[..], &[hex("01000000 02000000")]].concat())), STRUCTURAL);
        for kind in ["P", "F", "D"] {
            every_byte_counts(&peer_init("someone", kind), |bytes| tcp(bytes));
        }
        let pierce = hex("05000000 00 12345678");
        assert_eq!(tcp(&pierce), STRUCTURAL);
        every_bit_counts(&pierce, 0..5, |bytes| tcp(bytes));
        for frame in [pierce.clone(), obfuscate(&pierce, 0x1234_5678)] {
            assert_eq!(Flow::tcp().ports(40_000, 443).ask(&frame), None, "a service's port");
            assert_eq!(Flow::tcp().ports(443, 40_000).ask(&frame), None, "a service's port");
        }
    }

    #[test]
    fn a_message_may_follow_in_the_same_segment() {
        let pierce = hex("05000000 00 12345678");
        for behind in [hex("04000000 04000000"), hex("04000000 04000000 04000000 0f000000"), hex("aabbccdd")] {
            assert_eq!(tcp([pierce.clone(), behind].concat()), STRUCTURAL);
        }
        let second = obfuscate(&hex("04000000 04000000"), 0x9abc_def0);
        assert_eq!(tcp([obfuscate(&pierce, 0x1234_5678), second].concat()), STRUCTURAL);
        for behind in [hex("04000000 040000"), hex("00000000 00000000"), hex("05000000 04010000 00"), vec![7; 40]] {
            assert_eq!(tcp([pierce.clone(), behind.clone()].concat()), None);
            assert_eq!(tcp([obfuscate(&pierce, 0x1234_5678), behind].concat()), None);
        }
    }

    #[test]
    fn who_pierces_speaks_first() {
        let pierce = hex("05000000 00 12345678");
        for frame in [pierce.clone(), obfuscate(&pierce, 0x1234_5678)] {
            let mut flow = Flow::tcp();
            assert_eq!(flow.ask(hex("0c000000 01 00000000 00000000 000000")), None);
            assert_eq!(flow.ask(&frame), None, "no connection begins so");
            assert_eq!(flow.answer(&frame), None, "nor is it answered so");
        }
    }

    #[test]
    fn near_misses_do_not_match() {
        let digest = "d51c9a7e9353746a6020f9602d452929";
        for frame in [
            login("", "secret", digest),
            login("a name that is longer than thirty characters", "secret", digest),
            login("someone", "secret", "d51c"),
            peer_init("someone", "X"),
            peer_init("someone", "PP"),
            hex("05000000 02 12345678"),
            hex("05000000 00 1234567890"),
            hex("10000000 01000000 00000000 00000000 00000000"),
        ] {
            assert_eq!(tcp(&frame), None, "{frame:02x?}");
        }
    }

    proptest! {
        #[test]
        fn obfuscated_messages_match_with_any_key(key in 1u32.., name in "[a-z]{1,30}") {
            prop_assert_eq!(tcp(obfuscate(&peer_init(&name, "P"), key)), STRUCTURAL);
            prop_assert_eq!(tcp(obfuscate(&hex("05000000 00 12345678"), key)), STRUCTURAL);
            prop_assert_eq!(tcp(obfuscate(&hex("06000000 00 12345678"), key)), None);
        }

        #[test]
        fn random_payloads_never_match(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(tcp(&bytes), None);
        }
    }
}
