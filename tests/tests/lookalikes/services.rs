//! Services over UDP: naming, time, management, remote calls, discovery.

use super::{
    Row,
    flow::{Bits, Conversation, join},
};

pub(super) const ROWS: &[Row] = &[
    ("DNS", dns),
    ("DNS on an unprivileged port", dns_high),
    ("multicast DNS", mdns),
    ("LLMNR", llmnr),
    ("NetBIOS names", netbios),
    ("NTP", ntp),
    ("NTP, modes 6 and 7", ntp_control),
    ("SNMP", snmp),
    ("SSDP", ssdp),
    ("DHCPv6", dhcp_v6),
    ("RADIUS", radius),
    ("TFTP", tftp),
    ("ONC RPC", onc_rpc),
    ("RX (AFS)", rx),
    ("SOME/IP", some_ip),
    ("CAPWAP", capwap),
    ("CoAP", coap),
    ("syslog", syslog),
    ("statsd", statsd),
    ("NetFlow", netflow),
    ("BACnet/IP", bacnet),
    ("bencoded control of a media proxy", bencoded),
    ("heartbeats under a UUID", uuid_heartbeat),
];

/// RFC 1035 section 4.1: any identifier, a name of one or two labels, the usual types, EDNS in some.
fn message(bits: &mut Bits, flags: u16, answers: u16) -> Vec<u8> {
    let edns = u16::from(bits.within(0, 1) == 1);
    let mut message = bits.id(2);
    for word in [flags, 1, answers, 0, edns] {
        message.extend(word.to_be_bytes());
    }
    for _ in 0..bits.within(1, 2) {
        let longest = bits.of(&[2, 5, 20]);
        let label = bits.word(1, longest);
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    let kind = bits.of(&[1u8, 2, 6, 12, 15, 16, 28, 33, 65, 255]);
    message.extend([0, 0, kind, 0, 1]);
    for _ in 0..answers {
        let data = bits.some(4, 16);
        message.extend([0xc0, 0x0c, 0, kind, 0, 1, 0, 0, 0x0e, 0x10, 0, data.len() as u8]);
        message.extend(data);
    }
    if edns == 1 {
        message.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    }
    message
}

fn dns_between(bits: &mut Bits, client: u16, server: u16) -> Conversation {
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..bits.within(1, 4) {
        let asked = bits.of(&[0x0100, 0x0000, 0x0120, 0x0110, 0x2800]);
        let question = message(bits, asked, 0);
        let answers = bits.within(0, 3) as u16;
        let flags = bits.of(&[0x8180, 0x8583, 0x8400, 0x8182, 0x8580, 0x8380]);
        let answer = [&question[..2], &message(bits, flags, answers)[2..]].concat();
        conversation = conversation.request(question).answer(answer);
    }
    conversation
}

fn dns(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    dns_between(bits, client, 53)
}

fn dns_high(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[5300, 8053, 5335, 9953]));
    dns_between(bits, client, server)
}

/// RFC 6762: identifier 0 to the group, any from a legacy resolver.
fn mdns(bits: &mut Bits) -> Conversation {
    let client = bits.of(&[5353, 49_152]);
    let mut announcement = message(bits, 0x8400, 2);
    announcement[..2].fill(0);
    dns_between(bits, client, 5353).answer(announcement)
}

/// RFC 4795.
fn llmnr(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let (question, answer) = (message(bits, 0, 0), message(bits, 0x8000, 1));
    Conversation::udp(client, 5355).request(question.clone()).request(question).answer(answer)
}

/// RFC 1002 section 4.2: names are encoded as 32 letters.
fn netbios(bits: &mut Bits) -> Conversation {
    let name: Vec<u8> = (0..32).map(|_| b'A' + bits.within(0, 15) as u8).collect();
    let query = join(&[&bits.id(2), &[0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, 0, 0x20], &name, &[0, 0, 0x20, 0, 1]]);
    Conversation::udp(137, 137).request(query.clone()).request(query)
}

/// RFC 5905: first byte is leap indicator, version and mode.
fn ntp(bits: &mut Bits) -> Conversation {
    let (client, server) = if bits.within(0, 1) == 0 { (123, 123) } else { (bits.port(), bits.of(&[123, 4460, 1123])) };
    let asked = bits.of(&[0xe3, 0x1b, 0x23, 0xdb, 0xd9, 0xe1]);
    let (stratum, poll) = (bits.within(0, 16) as u8, bits.within(3, 17) as u8);
    let rest = bits.bytes(44);
    let question = join(&[&[asked, stratum, poll, 0xec], &rest]);
    let answer = join(&[&[bits.of(&[0x24, 0x1c, 0xe4, 0xdc]), 2, poll, 0xe9], &bits.bytes(44)]);
    Conversation::udp(client, server).request(question).answer(answer)
}

