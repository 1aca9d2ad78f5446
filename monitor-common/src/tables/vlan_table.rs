//! VLAN table: the entry of a tagged frame, by its interface and its VLANs.
//!
//! A table has a cell of 16 bits for each VLAN. Each interface has one for its outer VLANs. An outer VLAN whose inner
//! ones have entries of their own leads to a second table, in which the cell of VLAN 0 is for frames without an inner
//! tag. So ranges of any size cost nothing more, and a look-up takes at most three reads.

use crate::{
    abi::{
        interface::InterfaceEntry,
        limits::{VLAN_IDS, VLAN_TABLES},
        vlan,
    },
    tables::maps::Maps,
};

/// Words of all tables: each has four cells.
pub const WORDS: usize = VLAN_TABLES * VLAN_IDS / CELLS_PER_WORD as usize;
const CELLS_PER_WORD: u32 = 4;
/// The cell of a VLAN without an entry: what holds for the interface holds for it.
const NONE: u16 = 0;
/// Mark of a cell that leads to a table of inner VLANs.
const INNER: u16 = 1 << 15;

/// The cell of the entry with this number, which is not 0.
#[must_use]
pub const fn entry_cell(number: u16) -> u16 {
    number & !INNER
}

/// The cell that leads to a table of inner VLANs.
#[must_use]
pub const fn inner_cell(table: u16) -> u16 {
    table | INNER
}

/// The entry of a frame with these VLANs: that of its VLAN with the number of the interface, or the interface's own.
#[inline(always)]
pub fn find<M: Maps>(maps: &M, interface: InterfaceEntry, vlans: u32) -> InterfaceEntry {
    let (outer, inner) = vlan::outer_and_inner(vlans);
    let mut found = cell(maps, interface.shared_number(), outer);
    if found & INNER != 0 {
        found = cell(maps, u32::from(found & !INNER), inner);
    }
    if found == NONE {
        return interface;
    }
    maps.vlan_entry(u32::from(found)).map_or(interface, |entry| entry.with_number_of(interface))
}

/// A cell of a table.
#[inline(always)]
fn cell<M: Maps>(maps: &M, table: u32, vlan: u32) -> u16 {
    let cell = table * VLAN_IDS as u32 + vlan % VLAN_IDS as u32;
    let word = maps.vlan_word(cell / CELLS_PER_WORD).unwrap_or(0);
    (word >> (cell % CELLS_PER_WORD * 16)) as u16
}

/// The words of a table of cells.
pub fn words(cells: &[u16]) -> impl Iterator<Item = u64> {
    let word = |cells: &[u16]| cells.iter().rev().fold(0, |word, cell| word << 16 | u64::from(*cell));
    cells.chunks(CELLS_PER_WORD as usize).map(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_cells_in_order() {
        let words: Vec<u64> = words(&[1, 2, 3, 4, 5, 0, 0, 0]).collect();
        assert_eq!(words, [0x0004_0003_0002_0001, 5]);
    }
}
