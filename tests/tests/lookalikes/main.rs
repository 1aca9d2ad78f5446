//! Protocols that share bytes, lengths or words with P2P protocols, played as whole flows through the data path: none
//! may be labelled `signature`, `structural` or `association`.
//!
//! Each generator builds one conversation from random bits, in the layout of the document that it names: identifiers,
//! names and lengths take every value that their fields allow, since that is where a look-alike's bytes come from. A
//! seed that fails is printed; what it found becomes a named case.

mod flow;
mod media;
mod near_misses;
mod services;
mod streams;
mod text;
mod tunnels;

use flow::{Bits, Conversation, Network};
use proptest::{prelude::*, test_runner::RngSeed};

/// A generator and its name.
type Row = (&'static str, fn(&mut Bits) -> Conversation);

/// Plays one conversation of every generator of the tables, each with bits of its own.
fn play_all(tables: &[&[Row]], seed: u64) {
    let mut network = Network::new();
    for (number, (name, generator)) in tables.iter().copied().flatten().enumerate() {
        let mut bits = Bits::new(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let conversation = generator(&mut bits);
        network.play(name, &conversation);
        if conversation.is_tcp() {
            network.play(&format!("{name}, cut"), &conversation.cut(&mut bits));
        }
    }
}

/// Fixed conversations in every run, so that a failure comes from the change; `PROPTEST_RNG_SEED` asks for others, and
/// `PROPTEST_CASES` for more.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let rng_seed = if asked.rng_seed == RngSeed::Random { RngSeed::Fixed(1) } else { asked.rng_seed };
    ProptestConfig { failure_persistence: None, rng_seed, cases: asked.cases.max(512), ..asked }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn over_udp(seed in any::<u64>()) {
        play_all(&[services::ROWS, media::ROWS, tunnels::ROWS], seed);
    }

    #[test]
    fn over_tcp(seed in any::<u64>()) {
        play_all(&[streams::ROWS, text::ROWS], seed);
    }

    #[test]
    fn words_of_p2p_protocols_in_other_text(seed in any::<u64>()) {
        let mut network = Network::new();
        let mut bits = Bits::new(seed);
        for literal in near_misses::LITERALS {
            for (name, conversation) in near_misses::around(&mut bits, literal) {
                let may_cut = name != near_misses::NOT_CUT;
                let name = format!("{name}: {}", literal.escape_ascii());
                network.play(&name, &conversation);
                if !may_cut {
                    continue;
                }
                network.play(&format!("{name}, cut"), &conversation.cut(&mut bits));
            }
        }
    }
}

#[test]
fn named_near_misses() {
    let mut network = Network::new();
    for (name, conversation) in near_misses::named() {
        network.play(name, &conversation);
        play_cut(&mut network, name, &conversation);
    }
}

/// Plays a conversation cut in two at every place of each message.
fn play_cut(network: &mut Network, name: &str, conversation: &Conversation) {
    if !conversation.is_tcp() {
        return;
    }
    for (message, length) in conversation.lengths().into_iter().enumerate() {
        for place in 1..length {
            network.play(&format!("{name}, cut at {place}"), &conversation.cut_at(message, place));
        }
    }
}

/// A literal in other bytes is none when the segment that holds it begins with it: the stream began with something
/// else.
#[test]
fn words_of_p2p_protocols_cut_out_of_other_text() {
    let mut network = Network::new();
    let mut bits = Bits::new(1);
    for literal in near_misses::LITERALS {
        for (name, conversation) in near_misses::around(&mut bits, literal) {
            if name == near_misses::NOT_CUT {
                continue;
            }
            play_cut(&mut network, &format!("{name}: {}", literal.escape_ascii()), &conversation);
        }
    }
}

/// The suite proves something only if this network labels P2P.
#[test]
fn the_network_labels_p2p() {
    let mut network = Network::new();
    let literal = b"\x13BitTorrent protocol";
    let handshake = [literal.as_slice(), &[0; 48]].concat();
    assert!(network.verdict(&Conversation::tcp(50_000, 6881).request(handshake)).is_some());
    let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".to_vec();
    assert!(network.verdict(&Conversation::udp(50_000, 6881).request(ping)).is_some());
}
