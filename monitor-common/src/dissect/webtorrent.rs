//! WebTorrent: announces to a tracker over an unencrypted WebSocket.
//!
//! Source: the `bittorrent-tracker` and `webtorrent` implementations (there is no BEP), RFC 6455 for frames. Matched: a
//! text frame with a JSON object, `{"`, and near its start the members `"action"`, `"info_hash"`, `"peer_id"`, and
//! `"numwant"` or `"offers"`: an announce. The peers' data runs over WebRTC and cannot be distinguished from other
//! WebRTC.
//!
//! Guard: the four members. An object with only an `"action"` may be a chat, one that names an info hash is also what
//! the web front end of a download box sends and receives, on its own page. A tracker's messages have too few of them,
//! so they count in a flow that an announce has labelled.

use super::{dissector::Dissector, text, websocket};
use crate::{
    abi::{protocol::Protocol, rule::Rule},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector =
    Dissector { frames: &[websocket::TEXT & 0x7f, websocket::TEXT], ..Dissector::new(Protocol::WebTorrent) };

/// Announces and the tracker's answers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    if payload.byte(0) & 0x7f != websocket::TEXT & 0x7f {
        return None;
    }
    announce(payload).then_some(Rule::WebtorrentAnnounce)
}

/// The part of [`tcp`] after its gate.
#[inline(never)]
fn announce(payload: &Payload) -> bool {
    let Some((start, key)) = websocket::content(payload, 0) else { return false };
    if (payload.le16(start) ^ key as u16) != u16::from_le_bytes(*b"{\"") {
        return false;
    }
    // The content starts two bytes past a word, or on a word when its length has no bytes of its own.
    let key = if start & 2 != 0 { key.rotate_left(16) } else { key };
    let has = |name: &[u8; 8]| text::holds_masked(payload, u64::from_le_bytes(*name), key);
    has(b"\"info_ha") && has(b"\"peer_id") && has(b"\"action\"") && (has(b"\"numwant") || has(b"\"offers\""))
}

/// Whether a text frame may start with an announce: its first two bytes, of which `held` or more were captured.
#[inline(always)]
pub(super) const fn may_start_frame(content: u16, held: usize) -> bool {
    if held == 1 { content as u8 == b'{' } else { content == u16::from_le_bytes(*b"{\"") }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Label, hex, tcp};
    use crate::abi::protocol::{Confidence, Protocol};

    const SIGNATURE: Label = Some((Protocol::WebTorrent, Confidence::Signature));

    fn frame(first: u8, text: &str, key: Option<[u8; 4]>) -> Vec<u8> {
        let mask = if key.is_some() { 0x80 } else { 0 };
        let mut frame = vec![first];
        match text.len() {
            0..126 => frame.push(mask | text.len() as u8),
            _ => {
                frame.push(mask | 126);
                frame.extend((text.len() as u16).to_be_bytes());
            }
        }
        frame.extend(key.unwrap_or_default().iter().take(if key.is_some() { 4 } else { 0 }));
        frame.extend(text.bytes().zip(key.unwrap_or_default().iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    const MEMBERS: [&str; 4] =
        ["\"action\":\"announce\"", "\"info_hash\":\"a\"", "\"peer_id\":\"-WW0109-x\"", "\"numwant\":5"];

    #[test]
    fn announces_match_masked_and_not() {
        for pad in 0..9 {
            let numwant = format!("{{\"pad\":\"{}\",{}}}", "x".repeat(pad), MEMBERS.join(","));
            let mut members = MEMBERS;
            members[3] = "\"offers\":[]";
            members.reverse();
            let offers = format!("{{{},\"pad\":\"{}\"}}", members.join(","), "x".repeat(130 + pad));
            for text in [&numwant, &offers] {
                for key in [None, Some([0x81, 0x92, 0xa3, 0xb4]), Some([0, 0, 0, 0])] {
                    assert_eq!(tcp(frame(0x81, text, key)), SIGNATURE, "{text} {key:?}");
                    assert_eq!(tcp(frame(0x01, text, key)), SIGNATURE, "{text} {key:?}");
                    assert_eq!(tcp(frame(0x82, text, key)), None, "binary");
                }
            }
        }
    }

    #[test]
    fn an_announce_has_all_its_members() {
        for missing in 0..MEMBERS.len() {
            let mut members = MEMBERS.to_vec();
            members.remove(missing);
            for key in [None, Some([1, 2, 3, 4])] {
                assert_eq!(tcp(frame(0x81, &format!("{{{}}}", members.join(",")), key)), None, "{members:?}");
            }
        }
        // Pages of download boxes: what they ask for, and what they are told.
        for text in [
            "{\"action\":\"pause\",\"info_hash\":\"0123456789abcdef0123456789abcdef01234567\"}",
            "{\"info_hash\":\"0123456789abcdef0123456789abcdef01234567\",\"num_peers\":5,\"action\":\"update\"}",
            "{\"complete\":1,\"incomplete\":0,\"action\":\"announce\",\"interval\":120,\"info_hash\":\"a\"}",
        ] {
            for key in [None, Some([9, 8, 7, 6])] {
                assert_eq!(tcp(frame(0x81, text, key)), None, "{text}");
            }
        }
    }

    #[test]
    fn other_objects_do_not_match() {
        for text in
            ["{\"action\":\"announce\",\"room\":\"a\"}", "[\"info_hash\"]", "{'info_hash':1}", "{\"infohash\":1}", ""]
        {
            assert_eq!(tcp(frame(0x81, text, Some([1, 2, 3, 4]))), None, "{text}");
            assert_eq!(tcp(frame(0x81, text, None)), None, "{text}");
        }
        assert_eq!(tcp(hex("81 fe")), None);
    }
}
