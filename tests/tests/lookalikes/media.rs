//! Calls, video and games over UDP.

use super::{
    Row,
    flow::{Bits, Conversation, join},
};

pub(super) const ROWS: &[Row] = &[
    ("STUN", stun),
    ("TURN", turn),
    ("DTLS 1.2", dtls),
    ("DTLS 1.3", dtls13),
    ("QUIC", quic),
    ("RTP and RTCP", rtp),
    ("SIP", sip),
    ("Discord voice", discord),
    ("SRT", srt),
    ("Source engine queries", source_engine),
    ("Quake III", quake),
    ("RakNet", raknet),
    ("ENet", enet),
    ("KCP", kcp),
    ("Zoom-like framing", zoom),
    ("ciphertext from the first byte", ciphertext),
    ("keepalives", keepalives),
];

/// RFC 8489, and RFC 3489 without its cookie: types 0001 and 0101, where uTP has DATA and an extension.
fn stun(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[3478, 19_302, 5349, 40_000]));
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..bits.within(1, 5) {
        let cookie = if bits.within(0, 3) > 0 { vec![0x21, 0x12, 0xa4, 0x42] } else { bits.bytes(4) };
        let transaction = join(&[&cookie, &bits.bytes(12)]);
        let software = bits.some(4, 16);
        let attribute =
            join(&[&[0x80, 0x22, 0, software.len() as u8], &software, &vec![0; (4 - software.len() % 4) % 4]]);
        let question = join(&[&[0, 1], &(attribute.len() as u16).to_be_bytes(), &transaction, &attribute]);
        let mapped = join(&[&[0, 0x20, 0, 8, 0, 1], &bits.bytes(6), &attribute]);
        let answer = join(&[&[1, 1], &(mapped.len() as u16).to_be_bytes(), &transaction, &mapped]);
        conversation = conversation.request(question).answer(answer);
    }
    conversation
}

/// RFC 8656: allocations, then channel data.
fn turn(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let transaction = join(&[&[0x21, 0x12, 0xa4, 0x42], &bits.bytes(12)]);
    let channel = [0x40, bits.next() as u8];
    let mut data = || {
        let content = bits.some(12, 200);
        join(&[&channel, &(content.len() as u16).to_be_bytes(), &content])
    };
    let (forth, back) = (data(), data());
    Conversation::udp(client, 3478)
        .request(join(&[&[0, 3, 0, 8], &transaction, &[0, 0x19, 0, 4, 17, 0, 0, 0]]))
        .answer(join(&[&[1, 0x13, 0, 8], &transaction, &[0, 9, 0, 4, 0, 0, 4, 1]]))
        .request(forth)
        .answer(back)
}

/// RFC 6347: records of the handshake and of data.
fn dtls(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let mut record = |kind: u8, epoch: u8, low: usize, high: usize| {
        let content = bits.some(low, high);
        let sequence = [0, 0, 0, 0, 0, bits.within(0, 9) as u8];
        join(&[
            &[kind, 0xfe, bits.of(&[0xfd, 0xff]), 0, epoch],
            &sequence,
            &(content.len() as u16).to_be_bytes(),
            &content,
        ])
    };
    let messages = [record(22, 0, 60, 200), record(22, 0, 60, 1200), record(20, 0, 1, 1), record(23, 1, 30, 500)];
    let [hello, server_hello, change, data] = messages;
    Conversation::udp(client, server)
        .request(hello)
        .answer(server_hello)
        .request(change)
        .request(data.clone())
        .answer(data)
}

/// RFC 9147 section 4: the unified header's first byte is 001CSLEE.
fn dtls13(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..6 {
        let first = 0x20 | bits.next() as u8 & 0x1f;
        conversation =
            conversation.request(join(&[&[first], &bits.some(19, 300)])).answer(join(&[&[first], &bits.some(19, 40)]));
    }
    conversation
}