/// Control (mode 6, RFC 9327) and the reference implementation's private mode 7, which fill with zeros.
fn ntp_control(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let control = join(&[&[0x16, 0x02], &bits.bytes(2), &[0; 8]]);
    let private = join(&[&[0x17, 0, 3, 0x2a], &[0; 4]]);
    let list = join(&[&[0xd7, 0, 3, 0x2a, 0, 6, 0, 0x48], &bits.bytes(432)]);
    Conversation::udp(client, 123).request(control).request(private).answer(list)
}

/// RFC 3416 in BER.
fn snmp(bits: &mut Bits) -> Conversation {
    let community = bits.word(4, 12);
    let id = bits.bytes(4);
    let mut message = |kind: u8, value: &[u8]| {
        let bind = join(&[&[0x06, 8, 0x2b, 6, 1, 2, 1, 1, bits.within(1, 7) as u8, 0], value]);
        let binds = join(&[&[0x30, bind.len() as u8 + 2, 0x30, bind.len() as u8], &bind]);
        let body = join(&[&[2, 4], &id, &[2, 1, 0, 2, 1, 0], &binds]);
        let rest =
            join(&[&[2, 1, 1, 4, community.len() as u8], community.as_bytes(), &[kind, body.len() as u8], &body]);
        join(&[&[0x30, rest.len() as u8], &rest])
    };
    let (question, answer) = (message(0xa0, &[5, 0]), message(0xa2, &[2, 1, 7]));
    Conversation::udp(50_000, bits.of(&[161, 1161])).request(question).answer(answer)
}

/// UPnP Device Architecture section 1.3: like local service discovery, but searching for devices.
fn ssdp(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let search = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nST: ssdp:all\r\n\r\n";
    let found = format!("HTTP/1.1 200 OK\r\nUSN: uuid:{}\r\nSERVER: BitTorrent/1.0\r\n\r\n", bits.word(8, 8));
    Conversation::udp(client, 1900).request(search).answer(found.into_bytes())
}

/// RFC 8415: message type 1 and a transaction of any three bytes, as a uTP header has type and connection.
fn dhcp_v6(bits: &mut Bits) -> Conversation {
    let transaction = bits.bytes(3);
    let options = join(&[&[0, 1, 0, 10, 0, 3, 0, 1], &bits.bytes(6), &[0, 6, 0, 4, 0, 23, 0, 24, 0, 8, 0, 2, 0, 0]]);
    Conversation::udp(546, 547)
        .request(join(&[&[1], &transaction, &options]))
        .answer(join(&[&[2], &transaction, &options]))
        .request(join(&[&[3], &transaction, &options]))
}

/// RFC 2865.
fn radius(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let id = bits.next() as u8;
    let mut packet = |code: u8| {
        let value = bits.some(4, 60);
        let attribute = join(&[&[1, value.len() as u8 + 2], &value]);
        let length = (20 + attribute.len() as u16).to_be_bytes();
        join(&[&[code, id], &length, &bits.bytes(16), &attribute])
    };
    let (request, accept) = (packet(1), packet(2));
    Conversation::udp(client, 1812).request(request).answer(accept)
}

/// RFC 1350: both ports are unprivileged once the transfer runs, and blocks hold any file.
fn tftp(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let mut conversation = Conversation::udp(client, server);
    for block in 1..=bits.within(1, 7) as u8 {
        let fill = bits.of(&[0, 0xff, 1]);
        let data = if bits.within(0, 1) == 0 { bits.bytes(512) } else { vec![fill; 512] };
        conversation = conversation.answer(join(&[&[0, 3, 0, block], &data])).request([0, 4, 0, block]);
    }
    conversation
}

/// RFC 5531: transaction, call or reply, version 2: a small number where UDP trackers have their action.
fn onc_rpc(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[111, 2049, 20_048, 32_767]));
    let mut conversation = Conversation::udp(client, server);
    for _ in 0..bits.within(1, 3) {
        let id = bits.id(4);
        let program = [0, 1, 0x86, bits.of(&[0xa0, 0xa3, 0xa5])];
        let call =
            join(&[&id, &[0, 0, 0, 0, 0, 0, 0, 2], &program, &[0, 0, 0, 3, 0, 0, 0, 1], &[0; 16], &bits.some(0, 90)]);
        let reply = join(&[&id, &[0, 0, 0, 1], &[0; 20], &bits.some(0, 90)]);
        conversation = conversation.request(call).answer(reply);
    }
    conversation
}

