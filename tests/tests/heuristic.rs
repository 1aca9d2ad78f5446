//! The heuristic tier over the captures next to the repository: how often ordinary traffic opens as MSE does, and that
//! it labels nothing. The figures are in `docs/detection.md`.

use std::{fs, path::Path};

use monitor_common::abi::{
    event::KernelEvent,
    protocol::Confidence,
    settings::{Heuristic, InspectionDepth},
};
use peertally::verbs::replay::{engine::first_buffer, every_address};
use peertally_capture::{Capture, Item};
use peertally_datapath::{TableSizes, host::HostDataPath};
use peertally_tests::both_datapaths::SEED;

/// The default of the configuration.
const RULE: Heuristic = Heuristic { endpoints: 8, window_s: 60 };

/// What the tier did with the captures of a folder: TCP flows that opened as MSE does, flows in all, tallies it
/// labelled.
fn behaviour(folder: &Path) -> (u64, u64, usize) {
    let (mut openings, mut flows, mut labelled) = (0, 0, 0);
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let Ok(mut capture) = Capture::open(&entry.path()) else { continue };
        let sizes = TableSizes { flows: 1 << 14, tallies: 1 << 14, peers: 1 << 12 };
        let mut host = HostDataPath::new(&sizes, &every_address(), SEED, InspectionDepth::Framing);
        host.view().settings.heuristic.store(RULE.to_bits());
        let mut clock_s = 0;
        while let Ok(Some(item)) = capture.next_item() {
            if let Item::Frame(frame) = item {
                let frame = first_buffer(frame);
                clock_s = clock_s.max(frame.timestamp_ns / 1_000_000_000);
                host.frame(frame.bytes, frame.wire_len, clock_s);
            }
        }
        let view = host.view();
        let reading = view.read(0);
        openings += host.events(KernelEvent::MseCandidate);
        flows += host.events(KernelEvent::FlowNew) + host.events(KernelEvent::FlowRestarted);
        let heuristic = view.keys.iter().zip(&reading.totals).filter(|(key, totals)| {
            key.read().is_some_and(|key| key.confidence == Confidence::Heuristic as u8) && totals.flows > 0
        });
        labelled += heuristic.count();
    }
    (openings, flows, labelled)
}

#[test]
fn no_negative_capture_is_labelled_by_behaviour() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if !corpus.is_dir() {
        println!("SKIPPED: no captures in {}", corpus.display());
        return;
    }
    for (set, folder) in [("negative", corpus.join("negative")), ("P2P", corpus.join("p2p"))] {
        let (openings, flows, labelled) = behaviour(&folder);
        println!(
            "{set} captures: {openings} of {flows} flows open as MSE does, {labelled} tallies labelled by behaviour"
        );
        assert!(openings > 0, "{set}: the test of openings was run");
        assert!(set != "negative" || labelled == 0, "{labelled} tallies of ordinary traffic");
    }
}
