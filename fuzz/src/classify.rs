//! Dissection and peer lists over the packets of one flow; its first segments are held and joined as the engine does
//! (`monitor-common/src/engine/reassembly.rs`).

use monitor_common::{
    abi::{
        limits::{HELD_BYTES, HOLD_SECONDS, WINDOW},
        protocol::{Confidence, Protocol},
    },
    dissect::{
        classify, held_len,
        peer_list::{self, Context, PeerListReader},
        rule_state::{RuleState, rule_flags},
        skip_segment,
    },
    parse::{
        packet::{Frame, Packet as _},
        payload::{Payload, Transport},
    },
    tables::reassembly::{self, Continuation, ReassemblySlot},
};

/// Bits of a packet's header byte.
mod header {
    pub(super) const FROM_LOWER: u8 = 1 << 0;
    pub(super) const UDP: u8 = 1 << 1;
    /// A byte of the stream is missing in front of it.
    pub(super) const GAP: u8 = 1 << 2;
    /// The segment is sent twice.
    pub(super) const TWICE: u8 = 1 << 3;
    /// The segment arrives after held bytes have expired.
    pub(super) const LATE: u8 = 1 << 4;
}

const FLOW_TAG: u64 = 0x1234_5678_9abc_def0;

/// One direction of the TCP flow.
#[derive(Default)]
struct Stream {
    slot: ReassemblySlot,
    /// Sequence number of the next byte.
    next: u32,
    /// Content of the slot.
    held: Vec<u8>,
}

/// The flow, under inspection by both transports at once.
struct Flow {
    tcp: RuleState,
    udp: RuleState,
    streams: [Stream; 2],
    now_s: u64,
    payload: Payload,
}

/// See the module.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut flow = Flow {
        tcp: RuleState::default(),
        udp: RuleState::default(),
        streams: Default::default(),
        now_s: 1_000,
        payload: Payload::empty(),
    };
    let mut rest = data;
    while let Some(([header, high, low], packets)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(packets.len());
        let (bytes, next) = packets.split_at(length);
        rest = next;
        if *header & header::UDP != 0 {
            flow.datagram(bytes, *header);
        } else {
            flow.segment(bytes, *header);
        }
    }
}

impl Flow {
    fn datagram(&mut self, bytes: &[u8], header: u8) {
        self.load(bytes, header);
        read_peer_lists(Transport::Udp, &self.payload);
        check(classify(Transport::Udp, &mut self.payload, &mut self.udp));
        self.payload.wipe();
    }

    fn segment(&mut self, bytes: &[u8], header: u8) {
        if header & header::LATE != 0 {
            self.now_s += u64::from(HOLD_SECONDS);
        }
        let stream = &mut self.streams[usize::from(header & header::FROM_LOWER == 0)];
        stream.next = stream.next.wrapping_add(u32::from(header & header::GAP != 0));
        let sequence = stream.next;
        stream.next = sequence.wrapping_add(bytes.len() as u32);
        self.inspect(bytes, header, sequence);
        if header & header::TWICE != 0 {
            self.inspect(bytes, header, sequence);
        }
    }

    /// One segment, as the engine inspects it.
    fn inspect(&mut self, bytes: &[u8], header: u8, sequence: u32) {
        let Some(first) = bytes.first() else { return };
        let from_lower = u32::from(header & header::FROM_LOWER);
        let (tag, of) = (reassembly::tag(FLOW_TAG, from_lower), |flag| rule_flags::of(flag, from_lower));
        let stream = &mut self.streams[usize::from(from_lower == 0)];
        let mut before = Vec::new();
        if self.tcp.rule_flags & of(rule_flags::HELD) != 0 {
            match stream.slot.resume(tag, sequence, bytes.len() as u32, self.now_s, &mut self.payload) {
                Continuation::Continues => before = std::mem::take(&mut stream.held),
                Continuation::Replaces => {}
                Continuation::OutOfOrder => return,
                Continuation::Missing => {
                    self.tcp.rule_flags =
                        self.tcp.rule_flags & !of(rule_flags::HELD) | of(rule_flags::PAST_START | rule_flags::OTHER);
                    return;
                }
            }
            self.tcp.rule_flags &= !of(rule_flags::HELD);
        } else if skip_segment(self.tcp.rule_flags, from_lower, *first) {
            return;
        }
        self.load(bytes, header);
        let joined = [&before[..], bytes].concat();
        let captured = joined.len().min(WINDOW);
        assert_eq!(self.payload.window[..captured], joined[..captured], "the held bytes, and the segment after them");
        assert!(self.payload.window[captured..].iter().all(|byte| *byte == 0), "and nothing else");
        assert_eq!((self.payload.captured, self.payload.len), (captured as u32, joined.len() as u32));
        read_peer_lists(Transport::Tcp, &self.payload);
        let found = classify(Transport::Tcp, &mut self.payload, &mut self.tcp);
        check(found);
        if found.is_none() && self.tcp.rule_flags & of(rule_flags::HELD) != 0 {
            let (count, stream) = (held_len(&self.payload), &mut self.streams[usize::from(from_lower == 0)]);
            assert!(count > 0 && count as usize <= HELD_BYTES && count <= self.payload.captured, "{count} bytes held");
            let next = sequence.wrapping_add(bytes.len() as u32);
            assert!(!stream.slot.hold(tag, next, count, self.now_s, &self.payload), "the slot was free");
            stream.held = joined[..count as usize].to_vec();
        }
        self.payload.wipe();
        assert!(self.payload.window == [0; WINDOW] && self.payload.captured == 0, "nothing of a payload stays");
    }

    /// Loads a packet after the bytes that are in the payload.
    fn load(&mut self, bytes: &[u8], header: u8) {
        self.payload.source_port = 6881;
        self.payload.destination_port = 6346;
        self.payload.from_lower = u32::from(header & header::FROM_LOWER);
        self.payload.len = self.payload.captured + bytes.len() as u32;
        Frame::new(bytes, bytes.len()).copy_payload(0, &mut self.payload);
    }
}

fn check(found: Option<monitor_common::abi::protocol::Verdict>) {
    if let Some(verdict) = found {
        assert_ne!(verdict.confidence, Confidence::None, "a verdict says how sure it is");
    }
}

/// Reads a payload as each kind of peer list.
fn read_peer_lists(transport: Transport, payload: &Payload) {
    for (protocol, ipv6) in [(Protocol::BitTorrent, false), (Protocol::BitTorrent, true), (Protocol::EDonkey, false)] {
        let context = Context { transport, protocol: protocol as u8, ipv6, announces: false, requested: true };
        let mut reader = PeerListReader::NONE;
        peer_list::begin(&context, payload, &mut reader);
        let most = WINDOW / 6;
        for step in 0..=most + 1 {
            if reader.is_over() {
                break;
            }
            assert!(step <= most, "a list ends with its payload");
            peer_list::next(payload, &mut reader);
        }
    }
}
