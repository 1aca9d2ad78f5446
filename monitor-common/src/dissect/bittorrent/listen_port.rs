//! Listen ports of BitTorrent: HTTP tracker announces (BEP 3: `port=`), UDP tracker announces (BEP 15: offset 96), and
//! the DHT's `announce_peer` (BEP 5: `4:porti..e` after the info hash).

use super::super::listen_port::{digits, valid};
use crate::parse::payload::Payload;

/// Bytes of an HTTP request that are searched for the port.
const SCANNED: usize = 400;

/// `port=` with its digits, as a parameter of an HTTP request.
#[inline(always)]
pub(in crate::dissect) fn http(payload: &Payload, port: &mut u32) {
    if payload.le32(0) == u32::from_le_bytes(*b"GET ") {
        find_parameter(payload, port);
        // Through memory: the verifier forgets the place, and walks the rest once for all places.
        let start = *port as usize;
        *port = if start == 0 { 0 } else { digits(payload, start) };
    }
}

/// The place after `port=`, into `place`.
#[inline(never)]
fn find_parameter(payload: &Payload, place: &mut u32) {
    let mut recent = 0u64;
    let mut index = 4;
    while index < SCANNED {
        let byte = u64::from(payload.counted(index));
        recent = recent << 8 | byte;
        index += 1;
        if byte == u64::from(b' ') {
            return;
        }
        let named = (recent ^ u64::from_be_bytes(*b"\0\0\0port=")) & 0xff_ffff_ffff == 0;
        let before = (recent >> 40) as u8;
        if named && (before == b'&' || before == b'?') {
            *place = index as u32;
            return;
        }
    }
}

/// The port of an announce.
#[inline(always)]
pub(in crate::dissect) fn udp_tracker(payload: &Payload) -> u32 {
    let announce = (payload.be32(8) == 1) & (payload.len >= 98) & (payload.be32(80) <= 3);
    if announce { valid(u32::from(payload.be16(96))) } else { 0 }
}

/// `announce_peer` without `implied_port` has its keys in order: id, info_hash, port.
#[inline(always)]
pub(in crate::dissect) fn dht(payload: &Payload) -> u32 {
    if !(payload.has(0, b"d1:ad2:id20:") & payload.has(32, b"9:info_hash20:") & payload.has(66, b"4:porti")) {
        return 0;
    }
    digits(payload, 73)
}

#[cfg(test)]
mod tests {
    use crate::{
        abi::protocol::Protocol,
        dissect::listen_port::{UNTRUSTED, named},
        parse::payload::Transport,
    };

    #[test]
    fn http_announces_name_the_port() {
        let ask = |request: &str, agent: &str| {
            let request = format!("{request}\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n");
            named(Transport::Tcp, Protocol::BitTorrent, request.as_bytes())
        };
        let port = |request: &str| ask(request, "Transmission/3.00");
        let hash = "%12".repeat(20);
        let whole = format!("GET /announce?info_hash={hash}&peer_id=-TR3000-abcdefghijkl&port=51413&left=0 HTTP/1.1");
        assert_eq!(port(&whole), 51_413);
        assert_eq!(port("GET /announce?port=6881&info_hash=x HTTP/1.1"), 6881);
        assert_eq!(port("GET /announce?xport=6881&info_hash=x HTTP/1.1"), 0);
        assert_eq!(port("GET /announce?port=80&info_hash=x HTTP/1.1"), 0, "no port of a service");
        assert_eq!(port("GET /announce?port=99999999&info_hash=x HTTP/1.1"), 0);
        assert_eq!(port("GET /announce?info_hash=x HTTP/1.1\r\nX-Link: /?a&port=6881 "), 0, "behind the target");
        assert_eq!(port("POST /announce?port=6881&info_hash=x HTTP/1.1"), 0);
        assert_eq!(ask("GET /announce?port=6881&info_hash=x HTTP/1.1", "Mozilla/5.0 (X11)"), UNTRUSTED);
        assert_eq!(named(Transport::Tcp, Protocol::BitTorrent, b"GET /announce?port=6881 HTTP/1.1\r\n\r\n"), UNTRUSTED);
        for line in ["Origin: http://a", "Referer: http://a/", "Accept-Language: en", "Sec-Fetch-Mode: cors"] {
            assert_eq!(port(&format!("GET /announce?port=6881&info_hash=x HTTP/1.1\r\n{line}")), UNTRUSTED, "{line}");
            assert_eq!(
                ask("GET /announce?port=6881&info_hash=x HTTP/1.1", &format!("a\r\n{line}")),
                UNTRUSTED,
                "{line}"
            );
        }
        assert_eq!(port("GET /announce?port=6881&info_hash=x HTTP/1.1\r\nAccept-Encoding: gzip\r\nAccept: */*"), 6881);
    }

    #[test]
    fn udp_announces_name_the_port() {
        let mut announce = vec![0; 100];
        announce[11] = 1;
        announce[96..98].copy_from_slice(&6881u16.to_be_bytes());
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce), 6881);
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce[..97]), 0);
        announce[11] = 2;
        assert_eq!(named(Transport::Udp, Protocol::BitTorrent, &announce), 0);
    }

    #[test]
    fn announce_peer_names_the_port_unless_it_is_implied() {
        let id = "abcdefghij0123456789";
        let query = |before: &str, port: &str| {
            format!(
                "d1:ad2:id20:{id}{before}9:info_hash20:{id}4:porti{port}e5:token4:abcde1:q13:announce_peer1:t2:aa1:y1:qe"
            )
        };
        let port = |query: String| named(Transport::Udp, Protocol::BitTorrent, query.as_bytes());
        assert_eq!(port(query("", "6881")), 6881);
        assert_eq!(port(query("", "51413")), 51_413);
        assert_eq!(port(query("", "80")), 0);
        assert_eq!(port(query("12:implied_porti1e", "6881")), 0);
    }
}
