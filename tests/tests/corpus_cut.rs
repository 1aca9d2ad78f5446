//! Captures of real programs, with the first payloads of each TCP flow sent in more segments than they were: the label
//! must be the same wherever they are cut.
//!
//! Runs on the host engine, so it needs no rights. Without the captures it says so and checks nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
};

use monitor_common::{
    abi::{key::Seed, limits::HELD_BYTES, outcome::Outcome, protocol::Protocol, settings::InspectionDepth},
    parse::{
        self, ip_protocol,
        packet::{self, Packet as _},
        tcp_flag,
    },
};
use peertally::verbs::replay::{engine::first_buffer, every_address};
use peertally_capture::{Capture, Item};
use peertally_datapath::{TableSizes, host::HostDataPath};
use peertally_tests::wire::{flag, tcp_at};

/// Signatures that are not found at every cut of the first payload, and why.
const NOT_CUT: [(&str, &str); 10] = [
    ("slsk.login", "starts with any byte"),
    ("slsk.peerinit", "starts with any byte"),
    ("slsk.pierce", "starts with any byte"),
    ("slsk.obf_init", "starts with any byte"),
    ("nap.login", "starts with any byte"),
    ("ares.conn", "three fixed bytes are too few to wait for"),
    ("bt.msg_piece", "a stream that began earlier, unless a handshake is there, too"),
    ("bt.msg_request", "as above"),
    ("ed2k.tcp_part", "the end of a part is many segments away"),
    ("ed2k.tcp_multi", "not in the header of a second message"),
];
/// Signatures that are found at every cut, whatever others their flow has.
const CUT: [&str; 2] = ["bt.hs", "bt.http_tracker"];

/// Paths of which requests are kept; in others may be names, passkeys and search words.
const PATHS: [&[u8]; 8] = [b"/ann", b"/scr", b"/web", b"/dat", b"/uri", b"/gnu", b"/gne", b"/.ha"];

/// Whether a flow begins with a request of which nothing is kept.
fn is_private(first: &[u8]) -> bool {
    let target = first.strip_prefix(b"GET ").or_else(|| first.strip_prefix(b"HEAD "));
    target.is_some_and(|target| !PATHS.iter().any(|path| target.starts_with(path)))
}

/// Bytes of the first segment.
const PLACES: [usize; 22] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 18, 19, 20, 24, 31, 40, 56, 72, 96, HELD_BYTES];

/// One segment of a flow.
#[derive(Clone)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    numbers: (u32, u32),
    payload: Vec<u8>,
}

impl Segment {
    /// The segment of a captured frame, if it is one that was captured whole.
    fn read(bytes: &[u8], wire_len: usize) -> Option<Self> {
        let frame = packet::Frame::new(bytes, wire_len);
        let headers = parse::plain_headers(&frame).ok()?;
        if headers.protocol != ip_protocol::TCP || headers.fragment != 0 {
            return None;
        }
        let end = |address: monitor_common::abi::key::Address, port| {
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address.bytes())).to_canonical(), port)
        };
        let payload = match headers.payload_len {
            0 => Vec::new(),
            len => bytes.get(headers.payload_offset as usize..)?.get(..len as usize)?.to_vec(),
        };
        let numbers = match headers.transport_len {
            0 => (0, 0),
            _ => {
                let header = headers.payload_offset as usize - usize::from(headers.transport_len);
                let [a, b, c, d, e, f, g, h] = frame.read::<8>(header + 4)?;
                (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
            }
        };
        Some(Self {
            from: end(headers.source, headers.source_port),
            to: end(headers.destination, headers.destination_port),
            flags: headers.tcp_flags,
            numbers,
            payload,
        })
    }

    fn frame(&self) -> Vec<u8> {
        tcp_at(self.from, self.to, self.flags, self.numbers, &self.payload)
    }

    /// This segment, split at these offsets.
    fn cut(&self, places: &[usize]) -> Vec<Self> {
        let mut bounds: Vec<usize> = [0].into_iter().chain(places.iter().copied()).collect();
        bounds.retain(|place| *place < self.payload.len());
        bounds.push(self.payload.len());
        let part = |bounds: &[usize]| Self {
            numbers: (self.numbers.0.wrapping_add(bounds[0] as u32), self.numbers.1),
            payload: self.payload[bounds[0]..bounds[1]].to_vec(),
            flags: flag::PUSH,
            ..self.clone()
        };
        bounds.windows(2).map(part).collect()
    }
}

/// A flow's ends without a direction.
type Ends = BTreeSet<SocketAddr>;

