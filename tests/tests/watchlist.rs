//! Content on the operator's list is found, reported and counted; content that is not on it is nowhere, and in the
//! depth `framing` no content is anywhere. Played to the host's data path and to the kernel's, whose every map is
//! searched byte by byte.
#![expect(unsafe_code, reason = "maps are read with bpf(2) whatever their type")]

use std::{
    collections::HashSet,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use aya::maps::{Map, MapData};
use monitor_common::abi::{
    event::KernelEvent,
    protocol::Protocol,
    settings::InspectionDepth,
    tally::TallyKey,
    watch::{ContentHash, WatchHit},
};
use peertally_core::content_list::Watchlist;
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
};
use peertally_tests::{
    both_datapaths::{BothDatapaths, options},
    wire::{Connection, at, flag, tcp, udp},
    wrap_both_datapaths,
};

/// Content of two torrents; bytes that occur nowhere by chance.
const LISTED: [u8; 20] = *b"\xf1\xe2\xd3\xc4\xb5\xa6\x97\x88\x79\x6alisted-one";
const OTHER: [u8; 20] = *b"\x1f\x2e\x3d\x4c\x5b\x6a\x79\x88\x97\xa6unwanted-x";

/// Flows of one subscriber that name `content` in each way that is read.
fn frames(subscriber: &str, content: &[u8; 20]) -> Vec<Vec<u8>> {
    let local = |port: u16| SocketAddr::new(subscriber.parse().expect("an address"), port);
    let peer = at("192.0.2.7:6881");
    let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], content, b"-PT0001-abcdefghijkl"].concat();
    let escaped: String = content.iter().map(|byte| format!("%{byte:02x}")).collect();
    let announce = format!(
        "GET /announce?info_hash={escaped}&peer_id=-PT0001-abcdefghijkl&port=6881 HTTP/1.1\r\nUser-Agent: PT/1\r\n\r\n"
    );
    let query =
        [b"d1:ad2:id20:abcdefghij01234567899:info_hash20:".as_slice(), content, b"e1:q9:get_peers1:t2:aa1:y1:qe"]
            .concat();
    let connect = [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4];
    let mut udp_announce = vec![9; 8];
    udp_announce.extend([0, 0, 0, 1, 5, 6, 7, 8]);
    udp_announce.extend(content);
    udp_announce.extend([0xab; 44]);
    udp_announce.extend([0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x1a, 0xe1]);
    vec![
        tcp(local(40_000), peer, flag::SYN, b""),
        tcp(local(40_000), peer, flag::PUSH, &handshake),
        tcp(local(40_001), at("192.0.2.80:80"), flag::SYN, b""),
        tcp(local(40_001), at("192.0.2.80:80"), flag::PUSH, announce.as_bytes()),
        udp(local(6881), peer, &query),
        udp(local(6882), at("192.0.2.80:6969"), &connect),
        udp(local(6882), at("192.0.2.80:6969"), &udp_announce),
    ]
}

/// Ways in which [`frames`] names content.
const NAMED: u64 = 4;

wrap_both_datapaths!(Paths);

fn paths(inspection: InspectionDepth) -> Paths {
    // Roomy, so that no flow of the test finds both its sets full.
    paths_for(inspection, 1 << 18)
}

/// Paths with room for so many flows.
fn paths_for(inspection: InspectionDepth, flows: u32) -> Paths {
    let entries = vec![ContentHash([7; 3]), ContentHash::from_bytes(&LISTED)];
    let watchlist = Arc::new(Watchlist::of(entries));
    let sizes = TableSizes { flows, tallies: 1024, peers: 1024 };
    Paths(BothDatapaths::new("watchlist", &LoadOptions { inspection, watchlist, ..options(sizes) }))
}

impl Paths {
    fn send(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.frame(frame);
        }
    }

    /// Reported and counted hits, on which both paths agree.
    fn hits(&mut self) -> (Vec<WatchHit>, Vec<(TallyKey, u64)>) {
        let (reported, tallies) = self.0.host.watchlist_hits();
        let mut tallies: Vec<(TallyKey, u64)> = tallies.into_iter().map(|(key, hits)| (key.into(), hits)).collect();
        tallies.sort();
        if let Some(kernel) = &mut self.0.kernel {
            let mut found = kernel.object().watchlist_tallies().expect("reads");
            found.sort();
            assert_eq!(found, tallies);
            assert_eq!(kernel.object().watchlist_hits(), reported);
        }
        (reported, tallies)
    }
}

