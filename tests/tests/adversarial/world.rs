//! A node with one pool, and what it has counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use monitor_common::abi::{
    protocol::{Confidence, Protocol},
    tally::{TallyKey, Totals},
};
use peertally_core::snapshot::Counts;
use peertally_datapath::{
    TableSizes,
    object::LoadOptions,
    view::{View, node_index_parts},
};
use peertally_tests::both_datapaths::{self, BothDatapaths};
use peertally_tests::wire::{at, udp};

peertally_tests::wrap_both_datapaths! {
    /// A node whose subscribers are in 10.0.0.0/8.
    pub(crate) World
}

/// What was counted for one subscriber and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Charged {
    /// Last byte of the subscriber's address.
    pub(crate) subscriber: u8,
    pub(crate) protocol: Protocol,
    pub(crate) confidence: Confidence,
    pub(crate) flows: u64,
    pub(crate) packets: u64,
}

/// A subscriber.
pub(crate) fn subscriber(port: u16) -> SocketAddr {
    at(&format!("10.0.0.1:{port}"))
}

/// Somebody outside.
pub(crate) fn outside(port: u16) -> SocketAddr {
    at(&format!("203.0.113.66:{port}"))
}

/// A DHT query (BEP 5) with a transaction id of two bytes.
pub(crate) fn ping(transaction: &[u8; 2]) -> Vec<u8> {
    [b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:".as_slice(), transaction, b"1:y1:qe"].concat()
}

/// The answer to it.
pub(crate) fn pong(transaction: &[u8; 2]) -> Vec<u8> {
    [b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:".as_slice(), transaction, b"1:y1:re"].concat()
}

/// The handshake of BEP 3.
pub(crate) fn handshake() -> Vec<u8> {
    [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[0xab; 20], b"-TR4000-0123456789ab"].concat()
}

impl World {
    /// A node that sees both directions.
    pub(crate) fn new(test: &str) -> Self {
        Self::with(test, LoadOptions::default())
    }

    /// A node with these options, but for its sizes and seed. Without pools it has the usual ones.
    pub(crate) fn with(test: &str, options: LoadOptions) -> Self {
        let sizes = TableSizes { flows: 1 << 12, tallies: 1 << 10, peers: 1 << 10 };
        let LoadOptions { inspection, watchlist, one_way, pools, .. } = options;
        let common = both_datapaths::options(sizes);
        let pools = if pools.is_empty() { common.pools.clone() } else { pools };
        Self(BothDatapaths::new(test, &LoadOptions { inspection, watchlist, one_way, pools, ..common }))
    }

    /// A node that sees both directions and has tables of these sizes.
    pub(crate) fn of_sizes(test: &str, sizes: TableSizes) -> Self {
        Self(BothDatapaths::new(test, &LoadOptions { one_way: false, ..both_datapaths::options(sizes) }))
    }

    /// Counts frames in the order given.
    pub(crate) fn play<'a>(&mut self, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        for frame in frames {
            self.frame(frame);
        }
    }

    /// Counts a datagram, from the subscriber if `up`.
    pub(crate) fn datagram(&mut self, up: bool, payload: &[u8]) {
        let (mine, theirs) = (subscriber(40_000), outside(6881));
        let frame = if up { udp(mine, theirs, payload) } else { udp(theirs, mine, payload) };
        self.frame(&frame);
    }

    /// Settles flows that have been idle for so long, as a drain does.
    pub(crate) fn settle_idle(&self, idle_s: u16) {
        self.read(|view| view.read(idle_s).flows);
    }

    /// What subscribers are charged with, once all flows have ended.
    pub(crate) fn charged(&self) -> Vec<Charged> {
        self.read(|view| {
            let read = view.read(0);
            let rows = view.keys.iter().zip(&read.totals).filter_map(|(key, totals)| charged(&key.read()?, totals));
            let mut rows: Vec<Charged> = rows.collect();
            rows.sort();
            rows
        })
    }

    /// P2P traffic among it: protocol, confidence, flows and packets of the only subscriber.
    pub(crate) fn charged_p2p(&self) -> Vec<(Protocol, Confidence, u64, u64)> {
        let rows = self.charged().into_iter().filter(|row| row.protocol != Protocol::Unclassified);
        rows.map(|row| (row.protocol, row.confidence, row.flows, row.packets)).collect()
    }

    /// What the interfaces have counted: all of it, and the part that is nobody's.
    pub(crate) fn node(&self) -> (Counts, Counts) {
        self.read(|view| {
            let (mut all, mut unanswered) = (Counts::default(), Counts::default());
            for (index, counts) in view.read(0).node.iter().enumerate() {
                all += *counts;
                if node_index_parts(index).uncharged {
                    unanswered += *counts;
                }
            }
            (all, unanswered)
        })
    }

    /// Packets of a protocol that are nobody's.
    pub(crate) fn unanswered(&self, protocol: Protocol) -> u64 {
        self.read(|view| {
            let rows = view.read(0).node.into_iter().enumerate();
            let of = |index| node_index_parts(index).uncharged && node_index_parts(index).protocol == protocol as u8;
            rows.filter(|(index, _)| of(*index)).map(|(_, counts)| counts.packets).sum()
        })
    }

    /// Reads both data paths, which must agree.
    pub(crate) fn read<T: PartialEq + std::fmt::Debug>(&self, read: impl Fn(&View<'_>) -> T) -> T {
        let found = read(&self.host.view());
        if let Some(kernel) = &self.kernel {
            assert_eq!(read(&kernel.view()), found, "kernel and host");
        }
        found
    }
}

fn charged(key: &TallyKey, totals: &Totals) -> Option<Charged> {
    if *totals == Totals::default() || *key == TallyKey::CATCH_ALL {
        return None;
    }
    assert!(matches!(IpAddr::from(key.address).to_canonical(), IpAddr::V4(v4) if v4 >= Ipv4Addr::new(10, 0, 0, 0)));
    Some(Charged {
        subscriber: key.address[15],
        protocol: Protocol::from_number(key.protocol)?,
        confidence: Confidence::from_number(key.confidence)?,
        flows: totals.flows,
        packets: totals.packets_up + totals.packets_down,
    })
}
