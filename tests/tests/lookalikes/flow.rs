//! Conversations, the bits they are made of, and the network that plays them.

use std::net::SocketAddr;

use monitor_common::abi::{
    key::Seed,
    outcome::Outcome,
    protocol::{Confidence, Protocol, Verdict},
    settings::InspectionDepth,
};
use peertally_core::pool::Pool;
use peertally_datapath::{TableSizes, host::HostDataPath};
use peertally_tests::wire::{Connection, udp};

/// Evenly spread bits (SplitMix64): a seed that fails, fails again.
pub(super) struct Bits {
    state: u64,
}

impl Bits {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.next() as usize % (high - low + 1)
    }

    /// One of them.
    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0, choices.len() - 1)]
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// An identifier that a sender picks at random.
    pub(super) fn id(&mut self, len: usize) -> Vec<u8> {
        self.bytes(len)
    }

    /// Bytes of any length in the range.
    pub(super) fn some(&mut self, low: usize, high: usize) -> Vec<u8> {
        let len = self.within(low, high);
        self.bytes(len)
    }

    /// Lower-case letters and digits.
    pub(super) fn word(&mut self, low: usize, high: usize) -> String {
        (0..self.within(low, high)).map(|_| char::from(self.of(b"abcdefghijklmnopqrstuvwxyz0123456789"))).collect()
    }

    /// A port that clients get from their system.
    pub(super) fn port(&mut self) -> u16 {
        self.within(1024, 65_535) as u16
    }
}

/// Joins the parts of a message.
pub(super) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Payloads between a client and a server, in order.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    tcp: bool,
    /// Client's port, server's port.
    ports: (u16, u16),
    /// Whether the client sends it, and the payload.
    messages: Vec<(bool, Vec<u8>)>,
}

impl Conversation {
    pub(super) fn tcp(client: u16, server: u16) -> Self {
        Self { tcp: true, ports: (client, server), messages: Vec::new() }
    }

    pub(super) fn udp(client: u16, server: u16) -> Self {
        Self { tcp: false, ..Self::tcp(client, server) }
    }

    /// The client sends.
    pub(super) fn request(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.messages.push((true, payload.into()));
        self
    }

    /// The server sends.
    pub(super) fn answer(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.messages.push((false, payload.into()));
        self
    }
}

impl Conversation {
    /// This conversation with each message split into two or three segments at random offsets.
    pub(super) fn cut(&self, bits: &mut Bits) -> Self {
        let mut messages = Vec::new();
        for (forth, payload) in &self.messages {
            let mut rest = &payload[..];
            for _ in 0..bits.within(1, 2) {
                if rest.len() > 1 {
                    // Short first segments are the ones that are kept.
                    let longest = if bits.within(0, 1) == 0 { 40 } else { rest.len() };
                    let (part, behind) = rest.split_at(bits.within(1, longest.min(rest.len() - 1)));
                    messages.push((*forth, part.to_vec()));
                    rest = behind;
                }
            }
            messages.push((*forth, rest.to_vec()));
        }
        Self { messages, ..self.clone() }
    }

    /// This conversation with one message split into two segments.
    pub(super) fn cut_at(&self, message: usize, place: usize) -> Self {
        let (forth, payload) = &self.messages[message];
        let parts = [(*forth, payload[..place].to_vec()), (*forth, payload[place..].to_vec())];
        Self { messages: [&self.messages[..message], &parts, &self.messages[message + 1..]].concat(), ..self.clone() }
    }

    /// Whether it runs over TCP, whose messages have no bounds.
    pub(super) fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// Lengths of its messages.
    pub(super) fn lengths(&self) -> Vec<usize> {
        self.messages.iter().map(|(_, payload)| payload.len()).collect()
    }
}

/// A data path that sees every conversation as a flow of a subscriber.
pub(super) struct Network {
    path: HostDataPath,
    played: u32,
}

impl Network {
    pub(super) fn new() -> Self {
        let pools: [Pool; 2] = ["10.0.0.0/8", "2001:db8::/32"].map(|pool| pool.parse().expect("a pool"));
        let sizes = TableSizes { flows: 4096, tallies: 1024, peers: 1024 };
        let path = HostDataPath::new(&sizes, &pools, Seed::from_random([1, 2, 3]), InspectionDepth::Framing);
        Self { path, played: 0 }
    }

    /// Checks that a conversation gets no label, over IPv4 or IPv6, the client or the server being the subscriber.
    pub(super) fn play(&mut self, name: &str, conversation: &Conversation) {
        if let Some((verdict, number)) = self.verdict(conversation) {
            let payload = conversation.messages.get(number).map(|(_, payload)| payload.escape_ascii().to_string());
            panic!("{name}: {verdict:?} at message {number} of {:?}: {payload:?}", conversation.ports);
        }
    }

    /// The label that a conversation gets, and the message that brings it.
    pub(super) fn verdict(&mut self, conversation: &Conversation) -> Option<(Verdict, usize)> {
        self.played += 1;
        let (client, server) = self.ends(conversation.ports);
        // A second each: no flow is refused for want of room.
        let now_s = u64::from(self.played);
        let (mut connection, opening) = Connection::open(client, server);
        if conversation.tcp {
            for frame in opening {
                self.send(&frame, now_s);
            }
        }
        for (number, (forth, payload)) in conversation.messages.iter().enumerate() {
            let (from, to) = if *forth { (client, server) } else { (server, client) };
            let frame = if conversation.tcp { connection.says(*forth, payload) } else { udp(from, to, payload) };
            let verdict = self.send(&frame, now_s);
            if verdict.protocol != Protocol::Unclassified || verdict.confidence != Confidence::None {
                return Some((verdict, number));
            }
        }
        None
    }

    /// Ends that no other conversation has; which is the numerically lower one alternates.
    fn ends(&self, ports: (u16, u16)) -> (SocketAddr, SocketAddr) {
        let (high, low) = (self.played >> 8 & 0xffff, self.played & 0xff);
        let (near, far) = if self.played.is_multiple_of(3) {
            (format!("2001:db8::{high:x}:{low:x}"), format!("2001:db9::{high:x}:{low:x}"))
        } else {
            (format!("10.{}.{}.{low}", high >> 8, high & 0xff), format!("192.0.2.{low}"))
        };
        let [near, far] = [near, far].map(|text| text.parse().expect("an address"));
        let (client, server) = if self.played.is_multiple_of(2) { (near, far) } else { (far, near) };
        (SocketAddr::new(client, ports.0), SocketAddr::new(server, ports.1))
    }

    fn send(&mut self, frame: &[u8], now_s: u64) -> Verdict {
        match self.path.frame(frame, frame.len(), now_s) {
            Outcome::Known(verdict) | Outcome::New(verdict) | Outcome::Restarted(verdict) => verdict,
            other => panic!("{other:?}: {frame:02x?}"),
        }
    }
}
