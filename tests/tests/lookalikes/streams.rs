//! Binary protocols over TCP: TLS, SSH, databases, remote desktops, messaging, games, coins.

use super::{
    Row,
    flow::{Bits, Conversation, join},
};

pub(super) const ROWS: &[Row] = &[
    ("TLS", tls),
    ("SSH", ssh),
    ("HTTP/2 and gRPC", http2),
    ("WebSocket", websocket),
    ("DNS over TCP", dns),
    ("MySQL", mysql),
    ("PostgreSQL", postgres),
    ("MongoDB", mongo),
    ("Cassandra", cassandra),
    ("Kafka", kafka),
    ("MQTT", mqtt),
    ("AMQP", amqp),
    ("LDAP", ldap),
    ("SMB2", smb),
    ("RDP", rdp),
    ("VNC", vnc),
    ("SOCKS 5", socks),
    ("RTMP", rtmp),
    ("Modbus", modbus),
    ("DCE/RPC", dce_rpc),
    ("Bitcoin", bitcoin),
    ("Minecraft", minecraft),
    ("Windows Update delivery", delivery_optimization),
    ("OpenVPN over TCP", openvpn),
    ("little-endian length, kind, content", le32_frames),
    ("big-endian length, kind, content", be32_frames),
    ("ciphertext from the first byte", ciphertext),
];

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    join(&[&[kind, 3, 3], &(content.len() as u16).to_be_bytes(), content])
}

/// RFC 8446.
fn tls(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[443, 993, 853, 8443, 5061]));
    let name = format!("{}.bittorrent.example", bits.word(3, 30));
    let hello =
        join(&[&[1, 0, 1, 0xfc, 3, 3], &bits.bytes(32), &[32], &bits.bytes(32), name.as_bytes(), &bits.some(50, 300)]);
    let answer = join(&[&[2, 0, 0, 0x76, 3, 3], &bits.bytes(100)]);
    let mut conversation = Conversation::tcp(client, server)
        .request(record(22, &hello))
        .answer(join(&[&record(22, &answer), &record(20, &[1])]));
    for _ in 0..5 {
        conversation = conversation.request(record(23, &bits.some(20, 900))).answer(record(23, &bits.some(20, 1400)));
    }
    conversation
}

/// RFC 4253: banners, key exchange, then ciphertext after a length.
fn ssh(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let banner = format!("SSH-2.0-{} BitTorrent protocol\r\n", bits.word(3, 12));
    let exchange = join(&[
        &[0, 0, 4, 0x0c, 6, 20],
        &bits.bytes(16),
        b"\0\0\0\x30curve25519-sha256,diffie-hellman",
        &bits.bytes(600),
    ]);
    let mut conversation = Conversation::tcp(client, bits.of(&[22, 2222]))
        .answer(banner.clone().into_bytes())
        .request(banner.into_bytes())
        .request(exchange.clone())
        .answer(exchange);
    for _ in 0..5 {
        conversation = conversation.request(bits.some(36, 200)).answer(bits.some(36, 900));
    }
    conversation
}

/// RFC 9113: preface, SETTINGS, HEADERS, DATA with gRPC's flag and big-endian length.
fn http2(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
    let content = bits.some(1, 200);
    let grpc = join(&[&[0], &(content.len() as u32).to_be_bytes(), &content]);
    let data = join(&[&(grpc.len() as u32).to_be_bytes()[1..], &[0, 1, 0, 0, 0, 1], &grpc]);
    Conversation::tcp(client, bits.of(&[80, 50_051]))
        .request(join(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings]))
        .answer(settings)
        .request([0, 0, 0, 4, 1, 0, 0, 0, 0])
        .request(data.clone())
        .answer(data)
}

/// RFC 6455: masked and unmasked frames of JSON and of bytes, as chats and games send them.
fn websocket(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut conversation = Conversation::tcp(client, bits.of(&[80, 8080, 8000]))
        .request("GET /announce HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\n\r\n")
        .answer("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    for _ in 0..6 {
        let (key, word) = (bits.bytes(4), bits.word(3, 30));
        let text = format!(
            "{{\"{}\":\"announce\",\"{}\":\"{word}\"}}",
            bits.of(&["action", "type"]),
            bits.of(&["room", "infohash", "hash_info"])
        );
        let content = if bits.within(0, 1) == 0 { text.into_bytes() } else { bits.some(1, 120) };
        let kind = bits.of(&[0x81, 0x82, 0x01]);
        let masked: Vec<u8> = content.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        conversation = conversation
            .request(join(&[&[kind, 0x80 | content.len() as u8], &key, &masked]))
            .answer(join(&[&[kind, content.len() as u8], &content]));
    }
    conversation
}

