//! Protocols that share bytes with P2P protocols, and must never be named as one: whole exchanges, both directions.
//!
//! Facts from the RFCs named at each builder. Identifiers that a peer chooses at random are tried in every value or in
//! many thousands, since that is where such bytes come from.

use super::testing::{Flow, Label, hex};

/// A small generator of evenly spread bits (SplitMix64), so that a failure repeats.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Checks that an exchange, question then answer twice over, shows nothing on these ports.
fn silent(mut flow: Flow, question: &[u8], answer: &[u8]) {
    for _ in 0..2 {
        let labels: [Label; 2] = [flow.ask(question), flow.answer(answer)];
        assert_eq!(labels, [None, None], "question {question:02x?}, answer {answer:02x?}");
    }
}

/// A DNS question for `labels` dots-free letters, type A (RFC 1035 section 4.1).
fn dns(id: u16, flags: u16, letters: usize, answers: u16) -> Vec<u8> {
    let mut message = [id, flags, 1, answers, 0, 0].map(u16::to_be_bytes).concat();
    if letters > 0 {
        message.push(letters as u8);
        message.extend(vec![b'a'; letters]);
    }
    message.extend(hex("00 0001 0001"));
    for _ in 0..answers {
        message.extend(hex("c00c 0001 0001 00000e10 0004 c0000201"));
    }
    message
}

#[test]
fn dns_with_every_identifier_and_short_names() {
    for id in 0..=u16::MAX {
        // First bytes of UDP signatures are tried with every length of a name, the others with one.
        let lengths = if matches!(id >> 8, 0xc5 | 0xe3..=0xe5) { 0..64 } else { 3..4 };
        for letters in lengths {
            let (question, answer) = (dns(id, 0x0100, letters, 0), dns(id, 0x8180, letters, 1));
            silent(Flow::udp().ports(40_000, 53), &question, &answer);
            // LLMNR (RFC 4795), and resolvers on unprivileged ports.
            silent(Flow::udp().ports(40_000, 5355), &question, &answer);
        }
    }
}

#[test]
fn dns_over_tcp_with_every_identifier() {
    for id in 0..=u16::MAX {
        let framed = |message: Vec<u8>| [&(message.len() as u16).to_be_bytes(), message.as_slice()].concat();
        silent(Flow::tcp().ports(40_000, 53), &framed(dns(id, 0x0100, 7, 0)), &framed(dns(id, 0x8180, 7, 1)));
    }
}

#[test]
fn stun_with_and_without_its_cookie() {
    let mut bits = Bits(1);
    for round in 0..20_000 {
        // RFC 8489 has a cookie where RFC 3489 had random bits.
        let cookie = if round % 2 == 0 { hex("2112a442") } else { bits.bytes(4) };
        let transaction = bits.bytes(12);
        let question = [hex("0001 0000"), cookie.clone(), transaction.clone()].concat();
        let answer = [hex("0101 000c"), cookie, transaction, hex("0020 0008 0001"), bits.bytes(6)].concat();
        silent(Flow::udp(), &question, &answer);
    }
}

#[test]
fn quic_dtls_wireguard_and_rtp() {
    let mut bits = Bits(2);
    for round in 0..20_000usize {
        // QUIC (RFC 9000 section 17): the low bits of the first byte are protected, so every value occurs.
        let initial = [vec![0xc0 | bits.next() as u8 & 0x3f], hex("00000001 08"), bits.bytes(1194)].concat();
        let short = [vec![0x40 | bits.next() as u8 & 0x3f], bits.bytes(20 + round % 60)].concat();
        silent(Flow::udp().ports(50_000, 443), &initial, &short);
        silent(Flow::udp(), &short, &initial);
        // DTLS 1.2 (RFC 6347): handshake and application data records.
        let hello = [hex("16 fefd 0000 000000000000 0064"), bits.bytes(100)].concat();
        let data = [hex("17 fefd 0001"), bits.bytes(6), hex("0040"), bits.bytes(64)].concat();
        silent(Flow::udp(), &hello, &data);
        // WireGuard: initiation, response, data, keepalive.
        let initiation = [hex("01000000"), bits.bytes(144)].concat();
        let response = [hex("02000000"), bits.bytes(88)].concat();
        silent(Flow::udp(), &initiation, &response);
        silent(Flow::udp(), &[hex("04000000"), bits.bytes(28)].concat(), &[hex("04000000"), bits.bytes(92)].concat());
        // RTP and RTCP (RFC 3550).
        let rtp = [vec![0x80, round as u8], bits.bytes(10 + 20 * (round % 9))].concat();
        silent(Flow::udp(), &rtp, &[hex("80c8 0006"), bits.bytes(24)].concat());
    }
}

