//! The other networks. The files in `dissect` name the sources.

use monitor_common::abi::protocol::Protocol::{
    AceStream, AppleJuice, Ares, BtSync, DeliveryOptimization, DirectConnect, EDonkey, FastTrack, Gnutella, Gnutella2,
    Ipv8, Kademlia, LibP2p, Mute, OpenFt, OpenNap, Soulseek, Waste, WinMx,
};

use super::{Exchange, framed, hex};

/// A file's hash as Direct Connect writes it.
const TTH: &str = "PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA";

fn string(text: &str) -> Vec<u8> {
    framed(text.as_bytes())
}

/// An eDonkey message: header byte, length, opcode, body.
fn message(header: u8, opcode: u8, body: &[u8]) -> Vec<u8> {
    [&[header], framed(&[&[opcode], body].concat()).as_slice()].concat()
}

fn edonkey() -> Vec<Exchange> {
    let hash = [7u8; 16];
    let hello = [&[16], &hash[..], &hex("0a000001 3612 00000000 00000000 0000")].concat();
    let part = [&hash[..], &hex("00500000 00780000"), &[0x5a; 0x2800][..1400]].concat();
    let part = [vec![0xe3], (25 + 0x2800u32).to_le_bytes().into(), vec![0x46], part].concat();
    let tcp = |name| Exchange::tcp(name, EDonkey, (50_000, 4662));
    let udp = |name, port| Exchange::udp(name, EDonkey, (4672, port));
    let kad = |name| Exchange::udp(name, Kademlia, (50_000, 4672));
    vec![
        tcp("edonkey-hello").request(message(0xe3, 0x01, &hello)).answer(message(0xe3, 0x4c, &hello)),
        tcp("edonkey-requests").request([message(0xe3, 0x58, &hash), message(0xe3, 0x4f, &hash)].concat()),
        tcp("edonkey-part-midstream").answer(part),
        Exchange::tcp("edonkey-sources", EDonkey, (50_000, 4661))
            .request(message(0xe3, 0x01, &[&hash[..], &hex("00000000 3612 00000000")].concat()))
            .answer([message(0xe3, 0x38, b"\x05\0hello"), message(0xe3, 0x40, &[0; 8])].concat())
            .request(message(0xe3, 0x19, &hash))
            .answer(message(0xe3, 0x42, &[&hash[..], &hex("02 c0000207 3612 01020300 3612")].concat()))
            .request([message(0xe3, 0x23, &hash), message(0xe3, 0x23, &hash)].concat())
            .answer(message(0xe3, 0x44, &[&hash[..], &hex("01 c0000208 3612 83"), &hash].concat())),
        tcp("edonkey-packed").request(message(0xd4, 0x15, &hex("789c 0102030405"))),
        udp("edonkey-server", 4665).request(hex("e396 1234aa55")).answer(hex("e397 1234aa55 00000100 00002000")),
        udp("emule-reask", 17_366)
            .request([&hex("c590")[..], &hash, &hex("0a00 ff03 0200")].concat())
            .answer(hex("c591 0a00 ff03 0500")),
        udp("emule-utp", 4672)
            .request(hex("b2ff 6465666768696a6b6c6d6e6f70717273"))
            .request(hex("b200 4102 5123 4f2b1c9e 00000000 00100000 0001 0000 0008 0000000000000000"))
            .answer(hex("b200 2100 5123 1c9e4f2b 00000000 00100000 0007 0001")),
        kad("kad-hello")
            .request([&hex("e411")[..], &hash, &hex("3612 08 00")].concat())
            .answer([&hex("e419")[..], &hash, &hex("3612 08 00")].concat()),
        kad("kad-lookup")
            .request([&hex("e421 0b")[..], &hash, &hash].concat())
            .answer([&hex("e429")[..], &hash, &hex("01"), &[9; 25]].concat()),
        kad("kad-ping").request(hex("e460")).answer(hex("e461 3612")),
        kad("kad-packed").answer(hex("e529 789c 636064 0400")),
    ]
}

fn gnutella() -> Vec<Exchange> {
    let id = hex("809bc12168a1852cff5d7a785833f600");
    let header = |kind: u8, body: &[u8]| [&id, &[kind, 1, 0][..], &(body.len() as u32).to_le_bytes(), body].concat();
    let tcp = |name| Exchange::tcp(name, Gnutella, (50_000, 6346));
    vec![
        tcp("gnutella-connect")
            .request("GNUTELLA CONNECT/0.6\r\nUser-Agent: a\r\n\r\n")
            .answer("GNUTELLA/0.6 200 OK\r\n\r\n"),
        tcp("gnutella-download")
            .request("GET /uri-res/N2R?urn:sha1:PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB HTTP/1.1\r\nHost: a\r\n\r\n"),
        tcp("gnutella-push").request("GIV 36:809BC12168A1852CFF5D7A785833F600/a.mp3\n\n"),
        Exchange::udp("gnutella-ping", Gnutella, (6346, 6346)).request(header(0, &[])).answer(header(1, &[5; 14])),
        Exchange::udp("gnutella-query", Gnutella, (6346, 6346)).request(header(0x80, b"\0\0some words\0")),
        Exchange::udp("gnutella2-packet", Gnutella2, (6346, 6346))
            .request([&hex("474e44 03 1234 01 01")[..], &[7; 60]].concat())
            .answer(hex("474e44 00 1234 01 00")),
    ]
}

