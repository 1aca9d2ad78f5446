//! VPNs and tunnels over UDP, as they look from outside.

use super::{
    Row,
    flow::{Bits, Conversation, join},
};

pub(super) const ROWS: &[Row] = &[
    ("WireGuard", wireguard),
    ("OpenVPN", openvpn),
    ("IKE and ESP in UDP", esp),
    ("VXLAN", vxlan),
    ("Geneve", geneve),
    ("L2TP", l2tp),
    ("Teredo bubbles", teredo),
    ("ZeroTier", zerotier),
    ("LoRa gateway", lora),
];

/// The WireGuard paper, section 5.4: types 1, 2 and 4 in little-endian words, fixed lengths, data in blocks of 16.
fn wireguard(bits: &mut Bits) -> Conversation {
    let (client, server) = (bits.port(), bits.of(&[51_820, 443, 41_641]));
    let mut conversation = Conversation::udp(client, server)
        .request(join(&[&[1, 0, 0, 0], &bits.bytes(144)]))
        .answer(join(&[&[2, 0, 0, 0], &bits.bytes(88)]));
    let (forth, back) = (bits.bytes(4), bits.bytes(4));
    for counter in 0..6u64 {
        let (sent, received) = (16 * bits.within(1, 80), 16 * bits.within(1, 80));
        let counter = counter.to_le_bytes();
        conversation = conversation
            .request(join(&[&[4, 0, 0, 0], &forth, &counter, &bits.bytes(sent)]))
            .answer(join(&[&[4, 0, 0, 0], &back, &counter, &bits.bytes(received)]));
    }
    conversation
}

/// OpenVPN's packet layout: opcode and key, session, packet numbers.
fn openvpn(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let (ours, theirs) = (bits.bytes(8), bits.bytes(8));
    let mut conversation = Conversation::udp(client, 1194)
        .request(join(&[&[0x38], &ours, &[0, 0, 0, 0, 0]]))
        .answer(join(&[&[0x40], &theirs, &[1, 0, 0, 0, 0], &ours, &[0, 0, 0, 0]]))
        .request(join(&[&[0x28], &ours, &[1, 0, 0, 0, 0], &theirs]))
        .request(join(&[&[0x20], &ours, &[0, 0, 0, 0, 1], &bits.some(60, 1200)]));
    for _ in 0..4 {
        conversation = conversation.request(join(&[&[0x48, 0, 0, 0], &bits.some(30, 1200)]));
    }
    conversation
}

/// RFC 3948: security parameters index, sequence number; IKE after four zeros; one byte ff to keep the mapping.
fn esp(bits: &mut Bits) -> Conversation {
    let (forth, back) = (bits.id(4), bits.id(4));
    let ike = join(&[&[0; 4], &bits.bytes(16), &[0x29, 0x20, 0x22, 0x08, 0, 0, 0, 0], &bits.some(100, 400)]);
    let mut conversation = Conversation::udp(4500, 4500).request(ike.clone()).answer(ike);
    for sequence in 1..6u32 {
        let sequence = sequence.to_be_bytes();
        conversation = conversation
            .request(join(&[&forth, &sequence, &bits.some(40, 1200)]))
            .answer(join(&[&back, &sequence, &bits.some(40, 1200)]))
            .request([0xff]);
    }
    conversation
}

/// RFC 7348. The frame inside is ordinary web traffic.
fn vxlan(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let inner = join(&[&bits.bytes(12), &[0x08, 0x00, 0x45, 0], &bits.some(40, 300)]);
    Conversation::udp(client, 4789).request(join(&[&[8, 0, 0, 0], &bits.bytes(3), &[0], &inner]))
}

/// RFC 8926.
fn geneve(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    Conversation::udp(client, 6081).request(join(&[&[0, 0, 0x65, 0x58], &bits.bytes(3), &[0], &bits.some(60, 300)]))
}

/// RFC 2661: control and data messages.
fn l2tp(bits: &mut Bits) -> Conversation {
    let avps = bits.some(8, 80);
    let length = (12 + avps.len() as u16).to_be_bytes();
    let control = join(&[&[0xc8, 2], &length, &bits.bytes(4), &[0, 0, 0, 0], &avps]);
    let data = join(&[&[0, 2], &bits.bytes(4), &[0xff, 3, 0, 0x21], &bits.some(40, 900)]);
    Conversation::udp(1701, 1701).request(control.clone()).answer(control).request(data)
}

/// RFC 4380: an IPv6 header without a payload.
fn teredo(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let bubble = join(&[&[0x60, 0, 0, 0, 0, 0, 59, 21], &bits.bytes(32)]);
    Conversation::udp(client, 3544).request(bubble.clone()).answer(bubble)
}

/// Packet number, destination, source, flags, code, ciphertext: nothing fixed at all.
fn zerotier(bits: &mut Bits) -> Conversation {
    let mut conversation = Conversation::udp(9993, 9993);
    for _ in 0..8 {
        conversation = conversation.request(bits.some(28, 400)).answer(bits.some(28, 400));
    }
    conversation
}

/// Semtech's packet forwarder: version, token, kind, gateway, JSON.
fn lora(bits: &mut Bits) -> Conversation {
    let client = bits.port();
    let (token, version) = (bits.bytes(2), bits.of(&[1u8, 2]));
    let push = join(&[&[version], &token, &[0], &bits.bytes(8), b"{\"stat\":{\"rxnb\":2}}"]);
    Conversation::udp(client, 1700).request(push).answer(join(&[&[version], &token, &[1]]))
}
