//! Direct Connect: NMDC and ADC, hub and peer connections over TCP, search results over UDP.
//!
//! Source: the NMDC documentation (nmdc.sourceforge.io) and "Advanced Direct Connect" (adc.sourceforge.io/ADC.html).
//! Matched, on any port:
//! - NMDC: "$Lock " with " Pk=" in it; "$MyNick "; for flows that started earlier, other commands with fixed arguments.
//!   Each ends with "|", at the segment's end or near its start. Transfers: "$ADCGET " and "$ADCSND " of a file, a list
//!   or a hash tree;
//! - ADC: "SUP AD" to or from a hub or a peer, ended by a line feed; "CGET " and "CSND " of a file, a list or a hash
//!   tree;
//! - UDP: "$SR " ended by "|"; "URES " and "UINF " with a client identifier of 39 characters, ended by a line feed.
//!
//! Guard: the terminators. No rule has fewer than seven fixed bytes, except for the two with checked inner marks.

use super::{
    content::base32,
    dissector::{Dissector, prefix},
    text,
};
use crate::{
    abi::{limits::HELD_BYTES, protocol::Protocol, rule::Rule, watch::ContentHash},
    dissect::rule_state::RuleState,
    parse::payload::Payload,
};

/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector {
    prefixes: &[
        prefix(b"$Lock ", HELD_BYTES),
        prefix(b"$MyNick ", HELD_BYTES),
        prefix(b"$ADCGET ", 21),
        prefix(b"$ADCSND ", 21),
        prefix(b"$MyINFO ", 13),
        prefix(b"$Validat", 14),
        prefix(b"$Connect", 13),
        prefix(b"$RevConn", 16),
        prefix(b"$Directi", 20),
        prefix(b"HSUP AD", HELD_BYTES),
        prefix(b"ISUP AD", HELD_BYTES),
        prefix(b"CSUP AD", HELD_BYTES),
        prefix(b"CGET ", 18),
        prefix(b"CSND ", 18),
    ],
    udp: b"$U",
    ..Dissector::new(Protocol::DirectConnect)
};

/// Start of the message that names its sender; the nick itself is never held.
pub(super) const MY_NICK: &[u8; 8] = b"$MyNick ";
/// Bytes of a lock that are searched for its key: the lock itself has at most about 130.
const SCANNED: usize = 192;
/// Offset of the byte after the client identifier in an ADC message over UDP: 5 type and blank, 39 base32 characters.
const BEHIND_IDENTIFIER: usize = 44;

/// Hub and peer connections.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let first = payload.byte(0);
    match first {
        b'$' => nmdc(payload).then_some(Rule::NmdcCommand),
        b'H' | b'I' | b'C' => adc(payload).then_some(Rule::AdcMessage),
        _ => None,
    }
}

/// Whether the segment is a command of NMDC.
#[inline(never)]
fn nmdc(payload: &Payload) -> bool {
    if payload.has(1, b"ADCGET ") || payload.has(1, b"ADCSND ") {
        return transfer(payload, 8);
    }
    if payload.has(1, b"Lock ") {
        return key(payload) && ended(payload, b'|');
    }
    let command = payload.has(1, b"MyNick ")
        || payload.has(1, b"MyINFO $ALL ")
        || payload.has(1, b"ValidateNick ")
        || payload.has(1, b"ConnectToMe ")
        || payload.has(1, b"RevConnectToMe ")
        || payload.has(1, b"Direction Upload ")
        || payload.has(1, b"Direction Download ")
        || payload.has(1, b"Supports ")
        || payload.has(1, b"HubName ")
        || payload.has(1, b"GetNickList|")
        || payload.has(1, b"Version 1,")
        || payload.has(1, b"Search Hub:");
    command && ended(payload, b'|')
}

/// Whether these first bytes of a stream may be a command that no rule matches: a dollar sign and a letter. Redis has
/// numbers there.
#[inline(always)]
pub(super) const fn may_be_command(head: u64) -> bool {
    head as u8 == b'$' && (head >> 8) as u8 & 0xe0 == 0x40
}

/// Whether a command ends in this segment: at its end, or where the first one does when more of them are cut by the
/// segment size.
#[inline(always)]
fn ended(payload: &Payload, by: u8) -> bool {
    payload.last() == by || text::near(payload, by)
}

