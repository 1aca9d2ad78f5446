//! Costs per packet that the sizing multiplies with a load: rows of `cargo xtask bench`, measured on one processor.
//!
//! This is the only place of these figures. After an edit, `UPDATE_DOCS=1 cargo test -p monitor --lib` writes the
//! worked example of `docs/performance.md` anew.

use serde::Serialize;

/// Cost of one kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Row of `cargo xtask bench`, and its flows.
    pub row: &'static str,
    /// CPU time of a packet above an empty program.
    pub ns: u32,
}

/// Where the rows were measured: processor, kernel, date.
pub const MEASURED_ON: &str = "AMD EPYC (family 25 model 17), Linux 6.18.44, 30 November 2026";

/// A settled packet of a random flow: the worst case for caches.
pub const SETTLED_RANDOM: Cost = Cost { row: "settled-ipv4/524288", ns: 144 };
/// A settled packet, if four in a row are of one flow.
pub const SETTLED_TRAINS: Cost = Cost { row: "settled-ipv4-trains/524288", ns: 54 };
/// A new flow's first packet that finds an empty way.
pub const NEW_FLOW: Cost = Cost { row: "new-flow/131072", ns: 327 };
/// A new flow's first packet that evicts a flow, as each does once the table has been full.
pub const NEW_FLOW_FULL: Cost = Cost { row: "new-flow-full/524288", ns: 510 };
/// A packet under inspection, among many flows. Rows of other payloads cost less (ciphertext) or more (a verdict).
pub const INSPECTED: Cost = Cost { row: "inspect-tls/16384", ns: 266 };
/// A packet between two addresses outside every pool.
pub const TRANSIT: Cost = Cost { row: "transit/1024", ns: 23 };

/// All rows, in the order above.
pub const ALL: [Cost; 6] = [SETTLED_RANDOM, SETTLED_TRAINS, NEW_FLOW, NEW_FLOW_FULL, INSPECTED, TRANSIT];