/// RX, of AFS: epoch, connection, call number 1 or 2 at offset 8, sequence, serial, type, flags; the answer repeats the
/// first three.
fn rx(bits: &mut Bits) -> Conversation {
    let mut conversation = Conversation::udp(7001, bits.of(&[7000, 7002, 7003, 7005]));
    let connection = bits.id(8);
    for call in 1..=bits.within(1, 4) as u8 {
        let head = join(&[&connection, &[0, 0, 0, call, 0, 0, 0, 1, 0, 0, 0, call]]);
        let body = bits.some(28, 120);
        conversation = conversation.request(join(&[&head, &[1, 5, 0, 0], &[0, 0, 0, 0x34], &body])).answer(join(&[
            &head,
            &[1, 4, 0, 0],
            &[0, 0, 0, 0x34],
            &bits.some(4, 200),
        ]));
    }
    conversation
}

/// AUTOSAR SOME/IP: service, method, length, client, session, versions.
fn some_ip(bits: &mut Bits) -> Conversation {
    let (id, session) = (bits.id(4), bits.bytes(2));
    let mut message = |kind: u8| {
        let body = bits.some(0, 120);
        join(&[&id, &(8 + body.len() as u32).to_be_bytes(), &[0, 0], &session, &[1, 1, kind, 0], &body])
    };
    let (request, response) = (message(0), message(0x80));
    Conversation::udp(30_509, 30_490).request(request).answer(response)
}

/// RFC 5415: preamble, header, control message; and the preamble of DTLS.
fn capwap(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let kind = bits.of(&[1u8, 3, 13, 15]);
    let control =
        join(&[&[0, 0x10, 2, 0, 0, 0, 0, 0], &[0, 0, 0, kind, bits.next() as u8, 0, 3, 0], &bits.some(0, 90)]);
    let data = join(&[&[0, 0x20, 3, 0x20], &bits.bytes(4), &bits.some(24, 300)]);
    Conversation::udp(client, bits.of(&[5246, 5247])).request(control.clone()).answer(control).request(data)
}

/// RFC 7252: version 1, type, token length, code: 0x41 and 0x61 are what uTP's SYN and CoAP's answer share bits with.
fn coap(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let token = bits.within(0, 4) as u8;
    let id = bits.bytes(2);
    let request = join(&[&[0x40 | token, bits.of(&[1, 2, 3])], &id, &bits.bytes(token.into()), &bits.some(0, 40)]);
    let response = join(&[&[0x60 | token, 0x45], &id, &bits.bytes(token.into()), &[0xff], &bits.some(0, 60)]);
    Conversation::udp(client, 5683).request(request).answer(response)
}

/// RFC 3164, from programs that have P2P in their names.
fn syslog(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let text = bits.of(&[
        "transmission-daemon: BT-SEARCH",
        "amuled: $SR result|",
        "gtk-gnutella: GND",
        "URES UINF d1:ad2:id20:",
    ]);
    let line = format!("<{}>Nov 24 12:00:00 host {text}\n", bits.within(0, 191));
    Conversation::udp(client, bits.of(&[514, 5514])).request(line.into_bytes())
}

fn statsd(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let line = format!("{}.{}:{}|c\n", bits.of(&["peers", "GND", "dht.d1"]), bits.word(3, 20), bits.within(0, 9999));
    Conversation::udp(client, 8125).request(line.clone().into_bytes()).request(line.into_bytes())
}

/// NetFlow version 5 and version 9 (RFC 3954).
fn netflow(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let records = bits.within(1, 20) as u8;
    let head = join(&[&[0, bits.of(&[5, 9, 10]), 0, records], &bits.bytes(20)]);
    Conversation::udp(client, 2055).request(join(&[&head, &bits.bytes(48 * usize::from(records))]))
}

/// ASHRAE 135 annex J: 0x81, function, length.
fn bacnet(bits: &mut Bits) -> Conversation {
    let body = bits.some(4, 60);
    let message = join(&[&[0x81, bits.of(&[0x0a, 0x0b])], &(4 + body.len() as u16).to_be_bytes(), &body]);
    Conversation::udp(47_808, 47_808).request(message.clone()).answer(message)
}

/// The NG protocol of rtpengine: a cookie, then a bencoded dictionary; and a dictionary without a cookie.
fn bencoded(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let call = bits.word(8, 30);
    let dictionary = format!("d7:call-id{}:{call}7:command4:pinge", call.len());
    let cookie = bits.word(5, 10);
    Conversation::udp(client, 2223)
        .request(format!("{cookie} {dictionary}").into_bytes())
        .answer(format!("{cookie} d6:result4:ponge").into_bytes())
        .request(dictionary.into_bytes())
        .answer("d6:result4:ponge")
}

/// A home-made protocol: an identifier of 16 bytes, a type that Gnutella does not have, version, flags, zeros.
fn uuid_heartbeat(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.port());
    let id = bits.id(16);
    let kind = bits.of(&[3u8, 4, 5, 0x10, 0x20, 0x7f, 0xf0]);
    let message = join(&[&id, &[kind, 1, 0, 0, 0, 0, 0]]);
    Conversation::udp(client, server).request(message.clone()).answer(message)
}
