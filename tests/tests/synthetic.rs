//! Conversations built from the specifications, as captures in every framing: what the corpus tests compare on a
//! machine without the corpus. Each must get its protocol, over IPv4 and IPv6, either end being the opener, from both
//! engines alike.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use monitor_common::abi::protocol::Protocol;
use peertally::verbs::{
    Format,
    replay::{
        args::{EngineKind, ReplayArgs},
        collect,
        report::FlowRow,
    },
};
use peertally_tests::{
    kernel::may_use_kernel,
    p2p::{captures, exchanges, framings, pcap},
};

/// Addresses of an opener and of another, a pair for every conversation; which is numerically lower alternates.
fn ends(number: usize) -> [IpAddr; 2] {
    let texts = if number.is_multiple_of(3) {
        [format!("2001:db8::{number:x}"), format!("2001:db9::{number:x}")]
    } else {
        [format!("10.0.0.{number}"), format!("192.0.2.{number}")]
    };
    let [near, far] = texts.map(|text| text.parse().expect("an address"));
    if number.is_multiple_of(2) { [near, far] } else { [far, near] }
}

/// A conversation's name and protocol, by its ends.
type Labels = BTreeMap<[IpAddr; 2], (&'static str, &'static str)>;

/// Every conversation's frames, and its label.
fn conversations() -> (Vec<Vec<u8>>, Labels) {
    let (mut frames, mut labels) = (Vec::new(), BTreeMap::new());
    for (number, exchange) in exchanges().iter().enumerate() {
        let [opener, other] = ends(number + 1);
        frames.extend(exchange.frames(opener, other));
        labels.insert([opener.min(other), opener.max(other)], (exchange.name, exchange.protocol.label()));
    }
    (frames, labels)
}

fn flows(engine: EngineKind, capture: PathBuf) -> Vec<FlowRow> {
    let args = ReplayArgs {
        one_way: false,
        subscribers: Vec::new(),
        tunnel_endpoints: Vec::new(),
        engine: Some(engine),
        flows: true,
        format: Format::Json,
        captures: vec![capture],
    };
    let (report, damaged) = collect(&args).expect("a capture that can be read");
    assert!(damaged.is_empty(), "{damaged:?}");
    report.flows.expect("flows were asked for")
}

/// Writes the captures and checks each flow's label; the second engine, if any, must agree.
fn check(captures: Vec<(String, Vec<u8>)>, kernel: bool) {
    let (_, labels) = conversations();
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in captures {
        let path = folder.path().join(&name);
        fs::write(&path, bytes).expect("written");
        let found = flows(EngineKind::Host, path.clone());
        assert_eq!(found.len(), labels.len(), "{name}: a flow for each conversation");
        for flow in &found {
            let (exchange, protocol) = labels[&[flow.a.min(flow.b), flow.a.max(flow.b)]];
            assert_eq!(flow.protocol, protocol, "{name}: {exchange}: {flow:?}");
        }
        if kernel {
            assert_eq!(flows(EngineKind::Kernel, path), found, "{name}: kernel and host");
        }
    }
}

#[test]
fn every_protocol_has_a_conversation() {
    let exchanges = exchanges();
    for protocol in Protocol::ALL {
        let known = exchanges.iter().any(|exchange| exchange.protocol == *protocol);
        // HyperDHT's messages name the address that they go to, which differs by format: `association` speaks it.
        let spoken = !matches!(protocol, Protocol::Unclassified | Protocol::Fragment | Protocol::HyperDht);
        assert_eq!(known, spoken, "{}", protocol.label());
    }
}

#[test]
fn every_conversation_is_labelled_in_every_framing() {
    let (frames, _) = conversations();
    let mut by_framing: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
    for frame in &frames {
        for (framing, framed) in framings(frame) {
            by_framing.entry(framing).or_default().push(framed);
        }
    }
    assert!(by_framing.len() >= 6);
    let captures = by_framing.into_iter().map(|(name, frames)| (format!("{name}.pcap"), pcap(&frames))).collect();
    check(captures, may_use_kernel("synthetic captures, framings").expect("rights"));
}

#[test]
fn every_conversation_is_labelled_in_every_format() {
    let (frames, _) = conversations();
    let captures = captures(&frames).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    check(captures, may_use_kernel("synthetic captures, formats").expect("rights"));
}
