//! Direct Connect: NMDC and ADC, hub and peer connections over TCP, search results over UDP.
//!
//! Source: the NMDC documentation (nmdc.sourceforge.io) and "Advanced Direct Connect" (adc.sourceforge.io/ADC.html).
//! Matched, on any port:
//! - NMDC: "$Lock " with " Pk=" in it; "$MyNick "; for flows that started earlier, other commands whose arguments have
//!   their form. A command ends with "|", at the segment's end or in front of another command. Transfers: "$ADCGET "
//!   and "$ADCSND " of a file, a list or a hash tree;
//! - ADC: "SUP AD" to or from a hub or a peer, ended by a line feed; "CGET " and "CSND " of a file, a list or a hash
//!   tree;
//! - UDP: "$SR " with the separator 05, ended by ")|"; "URES " and "UINF " with a client identifier of 39 characters,
//!   ended by a line feed.
//!
//! Guard: the terminators and the arguments. "$" and a word is also a variable of shells, of PHP and of templates, with
//! "|" behind it as often as not. So a nick has no blank, "$ConnectToMe" ends in a port, "$Direction" in a number,
//! "$MyINFO $ALL" in "$|", "$Search Hub:" has its four question marks, and "$Supports" starts with the name of an
//! extension. "$HubName" proves nothing.

use super::{
    content::base32,
    dissector::{Dissector, prefix},
    text,
};
use crate::{
    abi::{limits::HELD_BYTES, protocol::Protocol, rule::Rule, watch::ContentHash},
    bpf::branchless::{TOP_BITS, bound, bytes_equal, count, nonzero_top_bit, sign_mask},
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
    // Each command reads on by itself: the verifier would walk the rest once for each set of answers given before it.
    if payload.has(1, b"MyNick ") || payload.has(1, b"ValidateNick ") {
        // The nick of a message that was cut inside of it is not held.
        return command(payload, 1).is_some();
    }
    if payload.has(1, b"MyINFO $ALL ") {
        return command(payload, ANY).is_some_and(|last| last == b'$');
    }
    if payload.has(1, b"ConnectToMe ") {
        // The letter behind a port says that the connection is encrypted, or which side of a relay it is.
        return command(payload, 2)
            .is_some_and(|last| last.is_ascii_digit() || last == b'S' || last == b'R' || last == b'N');
    }
    if payload.has(1, b"RevConnectToMe ") {
        return command(payload, 2).is_some_and(|last| last != b' ');
    }
    if payload.has(1, b"Direction Upload ") || payload.has(1, b"Direction Download ") {
        return command(payload, 2).is_some_and(|last| last.is_ascii_digit());
    }
    if payload.has(1, b"Version 1,") {
        return command(payload, 1).is_some_and(|last| last.is_ascii_digit());
    }
    if payload.has(1, b"GetNickList|") {
        return command(payload, 0).is_some();
    }
    if payload.has(1, b"Search Hub:") {
        return command(payload, 2 | QUESTIONS).is_some();
    }
    payload.has(1, b"Supports ") && is_extension(payload.le32(10)) && command(payload, ANY).is_some()
}

/// Any number of blanks.
const ANY: u64 = u64::MAX;
/// The four question marks of a search.
const QUESTIONS: u64 = 4 << 32;

/// The byte in front of the first "|", if that is the segment's last byte or another command is behind it, and if so
/// many blanks and question marks are in front of it.
///
/// Eight bytes at once, and without a branch on any of them.
#[inline(never)]
fn command(payload: &Payload, wanted: u64) -> Option<u8> {
    let (mut at, mut marks) = (0, 0);
    let (mut before, mut index) = (u64::MAX, 0);
    while index < text::NEAR / 8 {
        let word = payload.counted_word(index);
        let bar = bytes_equal(word, b'|');
        // All bits below the first bar, as long as there was none.
        let ahead = bar.wrapping_sub(1) & !bar & before;
        marks += count(bytes_equal(word, b' ') & ahead) | count(bytes_equal(word, b'?') & ahead) << 32;
        at += count(ahead & TOP_BITS);
        before &= !sign_mask(nonzero_top_bit(bar));
        index += 1;
    }
    let marks = if wanted >> 32 == 0 { marks & 0xffff_ffff } else { marks };
    let at = bound::<255>(at as usize);
    let behind = payload.byte(at + 1);
    let ends = payload.len == at as u32 + 1 || behind == b'$' || behind == b'<' || behind == b'|';
    (before == 0 && ends && (wanted == ANY || wanted == marks)).then_some(payload.byte(at.wrapping_sub(1)))
}

/// The first letters of the extensions that clients and hubs name first.
const EXTENSIONS: [&[u8; 4]; 20] = [
    b"NoGe", b"NoHe", b"User", b"Mini", b"XmlB", b"ADCG", b"TTHS", b"TTHF", b"TTHL", b"OpPl", b"BotI", b"BZLi",
    b"GetZ", b"ZPip", b"ZLin", b"ZLIG", b"HubT", b"BotL", b"Quic", b"Feed",
];

/// Whether a list of extensions starts with one of [`EXTENSIONS`].
#[inline(always)]
fn is_extension(name: u32) -> bool {
    let (mut none, mut index) = (u64::MAX, 0);
    while index < EXTENSIONS.len() {
        none &= nonzero_top_bit(u64::from(name ^ u32::from_le_bytes(*EXTENSIONS[index])));
        index += 1;
    }
    none >> 63 == 0
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
        let ends = payload.last() == b'|' && payload.byte((payload.len as usize).wrapping_sub(2)) == b')';
        (ends && text::near(payload, 5)).then_some(Rule::NmdcSearchResult)
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
            "$MyINFO $ALL nick <++ V:0.868,M:A>$ $LAN$$0$|",
            "$Supports UserCommand NoGetINFO NoHello|$Key abc|$ValidateNick nick|",
            "$Supports NoGetINFO NoHello UserIP2 |",
            "$ValidateNick nick|",
            "$RevConnectToMe nick other|",
            "$ConnectToMe nick 192.0.2.1:412S|",
            "$GetNickList|",
            "$Version 1,0091|$GetNickList|$MyINFO $ALL nick $ $LAN$$0$|",
            "$Search Hub:nick F?T?0?1?words|",
            "$ConnectToMe nick 192.0.2.1:412|",
            "$Direction Download 30000|",
            "$ADCGET file TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1|",
            "$MyNick someone|$Lock EXTENDED",
            "$Version 1,0091|",
            "$MyNick someone||",
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
            "$MyNick is not set|",
            "$MyNick foo|bar",
            "$MyNick = strtolower($x) |",
            "$ValidateNick $user | Out-Null|",
            "$Supports IPv6|",
            "$Supports /|",
            "$Supports NoHello| and more",
            "$HubName A hub|",
            "$GetNickList|sort",
            "$Version 1,0 | sort|",
            "$Version 1,x|",
            "$Direction Upload x|",
            "$Direction Download 3 4|",
            "$ConnectToMe nick somewhere|",
            "$ConnectToMe 192.0.2.1:412|",
            "$RevConnectToMe nick|",
            "$MyINFO $ALL nick|",
            "$MyINFO $ALL nick <x> $ |",
            "$Search Hub:nick words|",
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
            "$SR nick path|",
            "$SR nick path (192.0.2.1:411)|",
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
