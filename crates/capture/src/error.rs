//! Errors of reading a capture.

use std::io;

/// An error of the capture reader. Packet numbers count from 1, as in Wireshark; 0 is the capture's own header.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("cannot open the capture: {0}; check the path and its permissions")]
    Open(#[source] io::Error),
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Neither pcap nor pcapng, nor either of them in gzip.
    #[error("not a pcap or pcapng capture (first bytes {first:02x?}); convert it with `editcap -F pcap IN OUT`")]
    NotACapture {
        /// Up to four bytes it starts with.
        first: Vec<u8>,
    },
    /// The capture ends inside a packet.
    #[error("the capture ends inside packet {packet}, after {offset} bytes; packets before it were read")]
    Truncated {
        /// The packet that is not whole.
        packet: u64,
        /// Bytes read, uncompressed.
        offset: u64,
    },
    /// The capture contradicts its format.
    #[error("the capture is damaged at packet {packet}, around byte {offset}: {damage}; packets before it were read")]
    Damaged {
        /// The packet that could not be read.
        packet: u64,
        /// Bytes read, uncompressed.
        offset: u64,
        /// Description of the fault.
        damage: Damage,
    },
    /// Reading failed; for compressed captures also when the compressed data is damaged or cut short.
    #[error("reading failed at packet {packet}, after {offset} bytes: {source}; packets before it were read")]
    Read {
        /// The packet that could not be read.
        packet: u64,
        /// Bytes read, uncompressed.
        offset: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Contradictions to the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A packet longer than any real one.
    #[error("a packet of {0} bytes, more than the maximum of {max}", max = super::MAX_PACKET_BYTES)]
    PacketLength(u32),
    /// A pcapng block length that is too short, too long or no multiple of four.
    #[error("a block of type {block_type:#x} with length {length}")]
    BlockLength {
        /// Block type.
        block_type: u32,
        /// Claimed length.
        length: u32,
    },
    /// The two lengths of a pcapng block differ.
    #[error("a block starts with length {first} and ends with length {last}")]
    BlockTrailer {
        /// Before the block.
        first: u32,
        /// After the block.
        last: u32,
    },
    /// A pcapng section header without byte-order magic.
    #[error("a section header without byte-order magic")]
    ByteOrder,
    /// A pcapng major version other than 1.
    #[error("format version {0}; only version 1 is defined")]
    Version(u16),
    /// A pcapng packet of an interface that was not described.
    #[error("a packet of interface {0}, which is not in the section")]
    Interface(u32),
    /// More pcapng interfaces in one section than a 16-bit number can name.
    #[error("more than {max} interfaces in one section", max = super::MAX_INTERFACES)]
    Interfaces,
}

/// A fault whose place is not yet known.
#[derive(Debug)]
pub(super) enum Fault {
    Truncated,
    Damaged(Damage),
    Read(io::Error),
}

impl Fault {
    pub(super) fn at(self, packet: u64, offset: u64) -> CaptureError {
        match self {
            Self::Truncated => CaptureError::Truncated { packet, offset },
            Self::Damaged(damage) => CaptureError::Damaged { packet, offset, damage },
            Self::Read(source) => CaptureError::Read { packet, offset, source },
        }
    }
}