#[test]
fn listed_content_is_reported_and_tallied() {
    let mut paths = paths(InspectionDepth::Watchlist);
    paths.send(&frames("10.0.0.1", &LISTED));
    paths.send(&frames("10.0.0.2", &OTHER));
    let (reported, tallies) = paths.hits();
    assert_eq!(reported.len() as u64, NAMED, "{reported:?}");
    for hit in &reported {
        assert_eq!((hit.entry, hit.time_ns, hit.protocol), (1, 1_000_000_000_000, Protocol::BitTorrent as u8));
    }
    assert_eq!(reported[0].source_port, 40_000);
    assert_eq!(reported[0].destination_port, 6881);
    assert_eq!(tallies.len(), 1, "one subscriber, one protocol, one confidence: {tallies:?}");
    assert_eq!((&tallies[0].0.address[12..], tallies[0].1), (&[10, 0, 0, 1][..], NAMED));
    assert_eq!(paths.host.events(KernelEvent::WatchlistHit), NAMED);
}

#[test]
fn what_a_full_buffer_loses_is_counted() {
    let mut paths = paths(InspectionDepth::Watchlist);
    let Some(kernel) = &mut paths.kernel else { return };
    let connection = &frames("10.0.0.1", &LISTED)[..2];
    // 16,384 messages of 64 bytes fit; each frame is a flow of its own, since a flow tells once.
    let sent = 16_384 + 100;
    for number in 0..sent {
        for frame in connection {
            let mut frame = frame.clone();
            frame[34..36].copy_from_slice(&(1_025 + number as u16).to_be_bytes());
            kernel.frame(&frame, frame.len(), 1_000 + number / 200).expect("counts");
        }
    }
    let reported = kernel.object().watchlist_hits().len() as u64;
    let count = |event| kernel.event(event).expect("reads");
    assert_eq!(count(KernelEvent::WatchlistHit), sent);
    assert!(count(KernelEvent::WatchlistEventLost) > 0);
    assert_eq!(reported + count(KernelEvent::WatchlistEventLost), sent);
}

#[test]
fn framing_leaves_no_content_anywhere() {
    let mut paths = paths(InspectionDepth::Framing);
    paths.send(&frames("10.0.0.1", &LISTED));
    paths.send(&frames("10.0.0.2", &OTHER));
    let (reported, tallies) = paths.hits();
    assert!(reported.is_empty() && tallies.is_empty());
    if let Some(kernel) = &mut paths.kernel {
        // The list itself holds what is on it: search for what is not, whose flows went the same way.
        let searched = search(kernel.object(), &[OTHER]);
        assert!(
            searched.contains(&"SCRATCH".to_owned()) && searched.contains(&"COLD_FLOWS".to_owned()),
            "{searched:?}"
        );
    }
}

/// Messages that name content in clear, raw or in the spelling of their protocol, and that spelling.
fn spelled() -> Vec<(Vec<u8>, Vec<u8>)> {
    let hex: String = OTHER.iter().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = OTHER.iter().map(|byte| format!("%{byte:02x}")).collect();
    let urn = "PLSTHIPQGSSZTS5FJUPAKUZWUGYQYPFB";
    let tree = "PPUROLR2WSYTGPLCM3KV4V6LJC36SCTFQJFDJKA";
    let text = |message: String, spelling: &str| (message.into_bytes(), spelling.as_bytes().to_vec());
    let raw = |message: Vec<u8>| (message, OTHER[..16].to_vec());
    vec![
        raw([b"\x13BitTorrent protocol".as_slice(), &[0; 8], &OTHER, b"-PT0001-abcdefghijkl"].concat()),
        raw([&[0xe3, 17, 0, 0, 0, 0x58][..], &OTHER[..16]].concat()),
        raw([&[0xe3, 0x19, 0x28, 0, 0, 0x46][..], &OTHER[..16], &[0; 40]].concat()),
        text(format!("GET /announce?info_hash={escaped}&port=6881 HTTP/1.1\r\n\r\n"), &escaped),
        // A tracker whose path no rule knows.
        text(format!("GET /a?info_hash={escaped}&port=6881 HTTP/1.1\r\n\r\n"), &escaped),
        text(format!("GET /data?fid={hex}&size=1048576 HTTP/1.1\r\n\r\n"), &hex),
        text(format!("GET /.hash={hex} HTTP/1.1\r\n\r\n"), &hex),
        text(format!("GET /uri-res/N2R?urn:sha1:{urn} HTTP/1.1\r\n\r\n"), urn),
        text(format!("GET /a?urn:sha1:{urn} HTTP/1.1\r\n\r\n"), urn),
        text(format!("GET /a?xt=urn:btih:{hex} HTTP/1.1\r\n\r\n"), &hex),
        text(format!("GET /get/1/a HTTP/1.1\r\nX-Gnutella-Content-URN: urn:sha1:{urn}\r\n\r\n"), urn),
        text(format!("HTTP/1.1 200 OK\r\nETag: urn:sha1:{urn}\r\n\r\n"), urn),
        text(format!("$ADCGET file TTH/{tree} 0 -1|"), tree),
        text(format!("CGET file TTH/{tree} 0 -1\n"), tree),
        text(format!("CSND tthl TTH/{tree} 0 9\n"), tree),
        text(format!("GET.sha1:{hex}\r\n"), &hex),
        text(format!("\u{1}{{\"info_hash\":\"{hex}\",\"action\":\"announce\"}}"), &hex),
    ]
}

