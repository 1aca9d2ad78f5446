//! Rules: what a verdict rests on. One table gives each rule its name, protocol, confidence, meaning and source.
//!
//! A rule's number is stored in BPF maps and its name is printed by `replay` and on `/metrics`: append only, never
//! renumber.

use crate::abi::protocol::{Confidence, Protocol};

/// The number of a rule by association is its protocol's number plus this.
pub const ASSOCIATION: u8 = 128;
/// Number of rules that a table indexed by rule number needs.
pub const RULE_SLOTS: usize = 256;

/// Declares [`Rule`] from one table: number, name, protocol, confidence, meaning, source.
macro_rules! rules {
    ($($name:ident = $number:literal, $label:literal, $protocol:ident, $confidence:ident, $meaning:literal, $source:literal;)*) => {
        /// The rule that gave a flow its verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Rule { $(#[doc = $meaning] $name = $number,)* }

        impl Rule {
            /// Every rule, in the order of the table.
            pub const ALL: &'static [Rule] = &[$(Rule::$name,)*];

            /// The name used in metrics and output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Rule::$name => $label,)* }
            }

            /// Protocol of its verdicts.
            #[must_use]
            pub const fn protocol(self) -> Protocol {
                match self { $(Rule::$name => Protocol::$protocol,)* }
            }

            /// Confidence of its verdicts.
            #[must_use]
            pub const fn confidence(self) -> Confidence {
                match self { $(Rule::$name => Confidence::$confidence,)* }
            }

            /// What it matches, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Rule::$name => $meaning,)* }
            }

            /// Where its facts come from.
            #[must_use]
            pub const fn source(self) -> &'static str {
                match self { $(Rule::$name => $source,)* }
            }

            /// The rule of a number read from a map.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Rule::$name),)* _ => None }
            }
        }
    };
}

