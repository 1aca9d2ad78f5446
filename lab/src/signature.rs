//! Names of reference signatures, as lists of true labels (`FLOWS.tsv` of a corpus) spell them.

/// Protocol by the start of a reference signature's name; the longest start that fits decides.
pub const SIGNATURES: [(&str, &str); 22] = [
    ("applejuice", "applejuice"),
    ("ares.", "ares"),
    ("bt.", "bittorrent"),
    ("bt.ws", "webtorrent"),
    ("btsync", "btsync"),
    ("dc.", "directconnect"),
    ("dht.", "bittorrent"),
    ("ed2k.", "edonkey"),
    ("emule.", "edonkey"),
    ("ft.", "fasttrack"),
    ("g2.", "gnutella2"),
    ("gnu.", "gnutella"),
    ("kad.", "kademlia"),
    ("libp2p.", "libp2p"),
    ("mute", "mute"),
    ("nap.", "opennap"),
    ("openft", "openft"),
    ("slsk.", "soulseek"),
    ("trk.", "bittorrent"),
    ("utp.", "bittorrent"),
    ("waste", "waste"),
    ("winmx.", "winmx"),
];

/// The protocol that a reference signature of `FLOWS.tsv` stands for; `None` for an unknown name.
#[must_use]
pub fn protocol_of(signature: &str) -> Option<&'static str> {
    let fits = SIGNATURES.iter().filter(|(start, _)| signature.starts_with(start));
    fits.max_by_key(|(start, _)| start.len()).map(|(_, protocol)| *protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_start_of_a_signatures_name_decides() {
        assert_eq!(protocol_of("bt.hs"), Some("bittorrent"));
        assert_eq!(protocol_of("bt.ws_tracker"), Some("webtorrent"));
        assert_eq!(protocol_of("unheard.of"), None);
    }
}
