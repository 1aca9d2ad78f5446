//! WebTorrent: announces to a tracker over an unencrypted WebSocket.
//!
//! Source: the `bittorrent-tracker` and `webtorrent` implementations (there is no BEP), RFC 6455 for frames. Matched: a
//! text frame with a JSON object, `{"`, and the member `"info_hash"` near its start. The peers' data runs over WebRTC
//! and cannot be distinguished from other WebRTC.
//!
//! Guard: `"info_hash"`. An object with only an `"action"` may be a chat. A server's message, which is not masked (RFC
//! 6455 section 5.1), must have both, because feeds of clients' user interfaces also name info hashes.

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
    text::holds_masked(payload, u64::from_le_bytes(*b"\"info_ha"), key)
        && (payload.byte(1) & 0x80 != 0 || text::holds(payload, u64::from_le_bytes(*b"\"action\"")))
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

    #[test]
    fn announces_match_masked_and_not() {
        for pad in 0..9 {
            let short = format!("{{\"action\":\"announce{}\",\"info_hash\":\"a\"}}", "x".repeat(pad));
            let long = format!("{{\"numwant\":1,\"pad\":\"{}\",\"info_hash\":\"a\"}}", "x".repeat(130 + pad));
            for text in [&short, &long] {
                assert_eq!(
                    tcp(frame(0x81, text, None)).is_some(),
                    text == &short,
                    "unmasked it needs an action: {text}"
                );
                for key in [[0x81, 0x92, 0xa3, 0xb4], [0, 0, 0, 0]].map(Some) {
                    assert_eq!(tcp(frame(0x81, text, key)), SIGNATURE, "{text} {key:?}");
                    assert_eq!(tcp(frame(0x01, text, key)), SIGNATURE, "{text} {key:?}");
                    assert_eq!(tcp(frame(0x82, text, key)), None, "binary");
                }
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
