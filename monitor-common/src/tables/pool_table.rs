//! Pool table: answers most look-ups of an address's pool at once, in front of the prefix trie.
//!
//! A look-up in the kernel's trie walks a chain of nodes. A new flow needs two look-ups, and one of its ends is usually
//! no subscriber. The table has a byte for each IPv4 /16, and one for each of 65,536 groups of IPv6 /32s, grouped by a
//! hash. A byte says that no pool has an address there, that one IPv4 pool has all of them, or that the trie must be
//! looked up.

use crate::{abi::key::Address, tables::maps::Maps};

/// Bytes of the table: half of them for IPv4, half for IPv6.
pub const CELLS: usize = 2 << 16;
/// Words of the table.
pub const WORDS: usize = CELLS / 8;
/// Cells of one address family.
const FAMILY: u32 = 1 << 16;

/// No pool has an address of the cell. Other values up to 128 are the block length of the pool that has all of them.
const NONE: u8 = 0;
/// The trie must be looked up.
const LOOK_UP: u8 = u8::MAX;

/// Bits of an IPv4-mapped address before those of IPv4 (RFC 4291 section 2.5.5.2).
const MAPPED_LEN: u8 = 96;

/// The cell of an address.
#[inline(always)]
#[must_use]
pub const fn cell(address: Address) -> u32 {
    if address.is_v4() { (address.low >> 16) as u32 & (FAMILY - 1) } else { group((address.high >> 32) as u32) }
}

/// The cell of an IPv6 /32: an odd factor spreads consecutive assignments of registries.
#[inline(always)]
const fn group(top: u32) -> u32 {
    FAMILY + (top.wrapping_mul(0x9e37_79b1) >> 16)
}

/// Length in bits (out of 128) of the block that one subscriber gets in the pool that holds `address`.
#[inline(always)]
pub fn find<M: Maps>(maps: &M, address: Address) -> Option<u8> {
    let cell = cell(address);
    let word = maps.pool_word(cell / 8).unwrap_or(u64::MAX);
    match (word >> (cell % 8 * 8)) as u8 {
        NONE => None,
        LOOK_UP => maps.pool(address).filter(|block_len| *block_len != NONE),
        block_len => Some(block_len),
    }
}

/// Fills a table of [`CELLS`] bytes for pools: address, prefix length and block length out of 128.
///
/// Pools are in any order; of two that hold an address, the one with the longer prefix counts, as in the trie.
pub fn fill(cells: &mut [u8], pools: &[(Address, u8, u8)]) {
    cells.fill(NONE);
    for prefix_len in 0..=128 {
        for &(address, len, block_len) in pools {
            if len == prefix_len {
                enter(cells, address, len, block_len);
            }
        }
    }
}

/// Enters one pool; pools with shorter prefixes were entered before.
fn enter(cells: &mut [u8], address: Address, prefix_len: u8, block_len: u8) {
    let (ipv4, ipv6) = cells.split_at_mut(FAMILY as usize);
    if let Some(len) = prefix_len.checked_sub(MAPPED_LEN)
        && address.is_v4()
    {
        let (first, value) = (cell(address) as usize, if len <= 16 { block_len } else { LOOK_UP });
        let count = 1 << 16_u8.saturating_sub(len);
        ipv4.iter_mut().skip(first).take(count).for_each(|cell| *cell = value);
        return;
    }
    if address.block(prefix_len) == Address::v4(0).block(prefix_len) {
        // An IPv6 prefix around the IPv4-mapped addresses.
        ipv4.fill(LOOK_UP);
    }
    if prefix_len <= 16 {
        // So many /32s that they may fall on every cell.
        ipv6.fill(LOOK_UP);
        return;
    }
    let first = (address.high >> 32) as u32;
    let last = first | u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    for top in first..=last {
        if let Some(cell) = ipv6.get_mut((group(top) - FAMILY) as usize) {
            *cell = LOOK_UP;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn longest(pools: &[(Address, u8, u8)], address: Address) -> Option<u8> {
        let holds = |pool: &&(Address, u8, u8)| address.block(pool.1) == pool.0;
        pools.iter().filter(holds).max_by_key(|pool| pool.1).map(|pool| pool.2)
    }

    /// Addresses of few networks, so that pools lie in each other and addresses in pools.
    fn address() -> impl Strategy<Value = Address> {
        let ipv4 =
            (0_u32..4, 0_u32..4, any::<u16>()).prop_map(|(a, b, c)| Address::v4(a << 30 | b << 17 | u32::from(c)));
        let ipv6 = (0_u64..3, 0_u64..4, 0_u64..4, any::<u64>())
            .prop_map(|(a, b, c, low)| Address { high: a << 62 | b << 40 | c << 30 | low >> 40, low });
        let mapped_net = any::<u32>().prop_map(|low| Address { high: 0, low: 0xfffe_0000_0000 | u64::from(low) });
        prop_oneof![4 => ipv4, 4 => ipv6, 1 => mapped_net]
    }

    fn pool() -> impl Strategy<Value = (Address, u8, u8)> {
        let len = prop_oneof![4 => 96_u8..=128, 4 => 1_u8..=64, 1 => 0_u8..=128];
        (address(), len, 0_u8..=16)
            .prop_map(|(address, len, more)| (address.block(len), len, (len + more).clamp(1, 128)))
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_prefixes(mut pools in prop::collection::vec(pool(), 0..6), addresses in prop::collection::vec(address(), 64)) {
            pools.sort_unstable();
            pools.dedup_by_key(|pool| (pool.0, pool.1));
            let mut cells = vec![0; CELLS];
            fill(&mut cells, &pools);
            for address in addresses.into_iter().chain(pools.iter().map(|pool| pool.0)) {
                let wanted = longest(&pools, address);
                match cells[cell(address) as usize] {
                    NONE => prop_assert_eq!(wanted, None),
                    LOOK_UP => {}
                    block_len => prop_assert_eq!(wanted, Some(block_len)),
                }
            }
        }
    }

    #[test]
    fn whole_networks_need_no_trie() {
        let mut cells = vec![0; CELLS];
        fill(&mut cells, &[(Address::v4(0x6440_0000), 96 + 10, 128), (Address::v6([0x20; 16]).block(32), 32, 56)]);
        assert_eq!(cells[cell(Address::v4(0x6440_0001)) as usize], 128);
        assert_eq!(cells[cell(Address::v4(0x647f_ffff)) as usize], 128);
        assert_eq!(cells[cell(Address::v4(0x6480_0000)) as usize], NONE);
        assert_eq!(cells[cell(Address::v6([0x20; 16])) as usize], LOOK_UP);
        assert_eq!(cells[FAMILY as usize..].iter().filter(|cell| **cell != NONE).count(), 1);
    }
}