rules! {
    BtHandshake = 1, "bt-handshake", BitTorrent, Signature, "Peer wire handshake over TCP", "BEP 3";
    BtHandshakeTail = 2, "bt-handshake-tail", BitTorrent, Signature, "Peer wire handshake over TCP without its first byte", "BEP 3, BEP 4";
    BtMidstream = 3, "bt-midstream", BitTorrent, Structural, "Peer wire messages in the middle of a stream", "BEP 3, BEP 6, BEP 10";
    BtHttpTracker = 4, "bt-http-tracker", BitTorrent, Signature, "HTTP tracker announce or scrape with an info hash", "BEP 3, BEP 48";
    BtWebSeed = 5, "bt-web-seed", BitTorrent, Signature, "Web seed request with an info hash", "BEP 17, BitComet";
    DhtQuery = 6, "dht-query", BitTorrent, Signature, "DHT query", "BEP 5";
    DhtReply = 7, "dht-reply", BitTorrent, Signature, "DHT response", "BEP 5, BEP 33, BEP 42";
    DhtError = 8, "dht-error", BitTorrent, Signature, "DHT error", "BEP 5";
    DhtUnsorted = 9, "dht-unsorted", BitTorrent, Signature, "DHT message with keys in no order", "BEP 5";
    LsdAnnounce = 10, "lsd-announce", BitTorrent, Signature, "Local service discovery", "BEP 14";
    UdpTrackerConnect = 11, "udp-tracker-connect", BitTorrent, Signature, "Connect request to a UDP tracker", "BEP 15";
    UdpTrackerReply = 12, "udp-tracker-reply", BitTorrent, Structural, "Answer of a UDP tracker to an announce or scrape", "BEP 15";
    UtpHandshake = 13, "utp-handshake", BitTorrent, Signature, "uTP data that carries the peer wire handshake", "BEP 29, BEP 3";
    UtpSyn = 14, "utp-syn", BitTorrent, Structural, "First uTP SYN of a connection", "BEP 29";
    UtpState = 15, "utp-state", BitTorrent, Structural, "uTP packet that answers a SYN", "BEP 29";
    UtpData = 16, "utp-data", BitTorrent, Structural, "uTP packet that acknowledges data of the other side", "BEP 29";
    MseHeuristic = 17, "mse-heuristic", BitTorrent, Heuristic, "MSE-shaped connections to many endpoints (optional)", "MSE specification";
    EdonkeyMessage = 18, "edonkey-message", EDonkey, Structural, "eDonkey or eMule TCP message", "eMule";
    EdonkeySplit = 19, "edonkey-split", EDonkey, Structural, "eDonkey or eMule TCP message over several segments", "eMule";
    EdonkeyServerUdp = 20, "edonkey-server-udp", EDonkey, Structural, "UDP message between eDonkey client and server", "eMule";
    EdonkeyClientUdp = 21, "edonkey-client-udp", EDonkey, Structural, "UDP message between eMule clients", "eMule";
    KadPacked = 22, "kad-packed", Kademlia, Structural, "zlib-packed Kad message", "eMule";
    KadBootstrap = 23, "kad-bootstrap", Kademlia, Structural, "Kad bootstrap request or answer", "eMule";
    KadHello = 24, "kad-hello", Kademlia, Structural, "Kad hello, its answer or acknowledgement", "eMule";
    KadLookup = 25, "kad-lookup", Kademlia, Structural, "Kad lookup or its answer", "eMule";
    KadSearch = 26, "kad-search", Kademlia, Structural, "Kad search or its answer", "eMule";
    KadPublish = 27, "kad-publish", Kademlia, Structural, "Kad publication or its answer", "eMule";
    KadFirewall = 28, "kad-firewall", Kademlia, Structural, "Kad firewall check, buddy search or callback", "eMule";
    KadPing = 29, "kad-ping", Kademlia, Structural, "Kad ping or pong", "eMule";
    GnutellaHandshake = 30, "gnutella-handshake", Gnutella, Signature, "Gnutella handshake", "RFC Gnutella 0.6";
    GnutellaRequest = 31, "gnutella-request", Gnutella, Signature, "HTTP request for a Gnutella service or a file by its hash", "HUGE, THEX";
    GnutellaGiv = 32, "gnutella-giv", Gnutella, Signature, "Gnutella push (GIV)", "RFC Gnutella 0.6";
    GnutellaPush = 33, "gnutella-push", Gnutella, Signature, "Gnutella push (PUSH guid)", "nDPI";
    GnutellaHeader = 34, "gnutella-http-header", Gnutella, Signature, "HTTP request or answer with a Gnutella header or client name", "RFC Gnutella 0.6";
    GnutellaUdp = 35, "gnutella-udp", Gnutella, Structural, "Gnutella message over UDP", "RFC Gnutella 0.6, Mojito";
    Gnutella2Udp = 36, "gnutella2-udp", Gnutella2, Structural, "Gnutella2 reliable UDP packet", "Gnutella2 Developers' Network";
    WebtorrentAnnounce = 37, "webtorrent-announce", WebTorrent, Signature, "WebTorrent tracker message over a WebSocket", "bittorrent-tracker";
    FasttrackLink = 38, "fasttrack-link", FastTrack, Signature, "Link to a FastTrack supernode", "giFT-FastTrack";
    FasttrackRequest = 39, "fasttrack-request", FastTrack, Signature, "FastTrack request for a file by its hash", "giFT-FastTrack";
    FasttrackGive = 40, "fasttrack-give", FastTrack, Structural, "FastTrack push (GIVE)", "giFT-FastTrack";
    FasttrackHeader = 41, "fasttrack-http-header", FastTrack, Signature, "HTTP request or answer with a Kazaa header or client name", "giFT-FastTrack";
    FasttrackUdp = 42, "fasttrack-udp", FastTrack, Signature, "FastTrack ping or pong over UDP", "giFT-FastTrack";
    NmdcCommand = 43, "nmdc-command", DirectConnect, Signature, "NMDC command", "NMDC";
    AdcMessage = 44, "adc-message", DirectConnect, Signature, "ADC message", "ADC";
    NmdcSearchResult = 45, "nmdc-search-result", DirectConnect, Signature, "NMDC search result over UDP", "NMDC";
    AdcUdp = 46, "adc-udp", DirectConnect, Signature, "ADC message over UDP", "ADC";
    SoulseekMessage = 47, "soulseek-message", Soulseek, Structural, "Soulseek login, PeerInit or PierceFirewall", "Nicotine+";
    SoulseekObfuscated = 48, "soulseek-obfuscated", Soulseek, Structural, "Obfuscated Soulseek PeerInit or PierceFirewall", "aioslsk";
    AresGreeting = 49, "ares-greeting", Ares, Structural, "First message of an Ares link", "libprotoident, nDPI";
    OpennapLogin = 50, "opennap-login", OpenNap, Structural, "OpenNap login", "Napster Messages";
    WinmxTransfer = 51, "winmx-transfer", WinMx, Structural, "Start of a WinMX transfer", "WinMX peer protocol";
    Libp2pMultistream = 52, "libp2p-multistream", LibP2p, Signature, "multistream-select greeting", "multistream-select 1.0";
    Libp2pWebsocket = 53, "libp2p-websocket", LibP2p, Signature, "multistream-select greeting in a WebSocket frame", "multistream-select 1.0, RFC 6455";
    Libp2pMdns = 54, "libp2p-mdns", LibP2p, Signature, "libp2p discovery over multicast DNS", "libp2p mDNS";
    ApplejuiceGreeting = 55, "applejuice-greeting", AppleJuice, Signature, "appleJuice greeting", "libprotoident, nDPI";
    MuteKey = 56, "mute-key", Mute, Signature, "Key of a MUTE link", "mute-net";
    OpenftHeader = 57, "openft-http-header", OpenFt, Signature, "HTTP request with an OpenFT header", "giFT-OpenFT";
    WasteDownload = 58, "waste-download", Waste, Signature, "WASTE download", "libprotoident";
    BtsyncTcp = 59, "btsync-tcp", BtSync, Signature, "Resilio Sync connection", "Arkime";
    BtsyncUdp = 60, "btsync-udp", BtSync, Signature, "Resilio Sync datagram", "Arkime";
    DoHandshake = 61, "do-handshake", DeliveryOptimization, Signature, "Delivery Optimization handshake", "MS-DO";
    DoHandshakeTail = 62, "do-handshake-tail", DeliveryOptimization, Signature, "Delivery Optimization handshake without its first byte", "MS-DO";
    AcestreamHandshake = 63, "acestream-handshake", AceStream, Signature, "Ace Stream handshake", "libprotoident";
    AcestreamHandshakeTail = 64, "acestream-handshake-tail", AceStream, Signature, "Ace Stream handshake without its first byte", "libprotoident";
    AcestreamMidstream = 65, "acestream-midstream", AceStream, Structural, "Peer wire messages in the middle of a stream, on Ace Stream's port or with a known Ace Stream peer", "BEP 3, libprotoident";
    UtpStream = 66, "utp-stream", BitTorrent, Structural, "Consecutive uTP data of one side", "BEP 29";
    EmuleUtp = 67, "emule-utp", EDonkey, Structural, "uTP in eMule's frames for address translation", "eMule AI";
    AzureusDhtRequest = 68, "azureus-dht-request", BitTorrent, Structural, "Request of the Azureus DHT", "BiglyBT";
    AzureusDhtAnswer = 69, "azureus-dht-answer", BitTorrent, Structural, "Answer of the Azureus DHT", "BiglyBT";
    HyperdhtMessage = 70, "hyperdht-message", HyperDht, Structural, "HyperDHT message that names the address it goes to", "dht-rpc";
    Ipv8Community = 71, "ipv8-community", Ipv8, Signature, "IPv8 message of a known community", "py-ipv8";
    Ipv8Signed = 72, "ipv8-signed", Ipv8, Signature, "Signed IPv8 message", "py-ipv8";
    MseAssociation = 130, "mse-association", BitTorrent, Association, "Encrypted flow with a known BitTorrent peer", "MSE specification";
    EdonkeyAssociation = 131, "edonkey-association", EDonkey, Association, "Obfuscated flow with a known eDonkey peer", "eMule";
    KadAssociation = 132, "kad-association", Kademlia, Association, "Obfuscated datagrams with a known Kad peer", "eMule";
    GnutellaAssociation = 133, "gnutella-association", Gnutella, Association, "Encrypted flow with a known Gnutella peer", "";
    Gnutella2Association = 134, "gnutella2-association", Gnutella2, Association, "Encrypted flow with a known Gnutella2 peer", "";
    WebtorrentAssociation = 135, "webtorrent-association", WebTorrent, Association, "Encrypted flow with a known WebTorrent peer", "";
    FasttrackAssociation = 136, "fasttrack-association", FastTrack, Association, "Encrypted flow with a known FastTrack peer", "";
    DirectconnectAssociation = 137, "directconnect-association", DirectConnect, Association, "Encrypted flow with a known Direct Connect peer", "";
    SoulseekAssociation = 138, "soulseek-association", Soulseek, Association, "Encrypted flow with a known Soulseek peer", "";
    AresAssociation = 139, "ares-association", Ares, Association, "Encrypted flow with a known Ares peer", "";
    OpennapAssociation = 140, "opennap-association", OpenNap, Association, "Encrypted flow with a known OpenNap peer", "";
    WinmxAssociation = 141, "winmx-association", WinMx, Association, "Encrypted flow with a known WinMX peer", "";
    ApplejuiceAssociation = 143, "applejuice-association", AppleJuice, Association, "Encrypted flow with a known appleJuice peer", "";
    MuteAssociation = 144, "mute-association", Mute, Association, "Encrypted flow with a known MUTE peer", "";
    OpenftAssociation = 145, "openft-association", OpenFt, Association, "Encrypted flow with a known OpenFT peer", "";
    WasteAssociation = 146, "waste-association", Waste, Association, "Encrypted flow with a known WASTE peer", "";
    BtsyncAssociation = 147, "btsync-association", BtSync, Association, "Encrypted flow with a known Resilio Sync peer", "";
    DoAssociation = 148, "do-association", DeliveryOptimization, Association, "Random-looking flow with a known Delivery Optimization peer", "";
    AcestreamAssociation = 149, "acestream-association", AceStream, Association, "Random-looking flow with a known Ace Stream peer", "";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_in_kebab_case() {
        let mut seen = HashSet::new();
        for rule in Rule::ALL {
            let name = rule.name();
            assert!(seen.insert(name), "{name} is there twice");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{name}"
            );
            assert!(!rule.meaning().is_empty(), "{name}");
            assert_eq!(Rule::from_number(*rule as u8), Some(*rule));
            assert_ne!(rule.protocol(), Protocol::Unclassified, "{name}");
        }
    }

    #[test]
    fn one_block_has_a_bounded_number_of_tallies() {
        let verdicts: HashSet<_> = Rule::ALL.iter().map(|rule| (rule.protocol(), rule.confidence())).collect();
        assert_eq!(verdicts.len() + 2, crate::abi::limits::TALLIES_PER_BLOCK);
    }

    #[test]
    fn every_protocol_that_is_learned_has_a_rule_by_association_with_its_number() {
        for protocol in Protocol::ALL {
            let rule = Rule::from_number(ASSOCIATION + *protocol as u8);
            let learned = *protocol as u8 > Protocol::Fragment as u8
                && !Protocol::is_shared_by_programs(u32::from(*protocol as u8));
            let expected = learned.then_some((*protocol, Confidence::Association));
            assert_eq!(rule.map(|rule| (rule.protocol(), rule.confidence())), expected, "{protocol:?}");
        }
        for rule in Rule::ALL {
            assert_eq!(rule.confidence() == Confidence::Association, *rule as u8 >= ASSOCIATION, "{}", rule.name());
        }
    }
}
