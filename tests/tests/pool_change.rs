//! Pools that change while flows are in the table: what a flow counted so far stays with its old subscriber, and what
//! follows goes to the new one, or to nobody. Nothing is lost or counted twice.

use std::net::SocketAddr;

use monitor_common::abi::{
    outcome::Outcome,
    protocol::{Confidence, Protocol, Verdict},
    settings::InspectionDepth,
    tally::TallyKey,
};
use peertally_core::{pool::Pool, subscriber::Subscriber};
use peertally_datapath::{
    ReleasedFlows, TableSizes,
    host::{ACCESS, CORE, HostDataPath},
};
use peertally_tests::{both_datapaths::SEED, wire::Connection};

const BITTORRENT: Verdict = Verdict { protocol: Protocol::BitTorrent, confidence: Confidence::Signature };
const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0";
const DATA: [u8; 1000] = [7; 1000];

fn pools(texts: &[&str]) -> Vec<Pool> {
    texts.iter().map(|text| text.parse().expect("a pool")).collect()
}

/// A node, and what it was sent.
struct Node {
    path: HostDataPath,
    sent: u64,
    now_s: u64,
}

impl Node {
    fn new(texts: &[&str]) -> Self {
        let sizes = TableSizes { flows: 1024, tallies: 1024, peers: 1024 };
        Self { path: HostDataPath::new(&sizes, &pools(texts), SEED, InspectionDepth::Framing), sent: 0, now_s: 1_000 }
    }

    fn send(&mut self, forth: bool, frame: &[u8]) -> Outcome {
        self.sent += 1;
        self.path.frame_on(if forth { ACCESS } else { CORE }, frame, frame.len(), self.now_s)
    }

    /// A charged BitTorrent connection of a subscriber.
    fn bittorrent(&mut self, subscriber: &str) -> Connection {
        let end = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
        let (mut connection, opening) = Connection::open(end(subscriber, 50_000), end("192.0.2.7", 6_881));
        for (number, frame) in opening.iter().enumerate() {
            self.send(number == 0, frame);
        }
        for forth in [true, false, true, false] {
            let frame = connection.says(forth, HANDSHAKE);
            self.send(forth, &frame);
        }
        for forth in [true, false].repeat(6) {
            let frame = connection.says(forth, &DATA);
            self.send(forth, &frame);
        }
        assert!(self.path.is_charged(), "the flow of {subscriber}");
        connection
    }

    fn data(&mut self, connection: &mut Connection, packets: usize) -> Vec<Outcome> {
        (0..packets)
            .map(|number| {
                let forth = number % 2 == 0;
                let frame = connection.says(forth, &DATA);
                self.send(forth, &frame)
            })
            .collect()
    }

    /// Packets of a block under BitTorrent.
    fn packets(&self, block: &str) -> u64 {
        let (view, read) = (self.path.view(), self.path.view().read(15));
        let is_of = |key: &TallyKey| {
            let subscriber = Subscriber::of(key).map(|subscriber| subscriber.block().to_string());
            subscriber.as_deref() == Some(block) && key.protocol == Protocol::BitTorrent as u8
        };
        let found = (0..read.totals.len()).filter(|slot| view.keys[*slot].read().is_some_and(|key| is_of(&key)));
        found.map(|slot| read.totals[slot].packets_up + read.totals[slot].packets_down).sum()
    }

    /// Checks that each packet was counted once at node level.
    #[track_caller]
    fn is_exact(&self) {
        let read = self.path.view().read(15);
        let counted: u64 = read.node.iter().map(|counts| counts.packets).sum();
        assert_eq!(counted + read.pending.packets, self.sent, "{:?} pending", read.pending);
    }
}

#[test]
fn a_flow_of_a_pool_that_is_cut_otherwise_keeps_its_label_and_changes_its_subscriber() {
    let mut node = Node::new(&["10.0.0.0/16/32", "10.9.0.0/16/32"]);
    let mut changed = node.bittorrent("10.0.0.7");
    let mut other = node.bittorrent("10.9.0.7");
    let before = node.packets("10.0.0.7/32");
    assert!(before > 0);
    let released = node.path.set_pools(&pools(&["10.0.0.0/16/24", "10.9.0.0/16/32"]));
    assert_eq!(released, ReleasedFlows { uncharged: 1, ..ReleasedFlows::default() });
    node.is_exact();
    assert_eq!(node.packets("10.0.0.7/32"), before, "what was counted stays");
    for outcome in node.data(&mut changed, 10) {
        assert_eq!(outcome, Outcome::Known(BITTORRENT));
    }
    assert!(node.path.is_charged());
    node.data(&mut other, 10);
    node.is_exact();
    assert_eq!((node.packets("10.0.0.7/32"), node.packets("10.0.0.0/24")), (before, 10));
    assert_eq!(node.packets("10.9.0.7/32"), before + 10, "the twin's subscriber is the same");
    // Also of an old flow, whose counts wait for no proof.
    node.now_s += 100;
    node.data(&mut changed, 2);
    node.path.set_pools(&pools(&["10.0.0.0/16/28", "10.9.0.0/16/32"]));
    node.data(&mut changed, 10);
    node.is_exact();
    let counts = ["10.0.0.7/32", "10.0.0.0/24", "10.0.0.0/28"].map(|block| node.packets(block));
    assert_eq!(counts, [before, 12, 9], "the packet that charges an old flow is nobody's");
}

#[test]
fn a_flow_of_a_removed_pool_ends_and_counts_for_nobody() {
    let mut node = Node::new(&["10.0.0.0/16/32", "10.9.0.0/16/32"]);
    let mut gone = node.bittorrent("10.0.0.7");
    let mut other = node.bittorrent("10.9.0.7");
    let before = node.packets("10.0.0.7/32");
    let released = node.path.set_pools(&pools(&["10.9.0.0/16/32"]));
    assert_eq!(released, ReleasedFlows { ended: 1, ..ReleasedFlows::default() });
    node.is_exact();
    assert!(node.data(&mut gone, 10).iter().all(|outcome| *outcome == Outcome::Transit));
    node.data(&mut other, 10);
    node.is_exact();
    assert_eq!((node.packets("10.0.0.7/32"), node.packets("10.9.0.7/32")), (before, before + 10));
    // The pool comes back: its address is the same subscriber again.
    let released = node.path.set_pools(&pools(&["10.0.0.0/16/32", "10.9.0.0/16/32"]));
    assert!(released.is_nothing(), "a pool that is added changes no flow: {released:?}");
    node.bittorrent("10.0.0.7");
    node.is_exact();
    assert!(node.packets("10.0.0.7/32") > before);
}
