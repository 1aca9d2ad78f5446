//! A flow that outgrows its counter: it is flushed into the tally in time, and nothing is lost.

use aya::{TestRun as _, TestRunOptions};
use monitor_common::abi::{event::KernelEvent, limits::FLUSH_PACKETS, outcome::Outcome};
use peertally_datapath::TableSizes;
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{flag, tcp},
};

/// Packets beyond a flush.
const MORE: u64 = 1_000;

#[test]
fn a_counter_is_flushed_before_it_overflows() {
    let sizes = TableSizes { flows: 64, tallies: 64, peers: 64 };
    let mut paths = BothDatapaths::new("flush", &both_datapaths::options(sizes));
    let Some(mut kernel) = paths.kernel.take() else { return };
    let (subscriber, server) = ("10.0.0.1:40000".parse().expect("one"), "192.0.2.7:443".parse().expect("one"));
    // A TLS record ends the inspection: from here on the flow is settled.
    let hello = tcp(subscriber, server, flag::PUSH, b"\x16\x03\x01\0\xc0\x01\0\0\xbc\x03\x03 and so on");
    let opens = kernel.frame(&hello, hello.len(), 1_000).expect("runs");
    assert!(matches!(opens, Outcome::New(_)), "{opens:?}");
    let repeat = u32::try_from(2 * FLUSH_PACKETS + MORE).expect("fits");
    let options = TestRunOptions { data_in: Some(&hello), repeat, ..TestRunOptions::new() };
    kernel.object().program().expect("there").test_run(options).expect("runs");
    let packets = u64::from(repeat) + 1;
    let totals: Vec<(u64, u64)> =
        kernel.view().read(0).totals.iter().map(|row| (row.packets_up, row.bytes_up)).collect();
    let ip_bytes = hello.len() as u64 - 14;
    assert_eq!(
        totals.iter().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1)),
        (packets, packets * ip_bytes),
        "no packet is lost or counted twice"
    );
    let events = kernel.events().expect("reads");
    let flushed = events.iter().find(|(event, _)| *event == KernelEvent::FlushedOverflow).map(|(_, count)| *count);
    assert_eq!(flushed, Some(2), "{events:?}");
}
