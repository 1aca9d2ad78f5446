//! The change from one list of pools to another: the order in which the kernel's trie is rewritten, and what it means
//! for the subscribers there are.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use monitor_common::abi::key::Address;

use super::CUT_OUT;

/// A prefix with its block length, as [`super::keyed_pools`] has it.
type Keyed = (Address, u8, u8);

/// What becomes of a subscriber's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockFate {
    /// It is a subscriber's block as before.
    Kept,
    /// Its addresses, or some of them, lie in blocks of other lengths.
    Recut,
    /// Its addresses are no subscriber's.
    Removed,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct PoolChange {
    insertions: Vec<Keyed>,
    removals: Vec<(Address, u8)>,
    /// Block length by prefix, after the change.
    after: HashMap<(u8, Address), u8>,
    /// Lengths of the prefixes in `after`, longest first.
    lengths: Vec<u8>,
    /// Blocks, by length and address, that hold a prefix that was inserted or removed.
    cut: HashSet<(u8, Address)>,
    /// Whether blocks may be of a list before `before`.
    unsure: bool,
}

impl PoolChange {
    /// The change between two lists as [`super::keyed_pools`] gives them.
    #[must_use]
    pub fn new(before: &[Keyed], after: &[Keyed]) -> Self {
        let by_prefix = |pools: &[Keyed]| -> HashMap<(u8, Address), u8> {
            pools.iter().map(|(address, len, block_len)| ((*len, *address), *block_len)).collect()
        };
        let (before, after) = (by_prefix(before), by_prefix(after));
        let listed = |((len, address), block_len): (&(u8, Address), &u8)| (*address, *len, *block_len);
        let mut insertions: Vec<Keyed> =
            after.iter().filter(|(prefix, block_len)| before.get(prefix) != Some(block_len)).map(listed).collect();
        let mut removals: Vec<(Address, u8)> =
            before.keys().filter(|prefix| !after.contains_key(prefix)).map(|(len, address)| (*address, *len)).collect();
        // The trie answers by the longest prefix. In this order, the longest one that it holds at any moment is the
        // longest one of the old pools or of the new ones, so the answer is the old or the new one.
        insertions.sort_by_key(|(address, len, _)| (Reverse(*len), *address));
        removals.sort_by_key(|(address, len)| (*len, *address));
        let mut lengths: Vec<u8> = after.keys().map(|(len, _)| *len).collect();
        lengths.sort_unstable_by_key(|len| Reverse(*len));
        lengths.dedup();
        let blocks: HashSet<u8> = before.values().copied().collect();
        let changed = insertions.iter().map(|(address, len, _)| (*address, *len)).chain(removals.iter().copied());
        let holders = |(address, len): (Address, u8)| {
            blocks.iter().filter(move |block| **block < len).map(move |block| (*block, address.block(*block)))
        };
        let cut = changed.flat_map(holders).collect();
        Self { insertions, removals, after, lengths, cut, unsure: false }
    }

    /// The change, if subscribers may also be there by an earlier list than the one before: an agent may have died
    /// between the change of the pools and that of the flows. A block that holds any of the new prefixes then counts as
    /// recut.
    #[must_use]
    pub fn from_any(self) -> Self {
        Self { unsure: true, ..self }
    }