/// RFC 7766: a length, then a message.
fn dns(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut message = |flags: [u8; 2]| {
        let name = bits.word(1, 40);
        let question = join(&[
            &bits.bytes(2),
            &flags,
            &[0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8],
            name.as_bytes(),
            &[0, 0, 1, 0, 1],
        ]);
        join(&[&(question.len() as u16).to_be_bytes(), &question])
    };
    let (question, answer) = (message([1, 0]), message([0x81, 0x80]));
    Conversation::tcp(client, bits.of(&[53, 5353])).request(question).answer(answer)
}

/// The MySQL client/server protocol: a little-endian length of three bytes, a sequence number, a command.
fn mysql(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let packet =
        |sequence: u8, content: &[u8]| join(&[&(content.len() as u32).to_le_bytes()[..3], &[sequence], content]);
    let greeting = join(&[&[10], b"8.0.36\0", &bits.bytes(4), &bits.bytes(8), &[0], &bits.bytes(30)]);
    let mut conversation =
        Conversation::tcp(client, 3306).answer(packet(0, &greeting)).request(packet(1, &bits.some(60, 200)));
    for _ in 0..4 {
        let command = bits.of(&[[0x19], [0x1a], [0x0c]]);
        conversation = conversation
            .answer(packet(2, &[0, 0, 0, 2, 0, 0, 0]))
            .request(packet(0, &join(&[&command, &bits.bytes(4)])))
            .request(packet(0, b"\x03SELECT 'BitTorrent protocol', info_hash FROM announce"));
    }
    conversation
}

/// PostgreSQL's message formats: kind, big-endian length.
fn postgres(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let user = bits.word(3, 12);
    let startup = join(&[&[0, 3, 0, 0], b"user\0", user.as_bytes(), b"\0\0"]);
    let query =
        format!("SELECT * FROM {} WHERE info_hash = '{}'\0", bits.of(&["announce", "scrape"]), bits.word(20, 40));
    let message = |kind: u8, content: &[u8]| join(&[&[kind], &(4 + content.len() as u32).to_be_bytes(), content]);
    Conversation::tcp(client, 5432)
        .request([0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])
        .answer("N")
        .request(join(&[&(4 + startup.len() as u32).to_be_bytes(), &startup]))
        .answer(message(b'R', &[0, 0, 0, 10]))
        .request(message(b'Q', query.as_bytes()))
        .answer(message(b'T', &bits.some(20, 300)))
}

/// MongoDB's wire protocol: little-endian length, request number, response to, operation.
fn mongo(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut conversation = Conversation::tcp(client, 27_017);
    for request in 1..=bits.within(1, 4) as u32 {
        let body = bits.some(5, 200);
        let length = (16 + body.len() as u32).to_le_bytes();
        let operation = bits.of(&[2013u32, 2004, 1, 2012]).to_le_bytes();
        conversation = conversation
            .request(join(&[&length, &request.to_le_bytes(), &[0; 4], &operation, &body]))
            .answer(join(&[&length, &bits.bytes(4), &request.to_le_bytes(), &[1, 0, 0, 0], &body]));
    }
    conversation
}

fn cassandra(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let body = bits.some(0, 120);
    let length = (body.len() as u32).to_be_bytes();
    Conversation::tcp(client, 9042).request(join(&[&[4, 0, 0, 1, 5], &length, &body])).answer(join(&[
        &[0x84, 0, 0, 1, 6],
        &length,
        &body,
    ]))
}

/// Kafka: big-endian length, key, version, correlation, client's name.
fn kafka(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let name = bits.word(3, 20);
    let rest = join(&[
        &[0, bits.within(0, 20) as u8, 0, 3],
        &bits.bytes(4),
        &[0, name.len() as u8],
        name.as_bytes(),
        &bits.some(0, 100),
    ]);
    let request = join(&[&(rest.len() as u32).to_be_bytes(), &rest]);
    Conversation::tcp(client, 9092).request(request.clone()).answer(request)
}