/// Nobody waits for the rest: the held bytes of a first segment are there when every map is read.
#[test]
fn first_segments_are_held_without_their_content() {
    for inspection in [InspectionDepth::Framing, InspectionDepth::Watchlist] {
        let mut paths = paths_for(inspection, 1 << 14);
        let (mut port, mut held) = (20_000, 0);
        for (message, _) in spelled() {
            for place in 1..message.len().min(140) {
                port += 1;
                let end = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
                let (mut connection, opening) = Connection::open(end("10.0.0.2", port), at("192.0.2.7:6881"));
                paths.send(&opening);
                paths.send(&[connection.says(true, &message[..place])]);
                held = held.max(paths.host.view().expire_reassembly());
            }
        }
        assert!(held > 200, "{held} segments are held");
        let Some(kernel) = &mut paths.kernel else { continue };
        let spellings: Vec<Vec<u8>> = spelled().into_iter().map(|(_, spelling)| spelling).collect();
        let searched = search(kernel.object(), &spellings);
        assert!(searched.contains(&"REASSEMBLY".to_owned()), "{searched:?}");
    }
}

#[test]
fn a_watchlist_leaves_no_other_content_anywhere() {
    let mut paths = paths(InspectionDepth::Watchlist);
    paths.send(&frames("10.0.0.2", &OTHER));
    if let Some(kernel) = &mut paths.kernel {
        search(kernel.object(), &[OTHER]);
    }
}

#[test]
fn the_search_finds_what_is_there() {
    let mut paths = paths(InspectionDepth::Watchlist);
    let Some(kernel) = &mut paths.kernel else { return };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| search(kernel.object(), &[LISTED])));
    assert!(found.is_err(), "the list holds it");
}

/// Reads every map that can be read; panics if one holds any six bytes of a content in a row. Answers their names.
fn search<T: AsRef<[u8]>>(object: &mut LoadedObject, contents: &[T]) -> Vec<String> {
    let parts: HashSet<&[u8]> = contents.iter().flat_map(|content| content.as_ref().windows(6)).collect();
    let mut names = Vec::new();
    for (name, map) in object.ebpf().maps() {
        let Some(data) = data(map) else { continue };
        for bytes in entries(data) {
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let held = bytes.windows(6).find(|window| parts.contains(window));
            assert!(held.is_none(), "map {name} holds content: {}", bytes.escape_ascii());
        }
        names.push(name.to_owned());
    }
    names
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::PerCpuArray(data) | Map::LpmTrie(data) => Some(data),
        // Read by `watchlist_hits`; and the log, which is off.
        _ => None,
    }
}

/// `include/uapi/linux/bpf.h`, `enum bpf_cmd`.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
/// `include/uapi/linux/bpf.h`, `enum bpf_cmd`.
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;

/// The members of `union bpf_attr` for one element.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Keys and values of every entry, each as bytes.
fn entries(map: &MapData) -> Vec<Vec<u8>> {
    let info = map.info().expect("information about the map");
    let map_fd = map.fd().as_fd().as_raw_fd() as u32;
    let cpus = aya::util::nr_cpus().expect("the number of CPUs");
    let mut key = vec![0u8; info.key_size() as usize];
    let mut next = key.clone();
    // Per-CPU maps give a value for each CPU, rounded up to eight bytes.
    let mut value = vec![0u8; (info.value_size() as usize).next_multiple_of(8) * cpus];
    let mut found = Vec::new();
    let mut first = true;
    loop {
        let from = if first { 0 } else { key.as_ptr() as u64 };
        let mut element = Element { map_fd, padding: 0, key: from, value: next.as_mut_ptr() as u64, flags: 0 };
        // SAFETY: both buffers have the map's key size; the kernel takes no key for "the first".
        let status =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_GET_NEXT_KEY, &raw mut element, size_of::<Element>()) };
        if status != 0 {
            return found;
        }
        first = false;
        key.copy_from_slice(&next);
        element.key = key.as_ptr() as u64;
        element.value = value.as_mut_ptr() as u64;
        // SAFETY: the value's buffer has room for every CPU's.
        let status =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, &raw mut element, size_of::<Element>()) };
        if status == 0 {
            found.push([key.clone(), value.clone()].concat());
        }
    }
}
