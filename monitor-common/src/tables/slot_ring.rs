//! Ring of free tally slots: the program takes from its front, the agent gives slots back at its end.
//!
//! The place of a slot in the ring is its **ticket**, a number that only grows. The settings hold the next ticket, and
//! whoever advances it by compare-and-swap owns the slot: one slot never goes to two keys. A cell names its ticket, so
//! a cell of an earlier round gives nothing, and no end of the ring has to be stored.

/// Bits of a slot in a cell. The low bits of its ticket are above them.
const SLOT_BITS: u32 = 32;

/// The cell that gives a slot to the holder of a ticket.
#[must_use]
pub const fn cell(ticket: u64, slot: u32) -> u64 {
    ticket << SLOT_BITS | slot as u64
}

/// The slot that a cell gives to the holder of a ticket, if it does.
#[inline(always)]
#[must_use]
pub const fn slot_in(cell: u64, ticket: u64) -> Option<u32> {
    if cell >> SLOT_BITS == ticket & 0xffff_ffff && cell as u32 != 0 { Some(cell as u32) } else { None }
}

/// The cell of a ticket. A ring has four cells for each line of the tally cache: at least as many as there are slots.
#[inline(always)]
#[must_use]
pub const fn index(ticket: u64, tally_mask: u64) -> u32 {
    (ticket & (tally_mask << 2 | 3)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_gives_its_slot_to_one_ticket_only() {
        let given = cell(21, 7);
        assert_eq!((slot_in(given, 21), slot_in(given, 5), slot_in(given, 37)), (Some(7), None, None));
        assert_eq!((index(21, 3), index(5, 3), index(37, 3)), (5, 5, 5));
    }

    #[test]
    fn an_unused_cell_gives_nothing() {
        assert_eq!((slot_in(0, 0), slot_in(0, 1 << 32), slot_in(cell(9, 0), 9)), (None, None, None));
    }
}
