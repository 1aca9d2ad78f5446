//! Cores that a load keeps busy: packets a second of each kind, multiplied with the cost of one.

use serde::Serialize;

use super::costs::{Cost, INSPECTED, NEW_FLOW_FULL, SETTLED_RANDOM, SETTLED_TRAINS};

/// Assumption: packets of a new flow that are inspected after its first.
pub const INSPECTED_PER_FLOW: u64 = 3;
/// Cores to have for each core that is busy: how cores disturb each other on a real card was not measured.
const RESERVE: f64 = 2.0;

/// Kinds of packets that differ in cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketKind {
    /// Of a settled flow.
    Settled,
    /// The first of a flow. Ways are never given back, so the table is full for all but the first minutes.
    NewFlow,
    /// Of a flow under inspection, after its first.
    Inspected,
}

/// Cores for one kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CorePart {
    /// Kind of packet.
    pub packets: PacketKind,
    /// Packets a second.
    pub per_second: u64,
    /// Cost of a packet if flows are random.
    pub ns_random: u32,
    /// Cost of a packet if packets come in trains of four.
    pub ns_trains: u32,
    /// Cores that are busy if flows are random.
    pub cores_random: f64,
    /// Cores that are busy if packets come in trains of four.
    pub cores_trains: f64,
}

/// Cores for a load. Trains of four change the cost of settled packets alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cores {
    /// Each kind of packet.
    pub parts: Vec<CorePart>,
    /// Cores that are busy if flows are random.
    pub random: f64,
    /// Cores that are busy if packets come in trains of four.
    pub trains: f64,
    /// Cores to have if flows are random.
    pub random_with_reserve: u64,
    /// Cores to have if packets come in trains of four.
    pub trains_with_reserve: u64,
}

impl PacketKind {
    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled packets",
            Self::NewFlow => "new flows, in a full table",
            Self::Inspected => "inspected packets",
        }
    }
}

impl Cores {
    /// Cores for packets and new flows a second; none if neither is known. Without packets it has the first packets of
    /// flows and the inspected ones. Of packets and new flows, the packets must not be fewer.
    pub(super) fn new(packets: Option<u64>, new_flows: Option<u64>) -> Option<Self> {
        let first = new_flows.unwrap_or(0);
        let later = packets.map_or(u64::MAX, |packets| packets.saturating_sub(first));
        // Flows of fewer packets have fewer to inspect.
        let inspected = first.saturating_mul(INSPECTED_PER_FLOW).min(later);
        let mut parts = Vec::new();
        if packets.is_some() {
            parts.push(CorePart::new(PacketKind::Settled, later - inspected, SETTLED_RANDOM, SETTLED_TRAINS));
        }
        if new_flows.is_some() {
            parts.push(CorePart::new(PacketKind::NewFlow, first, NEW_FLOW_FULL, NEW_FLOW_FULL));
            parts.push(CorePart::new(PacketKind::Inspected, inspected, INSPECTED, INSPECTED));
        }
        if parts.is_empty() {
            return None;
        }
        let random = parts.iter().map(|part| part.cores_random).sum();
        let trains = parts.iter().map(|part| part.cores_trains).sum();
        let (random_with_reserve, trains_with_reserve) = (with_reserve(random), with_reserve(trains));
        Some(Self { parts, random, trains, random_with_reserve, trains_with_reserve })
    }
}

impl CorePart {
    fn new(packets: PacketKind, per_second: u64, random: Cost, trains: Cost) -> Self {
        let cores = |cost: Cost| per_second as f64 * f64::from(cost.ns) / 1e9;
        Self {
            packets,
            per_second,
            ns_random: random.ns,
            ns_trains: trains.ns,
            cores_random: cores(random),
            cores_trains: cores(trains),
        }
    }
}

fn with_reserve(busy: f64) -> u64 {
    (busy * RESERVE).ceil().max(1.0) as u64
}