/// RFC 9000 section 17: long headers of versions 1 and 2, short headers whose low bits are protected.
fn quic(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[443, 4433, 8443]));
    let version = bits.of(&[[0, 0, 0, 1], [0x6b, 0x33, 0x43, 0xcf], [0xff, 0, 0, 0x1d], [0x0a, 0x1a, 0x2a, 0x3a]]);
    let mut long = |size: usize| {
        let ids = bits.within(0, 20) as u8;
        let first = 0xc0 | bits.next() as u8 & 0x3f;
        join(&[&[first], &version, &[ids], &bits.bytes(ids.into()), &[8], &bits.bytes(size)])
    };
    let (initial, answer, handshake) = (long(1170), long(1170), long(90));
    let mut conversation = Conversation::udp(client, server).request(initial).answer(answer).request(handshake);
    for _ in 0..5 {
        let first = 0x40 | bits.next() as u8 & 0x3f;
        conversation =
            conversation.request(join(&[&[first], &bits.some(20, 60)])).answer(join(&[&[first], &bits.some(20, 1200)]));
    }
    conversation
}

/// RFC 3550: payload types of audio and video, sequence numbers that go on; reports between them.
fn rtp(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port() & !1, bits.port() & !1);
    let (source, kind) = (bits.bytes(4), bits.of(&[0u8, 8, 9, 13, 18, 96, 97, 101, 111, 126]));
    let mut sequence = bits.next() as u16;
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..7 {
        sequence = sequence.wrapping_add(1);
        let first = bits.of(&[0x80, 0x80, 0x90, 0xa0]);
        let packet = join(&[&[first, kind], &sequence.to_be_bytes(), &bits.bytes(4), &source, &bits.some(4, 160)]);
        let report = join(&[&[0x81, bits.of(&[200, 201, 205]), 0, 7], &source, &bits.bytes(24)]);
        conversation =
            conversation.request(packet.clone()).answer(if bits.within(0, 3) == 0 { report } else { packet });
    }
    conversation
}

/// RFC 3261 with a session description (RFC 8866).
fn sip(bits: &mut Bits) -> Conversation {
    let (user, call) = (bits.word(3, 10), bits.word(8, 20));
    let invite = format!(
        "INVITE sip:{user}@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{call}\r\nSubject: announce info_hash=\r\n\r\nv=0\r\n"
    );
    Conversation::udp(5060, bits.of(&[5060, 5062]))
        .request(invite.into_bytes())
        .answer(format!("SIP/2.0 180 Ringing\r\nCall-ID: {call}\r\n\r\n").into_bytes())
        .request("\r\n\r\n")
}

/// Address discovery of 74 bytes: type 1, length 70, then encrypted RTP.
fn discord(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let source = bits.bytes(4);
    let find = join(&[&[0, 1, 0, 70], &source, &[0; 66]]);
    let voice = join(&[&[0x90, 0x78], &bits.bytes(6), &source, &bits.some(30, 120)]);
    Conversation::udp(client, 50_004).request(find.clone()).answer(find).request(voice.clone()).answer(voice)
}

/// The SRT draft: control packets have the top bit set, data packets a sequence number.
fn srt(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let induction =
        join(&[&[0x80, 0, 0, 0], &[0; 4], &bits.bytes(4), &[0; 4], &[0, 0, 0, 4, 0, 0, 0, 2], &bits.bytes(40)]);
    let data = join(&[&[bits.next() as u8 & 0x7f], &bits.bytes(15), &bits.bytes(1316)]);
    Conversation::udp(client, server).request(induction.clone()).answer(induction).request(data)
}

/// Valve's server queries: ff ff ff ff and a letter.
fn source_engine(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let challenge = bits.bytes(4);
    Conversation::udp(client, 27_015)
        .request(join(&[&[0xff; 4], b"TSource Engine Query\0"]))
        .answer(join(&[&[0xff; 4], b"A", &challenge]))
        .request(join(&[&[0xff; 4], b"U", &challenge]))
        .answer(join(&[&[0xff; 4], b"D", &[bits.within(0, 60) as u8], &bits.some(20, 900)]))
}

fn quake(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let status = format!("statusResponse\n\\sv_hostname\\{}\\gamename\\GND\n", bits.word(4, 30));
    let mut conversation = Conversation::udp(client, 27_960)
        .request(join(&[&[0xff; 4], b"getstatus"]))
        .answer(join(&[&[0xff; 4], status.as_bytes()]));
    for sequence in 1..5u32 {
        conversation = conversation.request(join(&[&sequence.to_le_bytes(), &bits.some(20, 80)]));
    }
    conversation
}

