//! The kernel's program against the host engine: packet by packet over every capture of the corpus, and over mutated
//! frames.
//!
//! Both run one source over equal tables with one seed, so every outcome and every counter must be equal.

use std::{
    fs,
    path::{Path, PathBuf},
};

use monitor_common::abi::{limits::PENDING_IDLE_SECONDS, reason::Reason, settings::InspectionDepth};
use peertally::verbs::replay::{
    args::EngineKind,
    engine::{EngineOptions, EngineTotals, first_buffer},
    every_address, open,
};
use peertally_capture::{Capture, Frame, Item};
use peertally_datapath::{
    host::HostDataPath,
    object::LoadOptions,
    test_run::TestRunner,
    view::{RemoteRead, TableRead, View},
};
use peertally_tests::kernel::{load_options, may_use_kernel};
use peertally_tests::packet_table::{SEED, cases};
use peertally_tests::random::Random;

/// Mutated frames that are compared.
const MUTATIONS: usize = 100_000;

/// Every capture of the corpus next to the repository; none, loudly, when there is no corpus.
fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let folders = ["p2p", "negative"].iter().filter_map(|set| fs::read_dir(root.join(set)).ok()).flatten();
    let mut captures: Vec<PathBuf> = folders
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension != "tsv"))
        .collect();
    captures.sort();
    if captures.is_empty() {
        println!("SKIPPED: no captures in {}", root.display());
    }
    captures
}

/// Hands over the frames of a capture, up to its end or its damage.
fn for_each_frame(path: &Path, mut work: impl FnMut(u64, Frame<'_>)) {
    let mut capture = Capture::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut number = 0;
    while let Ok(Some(item)) = capture.next_item() {
        number += 1;
        if let Item::Frame(frame) = item {
            work(number, first_buffer(frame));
        }
    }
}

#[test]
fn every_packet_of_every_capture() {
    if !may_use_kernel("differential over the corpus").expect("rights") {
        return;
    }
    let options = EngineOptions { pools: every_address(), ..EngineOptions::default() };
    let mut host = open(EngineKind::Host, &options).expect("opens");
    let mut kernel = open(EngineKind::Kernel, &options).expect("loads");
    let (mut clock_s, mut compared) = (0, 0_u64);
    for path in corpus() {
        for_each_frame(&path, |number, frame| {
            clock_s = clock_s.max(frame.timestamp_ns / 1_000_000_000);
            let expected = host.packet(&frame, clock_s).expect("counts");
            let found = kernel.packet(&frame, clock_s).expect("counts");
            assert_eq!(found, expected, "{} packet {number}", path.display());
            assert_eq!(kernel.is_charged(), host.is_charged(), "{} packet {number}", path.display());
            compared += 1;
        });
    }
    let (expected, found) = (host.finish().expect("reads"), kernel.finish().expect("reads"));
    assert_equal(&found, &expected);
    println!("{compared} packets compared");
}

#[test]
fn mutated_frames() {
    if !may_use_kernel("differential over mutated frames").expect("rights") {
        return;
    }
    let mut seeds: Vec<Vec<u8>> = cases().into_iter().map(|case| case.frame).collect();
    for path in corpus() {
        for_each_frame(&path, |number, frame| {
            if number <= 8 {
                seeds.push(frame.bytes.to_vec());
            }
        });
    }
    let options = LoadOptions { one_way: false, ..load_options() };
    let mut host = HostDataPath::new(&options.sizes, &options.pools, SEED, InspectionDepth::Framing);
    host.set_tunnel_endpoints(&options.tunnel_endpoints);
    let mut kernel = TestRunner::new(&LoadOptions { replaying: true, ..options }).expect("loads");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..MUTATIONS {
        let (frame, wire_len) = mutate(&seeds[random.below(seeds.len())], &mut random);
        // Small tables and a clock that moves: flows are evicted, restarted and refused, tallies run out.
        let now_s = round as u64 / 50;
        let expected = host.frame(&frame, wire_len, now_s);
        let found = kernel.frame(&frame, wire_len, now_s).expect("the kernel takes the frame");
        assert_eq!(found, expected, "round {round}, {wire_len} bytes on the wire: {frame:02x?}");
    }
    let remotes = |view: View<'_>| {
        let mut remotes = RemoteRead::default();
        view.read_into(PENDING_IDLE_SECONDS, &mut TableRead::default(), Some(&mut remotes));
        remotes.by_slot
    };
    let expected = remotes(host.view());
    assert_eq!(remotes(kernel.view()), expected);
    assert!(expected.iter().any(|remotes| !remotes.is_empty()), "no mutated frame had a remote");
    let skipped = Reason::ALL.iter().map(|reason| (*reason, host.skipped(*reason))).collect();
    let expected = EngineTotals::read(&host.view(), skipped);
    let found = EngineTotals::read(&kernel.view(), kernel.skipped().expect("reads"));
    assert_equal(&found, &expected);
    assert_eq!(kernel.rule_verdicts().expect("reads"), host.rule_verdicts());
    for (event, count) in kernel.events().expect("reads") {
        assert_eq!(count, host.events(event), "{event:?}");
    }
    assert!(!host.rule_verdicts().is_empty(), "no mutated frame had a verdict");
}

fn assert_equal(found: &EngineTotals, expected: &EngineTotals) {
    assert_eq!(found.node, expected.node);
    assert_eq!(found.skipped, expected.skipped);
    assert_eq!(found.tallies.len(), expected.tallies.len());
    for (found, expected) in found.tallies.iter().zip(&expected.tallies) {
        assert_eq!(found, expected);
    }
}

/// Changes, shortens or lengthens a frame; also says how long it was on the wire.
fn mutate(seed: &[u8], random: &mut Random) -> (Vec<u8>, usize) {
    let mut frame = seed.to_vec();
    for _ in 0..random.below(4) {
        let index = random.below(frame.len().clamp(1, 128));
        if let Some(byte) = frame.get_mut(index) {
            *byte = random.next() as u8;
        }
    }
    if random.below(4) == 0 {
        frame.truncate(random.below(frame.len() + 1));
    }
    if random.below(8) == 0 {
        frame.resize(frame.len() + random.below(64), 0);
    }
    let extra = if random.below(4) == 0 { random.below(1500) } else { 0 };
    let wire_len = frame.len() + extra;
    (frame, wire_len)
}
