//! When shedding begins and ends, from drain to drain, for the log and `/readyz`.
//!
//! Pure: a snapshot in, a change out.

use monitor_common::abi::event::KernelEvent;
use peertally_core::snapshot::Snapshot;

/// What the packet path shed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// Packets that opened no flow.
    pub packets: u64,
    /// Payloads that were not inspected.
    pub inspections: u64,
}

impl Shed {
    fn of(snapshot: &Snapshot) -> Self {
        let inspections = snapshot.events.iter().find(|(event, _)| *event == KernelEvent::InspectionShed.label());
        Self {
            packets: snapshot.shed.iter().map(|row| row.packets).sum(),
            inspections: inspections.map_or(0, |(_, count)| *count),
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(before.packets),
            inspections: self.inspections.saturating_sub(before.inspections),
        }
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// A change that is worth one line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SheddingChange {
    /// Something was shed since the drain before, and nothing in front of that.
    Begun(Shed),
    /// Nothing was shed since the drain before; this is what was since it began.
    Ended(Shed),
}

/// What is known from earlier drains.
#[derive(Clone, Debug, Default)]
pub struct SheddingWatch {
    /// Totals of the last drain.
    last: Option<Shed>,
    /// Totals before shedding began, while it goes on.
    begun: Option<Shed>,
}

impl SheddingWatch {
    /// What was shed since the drain before, and the change. The first drain is the baseline: pinned tables of an
    /// earlier run keep their totals.
    pub fn observe(&mut self, snapshot: &Snapshot) -> (Shed, Option<SheddingChange>) {
        let now = Shed::of(snapshot);
        let last = self.last.replace(now).unwrap_or(now);
        let since = now.since(last);
        let change = match (self.begun, since.is_nothing()) {
            (None, false) => {
                self.begun = Some(last);
                Some(SheddingChange::Begun(since))
            }
            (Some(begun), true) => {
                self.begun = None;
                Some(SheddingChange::Ended(now.since(begun)))
            }
            _ => None,
        };
        (since, change)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use peertally_core::{snapshot::InterfaceCount, testing::Kernel};

    use super::*;

    fn snapshot(packets: [u64; 2], inspections: u64) -> Snapshot {
        let row = |interface: &str, packets| InterfaceCount { interface: Arc::from(interface), packets, bytes: 0 };
        Snapshot {
            shed: vec![row("access0", packets[0]), row("core0", packets[1])],
            events: vec![(KernelEvent::InspectionShed.label(), inspections), (KernelEvent::FlowNew.label(), 9)],
            ..Kernel::new().drain_at(Duration::ZERO)
        }
    }

    #[test]
    fn a_spell_of_shedding_makes_two_lines() {
        let mut watch = SheddingWatch::default();
        let shed = |packets, inspections| Shed { packets, inspections };
        // From an earlier run.
        assert_eq!(watch.observe(&snapshot([100, 0], 7)), (shed(0, 0), None));
        assert_eq!(watch.observe(&snapshot([100, 0], 7)), (shed(0, 0), None));
        let begun = watch.observe(&snapshot([101, 4], 7));
        assert_eq!(begun, (shed(5, 0), Some(SheddingChange::Begun(shed(5, 0)))));
        assert_eq!(watch.observe(&snapshot([101, 4], 9)), (shed(0, 2), None), "inspections alone go on with it");
        let ended = watch.observe(&snapshot([101, 4], 9));
        assert_eq!(ended, (shed(0, 0), Some(SheddingChange::Ended(shed(5, 2)))));
        let begun = watch.observe(&snapshot([102, 4], 9));
        assert_eq!(begun, (shed(1, 0), Some(SheddingChange::Begun(shed(1, 0)))));
    }
}