/// RakNet, of Minecraft and others: pings of 33 bytes, connection requests of 1464 zeros, frames 84..8d,
/// acknowledgements c0 and a0.
fn raknet(bits: &mut Bits) -> Conversation {
    const MAGIC: [u8; 16] = [0, 255, 255, 0, 254, 254, 254, 254, 253, 253, 253, 253, 0x12, 0x34, 0x56, 0x78];
    let client = bits.port();
    let time = bits.bytes(8);
    let frame = join(&[&[0x84], &[bits.next() as u8, 0, 0], &[0x60, 1, 0], &bits.some(20, 400)]);
    Conversation::udp(client, 19_132)
        .request(join(&[&[1], &time, &MAGIC, &bits.bytes(8)]))
        .answer(join(&[&[0x1c], &time, &bits.bytes(8), &MAGIC, &[0, 20], b"MCPE;server;1;1.20;0"]))
        .request(join(&[&[5], &MAGIC, &[11], &[0; 1440]]))
        .answer(join(&[&[6], &MAGIC, &bits.bytes(8), &[0, 5, 0xd4]]))
        .request(frame.clone())
        .answer(join(&[&[0xc0, 0, 1, 1], &[bits.next() as u8, 0, 0]]))
        .answer(frame)
}

/// ENet: peer with flags, sent time, then commands of fixed layouts.
fn enet(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[5056, 7777, 1234]));
    let connect = join(&[&[0x8f, 0xff], &bits.bytes(2), &[0x82, 0xff, 0, 1], &bits.bytes(40)]);
    let mut conversation = Conversation::udp(client, server).request(connect);
    for sequence in 1..6u8 {
        let content = bits.some(4, 120);
        let length = (content.len() as u16).to_be_bytes();
        let peer = [0x80, bits.within(0, 3) as u8];
        let send = join(&[&peer, &bits.bytes(2), &[0x86, 0, 0, sequence], &length, &content]);
        conversation =
            conversation.request(send).answer(join(&[&peer, &bits.bytes(2), &[1, 0, 0, sequence], &bits.bytes(4)]));
    }
    conversation
}

/// KCP: conversation, command 81..84, window, times, numbers, and a little-endian length at offset 20.
fn kcp(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let conversation_id = bits.id(4);
    let mut conversation = Conversation::udp(client, server);
    for number in 0..6u32 {
        let content = bits.some(0, 200);
        let length = (content.len() as u32).to_le_bytes();
        let (time, number) = (bits.bytes(4), number.to_le_bytes());
        let push = join(&[&conversation_id, &[81, 0, 128, 0], &time, &number, &number, &length, &content]);
        let acknowledged = join(&[&conversation_id, &[82, 0, 128, 0], &time, &number, &number, &[0; 4]]);
        conversation = conversation.request(push).answer(acknowledged);
    }
    conversation
}

/// Small first bytes, counters, then media: what a uTP DATA header looks like without its connection.
fn zoom(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let mut conversation = Conversation::udp(client, 8801);
    for number in 1..7u8 {
        let first = bits.of(&[1u8, 2, 5]);
        let head = [first, 0, 0, number, bits.of(&[0, 4])];
        conversation =
            conversation.request(join(&[&head, &bits.some(15, 400)])).answer(join(&[&head, &bits.some(15, 1000)]));
    }
    conversation
}

/// An encrypted tunnel or call without any framing.
fn ciphertext(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..8 {
        conversation = conversation.request(bits.some(40, 600)).answer(bits.some(40, 600));
    }
    conversation
}

/// A few bytes repeated in both directions.
fn keepalives(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    // Two bytes that happen to be a whole Kad or eMule message on such a port are one: nothing could tell them apart.
    let (client, server) = if [client, server].iter().any(|port| matches!(port, 4662..=4672)) {
        (50_000, 40_000)
    } else {
        (client, server)
    };
    let message = bits.some(1, 12);
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..8 {
        conversation = conversation.request(message.clone()).answer(message.clone());
    }
    conversation
}
