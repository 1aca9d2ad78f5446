//! Paths that packets take through the flow table, told from the counted events. For the bench: a row whose packets
//! take another path than its name says measures something else.
//!
//! Pure arithmetic: counts of packets in, a judgement out.

use monitor_common::abi::event::KernelEvent;

/// What a packet does to the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketPath {
    /// Its flow is in the table.
    Known,
    /// Opens a flow in an empty way.
    New,
    /// Opens a flow in the way of another one, which is evicted.
    Evicting,
    /// Its flow finds no way, and the packet counts without one.
    Refused,
    /// Finds no token of the slow path, and counts without a flow.
    Shed,
    /// Belongs to no subscriber.
    Transit,
    /// Anything else: skipped, restarts a flow, or meets a way that another CPU changes.
    Other,
}

impl PacketPath {
    /// Every path.
    const ALL: [Self; 7] =
        [Self::Known, Self::New, Self::Evicting, Self::Refused, Self::Shed, Self::Transit, Self::Other];
}

/// Largest share of a row's measured packets that may take another path: one in so many.
const STRAYS: u64 = 50;

/// Counts of packets, by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounts([u64; PacketPath::ALL.len()]);

impl PathCounts {
    /// Counts of so many packets, from what the program counted meanwhile: `happened` has the number of times that an
    /// event happened, `shed` the packets that were shed, `skipped` the frames without a flow. All other packets met a
    /// known flow.
    #[must_use]
    pub fn from_events(packets: u64, happened: impl Fn(KernelEvent) -> u64, shed: u64, skipped: u64) -> Self {
        let evicting = happened(KernelEvent::EvictedIdle) + happened(KernelEvent::EvictedUnclassified);
        let (refused, transit) = (happened(KernelEvent::FlowRefused), happened(KernelEvent::Transit));
        // A packet that finds its way taken has counted as a new flow before.
        let other = happened(KernelEvent::FlowRestarted) + happened(KernelEvent::FlowBusy) + skipped;
        let opening = happened(KernelEvent::FlowNew);
        let known = packets.saturating_sub(opening + refused + shed + transit + other);
        Self([known, opening.saturating_sub(evicting), evicting, refused, shed, transit, other])
    }

    /// Adds packets of a path.
    pub fn add(&mut self, path: PacketPath, packets: u64) {
        self.0[path as usize] += packets;
    }

    /// Adds other counts.
    pub fn add_all(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// Packets that took a path more often than expected.
    #[must_use]
    pub fn strays(&self, expected: &Self) -> u64 {
        self.0.iter().zip(expected.0).map(|(took, expected)| took.saturating_sub(expected)).sum()
    }

    /// Compares with what was expected.
    ///
    /// # Errors
    /// Both counts, when more than 2 % of the `measured` packets took another path.
    pub fn check(&self, expected: &Self, measured: u64) -> Result<(), String> {
        let strays = self.strays(expected);
        if strays * STRAYS > measured {
            return Err(format!("{strays} of {measured} packets took another path: {self}, expected {expected}"));
        }
        Ok(())
    }
}

impl std::fmt::Display for PathCounts {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let taken = PacketPath::ALL.iter().zip(self.0).filter(|(_, packets)| *packets > 0);
        let taken: Vec<String> = taken.map(|(path, packets)| format!("{path:?} {packets}")).collect();
        text.write_str(&taken.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(packets: u64, events: &[(KernelEvent, u64)], skipped: u64) -> PathCounts {
        let happened = |event| events.iter().find(|(other, _)| *other == event).map_or(0, |(_, times)| *times);
        PathCounts::from_events(packets, happened, 0, skipped)
    }

    fn expected(paths: &[(PacketPath, u64)]) -> PathCounts {
        let mut counts = PathCounts::default();
        for (path, packets) in paths {
            counts.add(*path, *packets);
        }
        counts
    }

    #[test]
    fn every_packet_has_one_path() {
        use KernelEvent::{EvictedIdle, EvictedUnclassified, FlowNew, FlowRefused, FlowRestarted, Transit};
        let events = [
            (FlowNew, 30),
            (EvictedIdle, 4),
            (EvictedUnclassified, 6),
            (FlowRefused, 10),
            (FlowRestarted, 2),
            (Transit, 5),
        ];
        let took = counts(100, &events, 3);
        let wanted = [
            (PacketPath::Known, 50),
            (PacketPath::New, 20),
            (PacketPath::Evicting, 10),
            (PacketPath::Refused, 10),
            (PacketPath::Transit, 5),
            (PacketPath::Other, 5),
        ];
        assert_eq!(took, expected(&wanted));
    }

    #[test]
    fn two_in_a_hundred_may_stray() {
        let wanted = expected(&[(PacketPath::Known, 1000)]);
        let refused = |packets| counts(1000, &[(KernelEvent::FlowRefused, packets)], 0);
        assert_eq!(refused(0).check(&wanted, 1000), Ok(()));
        assert_eq!(refused(20).check(&wanted, 1000), Ok(()));
        let message = refused(21).check(&wanted, 1000).expect_err("too many");
        assert_eq!(message, "21 of 1000 packets took another path: Known 979, Refused 21, expected Known 1000");
    }

    #[test]
    fn a_row_that_measured_refused_flows_fails() {
        // 101 rounds of `inspect-tls/1024` before its rounds were bounded.
        let (flows, packets) = (32_701, 101 * 2 * 7 * 1024);
        let took = counts(packets, &[(KernelEvent::FlowNew, flows), (KernelEvent::FlowRefused, 1_233_365)], 0);
        let wanted = expected(&[(PacketPath::New, packets / 7), (PacketPath::Known, packets / 7 * 6)]);
        assert!(took.check(&wanted, packets / 7 * 6).is_err());
    }

    #[test]
    fn an_eviction_is_no_empty_way() {
        let events = [(KernelEvent::FlowNew, 100), (KernelEvent::EvictedUnclassified, 100)];
        let took = counts(100, &events, 0);
        assert_eq!(took.strays(&expected(&[(PacketPath::New, 100)])), 100);
        assert_eq!(took.strays(&expected(&[(PacketPath::Evicting, 100)])), 0);
    }

    #[test]
    fn a_shed_packet_met_no_flow() {
        let took = PathCounts::from_events(100, |_| 0, 90, 0);
        assert_eq!(took, expected(&[(PacketPath::Known, 10), (PacketPath::Shed, 90)]));
    }

    #[test]
    fn counts_add_up() {
        let mut sum = counts(10, &[(KernelEvent::Transit, 10)], 0);
        sum.add_all(&counts(5, &[], 0));
        assert_eq!(sum, expected(&[(PacketPath::Transit, 10), (PacketPath::Known, 5)]));
    }
}