/// OASIS MQTT 3.1.1 and 5.
fn mqtt(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let name = bits.word(1, 23);
    let rest = join(&[&[0, 4], b"MQTT", &[bits.of(&[4, 5]), 2, 0, 60, 0, name.len() as u8], name.as_bytes()]);
    Conversation::tcp(client, 1883)
        .request(join(&[&[0x10, rest.len() as u8], &rest]))
        .answer([0x20, 2, 0, 0])
        .request([0xc0, 0])
        .answer([0xd0, 0])
}

fn amqp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let body = bits.some(10, 300);
    let frame = join(&[&[1, 0, 0], &(body.len() as u32).to_be_bytes(), &body, &[0xce]]);
    Conversation::tcp(client, 5672).request(b"AMQP\0\0\x09\x01".as_slice()).answer(frame.clone()).request(frame)
}

/// RFC 4511 in BER.
fn ldap(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let name = format!("cn={},dc=example", bits.word(1, 20));
    let bind = join(&[&[2, 1, 3, 4, name.len() as u8], name.as_bytes(), &[0x80, 4], b"pass"]);
    let message = join(&[&[2, 1, 1, 0x60, bind.len() as u8], &bind]);
    Conversation::tcp(client, 389)
        .request(join(&[&[0x30, message.len() as u8], &message]))
        .answer([0x30, 12, 2, 1, 1, 0x61, 7, 10, 1, 0, 4, 0, 4, 0])
}

fn smb(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let body = join(&[&[0xfe], b"SMB", &[64, 0, 1, 0], &bits.bytes(56), &bits.some(20, 200)]);
    let message = join(&[&(body.len() as u32).to_be_bytes(), &body]);
    Conversation::tcp(client, 445).request(message.clone()).answer(message)
}

/// TPKT (RFC 1006) starts as Ares does, with 03 00.
fn rdp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let user = bits.word(1, 15);
    let request = join(&[&[0xe0, 0, 0, 0, 0, 0], b"Cookie: mstshash=", user.as_bytes(), b"\r\n\x01\0\x08\0\x03\0\0\0"]);
    let tpkt = |content: &[u8]| {
        let length = (5 + content.len() as u16).to_be_bytes();
        join(&[&[3, 0], &length, &[content.len() as u8], content])
    };
    let (question, answer) = (tpkt(&request), tpkt(&[0xd0, 0, 0, 0x12, 0x34, 0]));
    Conversation::tcp(client, 3389)
        .request(question)
        .answer(answer)
        .request([3, 0, 0, 6, 2, 0xf0])
        .answer(join(&[&[0x16, 3, 3], &bits.bytes(90)]))
}

fn vnc(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    Conversation::tcp(client, 5900)
        .answer("RFB 003.008\n")
        .request("RFB 003.008\n")
        .answer([1, 2])
        .request([2])
        .answer(bits.bytes(16))
        .request(bits.bytes(16))
        .answer([0, 0, 0, 0])
        .request([1])
}

/// RFC 1928: five, then small numbers.
fn socks(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let target = join(&[&[5, 1, 0, 1], &bits.bytes(6)]);
    Conversation::tcp(client, 1080)
        .request([5, 1, 0])
        .answer([5, 0])
        .request(target)
        .answer(join(&[&[5, 0, 0, 1], &bits.bytes(6)]))
}

fn rtmp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let greeting = join(&[&[3], &bits.bytes(4), &[0; 4], &bits.bytes(1400)]);
    Conversation::tcp(client, 1935)
        .request(greeting.clone())
        .answer(greeting)
        .request(join(&[&[3, 0, 0, 0, 0, 0, 0x8b, 0x14, 0, 0, 0, 0], b"\x02\0\x07connect"]))
}

/// Transaction, protocol 0, big-endian length, unit, function.
fn modbus(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let transaction = bits.bytes(2);
    Conversation::tcp(client, 502).request(join(&[&transaction, &[0, 0, 0, 6, 1, 3, 0, 0, 0, 10]])).answer(join(&[
        &transaction,
        &[0, 0, 0, 7, 1, 3, 4],
        &bits.bytes(4),
    ]))
}

