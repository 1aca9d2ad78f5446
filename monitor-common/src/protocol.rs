//! Protocols and confidences: the label values of `docs/architecture.md#labels`, and their numbers in BPF maps.

/// Declares [`Protocol`] with its label values from one table, so that adding a protocol is one row.
macro_rules! protocols {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        /// What a flow speaks. Numbers are stored in BPF maps: append only, never renumber.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Protocol { $($(#[$doc])* $name = $number,)* }

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
        }
    };
}

protocols! {
    /// No signature matched (yet).
    Unclassified = 0, "unclassified";
    /// A fragment that is not the first one: it has no ports and no protocol framing.
    Fragment = 1, "fragment";
    /// BitTorrent: peer wire, uTP, DHT, trackers, local service discovery.
    BitTorrent = 2, "bittorrent";
    /// eDonkey and eMule, TCP and server UDP.
    EDonkey = 3, "edonkey";
    /// Kademlia as eMule speaks it (Kad).
    Kademlia = 4, "kademlia";
    /// Gnutella 0.6, TCP and UDP.
    Gnutella = 5, "gnutella";
    /// Gnutella2.
    Gnutella2 = 6, "gnutella2";
    /// WebTorrent: its tracker over WebSockets.
    WebTorrent = 7, "webtorrent";
    /// FastTrack (Kazaa).
    FastTrack = 8, "fasttrack";
    /// Direct Connect: NMDC and ADC.
    DirectConnect = 9, "directconnect";
    /// Soulseek.
    Soulseek = 10, "soulseek";
    /// Ares Galaxy.
    Ares = 11, "ares";
    /// OpenNap (Napster).
    OpenNap = 12, "opennap";
    /// WinMX.
    WinMx = 13, "winmx";
    /// libp2p: a transport (IPFS, Filecoin, ...), which no policy includes by default.
    LibP2p = 14, "libp2p";
    /// appleJuice (legacy).
    AppleJuice = 15, "applejuice";
    /// MUTE (legacy).
    Mute = 16, "mute";
    /// OpenFT (legacy).
    OpenFt = 17, "openft";
    /// WASTE (legacy).
    Waste = 18, "waste";
    /// BitTorrent Sync, Resilio Sync.
    BtSync = 19, "btsync";
}

impl Protocol {
    /// The number under which endpoints of a protocol are known: eMule's Kad and its TCP side are one program's.
    #[inline(always)]
    #[must_use]
    pub const fn family_number(number: u8) -> u8 {
        if number == Self::Kademlia as u8 { Self::EDonkey as u8 } else { number }
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
}
