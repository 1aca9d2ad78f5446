//! A flow that outgrows its counter: it is flushed into the tally in time, and nothing is lost.

use aya::{TestRun as _, TestRunOptions};
use monitor_common::abi::{
    event::KernelEvent,
    limits::{FLUSH_PACKETS, STATED_BYTES_MAX},
    outcome::Outcome,
};
use peertally_datapath::{TableSizes, view::View};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{flag, tcp},
};

/// IP bytes of a merged packet: a generic receive offload of 262 kB.
const MERGED_BYTES: u64 = 262_144;
/// As many of them hold more than 2^40 bytes.
const MERGED_PACKETS: u32 = 4_400_000;
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

/// A segment of a settled flow whose IPv4 header states no length, as that of a merged packet: a frame's length is then
/// what was on the wire.
fn merged(frame: &[u8]) -> Vec<u8> {
    let mut merged = frame.to_vec();
    merged[16..18].fill(0);
    merged
}

/// Sums of a reading's tallies: packets and bytes of both directions.
fn sums(view: View<'_>) -> (u64, u64) {
    let totals = view.read(0).totals;
    totals
        .iter()
        .fold((0, 0), |sum, row| (sum.0 + row.packets_up + row.packets_down, sum.1 + row.bytes_up + row.bytes_down))
}

#[test]
fn merged_packets_of_any_length_overflow_no_counter() {
    let sizes = TableSizes { flows: 64, tallies: 64, peers: 64 };
    let mut paths = BothDatapaths::new("merged", &both_datapaths::options(sizes));
    let (subscriber, server) = ("10.0.0.1:40000".parse().expect("one"), "192.0.2.7:443".parse().expect("one"));
    let hello = tcp(subscriber, server, flag::PUSH, b"\x16\x03\x01\0\xc0\x01\0\0\xbc\x03\x03 and so on");
    paths.send(&hello);
    let merged = merged(&hello);
    let mut bytes = hello.len() as u64 - 14;
    // The longest that the router can get, and the longest that a capture can claim; between them packets that take the
    // fast path, and the first length that does not.
    let lengths = [524_280 + 14, u32::MAX as usize, hello.len(), STATED_BYTES_MAX as usize + 15];
    for length in lengths.into_iter().cycle().take(2_400) {
        let frame = if length == hello.len() { &hello } else { &merged };
        let found = paths.host.frame_on(paths.interface, frame, length, paths.now_s);
        assert!(matches!(found, Outcome::Known(_)), "{found:?}");
        if let Some(kernel) = &mut paths.kernel {
            assert_eq!(kernel.frame(frame, length, paths.now_s).expect("runs"), found, "kernel and host");
        }
        bytes += length as u64 - 14;
    }
    assert!(bytes > 1 << 41, "{bytes} bytes would fit into a counter");
    assert_eq!(sums(paths.host.view()), (2_401, bytes), "on the host");
    if let Some(kernel) = &paths.kernel {
        assert_eq!(sums(kernel.view()), (2_401, bytes), "in the kernel");
    }
    assert!(paths.events(KernelEvent::FlushedOverflow) > 0);
}

#[test]
fn a_flow_of_merged_packets_that_never_pauses_loses_no_byte() {
    let sizes = TableSizes { flows: 64, tallies: 64, peers: 64 };
    let mut paths = BothDatapaths::new("merged_flow", &both_datapaths::options(sizes));
    let Some(mut kernel) = paths.kernel.take() else { return };
    let (subscriber, server) = ("10.0.0.1:40000".parse().expect("one"), "192.0.2.7:443".parse().expect("one"));
    let hello = tcp(subscriber, server, flag::PUSH, b"\x16\x03\x01\0\xc0\x01\0\0\xbc\x03\x03 and so on");
    let merged = merged(&hello);
    kernel.frame(&hello, hello.len(), 1_000).expect("runs");
    // Sets the length on the wire of all that follow.
    kernel.frame(&merged, MERGED_BYTES as usize + 14, 1_000).expect("runs");
    let options = TestRunOptions { data_in: Some(&merged), repeat: MERGED_PACKETS, ..TestRunOptions::new() };
    kernel.object().program().expect("there").test_run(options).expect("runs");
    let merged_packets = u64::from(MERGED_PACKETS) + 1;
    let expected = (merged_packets + 1, merged_packets * MERGED_BYTES + hello.len() as u64 - 14);
    assert_eq!(sums(kernel.view()), expected, "no packet or byte is lost or counted twice");
}
