//! Addresses, the canonical flow key, and its keyed hash.

/// An IP address as two host-order integers; IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Address {
    /// The first eight bytes.
    pub high: u64,
    /// The last eight bytes.
    pub low: u64,
}

/// Upper half of the low word of an IPv4-mapped address.
const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// An IPv4 address from its host-order integer.
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: u32) -> Self {
        Self { high: 0, low: MAPPED | address as u64 }
    }

    /// An IPv6 address from its bytes.
    #[inline(always)]
    #[must_use]
    pub fn v6(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self { high: u64::from_be_bytes([a, b, c, d, e, f, g, h]), low: u64::from_be_bytes([i, j, k, l, m, n, o, p]) }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.high | (self.low ^ MAPPED) >> 32 == 0
    }

    /// Network-order bytes.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        (((self.high as u128) << 64) | self.low as u128).to_be_bytes()
    }

    /// The first address of the block of `prefix_len` bits (out of 128) that holds this address.
    #[inline(always)]
    #[must_use]
    pub const fn block(self, prefix_len: u8) -> Self {
        let bits = prefix_len as u32;
        if bits >= 64 {
            // A shift by 64 is not defined; bits - 64 is 0..=64 here.
            let keep = if bits >= 128 { u64::MAX } else { !(u64::MAX >> (bits - 64)) };
            Self { high: self.high, low: self.low & keep }
        } else {
            Self { high: self.high & !(u64::MAX >> bits), low: 0 }
        }
    }
}

/// The key of a flow, with the endpoints in numerical order so that both directions have one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Numerically lower endpoint.
    pub lower: Address,
    /// Numerically higher endpoint.
    pub higher: Address,
    /// Port of the lower endpoint; 0 for protocols without ports and for fragments.
    pub lower_port: u16,
    /// Port of the higher endpoint.
    pub higher_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 1 for non-first fragments, which must not share a flow with their datagram's first fragment.
    pub fragment: u8,
    /// Digest of the outer addresses of a tunnel, 0 outside tunnels: two lines may carry equal inner addresses.
    pub tunnel: u64,
}

/// Secret multipliers and masks of the flow hash; random per load, so that nobody outside can aim at one set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Seed {
    /// Added to the first word.
    pub mask: u64,
    /// Odd.
    pub multiplier_a: u64,
    /// Odd.
    pub multiplier_b: u64,
}

impl Seed {
    /// A usable seed from any three random words.
    #[must_use]
    pub const fn from_random(words: [u64; 3]) -> Self {
        Self { mask: words[0], multiplier_a: words[1] | 1, multiplier_b: words[2] | 1 }
    }

    /// Difference between the seed of a realm and this one; 0 for realm 0. It is as secret as the seed: nobody outside
    /// can choose addresses of one realm that collide with those of another.
    #[inline(always)]
    #[must_use]
    pub const fn realm_mask(&self, realm: u32) -> u64 {
        if realm == 0 { 0 } else { absorb(self.mask, realm as u64, self) }
    }

    /// The seed of the realm with this mask.
    #[inline(always)]
    #[must_use]
    pub const fn of_realm(&self, realm_mask: u64) -> Self {
        Self { mask: self.mask ^ realm_mask, ..*self }
    }
}

/// One step of the keyed hash.
#[inline(always)]
const fn mix(hash: u64, word: u64, multiplier: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(multiplier);
    product ^ (product >> 32)
}

/// Whether both addresses are IPv4, so that 32 bits identify each. Other addresses of `::/64` may need more bits.
#[inline(always)]
pub(crate) const fn both_ipv4(a: Address, b: Address) -> bool {
    (a.high | b.high) | ((a.low ^ MAPPED) | (b.low ^ MAPPED)) >> 32 == 0
}

/// Whether one of two addresses is IPv4, or an IPv6 address that would share its key.
#[inline(always)]
pub(crate) const fn any_ipv4(a: Address, b: Address) -> bool {
    a.is_v4() | b.is_v4()
}

/// Two steps for one word, so that the effect of a difference in it on the hash depends on the seed.
///
/// One step would not be enough. With any odd multiplier, a difference in the top bit alone stays in the top bit alone.
/// Whoever also chooses the next word could cancel it and make two flows share a tag under every seed. For two IPv4
/// addresses one step is enough (see [`tag_ipv4`]).
#[inline(always)]
pub(crate) const fn absorb(hash: u64, word: u64, seed: &Seed) -> u64 {
    mix(mix(hash, word, seed.multiplier_a), 0, seed.multiplier_b)
}

/// The last step: a tag of 62 bits of hash. Its top bit is 0, by which a set is searched without a branch for each way,
/// and its lowest 1, so that it is never 0.
#[inline(always)]
const fn finish(hash: u64, seed: &Seed) -> u64 {
    mix(hash, seed.multiplier_a, seed.multiplier_b) >> 1 | 1
}

