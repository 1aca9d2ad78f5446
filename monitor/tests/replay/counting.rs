//! Counts by subscriber and protocol.

use serde_json::{Value, json};

use super::support::{assert_adds_up, host, ipv4, rows, tcp, tcp_at, udp};

const SUBSCRIBER: [u8; 4] = [10, 0, 0, 1];
const NEIGHBOUR: [u8; 4] = [10, 0, 0, 2];
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
const FAR_OUTSIDE: [u8; 4] = [198, 51, 100, 1];

/// A BitTorrent connection of four packets and 296 bytes: SYN, SYN-ACK, both handshakes.
fn connection(port: u16) -> Vec<Vec<u8>> {
    let mut handshake = b"\x13BitTorrent protocol".to_vec();
    handshake.resize(68, 7);
    vec![
        ipv4(SUBSCRIBER, OUTSIDE, 6, &tcp_at(port, 6881, 0x02, (99, 0), &[])),
        ipv4(OUTSIDE, SUBSCRIBER, 6, &tcp_at(6881, port, 0x12, (499, 100), &[])),
        ipv4(SUBSCRIBER, OUTSIDE, 6, &tcp_at(port, 6881, 0x18, (100, 500), &handshake)),
        ipv4(OUTSIDE, SUBSCRIBER, 6, &tcp_at(6881, port, 0x18, (500, 168), &handshake)),
    ]
}

#[test]
fn packets_before_the_verdict_count_for_the_verdict() {
    let result = host(&connection(50_000), &["--flows", "--subscribers", "10.0.0.0/8"]);
    let expected = json!({
        "engine": "host", "captures": 1, "packets": 4, "bytes": 296, "skipped": [],
        "protocols": [{"protocol": "bittorrent", "confidence": "signature", "flows": 1, "packets": 4, "bytes": 296}],
        "subscribers": [{"realm": "", "subscriber": "10.0.0.1/32", "protocol": "bittorrent", "confidence": "signature",
            "flows": 1, "packets_up": 2, "bytes_up": 148, "packets_down": 2, "bytes_down": 148}],
        "unanswered": [],
        "flows": [{"l4": "tcp", "a": "10.0.0.1", "a_port": 50_000, "b": "192.0.2.1", "b_port": 6881,
            "protocol": "bittorrent", "confidence": "signature", "rule": "bt-handshake", "answered": true, "packets": 4,
            "bytes": 296}],
    });
    assert_eq!(result, expected);
}

#[test]
fn a_reused_port_does_not_inherit_the_verdict_and_gets_its_own_row() {
    let mut packets = connection(50_000);
    packets.push(ipv4(SUBSCRIBER, OUTSIDE, 6, &tcp(50_000, 6881, 0x02, &[])));
    packets.push(ipv4(SUBSCRIBER, OUTSIDE, 6, &tcp(50_000, 6881, 0x18, b"GET / HTTP/1.1\r\n")));
    let result = host(&packets, &["--flows"]);
    let flows: Vec<(&Value, &Value)> =
        rows(&result, "flows").iter().map(|row| (&row["protocol"], &row["packets"])).collect();
    assert_eq!(flows, [(&json!("bittorrent"), &json!(4)), (&json!("unclassified"), &json!(2))]);
    assert_adds_up(&result, "restart");
}

#[test]
fn pools_decide_the_direction_and_who_is_credited() {
    let packets = [
        ipv4(SUBSCRIBER, NEIGHBOUR, 17, &udp(1000, 2000, b"both are subscribers")),
        ipv4(OUTSIDE, FAR_OUTSIDE, 17, &udp(1000, 2000, b"neither is")),
        ipv4(OUTSIDE, SUBSCRIBER, 1, &[8, 0, 0, 0]),
    ];
    let result = host(&packets, &["--flows", "--one-way", "--subscribers", "10.0.0.0/8"]);
    assert_eq!(result["one_way"], true);
    assert_eq!(
        result["protocols"],
        json!([{"protocol": "unclassified", "confidence": "none", "flows": 2, "packets": 3, "bytes": 48 + 38 + 24}])
    );
    let row = |subscriber, flows, up: (u64, u64), down: (u64, u64)| {
        json!({"realm": "", "subscriber": subscriber, "protocol": "unclassified", "confidence": "none", "flows": flows,
            "packets_up": up.0, "bytes_up": up.1, "packets_down": down.0, "bytes_down": down.1})
    };
    let expected = json!([row("10.0.0.1/32", 2, (1, 48), (1, 24)), row("10.0.0.2/32", 1, (0, 0), (1, 48))]);
    assert_eq!(result["subscribers"], expected);
    let kinds: Vec<&Value> = rows(&result, "flows").iter().map(|row| &row["l4"]).collect();
    assert_eq!(kinds, [&json!("icmp"), &json!("udp"), &json!("udp")], "transit has rows too");
    assert_adds_up(&result, "pools");

    let result = host(&packets, &["--subscribers", "10.0.0.0/8"]);
    assert_eq!(rows(&result, "subscribers"), [] as [Value; 0], "nobody answered");
    let unanswered =
        json!([{"protocol": "unclassified", "confidence": "none", "flows": 2, "packets": 2, "bytes": 48 + 24}]);
    assert_eq!(result["unanswered"], unanswered, "what is in transit could be nobody's");
}

