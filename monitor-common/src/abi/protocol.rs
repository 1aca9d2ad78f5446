//! Protocols and confidences: the label values of `docs/architecture.md#labels`, and their numbers in BPF maps.

/// Declares [`ProtocolClass`].
macro_rules! classes {
    ($($(#[doc = $meaning:literal])* $name:ident = $label:literal,)*) => {
        /// Purpose of a protocol. Policies and metrics select protocols by class.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProtocolClass { $($(#[doc = $meaning])* $name,)* }

        impl ProtocolClass {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label value used in metrics and policies.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

classes! {
    /// Exchange of files among strangers.
    FileSharing = "filesharing",
    /// Live and recorded video.
    Video = "video",
    /// Distributed storage.
    Storage = "storage",
    /// Synchronisation of a user's own folders.
    Sync = "sync",
    /// General-purpose P2P transports, which many programs share.
    Transport = "transport",
    /// Distribution of software updates.
    Updates = "updates",
}

/// Declares [`Protocol`] from one table: number, label, class, and `names_content` where framing names content.
macro_rules! protocols {
    ($($(#[doc = $meaning:literal])* $name:ident = $number:literal, $label:literal $(, $class:ident $(, $content:ident)?)?;)*) => {
        /// What a flow speaks. Numbers are stored in BPF maps: append only, never renumber.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Protocol { $($(#[doc = $meaning])* $name = $number,)* }

        impl Protocol {
            /// Every protocol, in number order.
            pub const ALL: &'static [Protocol] = &[$(Protocol::$name,)*];

            /// The label value used in metrics, policies and output.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Protocol::$name => $label,)* }
            }

            /// The protocol of a number read from a map.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Protocol::$name),)* _ => None }
            }

            /// Name and scope, for documentation.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Protocol::$name => concat!($($meaning,)*),)* }
            }

            /// The class; `None` for traffic that is not known to be P2P.
            #[must_use]
            pub const fn class(self) -> Option<ProtocolClass> {
                match self { $(Protocol::$name => class!($($class)?),)* }
            }

            /// Whether the framing can name content, which the watchlist is compared with.
            #[must_use]
            pub const fn names_content(self) -> bool {
                match self { $(Protocol::$name => is_content_named!($($($content)?)?),)* }
            }
        }
    };
}

/// The class of a row.
macro_rules! class {
    () => {
        None
    };
    ($class:ident) => {
        Some(ProtocolClass::$class)
    };
}

/// Whether a row has the last column.
macro_rules! is_content_named {
    () => {
        false
    };
    (names_content) => {
        true
    };
}

protocols! {
    /// No signature matched (yet).
    Unclassified = 0, "unclassified";
    /// A fragment that is not the first one: it has no ports and no protocol framing.
    Fragment = 1, "fragment";
    /// BitTorrent: peer wire, uTP, DHT, trackers, local service discovery.
    BitTorrent = 2, "bittorrent", FileSharing, names_content;
    /// eDonkey and eMule, TCP and server UDP.
    EDonkey = 3, "edonkey", FileSharing, names_content;
    /// Kademlia of eMule (Kad).
    Kademlia = 4, "kademlia", FileSharing, names_content;
    /// Gnutella 0.6, TCP and UDP.
    Gnutella = 5, "gnutella", FileSharing, names_content;
    /// Gnutella2.
    Gnutella2 = 6, "gnutella2", FileSharing;
    /// WebTorrent: its tracker over WebSockets.
    WebTorrent = 7, "webtorrent", FileSharing;
    /// FastTrack (Kazaa).
    FastTrack = 8, "fasttrack", FileSharing;
    /// Direct Connect: NMDC and ADC.
    DirectConnect = 9, "directconnect", FileSharing, names_content;
    /// Soulseek.
    Soulseek = 10, "soulseek", FileSharing;
    /// Ares Galaxy.
    Ares = 11, "ares", FileSharing;
    /// OpenNap (Napster).
    OpenNap = 12, "opennap", FileSharing;
    /// WinMX.
    WinMx = 13, "winmx", FileSharing;
    /// libp2p: a transport of IPFS, Filecoin and others.
    LibP2p = 14, "libp2p", Transport;
    /// appleJuice (legacy).
    AppleJuice = 15, "applejuice", FileSharing;
    /// MUTE (legacy).
    Mute = 16, "mute", FileSharing;
    /// OpenFT (legacy).
    OpenFt = 17, "openft", FileSharing;
    /// WASTE (legacy).
    Waste = 18, "waste", FileSharing;
    /// BitTorrent Sync and Resilio Sync.
    BtSync = 19, "btsync", Sync;
    /// Windows Delivery Optimization.
    DeliveryOptimization = 20, "delivery-optimization", Updates;
    /// Ace Stream: video between peers.
    AceStream = 21, "acestream", Video, names_content;
    /// HyperDHT: lookups of Hyperswarm's programs (Pear, Keet).
    HyperDht = 22, "hyperdht", Transport;
    /// IPv8: overlays of Tribler and others.
    Ipv8 = 23, "ipv8", Transport;
}

impl Protocol {
    /// Whether many programs share a protocol. Then a subscriber's use of it says nothing about another flow of that
    /// subscriber.
    #[inline(always)]
    #[must_use]
    pub const fn is_shared_by_programs(number: u32) -> bool {
        const TRANSPORTS: u64 = ProtocolClass::Transport.protocol_bits();
        TRANSPORTS >> (number & 63) & 1 != 0
    }

    /// The number under which endpoints of a protocol are known: eMule's Kad and its TCP side are one program's.
    #[inline(always)]
    #[must_use]
    pub const fn family_number(number: u8) -> u8 {
        if number == Self::Kademlia as u8 { Self::EDonkey as u8 } else { number }
    }
}

impl ProtocolClass {
    /// Bits of the numbers of this class's protocols.
    #[must_use]
    pub const fn protocol_bits(self) -> u64 {
        let (mut bits, mut index) = (0, 0);
        while index < Protocol::ALL.len() {
            let protocol = Protocol::ALL[index];
            if matches!(protocol.class(), Some(class) if class as u8 == self as u8) {
                bits |= 1 << protocol as u8;
            }
            index += 1;
        }
        bits
    }
}

/// Number of protocol values a table indexed by protocol needs; room to append without a schema change.
pub const PROTOCOL_SLOTS: usize = 64;

/// How certain a verdict is (`docs/architecture.md#labels`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Confidence {
    /// No verdict: the value of `unclassified` and `fragment`.
    None = 0,
    /// Behaviour only.
    Heuristic = 1,
    /// An endpoint known to speak the protocol.
    Association = 2,
    /// Fields that must agree with each other, or with earlier packets.
    Structural = 3,
    /// Unmistakable bytes.
    Signature = 4,
}

/// Number of confidence values a table indexed by confidence needs.
pub const CONFIDENCE_SLOTS: usize = 8;

impl Confidence {
    /// Every tier, weakest first.
    pub const ALL: &'static [Confidence] =
        &[Self::None, Self::Heuristic, Self::Association, Self::Structural, Self::Signature];

    /// The label value used in metrics, policies and output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Heuristic => "heuristic",
            Self::Association => "association",
            Self::Structural => "structural",
            Self::Signature => "signature",
        }
    }

    /// The tier of a number read from a map.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Heuristic),
            2 => Some(Self::Association),
            3 => Some(Self::Structural),
            4 => Some(Self::Signature),
            _ => None,
        }
    }
}

/// A protocol and how sure the verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the flow speaks.
    pub protocol: Protocol,
    /// How sure that is.
    pub confidence: Confidence,
}

impl Verdict {
    /// The verdict of a flow whose inspection ended without a match.
    pub const UNCLASSIFIED: Self = Self { protocol: Protocol::Unclassified, confidence: Confidence::None };
    /// The verdict of non-first fragments.
    pub const FRAGMENT: Self = Self { protocol: Protocol::Fragment, confidence: Confidence::None };

    /// Protocol and confidence numbers, as maps hold them.
    #[inline(always)]
    #[must_use]
    pub const fn numbers(self) -> (u8, u8) {
        (self.protocol as u8, self.confidence as u8)
    }

    /// The verdict of a protocol number and a confidence number that were read from a map.
    #[must_use]
    pub const fn from_numbers(protocol: u8, confidence: u8) -> Option<Self> {
        match (Protocol::from_number(protocol), Confidence::from_number(confidence)) {
            (Some(protocol), Some(confidence)) => Some(Self { protocol, confidence }),
            _ => None,
        }
    }
}
