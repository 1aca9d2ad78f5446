//! The HTTP face over a real socket.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use monitor_common::abi::{
    protocol::{Confidence, Protocol},
    settings::InspectionDepth,
};
use peertally_core::{
    analysis::Analysis,
    subscriber::Pseudonyms,
    testing::{Kernel, bytes, key},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HttpContext, public, ready_text};
use crate::{
    agent::{AgentInfo, AgentState, Heartbeat, shedding::Shed},
    config::Overrides,
    export::collector::drain_histogram,
};

/// Status and body of a GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

async fn serve(text: &str, drained: bool, heartbeat: Duration) -> SocketAddr {
    let context = context(text, drained, heartbeat);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    let router = public(&context);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// What the handlers read: three thousand subscribers, if there was a drain.
pub(crate) fn context(text: &str, drained: bool, heartbeat: Duration) -> HttpContext {
    let resolved = Arc::new(crate::config::parse(Path::new("p.toml"), text, &Overrides::default()).expect("valid"));
    let state = AgentState::new(InspectionDepth::Framing, resolved.evidence(), Vec::new(), drain_histogram());
    let pseudonyms = Pseudonyms::with_key([1; 32]);
    if drained {
        let mut kernel = Kernel::new();
        for host in 0..3000_u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + host).to_string();
            kernel.count(key(&address, Protocol::BitTorrent, Confidence::Signature), bytes(1, 2));
        }
        let mut analysis = Analysis::new(resolved.analysis_options(), pseudonyms.clone());
        state.publish(analysis.take(kernel.drain_at(Duration::ZERO), Default::default).0);
    }
    HttpContext::new(state, pseudonyms, Arc::new(Heartbeat::new(heartbeat)), AgentInfo::of(&resolved))
}

#[tokio::test]
async fn pages_answer() {
    let address = serve("", true, Duration::from_secs(60)).await;
    let (status, landing) = get(address, "/").await;
    assert_eq!(status, 200);
    assert!(landing.contains("/metrics") && !landing.contains("/metrics/subscribers"));
    assert!(get(address, "/metrics").await.1.contains("peertally_build_info"));
    assert_eq!(get(address, "/livez").await.0, 200);
    assert_eq!(get(address, "/readyz").await.0, 200);
    assert_eq!(get(address, "/metrics/subscribers").await.0, 404);
    assert_eq!(get(address, "/status").await.0, 404, "the status is for the control socket");
}

#[test]
fn shedding_is_told_and_is_no_lack_of_readiness() {
    assert_eq!(ready_text(Shed::default(), 0), "ok\n");
    let text = ready_text(Shed { packets: 12, inspections: 3 }, 0);
    assert_eq!(text, "ok\nshedding: 12 packets and 3 inspections since the drain before\n");
}

/// Headers and body of a GET that accepts gzip.
async fn get_gzip(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer");
    let body = answer.split_off(head + 4);
    (String::from_utf8(answer).expect("headers").to_lowercase(), body)
}

#[tokio::test]
async fn metrics_are_compressed_for_those_who_ask() {
    let address = serve("[metrics]\nsubscribers = true\n", true, Duration::from_secs(60)).await;
    for path in ["/metrics", "/metrics/subscribers"] {
        let (_, plain) = get(address, path).await;
        let (headers, body) = get_gzip(address, path).await;
        assert!(headers.contains("content-encoding: gzip") && headers.contains("vary: accept-encoding"), "{headers}");
        assert!(body.len() * 3 < plain.len(), "{} bytes of {}", body.len(), plain.len());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*body), &mut text).expect("gzip, to its end");
        // Ages go on between the two.
        let same = |text: &str| text.lines().filter(|line| !line.contains("snapshot_age")).count();
        assert_eq!(same(&text), same(&plain));
        assert_eq!(text.lines().next(), plain.lines().next());
    }
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let address = serve("", false, Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (status, text) = get(address, "/livez").await;
    assert!(status == 503 && text.contains("drain loop"), "{status} {text}");
    let (status, text) = get(address, "/readyz").await;
    assert!(status == 503 && text.contains("no drain yet"), "{status} {text}");
    assert_eq!(get(address, "/metrics").await.0, 200);
}

#[tokio::test]
async fn every_subscriber_is_streamed_only_when_asked_for_in_the_configuration() {
    let address = serve("[metrics]\nsubscribers = true\n", true, Duration::from_secs(60)).await;
    let (status, text) = get(address, "/metrics/subscribers").await;
    assert_eq!(status, 200);
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 3000 * 5);
    assert!(!text.contains("10.0."), "an address is shown");
    let (status, text) = get(address, "/metrics/subscribers?shard=5/3").await;
    assert!(status == 400 && text.contains("?shard=i/n"), "{status} {text}");
    assert_eq!(get(address, "/metrics/subscribers?shard=1/3").await.0, 200);
    // Readers that go away do not take the places.
    for _ in 0..10 {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        stream.write_all(b"GET /metrics/subscribers HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        drop(stream);
    }
    for _ in 0..200 {
        if get(address, "/metrics/subscribers").await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the places were not given back");
}
