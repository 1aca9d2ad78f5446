//! Text protocols, above all HTTP, with the words of P2P protocols in every place where people and programs write them.

use super::{
    Row,
    flow::{Bits, Conversation},
};

pub(super) const ROWS: &[Row] = &[
    ("HTTP pages", pages),
    ("HTTP downloads", downloads),
    ("HTTP with a body", posts),
    ("mail", mail),
    ("FTP", ftp),
    ("IRC", irc),
    ("telnet", telnet),
    ("Redis", redis),
    ("memcached", memcached),
    ("mining (Stratum)", stratum),
    ("JSON lines", json_lines),
    ("XMPP", xmpp),
    ("RTSP", rtsp),
    ("Git", git),
    ("SIP over TCP", sip),
];

/// Words that a search, a site name or a header may hold.
const WORDS: [&str; 22] = [
    "announce",
    "announcement",
    "scrape",
    "info_hash=",
    "info_hash",
    "peer_id=",
    "torrent",
    "BitTorrent protocol",
    "BitTorrent",
    "GNUTELLA CONNECT/0.6",
    "gnutella",
    "uri-res/N2R?urn:sha1:",
    "X-Kazaa-Username: x",
    "KaZaA",
    "ed2k://|file|a|1|B|/",
    "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567",
    "$MyNick me|",
    "$Lock x Pk=y|",
    "HSUP ADBASE",
    "/multistream/1.0.0",
    "d1:ad2:id20:",
    "GIVE 1",
];

fn word(bits: &mut Bits) -> &'static str {
    bits.of(&WORDS)
}

/// A path without the pair that makes a tracker request: its words stand in the query, or the hash does not.
fn target(bits: &mut Bits) -> String {
    let escaped = |text: &str| text.replace([' ', '|', '$'], "+").replace(['?', '\n'], "");
    match bits.within(0, 4) {
        0 => format!("/{}/search?q={}&info_hash={}", bits.word(1, 12), escaped(word(bits)), bits.word(1, 40)),
        1 => format!(
            "/{}/{}.html",
            escaped(bits.of(&["announce", "scrape", "torrent", "get/x", "uri-res"])),
            bits.word(1, 20)
        ),
        2 => format!(
            "/wiki/{}?oldid={}",
            escaped(bits.of(&["BitTorrent", "gnutella", "KaZaA", "info_hash"])),
            bits.within(1, 9999)
        ),
        3 => format!("/{}?passkey={}&next={}", bits.word(1, 30), bits.word(32, 32), escaped(word(bits))),
        _ => format!("/announce?id={}&hash={}", bits.within(1, 9999), bits.word(40, 40)),
    }
}

fn headers(bits: &mut Bits) -> String {
    let mut headers = format!("Host: {}.example.org\r\n", bits.word(1, 20));
    for _ in 0..bits.within(1, 6) {
        let name = bits.of(&[
            "User-Agent",
            "Referer",
            "Cookie",
            "X-Requested-With",
            "X-Gateway",
            "X-Kafka-Topic",
            "X-Open-Id",
            "X-Quota",
            "From",
            "Accept",
        ]);
        headers.push_str(&format!("{name}: {} {}\r\n", word(bits), bits.word(1, 40)));
    }
    headers
}

/// Searches, wikis and forums.
fn pages(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut conversation = Conversation::tcp(client, bits.of(&[80, 8080, 6969, 3128]));
    for _ in 0..bits.within(1, 4) {
        let method = bits.of(&["GET", "HEAD", "OPTIONS", "DELETE"]);
        let request = format!("{method} {} HTTP/1.1\r\n{}\r\n", target(bits), headers(bits));
        let status = bits.of(&["200 OK", "302 Found", "404 Not Found"]);
        let answer =
            format!("HTTP/1.1 {status}\r\nX-Word: {}\r\n\r\n<html>{} {}</html>", word(bits), word(bits), word(bits));
        conversation = conversation.request(request.into_bytes()).answer(answer.into_bytes());
    }
    conversation
}

/// A `.torrent` file over HTTP names trackers and hashes, and is no P2P flow.
fn downloads(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let file =
        format!("d8:announce{}:{}4:infod6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces20:", 30, bits.word(30, 30));
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-bittorrent\r\nContent-Length: {}\r\n\r\n",
        file.len() + 22
    );
    let request = format!("GET /get/{}.torrent HTTP/1.1\r\n{}\r\n", bits.word(1, 20), headers(bits));
    Conversation::tcp(client, 80)
        .request(request.into_bytes())
        .answer(head.into_bytes())
        .answer([file.as_bytes(), &bits.bytes(20), b"ee"].concat())
        .answer(bits.bytes(1400))
}

/// A request that looks like an announce but is no GET.
fn posts(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let body = format!("{{\"info_hash\":\"{}\",\"text\":\"{}\"}}", bits.word(20, 40), word(bits));
    let request = format!(
        "{} /{}?info_hash={} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{body}",
        bits.of(&["POST", "PUT", "PATCH"]),
        bits.of(&["announce", "scrape", "announce.php"]),
        bits.word(20, 40),
        headers(bits),
        body.len()
    );
    Conversation::tcp(client, 80).request(request.into_bytes()).answer("HTTP/1.1 204 No Content\r\n\r\n")
}

