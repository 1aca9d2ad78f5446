//! BitTorrent: BEP 3 (peers, trackers), BEP 5 (DHT), BEP 14 (local discovery), BEP 15 (UDP trackers), BEP 29 (uTP);
//! WebTorrent.

use monitor_common::abi::protocol::Protocol::{BitTorrent, WebTorrent};

use super::{Exchange, hex};

/// The handshake of BEP 3, with extension bits.
fn handshake() -> Vec<u8> {
    let reserved = [0, 0, 0, 0, 0, 0x10, 0, 5];
    [b"\x13BitTorrent protocol".as_slice(), &reserved, &[0xab; 20], b"-TR4000-0123456789ab"].concat()
}

fn request(index: u32, begin: u32) -> Vec<u8> {
    [hex("0000000d 06"), index.to_be_bytes().into(), begin.to_be_bytes().into(), hex("00004000")].concat()
}

/// Length, identifier, index, begin, and as much of the block as one segment holds.
fn piece(index: u32, begin: u32) -> Vec<u8> {
    [hex("00004009 07"), index.to_be_bytes().into(), begin.to_be_bytes().into(), vec![0x5a; 1400]].concat()
}

fn peers() -> Vec<Exchange> {
    let tcp = |name| Exchange::tcp(name, BitTorrent, (51_413, 6881));
    let whole = handshake();
    vec![
        tcp("bittorrent-handshake").request(whole.clone()).answer(whole.clone()),
        tcp("bittorrent-handshake-1-67").request(&whole[..1]).request(&whole[1..]),
        tcp("bittorrent-handshake-20-48").request(&whole[..20]).request(&whole[20..]),
        tcp("bittorrent-handshake-7-7-54").request(&whole[..7]).request(&whole[7..14]).request(&whole[14..]),
        tcp("bittorrent-midstream").request(request(7, 0x8000)).answer(piece(7, 0x8000)),
        tcp("bittorrent-midstream-pipelined").request([request(7, 0), request(7, 0x4000)].concat()),
    ]
}

fn trackers() -> Vec<Exchange> {
    let announce = "GET /announce?info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-TR4000-0123456789ab&port=51413&left=0 HTTP/1.1\r\nHost: a\r\n\r\n";
    let scrape = "GET /scrape.php?passkey=0123&info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A HTTP/1.0\r\n\r\n";
    let connect = hex("0000041727101980 00000000 5eed1234");
    let connected = hex("00000000 5eed1234 c95b3d2f8a6e1407");
    let udp_announce = [
        hex("c95b3d2f8a6e1407 00000001 5eed1235"),
        vec![0xab; 20],
        b"-TR4000-0123456789ab".to_vec(),
        hex("0000000000000000 0000000000000000 0000000000000000 00000002 00000000 0badcafe ffffffff c8d5"),
    ]
    .concat();
    let announced = hex("00000001 5eed1235 00000708 00000001 00000001 c0000201 1ae1");
    vec![
        Exchange::tcp("bittorrent-http-announce", BitTorrent, (50_000, 80))
            .request(announce)
            .answer("HTTP/1.1 200 OK\r\n\r\nd8:intervali1800ee"),
        Exchange::tcp("bittorrent-http-peers", BitTorrent, (50_000, 6969))
            .request(announce.replace("Host: a", "Host: a\r\nUser-Agent: Transmission/4.00"))
            .answer("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            .answer(
                [b"d8:intervali1800e5:peers12:".as_slice(), &hex("c0000207 1ae1 c0000208 1ae2"), b"6:peers60:e"]
                    .concat(),
            ),
        Exchange::tcp("bittorrent-http-scrape", BitTorrent, (50_000, 6969)).request(scrape),
        Exchange::udp("bittorrent-udp-tracker", BitTorrent, (51_413, 6969))
            .request(connect)
            .answer(connected)
            .request(udp_announce.clone())
            .answer(announced.clone()),
        Exchange::udp("bittorrent-udp-tracker-midstream", BitTorrent, (51_413, 6969))
            .request(udp_announce)
            .answer(announced),
    ]
}

