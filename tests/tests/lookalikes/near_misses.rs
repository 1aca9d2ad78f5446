//! The literals of the signatures themselves, in places where they are only words, and almost the literals.
//!
//! Named cases at the end are conversations that were labelled once.

use super::flow::{Bits, Conversation};

/// Literals that open a conversation of a P2P protocol over TCP, as the specifications spell them.
pub(super) const LITERALS: &[&[u8]] = &[
    b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05",
    b"GET /announce?info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-TR4000-abcdefghijkl&port=1 HTTP/1.1\r\n",
    b"GET /scrape?info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A HTTP/1.1\r\n",
    b"GET /webseed?info_hash=%124Vx&piece=3 HTTP/1.1\r\n",
    b"GNUTELLA CONNECT/0.6\r\nUser-Agent: LimeWire\r\n\r\n",
    b"GNUTELLA/0.6 200 OK\r\n\r\n",
    b"GET /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\n",
    b"GIV 36:809BC12168A1852CFF5D7A785833F600/Foobar.mp3\n\n",
    b"$Lock EXTENDEDPROTOCOLABCABCABCABC Pk=DCPLUSPLUS0.868|",
    b"$MyNick someone|",
    b"$ADCGET file TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1|",
    b"HSUP ADBASE ADTIGR\n",
    b"CGET file TTH/PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA 0 -1\n",
    b"GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f HTTP/1.1\r\n",
    b"GIVE 1234567\r\n\r\n",
    b"ajprot\r\n",
    b"GET.sha1:0123",
    b"BSYNC\0\0\0\0",
    b"\x13/multistream/1.0.0\n",
];

/// Conversations around one literal: quoted, shifted, in another case, cut off.
pub(super) fn around(bits: &mut Bits, literal: &[u8]) -> Vec<(&'static str, Conversation)> {
    let (client, server) = (bits.port(), bits.of(&[80, 8080, 25, 6667, 6881, 411]));
    let open = || Conversation::tcp(client, server);
    let quoted = |before: &str, behind: &str| [before.as_bytes(), literal, behind.as_bytes()].concat();
    let name = bits.word(1, 30);
    // Not the head of a WebSocket frame, in which a greeting of libp2p is one.
    let prefix = [&[bits.of(&[0, 3, 0x16, b'>', b'x', 0x7f, 0xff])], bits.some(0, 7).as_slice()].concat();
    let mut conversations = vec![
        ("in a query", open().request(quoted(&format!("GET /{name}?q="), " HTTP/1.1\r\nHost: a\r\n\r\n"))),
        ("in a referer", open().request(quoted(&format!("GET /{name} HTTP/1.1\r\nReferer: http://a/"), "\r\n\r\n"))),
        ("in a body", open().request(quoted("POST /paste HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n", ""))),
        (
            "in an answer",
            open()
                .request(format!("GET /{name} HTTP/1.1\r\n\r\n").into_bytes())
                .answer(quoted("HTTP/1.1 200 OK\r\n\r\n", "")),
        ),
        ("in a chat", open().answer(quoted(&format!(":{name}!a@b PRIVMSG #c :"), "\r\n"))),
        ("in a mail", open().answer("220 a\r\n").request(quoted("Subject: ", "\r\n"))),
        ("in JSON", open().request(quoted("{\"text\":\"", "\"}\n"))),
        (NOT_CUT, open().request([&prefix, literal].concat())),
    ];
    let swapped: Vec<u8> = literal
        .iter()
        .map(|byte| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() })
        .collect();
    conversations.push(("in the other case", open().request(swapped)));
    // Half of it, then text that does not go on with it.
    let cut = bits.within(1, literal.len().min(5));
    conversations.push(("cut off", open().request(&literal[..cut]).request(format!(" x{name}\r\n").into_bytes())));
    conversations
}

/// What stays unlabelled only while a segment holds both: a stream that begins with bytes of no text may be one behind
/// SOCKS or obfuscation, so what a later segment of it begins with counts.
pub(super) const NOT_CUT: &str = "behind other bytes";

