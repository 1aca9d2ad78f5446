//! Flows that an attacker chose to share one set. Whoever knows the seed can; nobody does.

use std::collections::HashMap;

use monitor_common::abi::{
    event::KernelEvent,
    key::{Address, FlowKey, Seed},
    protocol::Protocol,
};

use crate::{
    Random, SEED,
    frames::{HANDSHAKE, PSH_ACK, tcp},
    path::{Path, Row, on_both, options},
};

/// Flows of the attack.
const FLOWS: usize = 64;
/// Flows the table holds: 256 sets.
const CACHE: u32 = 1024;
const SET_MASK: u64 = CACHE as u64 / 4 - 1;

fn random_seed(random: &mut Random) -> Seed {
    Seed::from_random([random.next(), random.next(), random.next()])
}

/// Flow `number` of a subscriber: the far end varies.
fn key(number: u32) -> FlowKey {
    FlowKey {
        lower: Address::v4(0x0a00_0001),
        higher: Address::v4(0xc600_0000 + (number >> 8)),
        lower_port: 40_000,
        higher_port: 1024 + (number & 0xff) as u16,
        protocol: 6,
        fragment: 0,
        tunnel: 0,
    }
}

fn frame(number: u32) -> Vec<u8> {
    let far = (0xc600_0000 + (number >> 8)).to_be_bytes();
    tcp(([10, 0, 0, 1], 40_000), (far, 1024 + (number & 0xff) as u16), PSH_ACK, HANDSHAKE)
}

/// Flows whose both sets are one of two, under this seed.
fn colliding(seed: &Seed) -> Vec<u32> {
    let in_two_sets =
        |tag: u64| FlowKey::set_index(tag, SET_MASK) >> 1 == 0 && FlowKey::second_set_index(tag, SET_MASK) >> 1 == 0;
    (0..).filter(|number| in_two_sets(key(*number).tag(seed))).take(FLOWS).collect()
}

/// Sends each flow twice; how many packets were refused.
fn refused(path: &mut Path, flows: &[u32]) -> u64 {
    let mut sent = Row::default();
    for flow in flows.iter().chain(flows) {
        let frame = frame(*flow);
        path.frame(&frame, 1000);
        sent.sent(&frame);
    }
    let counted = path.counted();
    counted.expect_exactly(&sent);
    let refused = path.event(KernelEvent::FlowRefused);
    assert_eq!(path.metric(KernelEvent::FlowRefused), refused);
    let bittorrent = counted.of([10, 0, 0, 1], Protocol::BitTorrent);
    assert_eq!(bittorrent.packets, sent.packets - refused, "only what was refused has no verdict");
    refused
}

#[test]
fn flows_that_collide_under_one_seed_do_not_under_another() {
    let flows = colliding(&SEED);
    // Two sets of four ways hold eight; the others are refused, packet by packet, and still counted exactly.
    on_both("pressure: known seed", &options(CACHE, 64, SEED), |path| {
        assert_eq!(refused(path, &flows), 2 * (FLOWS as u64 - 8));
    });
    let mut random = Random(7);
    for _ in 0..8 {
        on_both("pressure: unknown seed", &options(CACHE, 64, random_seed(&mut random)), |path| {
            assert_eq!(refused(path, &flows), 0, "64 flows in 256 sets");
        });
    }
}

/// A key from 37 bytes: every field an attacker can choose.
fn from_words(words: [u64; 5]) -> FlowKey {
    let [lower_high, lower_low, higher_high, higher_low, ports] = words;
    FlowKey {
        lower: Address { high: lower_high, low: lower_low },
        higher: Address { high: higher_high, low: higher_low },
        lower_port: (ports >> 16) as u16,
        higher_port: ports as u16,
        protocol: 17,
        fragment: 0,
        tunnel: 0,
    }
}

/// Differences of one or two bits of the words that an attacker may choose freely.
fn differences(bits: &[(usize, u32)]) -> Vec<[u64; 5]> {
    let mut found = Vec::new();
    for (index, (word, bit)) in bits.iter().enumerate() {
        for (other_word, other_bit) in &bits[index..] {
            let mut difference = [0; 5];
            difference[*word] |= 1 << bit;
            difference[*other_word] |= 1 << other_bit;
            found.push(difference);
        }
    }
    found
}

/// How many of the differences make a flow that shares another one's set more often than chance would have it, over
/// seeds that the attacker does not know. With 2^16 sets and 32 seeds, one shared set is chance, three are none.
fn lasting_collisions(base: [u64; 5], differences: &[[u64; 5]]) -> usize {
    const SEEDS: usize = 32;
    const MASK: u64 = (1 << 16) - 1;
    let mut random = Random(11);
    let mut shared: HashMap<usize, usize> = HashMap::new();
    for _ in 0..SEEDS {
        let seed = random_seed(&mut random);
        let tag = from_words(base).tag(&seed);
        for (index, difference) in differences.iter().enumerate() {
            let other = std::array::from_fn(|word| base[word] ^ difference[word]);
            let other = from_words(other).tag(&seed);
            assert_ne!(tag, other, "one tag for two flows under a seed nobody chose: difference {difference:x?}");
            if FlowKey::set_index(tag, MASK) == FlowKey::set_index(other, MASK) {
                *shared.entry(index).or_default() += 1;
            }
        }
    }
    shared.values().filter(|times| **times >= 3).count()
}

#[test]
fn no_difference_of_two_bits_collides_under_most_seeds() {
    const V4: u64 = 0xffff_0000_0000;
    let ports = (0..32).map(|bit| (4, bit));
    let bits: Vec<_> = [1, 3].into_iter().flat_map(|word| (0..32).map(move |bit| (word, bit))).chain(ports).collect();
    let base = [0, V4 | 0x0a01_0203, 0, V4 | 0xc633_6407, 0x9c40_1ae1];
    assert_eq!(lasting_collisions(base, &differences(&bits)), 0, "IPv4");
}

#[test]
fn no_difference_of_two_bits_collides_under_most_seeds_in_ipv6() {
    let bits: Vec<_> = (0..4).flat_map(|word| (0..64).map(move |bit| (word, bit))).collect();
    let base = [0x2001_0db8_0001_0000, 2, 0x2600_1234_5678_9abc, 0xdef0_1234_5678_9abc, 0x9c40_1ae1];
    let mut differences = differences(&bits);
    // A top bit survives a multiplication by any odd number, and the shift copies it to bit 31: in a hash that only
    // multiplies between two words, the second word can take such a difference back.
    for word in 0..3 {
        for next in word + 1..4 {
            let mut difference = [0; 5];
            difference[word] = 1 << 63;
            difference[next] = (1 << 63) | (1 << 31);
            differences.push(difference);
        }
    }
    assert_eq!(lasting_collisions(base, &differences), 0, "IPv6");
}