fn datagrams() -> Vec<Exchange> {
    let udp = |name| Exchange::udp(name, BitTorrent, (51_413, 6881));
    let syn = "4102 6d0a 4f2b1c9e 00000000 00100000 9f31 0000 0008 0000000000000000";
    let state = "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f31";
    let data = "0100 6d0b 4f2b1c9e 00001f40 00100000 9f32 1233";
    let acknowledged = "2100 6d0a 1c9e4f2b 00001f40 00100000 1234 9f32";
    let windows = "4102 6d0a 4f2b1c9e 7fffffff 0000f000 9f31 0000 0008 0000000000000000";
    let of_one_side = |number: u8| {
        [
            hex("0100 6d0b 4f2b1c"),
            vec![0x9e + number],
            hex("00001f40 00100000 9f"),
            vec![0x32 + number],
            hex("1233"),
            vec![0x5a; 900],
        ]
        .concat()
    };
    let query =
        b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe".as_slice();
    let azureus = "8b5e1d3f2a6c4e70 00000404 5eed1234 33 00 00000000 33 04 c0000207 1ae1 0badcafe 0000019012345678 14 000102030405060708090a0b0c0d0e0f10111213";
    vec![
        udp("bittorrent-dht")
            .request("d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe")
            .answer("d1:rd2:id20:mnopqrstuvwxyz1234565:token8:aoeusnth6:valuesl6:axje.uee1:t2:aa1:y1:re"),
        udp("bittorrent-dht-bep42").answer(b"d2:ip6:\x01\x02\x03\x04\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re".as_slice()),
        udp("bittorrent-dht-error").answer("d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee"),
        udp("bittorrent-utp").request(hex(syn)).answer(hex(state)).request([hex(data), handshake()].concat()),
        udp("bittorrent-utp-midstream").request([hex(data), vec![0x5a; 900]].concat()).answer(hex(acknowledged)),
        udp("bittorrent-utp-windows").request(hex(windows)),
        udp("bittorrent-utp-one-side").request(of_one_side(0)).request(of_one_side(1)).request(of_one_side(2)),
        udp("bittorrent-socks-dht").request([&hex("000000 01 c0000207 1ae1")[..], query].concat()),
        udp("bittorrent-socks-utp")
            .request([hex("000000 04 20010db8000000000000000000000007 1ae1"), hex(syn)].concat())
            .answer([hex("000000 04 20010db8000000000000000000000007 1ae1"), hex(state)].concat()),
        udp("bittorrent-socks-tracker")
            .request([&hex("000000 03 0f")[..], b"tracker.example", &hex("1b39 0000041727101980 00000000 5eed1234")].concat()),
        udp("bittorrent-azureus-dht")
            .request(hex(azureus))
            .answer(hex("00000405 5eed1234 8b5e1d3f2a6c4e70 33 00 00000000 0badcafe 0000")),
        udp("bittorrent-utp-handshake").request([hex(data), handshake()].concat()),
        Exchange::udp("bittorrent-local-discovery", BitTorrent, (6771, 6771))
            .request("BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 51413\r\nInfohash: 0123456789abcdef0123456789abcdef01234567\r\n\r\n\r\n"),
    ]
}

/// An announce in a masked text frame (RFC 6455), after the upgrade.
fn webtorrent() -> Exchange {
    let text = b"{\"numwant\":5,\"uploaded\":0,\"downloaded\":0,\"left\":1,\"event\":\"started\",\"action\":\"announce\",\"info_hash\":\"abcdefghij0123456789\",\"peer_id\":\"-WW0109-0123456789ab\"}";
    let key = [0x12, 0x34, 0x56, 0x78];
    let masked: Vec<u8> = text.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let head = [&[0x81, 0x80 | 126][..], &(text.len() as u16).to_be_bytes(), &key].concat();
    Exchange::tcp("webtorrent-announce", WebTorrent, (50_000, 8000))
        .request("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        .answer("HTTP/1.1 101 Switching Protocols\r\n\r\n")
        .request([head, masked].concat())
}

pub(super) fn exchanges() -> Vec<Exchange> {
    [peers(), trackers(), datagrams(), vec![webtorrent()]].concat()
}