#[test]
fn ntp_snmp_sip_ssdp_and_capwap() {
    let mut bits = Bits(3);
    for round in 0..2_000usize {
        // NTP (RFC 5905): an unsynchronised version 4 client starts with e3; mode 6 and 7 queries of ntpq too have e3
        // near.
        for first in [0x1b, 0x23, 0xe3, 0xdb] {
            let question = [vec![first, round as u8 % 17, 6, 0xec], bits.bytes(44)].concat();
            silent(Flow::udp().ports(123, 123), &question, &[vec![0x24, 2, 6, 0xec], bits.bytes(44)].concat());
            silent(Flow::udp().ports(40_000, 40_123), &question, &question);
        }
        // SNMP version 2c (RFC 3416).
        let get = [
            hex("302902010104067075626c6963a01c0204"),
            bits.bytes(4),
            hex("020100020100300e300c06082b060102010101000500"),
        ]
        .concat();
        silent(Flow::udp().ports(40_000, 161), &get, &get);
        // CAPWAP (RFC 5415): control message with a sequence number, and the DTLS preamble.
        let echo = [hex("00100200 00000000 0000000d"), vec![round as u8], hex("0000 00")].concat();
        silent(Flow::udp().ports(40_000, 5246), &echo, &[hex("01000000 16fefd"), bits.bytes(80)].concat());
    }
    let sip = b"OPTIONS sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060\r\n\r\n";
    silent(Flow::udp().ports(5060, 5060), sip, b"SIP/2.0 200 OK\r\n\r\n");
    let ssdp = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\r\n";
    silent(Flow::udp().ports(40_000, 1900), ssdp, b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\n\r\n");
}

#[test]
fn remote_procedure_calls_with_small_numbers() {
    let mut bits = Bits(4);
    for round in 0..20_000usize {
        // RX (AFS): epoch, connection, call number, sequence, serial, type, flags; the answer repeats the first four.
        let number = (round as u32 % 3).to_be_bytes();
        let rest = hex("00000001 00000001 01050000 00000034");
        let call = [bits.bytes(8), number.to_vec(), rest, bits.bytes(28 + 20 * (round % 4))].concat();
        silent(Flow::udp().ports(7001, 7000), &call, &call);
        // ONC RPC (RFC 5531): transaction, call or reply, version 2.
        let id = bits.bytes(4);
        let question = [id.clone(), hex("00000000 00000002 000186a3 00000003 00000001"), vec![0; 16]].concat();
        silent(
            Flow::udp().ports(40_000, 2049),
            &question,
            &[id, hex("00000001 00000000 00000000"), vec![0; 12]].concat(),
        );
        // SOME/IP: service, method, length, client, session, versions.
        let some_ip = [hex("12345678 00000010 00000002"), hex("01010000"), bits.bytes(8)].concat();
        silent(Flow::udp().ports(30_509, 30_490), &some_ip, &some_ip);
        // CoAP (RFC 7252): 0x41 is a confirmable request with a token of one byte.
        silent(
            Flow::udp().ports(40_000, 5683),
            &[hex("4101"), bits.bytes(24)].concat(),
            &[hex("6145"), bits.bytes(18)].concat(),
        );
    }
}

#[test]
fn keepalives_of_one_to_forty_equal_bytes() {
    for byte in 0..=u8::MAX {
        for len in 1..=40 {
            silent(Flow::udp(), &vec![byte; len], &vec![byte; len]);
            silent(Flow::tcp(), &vec![byte; len], &vec![byte; len]);
        }
    }
}

#[test]
fn text_protocols_with_p2p_words() {
    for (question, answer) in [
        (
            "GET /torrents/announce.html HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nBitTorrent protocol, info_hash=",
        ),
        ("GET /?q=%13BitTorrent+protocol HTTP/1.1\r\nHost: example.org\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n"),
        ("POST /announce?info_hash= HTTP/1.1\r\n\r\n{\"info_hash\":1}", "HTTP/1.1 200 OK\r\n\r\n"),
        ("GET /GNUTELLA HTTP/1.1\r\nUser-Agent: LimeWire\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
        ("EHLO gnutella.example.org\r\n", "250-GNUTELLA\r\n"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
        ("$MyInvocation | select *\r\n", "$Lock taken|\r\n"),
        ("USER anonymous\r\n", "220 GIVE 12 files\r\n"),
        ("{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n", "{\"id\":1,\"result\":[[],\"08000002\",4]}\n"),
        ("GET", "SEND"),
    ] {
        silent(Flow::tcp(), question.as_bytes(), answer.as_bytes());
    }
}

#[test]
fn length_prefixed_binary_protocols() {
    let mut bits = Bits(5);
    for round in 0..20_000usize {
        // TLS (RFC 8446): records of every kind.
        let hello = [hex("16 0301 0200 01 0001fc 0303"), bits.bytes(506)].concat();
        silent(Flow::tcp().ports(40_000, 443), &hello, &[hex("17 0303 0040"), bits.bytes(64)].concat());
        // MongoDB: little-endian length, request number 1, answer to 0.
        let body = bits.bytes(round % 200);
        let mongo =
            [&(16 + body.len() as u32).to_le_bytes(), hex("01000000 00000000 dd070000").as_slice(), &body].concat();
        silent(Flow::tcp().ports(40_000, 27_017), &mongo, &mongo);
        // PostgreSQL: big-endian length, then a request code or a message.
        silent(Flow::tcp().ports(40_000, 5432), &hex("00000008 04d2162f"), b"N");
        // RDP (TPKT) starts as Ares does, with 03 00.
        silent(
            Flow::tcp().ports(40_000, 3389),
            &[hex("0300 0013 0ee0"), bits.bytes(13)].concat(),
            &hex("0300 0006 02f0"),
        );
        // A stream of random bytes: an encrypted tunnel.
        silent(Flow::tcp(), &bits.bytes(1 + round % 300), &bits.bytes(1 + round % 7));
        silent(Flow::udp(), &bits.bytes(3 + round % 300), &bits.bytes(3 + round % 7));
    }
}
