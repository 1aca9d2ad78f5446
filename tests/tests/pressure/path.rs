//! Both engines behind one interface, with a clock that the test moves, and their counts.

use std::collections::HashMap;

use monitor_common::abi::{
    event::KernelEvent,
    key::{Address, Seed},
    protocol::Protocol,
    tally::{Direction, TallyKey},
};
use peertally::{
    agent::AgentState,
    config::{self, Overrides},
    export::collector::{Exposition, drain_histogram},
};
use peertally_core::{analysis::Analysis, snapshot::Snapshot, subscriber::Pseudonyms};
use peertally_datapath::{
    TableSizes,
    host::HostDataPath,
    object::LoadOptions,
    test_run::TestRunner,
    view::{NodeIndexParts, View, node_index_parts},
};
use peertally_tests::{both_datapaths, kernel::may_use_kernel, snapshots};

/// The subscribers.
pub(crate) const POOL: &str = "10.0.0.0/8";

/// An engine that counts frames.
pub(crate) enum Path {
    /// The shared source on the host.
    Host(Box<HostDataPath>),
    /// The shipped program in the kernel.
    Kernel(Box<TestRunner>),
}

/// How an engine is loaded: subscribers in [`POOL`].
pub(crate) fn options(flows: u32, tallies: u32, seed: Seed) -> LoadOptions {
    let sizes = TableSizes { flows, tallies, peers: 4096 };
    LoadOptions { pools: vec![POOL.parse().expect("a valid pool")], seed: Some(seed), ..both_datapaths::options(sizes) }
}

/// Runs a test on the host, and in the kernel where that may be asked.
pub(crate) fn on_both(test: &str, options: &LoadOptions, run: impl Fn(&mut Path)) {
    let seed = options.seed.expect("tests choose their seed");
    let host = HostDataPath::new(&options.sizes, &options.pools, seed, options.inspection);
    host.set_one_way();
    run(&mut Path::Host(Box::new(host)));
    if may_use_kernel(test).expect("rights") {
        run(&mut Path::Kernel(Box::new(TestRunner::new(options).expect("the program loads"))));
    }
}

impl Path {
    /// Counts a frame at this second.
    pub(crate) fn frame(&mut self, frame: &[u8], now_s: u64) {
        match self {
            Self::Host(path) => {
                path.frame(frame, frame.len(), now_s);
            }
            Self::Kernel(path) => {
                path.frame(frame, frame.len(), now_s).expect("the test runner takes the frame");
            }
        }
    }

    /// How often something happened.
    pub(crate) fn event(&self, wanted: KernelEvent) -> u64 {
        match self {
            Self::Host(path) => path.events(wanted),
            Self::Kernel(path) => {
                let events = path.events().expect("the events are readable");
                events.iter().find(|(event, _)| *event == wanted).map_or(0, |(_, count)| *count)
            }
        }
    }

    /// The tables.
    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Self::Host(path) => path.view(),
            Self::Kernel(path) => path.view(),
        }
    }

    /// Result of a last drain, with every flow settled.
    pub(crate) fn counted(&self) -> Counted {
        let view = self.view();
        let reading = view.read(0);
        assert_eq!((reading.pending.packets, reading.internal_errors), (0, 0), "the last drain settles every flow");
        assert_eq!(self.event(KernelEvent::InternalError), 0, "nothing is lost");
        let mut counted = Counted { flows_in_cache: reading.flows, ..Counted::default() };
        for (slot, totals) in reading.totals.iter().enumerate() {
            let Some(key) = view.keys[slot].read() else { continue };
            let row = Row {
                packets: totals.packets_up + totals.packets_down,
                bytes: totals.bytes_up + totals.bytes_down,
                flows: totals.flows,
            };
            counted.all.add(&row);
            if key == TallyKey::CATCH_ALL {
                counted.catch_all.add(&row);
            } else {
                counted.rows.entry((Address::v6(key.address), key.protocol)).or_default().add(&row);
            }
        }
        for (index, node) in reading.node.iter().enumerate() {
            let NodeIndexParts { direction, protocol, .. } = node_index_parts(index);
            assert!(direction != Direction::Transit || node.packets == 0, "every packet has a subscriber");
            let row = Row { packets: node.packets, bytes: node.bytes, flows: node.flows };
            counted.node.add(&row);
            counted.by_protocol.entry(protocol).or_default().add(&row);
        }
        counted
    }

    /// The value of an event in the text that Prometheus reads.
    pub(crate) fn metric(&self, event: KernelEvent) -> u64 {
        let events: Vec<_> = KernelEvent::ALL.iter().map(|event| (event.label(), self.event(*event))).collect();
        let resolved = config::parse(std::path::Path::new("test.toml"), "", &Overrides::default()).expect("defaults");
        let state = AgentState::new(resolved.datapath.inspection, resolved.evidence(), Vec::new(), drain_histogram());
        let snapshot = Snapshot { events, ..snapshots::empty() };
        let (published, _) =
            Analysis::new(resolved.analysis_options(), Pseudonyms::with_key([1; 32])).take(snapshot, Default::default);
        state.publish(published);
        let text = String::from_utf8(Exposition::new(state).text()).expect("text");
        let line = format!("peertally_kernel_events_total{{event=\"{}\"}} ", event.label());
        let value = text.lines().find_map(|found| found.strip_prefix(line.as_str())).expect("the event is exported");
        value.parse().expect("a number")
    }
}

/// Sums of packets, bytes and flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// IP packets, both directions.
    pub(crate) packets: u64,
    /// IP bytes, both directions.
    pub(crate) bytes: u64,
    /// Flows.
    pub(crate) flows: u64,
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.flows += other.flows;
    }

    /// Adds a frame of the test.
    pub(crate) fn sent(&mut self, frame: &[u8]) {
        self.packets += 1;
        self.bytes += frame.len() as u64 - 14;
    }
}

/// Counts of an engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// All tallies together.
    pub(crate) all: Row,
    /// The catch-all tally.
    pub(crate) catch_all: Row,
    /// By subscriber and protocol number.
    pub(crate) rows: HashMap<(Address, u8), Row>,
    /// The node's counters.
    pub(crate) node: Row,
    /// The node's counters by protocol number.
    pub(crate) by_protocol: HashMap<u8, Row>,
    /// Flows in the table.
    pub(crate) flows_in_cache: u64,
}

impl Counted {
    /// A subscriber's row.
    pub(crate) fn of(&self, subscriber: [u8; 4], protocol: Protocol) -> Row {
        let address = Address::v4(u32::from_be_bytes(subscriber));
        self.rows.get(&(address, protocol as u8)).copied().unwrap_or_default()
    }

    /// Fails unless tallies and node counters equal the sent packets. Each packet has one subscriber.
    pub(crate) fn expect_exactly(&self, sent: &Row) {
        assert_eq!((self.node.packets, self.node.bytes), (sent.packets, sent.bytes), "node level");
        assert_eq!((self.all.packets, self.all.bytes), (sent.packets, sent.bytes), "tallies");
    }
}