/// Version 5.0: starts with 05 00, and then a packet type.
fn dce_rpc(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[135, 49_664]));
    let body = bits.some(8, 200);
    let mut message = |kind: u8| {
        let length = (16 + body.len() as u16).to_le_bytes();
        join(&[&[5, 0, kind, 3, 0x10, 0, 0, 0], &length, &[0, 0], &bits.bytes(4), &body])
    };
    let (bind, accepted, request) = (message(11), message(12), message(0));
    Conversation::tcp(client, server).request(bind).answer(accepted).request(request)
}

/// Magic, command, little-endian length, checksum.
fn bitcoin(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut message = |command: &[u8; 12]| {
        let body = bits.some(0, 100);
        join(&[&[0xf9, 0xbe, 0xb4, 0xd9], command, &(body.len() as u32).to_le_bytes(), &bits.bytes(4), &body])
    };
    let (version, accepted, ping) =
        (message(b"version\0\0\0\0\0"), message(b"verack\0\0\0\0\0\0"), message(b"ping\0\0\0\0\0\0\0\0"));
    Conversation::tcp(client, 8333).request(version.clone()).answer(version).answer(accepted).request(ping)
}

/// Length, kind, name, port, state, in variable-length numbers.
fn minecraft(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let name = bits.word(3, 30);
    let rest = join(&[&[0, 0xfd, 5, name.len() as u8], name.as_bytes(), &[0x63, 0xdd, 1]]);
    Conversation::tcp(client, 25_565)
        .request(join(&[&[rest.len() as u8], &rest]))
        .request([1, 0])
        .answer(b"\x13\0\x11{\"players\":\"GND\"}".as_slice())
}

/// MS-DO frames blocks as BitTorrent does, on its own port.
fn delivery_optimization(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let piece = bits.bytes(4);
    let begin = (0x4000 * bits.within(0, 60) as u32).to_be_bytes();
    let request = join(&[&[0, 0, 0, 13, 6, 0], &piece[1..], &begin, &[0, 0, 0x40, 0]]);
    Conversation::tcp(client, 7680).request(request).answer(join(&[
        &[0, 0, 0x40, 9, 7, 0],
        &piece[1..],
        &begin,
        &bits.bytes(1400),
    ]))
}

/// A length of two bytes in front of OpenVPN's packets.
fn openvpn(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut packet = |opcode: u8, low: usize, high: usize| {
        let content = bits.some(low, high);
        join(&[&(1 + content.len() as u16).to_be_bytes(), &[opcode], &content])
    };
    let [reset, answer, data] = [packet(0x38, 13, 60), packet(0x40, 25, 60), packet(0x48, 30, 1200)];
    Conversation::tcp(client, bits.of(&[443, 1194])).request(reset).answer(answer).request(data.clone()).answer(data)
}

/// Home-made framing, of games and of remote calls: a little-endian length, a kind, content. Kinds and lengths are
/// small.
fn le32_frames(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[7000, 9000, 30_000]));
    let mut conversation = Conversation::tcp(client, server);
    for _ in 0..7 {
        let content = bits.some(5, 90);
        let kind = bits.within(0, 12) as u8;
        let length = (1 + content.len() as u32).to_le_bytes();
        let message = join(&[&length, &[kind], &content]);
        conversation =
            if bits.within(0, 1) == 0 { conversation.request(message) } else { conversation.answer(message) };
    }
    conversation
}

/// Length-prefixed messages, big-endian, with the identifiers of BitTorrent's messages but other contents.
fn be32_frames(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[7000, 9000, 30_000]));
    let mut conversation = Conversation::tcp(client, server);
    for _ in 0..7 {
        let content = bits.some(0, 90);
        let kind = bits.within(0, 20) as u8;
        let message = join(&[&(1 + content.len() as u32).to_be_bytes(), &[kind], &content]);
        conversation =
            if bits.within(0, 1) == 0 { conversation.request(message) } else { conversation.answer(message) };
    }
    conversation
}

/// Proxies and encrypted messengers: nothing but random bytes, single ones too.
fn ciphertext(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[443, 8388, 5222, 40_000]));
    let mut conversation = Conversation::tcp(client, server);
    for _ in 0..8 {
        conversation = conversation.request(bits.some(1, 600)).answer(bits.some(1, 600));
    }
    conversation
}
