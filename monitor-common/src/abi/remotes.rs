//! Remotes: the distinct hosts that a subscriber's flows went to, as a bitmap of 64 bits in each tally.
//!
//! A keyed hash of its address gives each host one bit, so nobody outside can choose hosts that share a bit. Bitmaps of
//! several tallies and times are united by OR. The number of hosts is estimated from the bits that are still clear
//! (linear counting). Nothing leads from a bit back to an address.

use super::key::{Address, Seed, absorb};
use crate::bpf::branchless::neg;

/// Bits of a bitmap.
pub const REMOTE_BITS: u32 = 1 << NUMBER_BITS;
/// Bits of a host's number.
const NUMBER_BITS: u32 = 6;
const NUMBER_MASK: u64 = REMOTE_BITS as u64 - 1;

/// Separates this hash from other keyed hashes of an address: the fractional bits of the square root of 2.
const PURPOSE: u64 = 0x6a09_e667_f3bc_c908;

/// A set of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteSet(pub u64);

impl RemoteSet {
    /// No host.
    pub const EMPTY: Self = Self(0);

    /// The set of one host.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u64) -> Self {
        Self(1 << (number & NUMBER_MASK))
    }

    /// Adds the hosts of another set.
    #[inline(always)]
    pub const fn unite(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether there is no host.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Number of a host, by which its bit is chosen: below [`REMOTE_BITS`].
///
/// An IPv6 host counts by the first 64 bits of its address: one host may use as many addresses below as it likes. In
/// the prefixes of NAT64 (RFC 6052 section 2.1, RFC 8215) the last bits are an IPv4 address, so all bits count.
#[inline(always)]
#[must_use]
pub fn remote_number(address: Address, seed: &Seed) -> u64 {
    const NAT64: u64 = 0x0064_ff9b;
    // Without a branch, which would double the verifier's work.
    let by_prefix = is_set(address.high) & is_set(address.high >> 32 ^ NAT64);
    let word = address.high ^ (address.low & by_prefix.wrapping_sub(1));
    absorb(seed.mask ^ PURPOSE, word, seed) >> (64 - NUMBER_BITS)
}

/// 1 if a word is not zero, else 0.
#[inline(always)]
fn is_set(word: u64) -> u64 {
    (word | neg(word)) >> 63
}

/// Numbers of the remotes of a flow's ends: that of the lower endpoint in bits 0..6, of the higher one in 6..12.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteNumbers(pub u64);

impl RemoteNumbers {
    /// Bits of both numbers.
    pub const BITS: u32 = 2 * NUMBER_BITS;

    /// The numbers for a flow between two hosts. Each is the other's remote.
    #[inline(always)]
    #[must_use]
    pub fn between(lower: Address, higher: Address, seed: &Seed) -> Self {
        Self(remote_number(higher, seed) | remote_number(lower, seed) << NUMBER_BITS)
    }

    /// The remote of the lower endpoint, as a set.
    #[inline(always)]
    #[must_use]
    pub const fn of_lower(self) -> RemoteSet {
        RemoteSet::of(self.0)
    }

    /// The remote of the higher endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn of_higher(self) -> RemoteSet {
        RemoteSet::of(self.0 >> NUMBER_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed::from_random([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);

    fn v6(text: &str) -> Address {
        let Ok(address) = text.parse::<core::net::Ipv6Addr>() else { panic!("{text} is no address") };
        Address::v6(address.octets())
    }

    /// Bits that 1,000 hosts have.
    fn bits(host: impl Fn(u64) -> Address) -> u32 {
        let mut set = RemoteSet::EMPTY;
        (0..1000).for_each(|number| set.unite(RemoteSet::of(remote_number(host(number), &SEED))));
        set.0.count_ones()
    }

    #[test]
    fn an_ipv6_host_is_its_first_64_bits() {
        let near = |base: &str| {
            let base = v6(base);
            move |number| Address { low: base.low + number, ..base }
        };
        assert_eq!(bits(near("2001:db8:1:2::1")), 1);
        assert_eq!(bits(near("64:ff9b::c000:201")), REMOTE_BITS, "NAT64: IPv4 hosts");
        assert_eq!(bits(near("64:ff9b:1:ff::c000:201")), REMOTE_BITS, "NAT64 of the operator");
        assert_eq!(bits(|number| Address::v4(0xc000_0200 + number as u32)), REMOTE_BITS);
        assert_eq!(bits(|number| Address { high: 0x2001_0db8_0000_0000 + number, low: 1 }), REMOTE_BITS);
    }

    #[test]
    fn another_seed_gives_another_bit() {
        let host = Address::v4(0xc000_0201);
        let mut set = RemoteSet::EMPTY;
        for word in 0..1000_u64 {
            let seed =
                Seed::from_random([word.wrapping_mul(0x9e37_79b9_7f4a_7c15), SEED.multiplier_a, SEED.multiplier_b]);
            set.unite(RemoteSet::of(remote_number(host, &seed)));
        }
        assert_eq!(set.0.count_ones(), REMOTE_BITS);
    }

    #[test]
    fn each_end_has_the_other_as_its_remote() {
        let (lower, higher) = (Address::v4(0x0a00_0001), Address::v4(0xc000_0207));
        let numbers = RemoteNumbers::between(lower, higher, &SEED);
        assert_eq!(numbers.of_lower(), RemoteSet::of(remote_number(higher, &SEED)));
        assert_eq!(numbers.of_higher(), RemoteSet::of(remote_number(lower, &SEED)));
        assert_ne!(numbers.of_lower(), numbers.of_higher());
        assert!(numbers.0 >> RemoteNumbers::BITS == 0);
    }
}