/// Conversations that some rule labelled when it was wider than its specification.
pub(super) fn named() -> Vec<(&'static str, Conversation)> {
    let http = |request: &str| Conversation::tcp(50_000, 80).request(request);
    let framed = |kind: u16, text: &str| {
        [&(text.len() as u16).to_le_bytes(), kind.to_le_bytes().as_slice(), text.as_bytes()].concat()
    };
    let identifier = [7; 16];
    let udp = |server: u16, payload: &[u8]| Conversation::udp(50_000, server).request(payload);
    vec![
        (
            "DNS with EDNS, identifier e399",
            udp(8053, b"\xe3\x99\x01\0\0\x01\0\0\0\0\0\x01\x03rp9\0\0\x0c\0\x01\0\0)\x10\0\0\0\0\0\0\0"),
        ),
        ("a refusal, identifier c591", udp(5300, b"\xc5\x91\x84\0\0\x01\0\0\0\0\0\0\x02sj\x02oh\0\0\xff\0\x01")),
        (
            "LLMNR, identifier c590",
            udp(5355, b"\xc5\x90\0\0\0\x01\0\0\0\0\0\x01\x06j0oocf\0\0\xff\0\x01\0\0)\x10\0\0\0\0\0\0\0"),
        ),
        (
            "OpenFaaS's headers as Go spells them",
            http("GET /function/a HTTP/1.1\r\nHost: a\r\nX-Openfaas-Call-Id: 5\r\n\r\n"),
        ),
        ("a queue's header", http("GET /get/status HTTP/1.1\r\nHost: a\r\nX-Queue-Id: 7\r\n\r\n")),
        ("a list of announcements", http("GET /announcements/list?sort=asc&info_hash=abc HTTP/1.1\r\n")),
        (
            "a scraper's results",
            http("GET /scraper/result?info_hash=0123456789abcdef0123456789abcdef01234567 HTTP/1.1\r\n"),
        ),
        ("a forum's search", http("GET /forum/view?q=announce&info_hash=x HTTP/1.1\r\n")),
        ("a parameter that ends like info_hash", http("GET /announce?xinfo_hash=abc HTTP/1.1\r\n")),
        (
            "a search for a tracker's address",
            http(
                "GET /search?q=/announce?info_hash=%124Vx%9A%BC&port=6881 HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0 (X11)\r\n\r\n",
            )
            .answer("HTTP/1.1 200 OK\r\n\r\n<p>announce?info_hash=%124Vx%9A%BC</p>"),
        ),
        (
            "a handshake in the body of a POST",
            http("POST /a HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nContent-Length: 68\r\n\r\n")
                .request([b"\x13BitTorrent protocol".as_slice(), &[0; 48]].concat()),
        ),
        (
            "an announce in the body of a POST",
            http("POST /a HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nContent-Length: 80\r\n\r\n")
                .request("GET /announce?info_hash=%12&port=6881 HTTP/1.1\r\nUser-Agent: Transmission/3.00\r\n\r\n"),
        ),
        ("a player gives", Conversation::tcp(50_000, 23).request("GIVE 100\r\n")),
        (
            "JSON behind a length and 2",
            Conversation::tcp(50_000, 9000).request(framed(2, "{\"op\":\"login\",\"user\":\"a\"}")),
        ),
        ("JSON behind a length and 6", Conversation::tcp(50_000, 443).request(framed(6, "{\"op\":\"ping\"}"))),
        ("length 5, kind 0, a number", Conversation::tcp(50_000, 443).request([5, 0, 0, 0, 0, 1, 2, 3, 4])),
        ("length 3, kind 5a, to a mail server", Conversation::tcp(50_000, 25).request([3, 0, 0x5a, 9, 9, 5])),
        ("a UUID and a small frame to a name server", udp(53, &[&identifier[..], &[0, 1, 0, 0, 0, 0, 0]].concat())),
        ("a UUID and an empty message of kind 1", udp(40_000, &[&identifier[..], &[1, 1, 0, 0, 0, 0, 0]].concat())),
        ("GND to a service", udp(53, b"GND\x03\x01\x02\x01\x01text")),
    ]
}