/// Whether a lock has its key, " Pk=".
#[inline(always)]
fn key(payload: &Payload) -> bool {
    let mut recent = 0u32;
    let mut index = 6;
    while index < SCANNED {
        recent = recent << 8 | u32::from(payload.counted(index));
        if recent == u32::from_be_bytes(*b" Pk=") {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether the segment is a message of ADC between clients and hubs.
#[inline(always)]
fn adc(payload: &Payload) -> bool {
    if payload.has(1, b"SUP AD") {
        return ended(payload, b'\n');
    }
    payload.byte(0) == b'C' && (payload.has(1, b"GET ") || payload.has(1, b"SND ")) && transfer(payload, 5)
}

/// Whether a request for a file, a list or a hash tree is at `offset`.
#[inline(always)]
fn transfer(payload: &Payload, offset: usize) -> bool {
    payload.has(offset, b"file TTH/")
        || payload.has(offset, b"tthl TTH/")
        || payload.has(offset, b"list /")
        || payload.has(offset, b"file files.xml")
}

/// Search results and client information.
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut RuleState) -> Option<Rule> {
    let head = payload.le32(0);
    if head == u32::from_le_bytes(*b"$SR ") {
        (payload.last() == b'|').then_some(Rule::NmdcSearchResult)
    } else if head == u32::from_le_bytes(*b"URES") || head == u32::from_le_bytes(*b"UINF") {
        (payload.byte(4) == b' ' && payload.byte(BEHIND_IDENTIFIER) == b' ' && payload.last() == b'\n')
            .then_some(Rule::AdcUdp)
    } else {
        None
    }
}

/// The Tiger tree root in a request for a file.
#[inline(always)]
pub(super) fn content(payload: &Payload, found: &mut ContentHash) {
    if payload.has(0, b"$ADCGET file TTH/") {
        base32(payload, 17, found);
    } else if payload.has(0, b"CGET file TTH/") | payload.has(0, b"CSND file TTH/") {
        base32(payload, 14, found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Label, every_bit_counts, tcp, udp};
    use crate::{
        abi::{
            protocol::{Confidence, Protocol},
            watch::ContentHash,
        },
        dissect::content,
        parse::payload::Transport,
    };
    use proptest::prelude::*;

    const SIGNATURE: Label = Some((Protocol::DirectConnect, Confidence::Signature));

    #[test]
    fn commands_match() {
        for command in [
            "$Lock EXTENDEDPROTOCOLABCABCABCABC Pk=DCPLUSPLUS0.868|",
            "$Lock EXTENDEDPROTOCOLABCABC Pk=hub|$HubName A hub|",
            "$MyNick someone|",
            "$MyNick someone|$Lock EXTENDEDPROTOCOLABC Pk=DC|",
            "$MyINFO $ALL nick <++ V:0.868>$ $LAN$$0$|",
            "$Supports UserCommand NoGetINFO NoHello|$Key abc|$ValidateNick nick|",
            "$HubName A hub|",
            "$GetNickList|",
            "$Version 1,0091|$GetNickList|$MyINFO $ALL nick $ $LAN$$0$|",
            "$Search Hub:nick F?T?0?1?words|",
            "$ConnectToMe nick 192.0.2.1:412|",
            "$Direction Download 30000|",
            "$ADCGET file TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1|",
            "$MyNick someone|$Lock EXTENDED",
            "$Lock EXTENDEDPROTOCOLABC Pk=hub|$HubName A hub with",
            "ISUP ADBASE ADTIGR\nISID AAAB\nIINF CT32 NIhub",
            "HSUP ADBASE ADTIGR\n",
            "ISUP ADBASE ADTIGR\nISID AAAB\n",
            "CSUP ADBASE ADTIGR ADBZIP ADZLIG\n",
            "CGET file TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1\n",
            "CSND list /files.xml.bz2 0 100\n",
        ] {
            assert_eq!(tcp(command), SIGNATURE, "{command}");
        }
        every_bit_counts(b"HSUP ADBASE\n", 1..7, |bytes| tcp(bytes));
        every_bit_counts(b"$MyNick someone|", 0..8, |bytes| tcp(bytes));
    }

    #[test]
    fn search_results_match() {
        let result = "URES PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA TO1 SL10 SI4 FN/a\n";
        assert_eq!(udp(result), SIGNATURE);
        assert_eq!(udp(result.replace("URES", "UINF")), SIGNATURE);
        assert_eq!(udp("$SR nick path\\file\x05123 1/2\x05TTH:A (192.0.2.1:411)|"), SIGNATURE);
    }

    #[test]
    fn near_misses_do_not_match() {
        for text in [
            "$Lock = acquire();\necho $Lock;\n",
            "$Lock EXTENDEDPROTOCOLABC without key|",
            "$Lock EXTENDEDPROTOCOLABC Pk=unfinished",
            "$MyNick someone",
            "$MyName someone|",
            "$Supports = $true\n",
            "$HubName = 'a'\n",
            "$GetNickLists|",
            "$Version 2 | write-host",
            "$Search | select",
            "HSUP BASE\n",
            "HSUP ADBASE",
            "CGET file name.txt\n",
            "CSUPPORT ADMIN\n",
        ] {
            assert_eq!(tcp(text), None, "{text}");
        }
        for text in [
            "$SR nick path",
            "URES short\n",
            "UINF PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA TO1",
            "URESULT: text with a blank at place 44 here or so\n",
        ] {
            assert_eq!(udp(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_text_never_matches(rest in "[ -~]{0,120}", first in "[$HICU]") {
            let text = format!("{first}{rest}");
            prop_assert_eq!(tcp(&text), None);
            prop_assert_eq!(udp(&text), None);
        }
    }

    #[test]
    fn a_requested_tree_root_is_decoded() {
        // RFC 4648 section 10 has short vectors only; this is coreutils' `base32` of the 20 bytes 0 to 19.
        let text = "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQT";
        let expected = ContentHash::from_bytes(&(0..20).collect::<Vec<u8>>());
        for head in ["$ADCGET file TTH/", "CGET file TTH/", "CSND file TTH/"] {
            assert_eq!(
                content::named(Transport::Tcp, Protocol::DirectConnect, format!("{head}{text}ABCDEFG 0").as_bytes()),
                expected
            );
        }
    }
}
