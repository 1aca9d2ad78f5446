//! Processes one frame: parse, look up the flow, count; inspect only the first packets of a flow.
//!
//! Invariants (`docs/architecture.md#counting`):
//! * each IP packet is counted exactly once at node level, and once per subscriber end;
//! * packets before a verdict stay in their flow's own counters, so they count for the verdict; nothing is ever
//!   subtracted;
//! * the fast path reads one set, or two if the first lacks the flow, adds to one counter, and reads no clock but the
//!   shared `clock_s`; it touches no pool or tally.

mod account;
mod associate;
mod budget;
mod charge;
mod commit;
mod crowding;
#[cfg(not(target_arch = "bpf"))]
mod end_idle;
mod flow_entry;
mod flow_table;
mod known_peers;
mod learn;
mod peer_keys;
mod reassembly;
mod records;
#[cfg(not(target_arch = "bpf"))]
pub mod release;
mod server_flow;
mod shedding;
mod source_requests;
mod spoofing;
pub mod stages;
mod subscribers;
mod tally_slots;
mod watchlist;

pub use account::settle_idle;
#[cfg(not(target_arch = "bpf"))]
pub use end_idle::end_idle;