fn direct_connect() -> Vec<Exchange> {
    let tcp = |name, port| Exchange::tcp(name, DirectConnect, (50_000, port));
    vec![
        tcp("nmdc-hub", 411)
            .answer("$Lock EXTENDEDPROTOCOLABCABCABCABC Pk=hub|")
            .request("$Supports NoHello|$Key x|$ValidateNick a|"),
        tcp("nmdc-peer", 412).request("$MyNick someone|$Lock EXTENDEDPROTOCOLABC Pk=a|"),
        tcp("nmdc-transfer", 412).request(format!("$ADCGET file TTH/{TTH} 0 -1|")),
        tcp("adc-hub", 1511).request("HSUP ADBASE ADTIGR\n").answer("ISUP ADBASE ADTIGR\nISID AAAB\n"),
        tcp("adc-transfer", 5000)
            .request(format!("CGET file TTH/{TTH} 0 -1\n"))
            .answer(format!("CSND file TTH/{TTH} 0 9\n")),
        Exchange::udp("nmdc-result", DirectConnect, (50_000, 412))
            .request(format!("$SR nick a\\b\x05123 1/2\x05TTH:{TTH} (192.0.2.1:411)|")),
        Exchange::udp("adc-result", DirectConnect, (50_000, 5001)).request(format!("URES {TTH} TO1 SL10 SI4 FN/a\n")),
    ]
}

/// Obfuscates as Soulseek's peers do: a key that turns left by one bit for each word.
fn obfuscated(message: &[u8], mut key: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = key.to_le_bytes().into();
    for word in message.chunks(4) {
        key = key.rotate_left(1);
        bytes.extend(word.iter().zip(key.to_le_bytes()).map(|(byte, key)| byte ^ key));
    }
    bytes
}

fn soulseek() -> Vec<Exchange> {
    let digest = "d51c9a7e9353746a6020f9602d452929";
    let login = framed(
        &[hex("01000000"), string("someone"), string("secret"), hex("a0000000"), string(digest), hex("01000000")]
            .concat(),
    );
    let init = framed(&[hex("01"), string("someone"), string("P"), hex("02000000")].concat());
    let pierce = hex("05000000 00 12345678");
    let tcp = |name, port| Exchange::tcp(name, Soulseek, (50_000, port));
    vec![
        tcp("soulseek-login", 2242).request(login),
        tcp("soulseek-peer", 2234).request(init.clone()),
        tcp("soulseek-pierce", 2234).request(pierce.clone()),
        tcp("soulseek-obfuscated-peer", 2235).request(obfuscated(&init, 0x1234_5678)),
        tcp("soulseek-obfuscated-pierce", 2235).request(obfuscated(&pierce, 0x89ab_cdef)),
    ]
}

fn older() -> Vec<Exchange> {
    let login = "user pass 6699 \"nap v0.8\" 8";
    let key = [b"PublicKey: ".as_slice(), &[b'A'; 198]].concat();
    vec![
        Exchange::tcp("fasttrack-link", FastTrack, (50_000, 1214))
            .request(hex("fa00b62b 07716acf c991489b"))
            .answer(hex("81fc5b398c399a9e")),
        Exchange::tcp("fasttrack-download", FastTrack, (50_000, 1214))
            .request("GET /.hash=ea97adc32b795a9ab45937c5e151dfda397a5d0f HTTP/1.1\r\n\r\n"),
        Exchange::udp("fasttrack-ping", FastTrack, (1214, 1214))
            .request(hex("27 00000029 80 4b615a614100"))
            .answer(hex("28 00000029 00 0000000010 4b615a614100")),
        Exchange::tcp("ares-link", Ares, (50_000, 37_619))
            .request(hex("03005a 0606 05"))
            .answer([hex("87003c"), vec![0x5a; 135]].concat()),
        Exchange::tcp("winmx-get", WinMx, (50_000, 6699)).answer("1").request("GET").request("nick \"a.mp3\" 0"),
        Exchange::tcp("winmx-send", WinMx, (50_000, 6699)).answer("1").request("SEND"),
        Exchange::tcp("opennap-login", OpenNap, (50_000, 8888))
            .request([&(login.len() as u16).to_le_bytes(), &[2, 0], login.as_bytes()].concat()),
        Exchange::tcp("openft-download", OpenFt, (50_000, 1216))
            .request("GET /a.mp3 HTTP/1.1\r\nX-OpenftAlias: someone\r\n\r\n"),
        Exchange::tcp("applejuice-greeting", AppleJuice, (50_000, 9850)).request("ajprot\r\n"),
        Exchange::tcp("mute-key", Mute, (50_000, 4900)).request(key),
        Exchange::tcp("waste-download", Waste, (50_000, 1337))
            .request("GET.sha1:0123456789abcdef0123456789abcdef01234567\r\n"),
    ]
}

