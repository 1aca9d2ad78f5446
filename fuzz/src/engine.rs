//! The whole data path over any packets: each is counted once, or skipped under a reason.

use monitor_common::abi::{event::KernelEvent, key::Seed, outcome::Outcome, reason::Reason, settings::InspectionDepth};
use peertally_datapath::{TableSizes, host::HostDataPath};

/// See the module.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    // Small tables: sets fill up, tallies run out.
    let sizes = TableSizes { flows: 8, tallies: 8, peers: 8 };
    let pools = ["0.0.0.0/1/24", "::/0/56"].map(|pool| pool.parse().expect("a pool"));
    let mut path = HostDataPath::new(&sizes, &pools, Seed::from_random([1, 2, 3]), InspectionDepth::Framing);
    path.set_tunnel_endpoints(&["128.0.0.0/2".parse().expect("a prefix")]);
    let (mut packets, mut skipped) = (0_u64, 0_u64);
    let mut rest = data;
    while let Some((length, frames)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(frames.len());
        let (frame, next) = frames.split_at(length);
        rest = next;
        match path.frame(frame, frame.len(), packets) {
            Outcome::Skipped(_) => skipped += 1,
            _ => packets += 1,
        }
    }
    let reading = path.view().read(0);
    assert_eq!(reading.node.iter().map(|node| node.packets).sum::<u64>(), packets);
    assert_eq!(Reason::ALL.iter().map(|reason| path.skipped(*reason)).sum::<u64>(), skipped);
    assert_eq!((path.events(KernelEvent::InternalError), reading.pending.packets), (0, 0));
}