    /// Whether both lists are equal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.insertions.is_empty() && self.removals.is_empty()
    }

    /// Prefixes to insert or to overwrite, in this order and before the table in front of the trie is written.
    #[must_use]
    pub fn insertions(&self) -> &[(Address, u8, u8)] {
        &self.insertions
    }

    /// Prefixes to remove, in this order and after that table was written.
    #[must_use]
    pub fn removals(&self) -> &[(Address, u8)] {
        &self.removals
    }

    /// What becomes of a block that was a subscriber's before.
    #[must_use]
    pub fn fate(&self, address: Address, block_len: u8) -> BlockFate {
        let holds = |(len, inner): &(u8, Address)| *len > block_len && inner.block(block_len) == address;
        if self.cut.contains(&(block_len, address)) || self.unsure && self.after.keys().any(holds) {
            return BlockFate::Recut;
        }
        let found = self.lengths.iter().find_map(|len| self.after.get(&(*len, address.block(*len))));
        match found.copied() {
            None | Some(CUT_OUT) => BlockFate::Removed,
            Some(after) if after == block_len => BlockFate::Kept,
            Some(_) => BlockFate::Recut,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::{Pool, keyed_pools};

    fn keyed(texts: &[&str]) -> Vec<Keyed> {
        let pools: Vec<Pool> = texts.iter().map(|text| text.parse().expect("a pool")).collect();
        keyed_pools(&pools)
    }

    fn longest(pools: &[Keyed], address: Address) -> Option<u8> {
        let holds = |pool: &&Keyed| address.block(pool.1) == pool.0;
        pools.iter().filter(holds).max_by_key(|pool| pool.1).map(|pool| pool.2).filter(|len| *len != CUT_OUT)
    }

    fn pools() -> impl Strategy<Value = Vec<Keyed>> {
        // Few networks, so that pools lie in each other and occur in both lists.
        let v4 = (0_u32..4, 8_u8..=20, 0_u8..=3).prop_map(|(net, len, more)| {
            (Address::v4(10 << 24 | net << 14).block(96 + len), 96 + len, (96 + len + 4 * more).min(128))
        });
        let v6 = (0_u64..3, 30_u8..=40, 0_u8..=3).prop_map(|(net, len, more)| {
            (Address { high: 0x2001_0db8_0000_0000 | net << 24, low: 0 }.block(len), len, len + 8 * more)
        });
        let all = Just((Address::default(), 0, 56));
        proptest::collection::vec(prop_oneof![6 => v4, 3 => v6, 1 => all], 0..6).prop_map(|mut pools| {
            pools.sort_unstable();
            pools.dedup_by_key(|(address, len, _)| (*address, *len));
            pools
        })
    }

    fn addresses() -> impl Strategy<Value = Address> {
        let v4 =
            (0_u32..4, any::<u16>()).prop_map(|(net, low)| Address::v4(10 << 24 | net << 14 | u32::from(low >> 2)));
        let v6 = (0_u64..3, any::<u64>())
            .prop_map(|(net, low)| Address { high: 0x2001_0db8_0000_0000 | net << 24 | low >> 42, low });
        prop_oneof![2 => v4, 1 => v6]
    }

    proptest! {
        #[test]
        fn at_each_step_an_address_is_of_its_old_or_of_its_new_block(
            before in pools(), after in pools(), address in addresses(),
        ) {
            let change = PoolChange::new(&before, &after);
            let (old, new) = (longest(&before, address), longest(&after, address));
            let mut trie = before.clone();
            for (at, len, block_len) in change.insertions() {
                trie.retain(|(other, other_len, _)| (other, other_len) != (at, len));
                trie.push((*at, *len, *block_len));
                let found = longest(&trie, address);
                prop_assert!(found == old || found == new, "{:?} of {:?} and {:?}", found, old, new);
            }
            for (at, len) in change.removals() {
                trie.retain(|(other, other_len, _)| (other, other_len) != (at, len));
                let found = longest(&trie, address);
                prop_assert!(found == old || found == new, "{:?} of {:?} and {:?}", found, old, new);
            }
            prop_assert_eq!(longest(&trie, address), new);
            prop_assert!(PoolChange::new(&after, &after).is_empty());
        }

        #[test]
        fn a_block_is_kept_only_if_it_is_one_of_the_new_pools(
            before in pools(), after in pools(), address in addresses(), other in any::<u64>(),
        ) {
            let change = PoolChange::new(&before, &after);
            let Some(block_len) = longest(&before, address) else { return Ok(()) };
            let block = address.block(block_len);
            // Another address of the block that is of the same subscriber.
            let inside = Address { high: address.high, low: address.low ^ (other >> 52) };
            let is_same = inside.block(block_len) == block && longest(&before, inside) == Some(block_len);
            match change.fate(block, block_len) {
                BlockFate::Kept => {
                    prop_assert_eq!(longest(&after, address), Some(block_len));
                    prop_assert!(!is_same || longest(&after, inside) == Some(block_len));
                }
                BlockFate::Removed => prop_assert_eq!(longest(&after, address), None),
                BlockFate::Recut => {}
            }
        }
    }

    #[test]
    fn only_what_changed_is_recut_or_removed() {
        let before = keyed(&["10.0.0.0/16/32", "10.1.0.0/16/24", "2001:db8::/32/56"]);
        let after = keyed(&["10.0.0.0/16/32", "10.1.0.0/16/28", "10.0.9.0/24/28"]);
        let change = PoolChange::new(&before, &after);
        let v4 = |a: u32, b: u32, c: u32| Address::v4(10 << 24 | a << 16 | b << 8 | c);
        for (address, len, fate) in [
            (v4(0, 0, 7), 128, BlockFate::Kept),
            (v4(0, 9, 7), 128, BlockFate::Recut),
            (v4(1, 3, 0), 120, BlockFate::Recut),
            (Address { high: 0x2001_0db8_0000_0100, low: 0 }, 56, BlockFate::Removed),
        ] {
            assert_eq!(change.fate(address, len), fate, "{address:?}");
        }
        let added = PoolChange::new(&before, &[before.clone(), keyed(&["11.0.0.0/8"])].concat());
        assert!(!added.is_empty());
        assert_eq!(added.fate(v4(1, 3, 0), 120), BlockFate::Kept, "a pool beside the others changes none of them");
    }
}