fn transports() -> Vec<Exchange> {
    let greeting = b"\x13/multistream/1.0.0\n";
    let key = [0x3e, 0x56, 0xc3, 0x8f];
    let masked: Vec<u8> = greeting.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    vec![
        Exchange::tcp("libp2p-greeting", LibP2p, (50_000, 4001))
            .request([greeting.as_slice(), b"\x07/noise\n"].concat())
            .answer(greeting.as_slice()),
        Exchange::tcp("libp2p-greeting-1-19", LibP2p, (50_000, 4001)).request(&greeting[..1]).request(&greeting[1..]),
        Exchange::tcp("libp2p-websocket", LibP2p, (50_000, 4002)).request([&[0x82, 0x94][..], &key, &masked].concat()),
        Exchange::udp("libp2p-discovery", LibP2p, (5353, 5353))
            .request([&hex("0000 0000 0001 0000 0000 0000")[..], b"\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01"].concat()),
        Exchange::udp("ipv8-tunnel-cell", Ipv8, (7759, 8090))
            .request([&hex("0002 81ded07332bdc775aa5a46f96de9f8f390bbc9f3 00")[..], &[0xd3; 300]].concat()),
        Exchange::udp("ipv8-introduction", Ipv8, (7759, 8090))
            .request([&[0, 2][..], &[0x5a; 20], b"\xf6\x00\x4aLibNaCLPK:", &[7; 64], &[9; 40]].concat()),
        Exchange::tcp("btsync-greeting", BtSync, (50_000, 15_365)).request(b"BSYNC\0\0\0\0d5:nonce16:".as_slice()),
        Exchange::udp("btsync-ping", BtSync, (50_000, 15_365)).request(b"BSYNC\0d1:m4:ping4:peer20:".as_slice()),
    ]
}

fn delivery_optimization() -> Vec<Exchange> {
    let handshake = [b"\x0eSwarm protocol".as_slice(), &[0; 8], &[0xab; 32], b"peer-identifier-0123"].concat();
    let request = hex("0000000d 06 00000003 00000000 00004000");
    let piece = [&hex("00004009 07 00000003 00000000")[..], &[0x5a; 1400]].concat();
    let tcp = |name, port| Exchange::tcp(name, DeliveryOptimization, (50_000, port));
    vec![
        tcp("delivery-optimization", 7680)
            .request(handshake.clone())
            .answer(handshake.clone())
            .request(request.clone())
            .answer(piece.clone()),
        tcp("delivery-optimization-mapped-port", 40_321)
            .request(handshake.clone())
            .request(request)
            .answer(piece.clone()),
        tcp("delivery-optimization-answer", 40_321).answer(handshake.clone()).answer(piece),
        tcp("delivery-optimization-1-74", 7680).request(&handshake[..1]).request(&handshake[1..]),
    ]
}

fn ace_stream() -> Vec<Exchange> {
    let handshake = [b"\x11AceStreamProtocol".as_slice(), &[0; 8], &[0xab; 20], b"R30------0123456789a"].concat();
    let request = hex("0000000d 06 00000003 00000000 00004000");
    let piece = [&hex("00004009 07 00000003 00000000")[..], &[0x5a; 1400]].concat();
    let tcp = |name, port| Exchange::tcp(name, AceStream, (50_000, port));
    vec![
        tcp("acestream", 8621)
            .request(handshake.clone())
            .answer(handshake.clone())
            .request(request.clone())
            .answer(piece.clone()),
        tcp("acestream-other-port", 40_321).request(handshake.clone()).request(request.clone()).answer(piece.clone()),
        tcp("acestream-answer", 40_321).answer(handshake.clone()).answer(piece.clone()),
        tcp("acestream-1-65", 8621).request(&handshake[..1]).request(&handshake[1..]),
        tcp("acestream-midstream", 8621).request(request).answer(piece),
    ]
}

pub(super) fn exchanges() -> Vec<Exchange> {
    [edonkey(), gnutella(), direct_connect(), soulseek(), older(), transports(), delivery_optimization(), ace_stream()]
        .concat()
}