/// The TCP segments of a capture, by flow.
fn segments(capture: &Path) -> BTreeMap<Ends, Vec<Segment>> {
    let mut flows: BTreeMap<Ends, Vec<Segment>> = BTreeMap::new();
    let mut capture = Capture::open(capture).unwrap_or_else(|error| panic!("{}: {error}", capture.display()));
    while let Ok(Some(item)) = capture.next_item() {
        if let Item::Frame(frame) = item {
            let frame = first_buffer(frame);
            if let Some(segment) = Segment::read(frame.bytes, frame.wire_len as usize) {
                flows.entry(Ends::from([segment.from, segment.to])).or_default().push(segment);
            }
        }
    }
    flows
}

/// Flows of the table with a signature that is found at every cut: file, ends, protocols that its signatures stand for.
fn wanted(root: &Path) -> BTreeMap<String, Vec<(Ends, BTreeSet<&'static str>)>> {
    let text = fs::read_to_string(root.join("FLOWS.tsv")).expect("the table of flows");
    let mut wanted: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let row: Vec<&str> = line.split('\t').collect();
        let names: Vec<&str> =
            row.get(11).map_or("", |names| names).split(',').filter(|name| !name.is_empty()).collect();
        let not_cut = names.iter().any(|name| NOT_CUT.iter().any(|(other, _)| other == name));
        if row[1] != "tcp" || names.is_empty() || not_cut && !names.iter().any(|name| CUT.contains(name)) {
            continue;
        }
        let end = |at: usize| {
            let address: IpAddr = row[at].parse().expect("an address");
            SocketAddr::new(address, row[at + 1].parse().expect("a port"))
        };
        let protocols = names.iter().filter_map(|name| peertally_lab::protocol_of(name)).collect();
        wanted.entry(row[0].to_owned()).or_default().push((Ends::from([end(2), end(4)]), protocols));
    }
    wanted
}

/// The label of a flow of these segments.
fn label(segments: &[Segment]) -> &'static str {
    let sizes = TableSizes { flows: 4, tallies: 64, peers: 64 };
    let mut path = HostDataPath::new(&sizes, &every_address(), Seed::from_random([1, 2, 3]), InspectionDepth::Framing);
    let mut label = Protocol::Unclassified;
    for segment in segments {
        let frame = segment.frame();
        if let Outcome::Known(verdict) | Outcome::New(verdict) | Outcome::Restarted(verdict) =
            path.frame(&frame, frame.len(), 1)
            && verdict.protocol != Protocol::Unclassified
        {
            label = verdict.protocol;
        }
    }
    label.label()
}

/// The flow with the first payload of each side cut.
fn cut(segments: &[Segment], places: &[usize]) -> Vec<Segment> {
    let mut begun: BTreeSet<SocketAddr> = BTreeSet::new();
    let parts = segments.iter().flat_map(|segment| {
        if segment.flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN {
            begun.clear();
        }
        if segment.payload.is_empty() || !begun.insert(segment.from) {
            return vec![segment.clone()];
        }
        segment.cut(places)
    });
    parts.collect()
}

#[test]
fn flows_keep_their_labels_however_they_are_cut() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if !root.join("FLOWS.tsv").is_file() {
        println!("SKIPPED: no captures in {}", root.display());
        return;
    }
    let (mut flows, mut private, mut cuts, mut wrong) = (0, 0, 0, Vec::new());
    for (file, rows) in wanted(&root) {
        let found = segments(&root.join("p2p").join(&file));
        for (ends, protocols) in rows {
            // Frames with tags and tunnels are not taken apart here.
            let Some(segments) = found.get(&ends) else { continue };
            let first = &segments[..segments.len().min(40)];
            if !protocols.contains(label(first)) {
                continue;
            }
            let begins =
                first.iter().find(|segment| !segment.payload.is_empty()).map_or(&[][..], |first| &first.payload);
            if is_private(begins) {
                private += 1;
                continue;
            }
            flows += 1;
            let longest = begins.len();
            for (number, place) in PLACES.into_iter().filter(|place| *place < longest).enumerate() {
                let second = (place + 1 + number % 5).min(HELD_BYTES);
                for places in [vec![place], vec![place, second]] {
                    cuts += 1;
                    if !protocols.contains(label(&cut(first, &places))) {
                        wrong.push(format!("{file} {ends:?} {protocols:?} cut at {places:?}"));
                    }
                }
            }
        }
    }
    println!(
        "{} of {cuts} cuts of {flows} flows keep the label; {private} flows begin with a request that is not kept",
        cuts - wrong.len()
    );
    assert!(flows > 150, "only {flows} flows were cut");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
