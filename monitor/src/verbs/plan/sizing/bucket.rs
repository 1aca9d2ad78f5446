//! What the bound of the slow path lets through, and what it costs at most.

use monitor_common::abi::{limits::SHED_WAYS, settings::Shedding};
use peertally_datapath::TableSizes;
use serde::Serialize;

use super::{
    Load,
    cores::INSPECTED_PER_FLOW,
    costs::{INSPECTED, NEW_FLOW_FULL},
};

/// The bound of the slow path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// Packets a second that may open a flow or be inspected, for each CPU.
    pub packets_per_second: u64,
    /// Cores that they take on each CPU, if each packet opens a flow in a full table and is inspected.
    pub cores: f64,
    /// New flows a second of all CPUs together.
    pub new_flows_per_second: u64,
}

impl Bucket {
    /// The bound with these settings and tables.
    #[must_use]
    pub fn new(shedding: Shedding, sizes: &TableSizes) -> Self {
        let packets_per_second = u64::from(shedding.packets_per_second);
        Self {
            packets_per_second,
            cores: packets_per_second as f64 * f64::from(NEW_FLOW_FULL.ns + INSPECTED.ns) / 1e9,
            new_flows_per_second: u64::from(sizes.flows) / SHED_WAYS,
        }
    }

    /// Whether the new flows of a load are more than all CPUs together let through.
    #[must_use]
    pub fn sheds_flows(&self, load: Load) -> bool {
        load.new_flows_per_second.is_some_and(|new_flows| new_flows > self.new_flows_per_second)
    }

    /// CPUs that the new flows and inspections of a load need.
    #[must_use]
    pub fn cpus(&self, load: Load) -> u64 {
        let new_flows = load.new_flows_per_second.unwrap_or(0);
        let packets = new_flows.saturating_mul(1 + INSPECTED_PER_FLOW);
        packets.min(load.packets_per_second.unwrap_or(u64::MAX)).div_ceil(self.packets_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::raw::RawShedding, config::values::Ranged as _};

    fn bucket(packets_per_second: u32) -> Bucket {
        Bucket::new(Shedding { packets_per_second }, &TableSizes::DEFAULT)
    }

    #[test]
    fn the_default_takes_at_most_0_4_of_a_core() {
        let default = RawShedding::default().packets_per_second.value() as u32;
        assert!(bucket(default).cores <= 0.4, "{:?}", bucket(default));
        assert!(bucket(default + 100_000).cores > 0.4, "the default could be higher");
    }

    #[test]
    fn a_load_within_the_bound_is_not_shed() {
        let load = |new_flows, packets| Load {
            new_flows_per_second: Some(new_flows),
            packets_per_second: packets,
            ..Load::default()
        };
        let bucket = bucket(500_000);
        assert!(!bucket.sheds_flows(load(131_072, None)));
        assert!(bucket.sheds_flows(load(131_073, None)));
        assert_eq!(bucket.cpus(load(125_000, None)), 1);
        assert_eq!(bucket.cpus(load(125_001, None)), 2);
        assert_eq!(bucket.cpus(load(1_000_000, Some(1_500_000))), 3, "flows of fewer packets have fewer to inspect");
        assert_eq!(bucket.cpus(Load::default()), 0);
    }
}
