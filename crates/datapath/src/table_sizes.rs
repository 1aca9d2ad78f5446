//! Capacities of the tables, and the entries of each map that follow from them.

use monitor_common::{
    abi::{
        limits::{DEFAULT_FLOWS, DEFAULT_PEERS, DEFAULT_TALLIES, WAYS},
        settings::Settings,
    },
    bpf::shared_u64::SharedU64,
    tables::slot_ring,
};

/// Capacities of the tables that the configuration decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Flows the table can hold; rounded up to a power of two of at least one set.
    pub flows: u32,
    /// Tallies, the catch-all included.
    pub tallies: u32,
    /// Entries of the peer cache; rounded up like flows.
    pub peers: u32,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TableSizes {
    /// The sizes of the default configuration.
    pub const DEFAULT: Self = Self { flows: DEFAULT_FLOWS, tallies: DEFAULT_TALLIES, peers: DEFAULT_PEERS };

    /// Sets up the settings of empty tables of these sizes. The catch-all has slot 0, so the next slot is 1.
    pub(crate) fn fill(&self, settings: &mut Settings) {
        settings.set_mask = u64::from(self.sets()) - 1;
        settings.slots = u64::from(self.tallies);
        settings.peer_mask = u64::from(self.peer_sets()) - 1;
        settings.tally_mask = u64::from(self.tally_lines()) - 1;
        settings.next_slot.store(1);
    }

    /// Flow sets: a power of two.
    #[must_use]
    pub fn sets(&self) -> u32 {
        sets(self.flows)
    }

    /// Entries of the maps that these sizes decide, by their names in the object.
    #[must_use]
    pub fn entries(&self) -> [(&'static str, u32); 8] {
        [
            ("FLOWS", self.sets()),
            ("COLD_FLOWS", self.sets()),
            ("PEERS", self.peer_sets()),
            ("TALLIES", self.tallies),
            ("TALLY_KEYS", self.tallies),
            ("TALLY_SLOTS", self.tallies),
            ("TALLY_CACHE", self.tally_lines()),
            ("FREE_SLOTS", self.ring_cells()),
        ]
    }

    /// Cells of the ring of free slots: as [`slot_ring::index`] counts them.
    #[must_use]
    pub fn ring_cells(&self) -> u32 {
        4 * self.tally_lines()
    }

    /// Gives all slots but the catch-all's, by their own numbers as tickets.
    pub(crate) fn fill_ring(&self, ring: &[SharedU64]) {
        for (slot, cell) in (0..self.tallies).zip(ring).skip(1) {
            cell.store(slot_ring::cell(u64::from(slot), slot));
        }
    }

    /// Lines of the tally cache: a power of two; room for twice the tallies.
    #[must_use]
    pub fn tally_lines(&self) -> u32 {
        sets(self.tallies)
    }

    /// Peer sets: a power of two.
    #[must_use]
    pub fn peer_sets(&self) -> u32 {
        sets(self.peers)
    }
}

/// Entries that the watchlist's map has room for, when the program is loaded with a list of `count` entries: a later
/// list may be longer.
#[must_use]
pub fn watchlist_room(count: usize) -> u32 {
    const LEAST: usize = 1 << 10;
    ((count + count / 4).max(LEAST) as u32).next_power_of_two()
}

/// Largest room for verdict records, in bytes.
pub const RECORD_BYTES_MAX: u32 = 1 << 26;

/// Bytes of the ring buffer of verdict records, given how many are configured: the kernel takes a power of two of at
/// least a page.
#[must_use]
pub fn record_room(bytes: u32) -> u32 {
    bytes.clamp(4096, RECORD_BYTES_MAX).next_power_of_two()
}

fn sets(entries: u32) -> u32 {
    entries.max(1).div_ceil(WAYS as u32).next_power_of_two()
}
