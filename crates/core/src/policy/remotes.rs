//! How many distinct hosts a [`RemoteSet`] stands for: linear counting (Whang, Vander-Zanden, Taylor, "A linear-time
//! probabilistic counting algorithm for database applications", 1990).

use monitor_common::abi::remotes::{REMOTE_BITS, RemoteSet};
use serde::{Deserialize, Serialize};

/// Bits, for the formulas.
const BITS: f64 = REMOTE_BITS as f64;

/// A full set has at least so many hosts, with a certainty of 95 %: with `n` hosts, e^(-64 e^(-n/64)) of all sets are
/// full.
pub(super) const FULL: u64 = 196;

/// Estimate of distinct hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RemoteEstimate {
    /// Most likely number of hosts; for a full set a lower bound.
    pub estimate: u64,
    /// Standard error of the estimate in hosts, rounded up; none for a full set.
    pub standard_error: Option<u64>,
}

impl RemoteEstimate {
    /// The estimate from a set.
    pub(super) fn of(set: RemoteSet) -> Self {
        let clear = set.0.count_zeros();
        if clear == 0 {
            return Self { estimate: FULL, standard_error: None };
        }
        let load = (BITS / f64::from(clear)).ln();
        let variance = BITS * (load.exp() - load - 1.0);
        Self { estimate: (BITS * load).round() as u64, standard_error: Some(variance.sqrt().ceil() as u64) }
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::abi::{
        key::{Address, Seed},
        remotes::remote_number,
    };

    use super::*;

    /// Random words (splitmix64).
    struct Words(u64);

    impl Words {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        }
    }

    const SETS: u32 = 4000;

    /// Over many seeds: mean of the estimates, root mean square of their errors, and share of full sets.
    fn measure(hosts: u32, host: impl Fn(&mut Words, u32) -> Address) -> (f64, f64, f64) {
        let (mut sum, mut squares, mut full) = (0.0, 0.0, 0);
        let mut words = Words(u64::from(hosts));
        for _ in 0..SETS {
            let seed = Seed::from_random([words.next(), words.next(), words.next()]);
            let mut set = RemoteSet::EMPTY;
            for number in 0..hosts {
                set.unite(RemoteSet::of(remote_number(host(&mut words, number), &seed)));
            }
            let found = RemoteEstimate::of(set);
            let error = found.estimate as f64 - f64::from(hosts);
            sum += found.estimate as f64;
            squares += error * error;
            full += u32::from(found.standard_error.is_none());
        }
        let sets = f64::from(SETS);
        (sum / sets, (squares / sets).sqrt(), f64::from(full) / sets)
    }

    /// The figures of `docs/hooks.md`.
    #[test]
    fn the_standard_error_is_the_documented_one() {
        for (hosts, documented) in [(5, 0.09), (20, 0.11), (50, 0.12), (100, 0.14), (150, 0.18)] {
            let load = f64::from(hosts) / BITS;
            let formula = (BITS * (load.exp() - load - 1.0)).sqrt();
            for spread in [random, neighbours, prefixes] {
                let (mean, error, _) = measure(hosts, spread);
                let hosts = f64::from(hosts);
                assert!((mean / hosts - 1.0).abs() < 0.04, "{hosts}: mean {mean}");
                assert!(error < documented * hosts, "{hosts}: error {error}");
                assert!((0.8..1.25).contains(&(error / formula)), "{hosts}: error {error}, not {formula}");
            }
        }
    }

    fn random(words: &mut Words, _: u32) -> Address {
        Address::v4(words.next() as u32)
    }

    fn neighbours(_: &mut Words, number: u32) -> Address {
        Address::v4(0xc000_0200 + number)
    }

    fn prefixes(_: &mut Words, number: u32) -> Address {
        Address { high: 0x2001_0db8_0000_0000 + u64::from(number), low: 1 }
    }

    #[test]
    fn a_full_set_is_a_lower_bound() {
        let (_, _, full) = measure(FULL as u32, random);
        assert!((0.04..0.06).contains(&full), "{full} of the sets are full");
        assert_eq!(RemoteEstimate::of(RemoteSet(u64::MAX)), RemoteEstimate { estimate: FULL, standard_error: None });
    }

    #[test]
    fn few_hosts_are_counted_exactly_unless_two_share_a_bit() {
        let of = |set| RemoteEstimate::of(RemoteSet(set));
        assert_eq!(of(0), RemoteEstimate { estimate: 0, standard_error: Some(0) });
        assert_eq!([0b1, 0b11, 0b111, 0b1111].map(|set| of(set).estimate), [1, 2, 3, 4]);
        assert_eq!(of(u64::MAX >> 1), RemoteEstimate { estimate: 266, standard_error: Some(62) });
    }
}