/// [`FlowKey::tag`] of an IPv4 flow outside tunnels: its addresses in one word, the lower endpoint's in the upper half;
/// in another its ports (bits 0..16 the higher endpoint's, 16..32 the lower's), protocol (32..40) and fragment bit
/// (40).
///
/// The two products are independent of each other. A difference in the top bits of the addresses, which no multiplier
/// spreads, cannot be cancelled by the ports, because their word has no such bits: two flows with ports share a tag
/// under one seed in some 2^31 at most (two without ports, which carry no verdict, under one in 2^23).
#[inline(always)]
#[must_use]
pub(crate) const fn tag_ipv4(addresses: u64, ports: u64, seed: &Seed) -> u64 {
    finish(mix(seed.mask, addresses, seed.multiplier_a) ^ mix(0, ports, seed.multiplier_b), seed)
}

/// Keyed hash of the addresses of a flow that is not one of IPv4 alone, the lower endpoint's first.
///
/// The two chains are independent of each other. Each takes the multipliers in another order. In one order, equal
/// differences of both addresses would cancel each other under one seed of some thousand.
#[inline(always)]
#[must_use]
pub(crate) const fn addresses_hash(lower: Address, higher: Address, seed: &Seed) -> u64 {
    let other = Seed { mask: seed.mask, multiplier_a: seed.multiplier_b, multiplier_b: seed.multiplier_a };
    let lower = absorb(absorb(seed.mask, lower.high, seed), lower.low, seed);
    let higher = absorb(absorb(seed.mask, higher.high, &other), higher.low, &other);
    lower ^ higher
}

/// [`FlowKey::tag`] of such a flow outside tunnels; `ports` as for [`tag_ipv4`].
#[inline(always)]
#[must_use]
pub(crate) const fn tag_ipv6(lower: Address, higher: Address, ports: u64, seed: &Seed) -> u64 {
    finish(mix(addresses_hash(lower, higher, seed), ports, seed.multiplier_b), seed)
}

impl FlowKey {
    /// The flow's tag: a keyed hash of 62 bits, above a lowest bit that is always 1. Its upper half picks the set.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self, seed: &Seed) -> u64 {
        let ports = (u64::from(self.fragment) << 40)
            | (u64::from(self.protocol) << 32)
            | (u64::from(self.lower_port) << 16)
            | u64::from(self.higher_port);
        let mut hash = seed.mask;
        if both_ipv4(self.lower, self.higher) {
            // Both IPv4: the two addresses fill one word.
            let addresses = (self.lower.low << 32) | (self.higher.low & 0xffff_ffff);
            if self.tunnel == 0 {
                return tag_ipv4(addresses, ports, seed);
            }
            hash = mix(hash, addresses, seed.multiplier_a);
        } else {
            hash = addresses_hash(self.lower, self.higher, seed);
        }
        if self.tunnel != 0 {
            // The digest has no key, so it could be chosen to cancel a difference of the IPv4 word: a step lies in
            // between.
            hash = absorb(mix(hash, 0, seed.multiplier_b), self.tunnel, seed);
        }
        finish(mix(hash, ports, seed.multiplier_b), seed)
    }

    /// The first set of a tag, for a power-of-two number of sets.
    #[inline(always)]
    #[must_use]
    pub const fn set_index(tag: u64, set_mask: u64) -> u32 {
        ((tag >> 32) & set_mask) as u32
    }

    /// The set of a tag whose first set is full; another one, unless there is only one.
    #[inline(always)]
    #[must_use]
    pub const fn second_set_index(tag: u64, set_mask: u64) -> u32 {
        (((tag >> 32) ^ (tag | 1)) & set_mask) as u32
    }
}