#[test]
fn addresses_inside_a_tunnel_are_charged_between_named_endpoints() {
    let tunnel = |source, destination, inner: &[u8]| {
        let message = [&[0x30, 0xff, 0, inner.len() as u8, 0, 0, 0, 1], inner].concat();
        ipv4(source, destination, 17, &udp(2152, 2152, &message))
    };
    // The connection of four packets, each in 36 bytes of IPv4, UDP and GTP-U.
    let packets: Vec<Vec<u8>> = (0..)
        .zip(connection(50_000))
        .map(|(number, frame)| match number % 2 {
            0 => tunnel(OUTSIDE, FAR_OUTSIDE, &frame[14..]),
            _ => tunnel(FAR_OUTSIDE, OUTSIDE, &frame[14..]),
        })
        .collect();
    let bytes = 296 + 4 * 36;
    let rows_of = |arguments: &[&str]| {
        let result = host(&packets, &[&["--flows"], arguments].concat());
        assert_eq!(
            result["protocols"],
            json!([{"protocol": "bittorrent", "confidence": "signature", "flows": 1, "packets": 4, "bytes": bytes}])
        );
        let flow = &result["flows"][0];
        assert_eq!(
            (&flow["a"], &flow["b_port"], &flow["rule"]),
            (&json!("10.0.0.1"), &json!(6881), &json!("bt-handshake"))
        );
        assert_adds_up(&result, "tunnel");
        let names =
            rows(&result, "subscribers").iter().map(|row| row["subscriber"].as_str().unwrap_or_default().to_owned());
        names.collect::<Vec<_>>()
    };
    let pools = ["--subscribers", "10.0.0.0/8"];
    let named = |endpoints: &[&'static str]| {
        let flags = endpoints.iter().flat_map(|endpoint| ["--tunnel-endpoints", endpoint]);
        pools.into_iter().chain(flags).collect::<Vec<_>>()
    };
    assert_eq!(rows_of(&named(&[])), [""; 0], "nobody named an endpoint");
    assert_eq!(rows_of(&named(&["192.0.2.0/24"])), [""; 0], "one end is not enough");
    assert_eq!(rows_of(&named(&["192.0.2.0/24", "198.51.100.1"])), ["10.0.0.1/32"]);
    // Without pools every outer address is a subscriber, whatever is named.
    for endpoints in [&[][..], &["--tunnel-endpoints", "192.0.2.0/24", "--tunnel-endpoints", "198.51.100.1"]] {
        assert_eq!(rows_of(endpoints), ["192.0.2.1/32", "198.51.100.1/32"]);
    }
}

#[test]
fn blocks_group_addresses() {
    let packets =
        [ipv4([10, 0, 0, 9], OUTSIDE, 17, &udp(1, 2, b"one")), ipv4([10, 0, 0, 200], OUTSIDE, 17, &udp(1, 2, b"two"))];
    let result = host(&packets, &["--one-way", "--subscribers", "10.0.0.0/16/24"]);
    assert_eq!(rows(&result, "subscribers").len(), 1);
    assert_eq!(rows(&result, "subscribers")[0]["subscriber"], "10.0.0.0/24");
    assert_eq!(rows(&result, "subscribers")[0]["packets_up"], 2);
}

#[test]
fn fragments_and_skipped_frames_are_counted_apart() {
    let mut fragment = ipv4(SUBSCRIBER, OUTSIDE, 17, &[0xaa; 16]);
    fragment[21] = 1;
    let mut cut = ipv4(SUBSCRIBER, OUTSIDE, 17, &udp(1, 2, b"cut"));
    cut.truncate(33);
    let arp = [&[0xff; 12][..], &[0x08, 0x06], &[0; 28]].concat();
    let result = host(&[fragment, cut, arp, vec![1, 2, 3]], &["--flows"]);
    assert_eq!(
        result["skipped"],
        json!([{"reason": "not_ip", "packets": 1}, {"reason": "short_frame", "packets": 1}, {"reason": "short_ip", "packets": 1}])
    );
    assert_eq!(
        result["protocols"],
        json!([{"protocol": "fragment", "confidence": "none", "flows": 1, "packets": 1, "bytes": 36}])
    );
    assert_eq!(rows(&result, "flows")[0]["a_port"], 0);
    assert_adds_up(&result, "fragments");
}

#[test]
fn the_last_flows_are_settled_however_long_ago_they_ended() {
    let mut packets = vec![ipv4(SUBSCRIBER, OUTSIDE, 17, &udp(1, 2, b"first"))];
    packets.resize(40_000, ipv4(SUBSCRIBER, OUTSIDE, 17, &udp(3, 4, b"much later, a packet a second")));
    let result = host(&packets, &["--flows"]);
    assert_eq!(result["packets"], 40_000);
    assert_adds_up(&result, "eleven hours");
}