fn lines(bits: &mut Bits, client: u16, server: u16, pairs: &[(&str, &str)]) -> Conversation {
    let mut conversation = Conversation::tcp(client, server);
    for (question, answer) in pairs {
        let (asked, said) = (word(bits), word(bits));
        conversation = conversation
            .request(format!("{question} {asked}\r\n").into_bytes())
            .answer(format!("{answer} {said}\r\n").into_bytes());
    }
    conversation
}

/// RFC 5321, RFC 1939, RFC 9051.
fn mail(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let server = bits.of(&[25, 587, 110, 143]);
    lines(
        bits,
        client,
        server,
        &[("EHLO", "250"), ("MAIL FROM:<a@example.org>", "250"), ("DATA", "354"), ("Subject:", "250")],
    )
}

/// RFC 959: file names come in commands, whole files in data connections.
fn ftp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    lines(bits, client, 21, &[("USER", "331"), ("RETR", "150"), ("SIZE", "213"), ("LIST", "226")])
}

/// RFC 2812: people talk about networks, and channels are named after them.
fn irc(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let nick = bits.word(1, 9);
    let said = format!(":{nick}!a@example.org PRIVMSG #gnutella :{}\r\n", word(bits));
    let server = bits.of(&[6667, 6668, 411]);
    lines(bits, client, server, &[("NICK", "NOTICE"), ("JOIN", "332"), ("PRIVMSG #kazaa :", "PING")])
        .answer(said.into_bytes())
}

/// RFC 854, a game of words: the player gives and gets.
fn telnet(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let server = bits.of(&[23, 4000]);
    lines(bits, client, server, &[("get", "You get"), ("give", "You give"), ("GET LAMP", "Taken."), ("SEND", "Sent:")])
}

fn redis(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let key = word(bits);
    let get = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
    Conversation::tcp(client, 6379)
        .request(get.into_bytes())
        .answer(format!("${}\r\n{key}\r\n", key.len()).into_bytes())
        .request("PING\r\n")
        .answer("+PONG\r\n")
}

/// `get` in lower case, answers of numbers.
fn memcached(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let key = bits.word(1, 30);
    Conversation::tcp(client, 11_211)
        .request(format!("get {key}\r\n").into_bytes())
        .answer("1\r\n")
        .request(format!("gets {key}\r\n").into_bytes())
        .answer("END\r\n")
}

/// Stratum version 1.
fn stratum(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let (user, job) = (bits.word(20, 42), bits.word(8, 64));
    Conversation::tcp(client, bits.of(&[3333, 4444, 14_444]))
        .request("{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"cgminer/4.10\"]}\n")
        .answer("{\"id\":1,\"result\":[[[\"mining.notify\",\"1\"]],\"08000002\",4],\"error\":null}\n")
        .request(format!("{{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"{user}\",\"x\"]}}\n").into_bytes())
        .answer(format!("{{\"method\":\"mining.notify\",\"params\":[\"{job}\",\"GND\",true]}}\n").into_bytes())
        .request(
            format!("{{\"jsonrpc\":\"2.0\",\"method\":\"eth_submitWork\",\"info_hash\":\"{job}\"}}\n").into_bytes(),
        )
}

fn json_lines(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let line =
        format!("{{\"action\":\"announce\",\"info_hash\":\"{}\",\"word\":\"{}\"}}\n", bits.word(20, 40), word(bits));
    Conversation::tcp(client, 9000).request(line.clone().into_bytes()).answer(line.into_bytes())
}

/// RFC 6120.
fn xmpp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let said = format!("<message to='{}@example.org'><body>{}</body></message>", bits.word(1, 10), word(bits));
    Conversation::tcp(client, 5222)
        .request("<?xml version='1.0'?><stream:stream to='example.org'>")
        .answer("<stream:features/>")
        .request(said.into_bytes())
}

/// RFC 7826.
fn rtsp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let request = format!("DESCRIBE rtsp://example.org/{} RTSP/1.0\r\nCSeq: 2\r\n\r\n", bits.word(1, 20));
    Conversation::tcp(client, 554).request(request.into_bytes()).answer("RTSP/1.0 200 OK\r\nCSeq: 2\r\n\r\n")
}

/// Lengths of four hexadecimal digits, then text.
fn git(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let rest = format!("git-upload-pack /{}/libtorrent.git\0host=example.org\0", bits.word(1, 20));
    Conversation::tcp(client, 9418)
        .request(format!("{:04x}{rest}", rest.len() + 4).into_bytes())
        .answer(format!("00e7{} HEAD\0multi_ack", bits.word(40, 40)).into_bytes())
        .request("0000")
}

fn sip(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let request =
        format!("REGISTER sip:{}.example.org SIP/2.0\r\nUser-Agent: {}\r\n\r\n", bits.word(1, 20), word(bits));
    Conversation::tcp(client, 5060).request(request.into_bytes()).answer("SIP/2.0 401 Unauthorized\r\n\r\n")
}
