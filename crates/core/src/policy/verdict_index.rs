//! Pairs of protocol and confidence as one small number, for tables that are indexed by a tally's verdict.

use monitor_common::abi::{
    protocol::{CONFIDENCE_SLOTS, Confidence, PROTOCOL_SLOTS, Protocol, Verdict},
    tally::TallyKey,
};

/// Number of (protocol, confidence) pairs.
pub(super) const VERDICTS: usize = PROTOCOL_SLOTS * CONFIDENCE_SLOTS;

/// Index of a (protocol, confidence) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VerdictIndex(u16);

const _: () = assert!(VERDICTS <= 1 << u16::BITS);

impl VerdictIndex {
    /// The pair that no policy covers: unclassified, without confidence.
    pub(super) const NONE: Self = Self(0);

    /// Numbers out of range share the pair that no policy covers.
    pub(super) fn new(protocol: u8, confidence: u8) -> Self {
        let (protocol, confidence) = (usize::from(protocol), usize::from(confidence));
        if protocol < PROTOCOL_SLOTS && confidence < CONFIDENCE_SLOTS {
            Self((protocol * CONFIDENCE_SLOTS + confidence) as u16)
        } else {
            Self::NONE
        }
    }

    pub(super) fn of(key: &TallyKey) -> Self {
        Self::new(key.protocol, key.confidence)
    }

    /// Below [`VERDICTS`].
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Number of the protocol, below [`PROTOCOL_SLOTS`].
    pub(crate) fn protocol_number(self) -> usize {
        self.index() / CONFIDENCE_SLOTS
    }

    /// Number of the confidence.
    pub(crate) fn confidence_number(self) -> usize {
        self.index() % CONFIDENCE_SLOTS
    }

    pub(super) fn verdict(self) -> Option<Verdict> {
        let protocol = Protocol::from_number(self.protocol_number() as u8)?;
        let confidence = Confidence::from_number(self.confidence_number() as u8)?;
        Some(Verdict { protocol, confidence })
    }
}