/// Digest of a tunnel's outer addresses: never 0, and equal for both directions.
#[inline(always)]
#[must_use]
pub const fn tunnel_digest(a: Address, b: Address) -> u64 {
    // Symmetric on purpose: a sum of per-end mixes. The seeded flow hash comes on top.
    let one = mix(a.high, a.low, 0x9e37_79b9_7f4a_7c15);
    let other = mix(b.high, b.low, 0x9e37_79b9_7f4a_7c15);
    one.wrapping_add(other) | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn block_keeps_the_first_bits() {
        let address = Address::v6([0xff; 16]);
        assert_eq!(address.block(128), address);
        assert_eq!(address.block(64), Address { high: u64::MAX, low: 0 });
        assert_eq!(address.block(0), Address { high: 0, low: 0 });
        assert_eq!(address.block(56).high, u64::MAX << 8);
        assert_eq!(Address::v4(0x0a01_0203).block(96 + 24), Address::v4(0x0a01_0200));
    }

    #[test]
    fn realms_have_nothing_in_common() {
        let seed = Seed::from_random([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);
        let key = FlowKey {
            lower: Address::v4(1),
            higher: Address::v4(2),
            lower_port: 1,
            higher_port: 2,
            protocol: 17,
            fragment: 0,
            tunnel: 0,
        };
        let tags: std::collections::HashSet<u64> =
            (0..1000).map(|realm| key.tag(&seed.of_realm(seed.realm_mask(realm)))).collect();
        assert_eq!(tags.len(), 1000);
        assert_eq!(seed.of_realm(seed.realm_mask(0)), seed, "realm 0 is the one of a node without realms");
    }

    #[test]
    fn addresses_of_the_first_64_bits_are_told_apart() {
        let seed = Seed::from_random([1, 2, 3]);
        let key = |low: u64| FlowKey {
            lower: Address { high: 0, low: 1 },
            higher: Address { high: 0, low },
            lower_port: 1,
            higher_port: 2,
            protocol: 17,
            fragment: 0,
            tunnel: 0,
        };
        assert_ne!(key(7 | 1 << 63).tag(&seed), key(7).tag(&seed));
        assert_ne!(key(7 | 1 << 48).tag(&seed), key(7).tag(&seed));
        assert_ne!(key(7 | 1 << 40).tag(&seed), key(7).tag(&seed));
    }

    /// Ways of sets that would hold more flows than they have ways, in per mille of the flows, with half as many flows
    /// as ways.
    fn crowded(seed: &Seed, flows: impl Iterator<Item = FlowKey>) -> usize {
        let mut sets = [0_usize; 1 << 11];
        let mut count = 0;
        for flow in flows {
            sets[FlowKey::set_index(flow.tag(seed), (1 << 11) - 1) as usize] += 1;
            count += 1;
        }
        sets.iter().map(|flows| flows.saturating_sub(crate::abi::limits::WAYS)).sum::<usize>() * 1000 / count
    }

    /// Real flows differ in a few low bits: one host's ports, one subnet's addresses.
    #[test]
    fn neighbouring_flows_spread_over_the_sets() {
        let key = |lower: u32, higher: u32, lower_port: u16, higher_port: u16, protocol| FlowKey {
            lower: Address::v4(lower),
            higher: Address::v4(higher),
            lower_port,
            higher_port,
            protocol,
            fragment: 0,
            tunnel: 0,
        };
        let (mut worst, mut random) = ([0; 5], 0_u64);
        for _ in 0..50 {
            let mut word = || {
                random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                mix(mix(random, 0, 0xbf58_476d_1ce4_e5b9), 0, 0x94d0_49bb_1331_11eb)
            };
            let seed = Seed::from_random([word(), word(), word()]);
            let flows = 1_u32 << 12;
            let found = [
                crowded(&seed, (0..flows).map(|n| key(0x0a00_0001, 0x0808_0808, 32_768 + n as u16, 443, 6))),
                crowded(&seed, (0..flows).map(|n| key(0x0a00_0001, 0xc0a8_0000 + n, 6881, 6881, 17))),
                crowded(&seed, (0..flows).map(|n| key(0x0a00_0000 + n, 0xc0a8_0001, 40_000, 443, 6))),
                crowded(
                    &seed,
                    (0..flows).map(|n| key(0x0a00_0000 + n / 64, 0xc0a8_0001, 40_000 + (n % 64) as u16, 443, 6)),
                ),
                crowded(&seed, (0..flows).map(|n| key(0x0a00_0000 + n / 64, 0xc0a8_0000 + n % 64, 6881, 6881, 17))),
            ];
            for (worst, found) in worst.iter_mut().zip(found) {
                *worst = found.max(*worst);
            }
        }
        // Random flows: 36 per mille (Poisson with a mean of 2 for each set), and one choice of a set out of two.
        assert!(worst.iter().all(|crowded| *crowded < 60), "{worst:?}");
    }

    proptest! {
        #[test]
        fn block_agrees_with_128_bit_arithmetic(high: u64, low: u64, bits in 0u8..=128) {
            let whole = (u128::from(high) << 64) | u128::from(low);
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
            let block = Address { high, low }.block(bits);
            prop_assert_eq!((u128::from(block.high) << 64) | u128::from(block.low), whole & mask);
        }

        #[test]
        fn tag_depends_on_every_field(words: [u64; 3], a: u32, b: u32, ports: (u16, u16), protocol: u8, flip in 0u32..104) {
            let seed = Seed::from_random(words);
            let key = |bits: u128| FlowKey {
                lower: Address::v4((bits >> 72) as u32), higher: Address::v4((bits >> 40) as u32),
                lower_port: (bits >> 24) as u16, higher_port: (bits >> 8) as u16, protocol: bits as u8, fragment: 0, tunnel: 0,
            };
            let bits = (u128::from(a) << 72) | (u128::from(b) << 40) | (u128::from(ports.0) << 24) | (u128::from(ports.1) << 8) | u128::from(protocol);
            prop_assert_ne!(key(bits).tag(&seed), key(bits ^ (1 << flip)).tag(&seed));
        }
    }
}
