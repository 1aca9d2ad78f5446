//! Streams: how far both directions of a flow under inspection have come, in one word of the cold entry.
//!
//! A sender may put segments in front of its stream that its receiver never takes: outside the window, sent before, or
//! with so few hops left that they die on the way (Ptacek and Newsham, "Insertion, Evasion, and Denial of Service",
//! 1998). Such **junk** must not use up the budget of inspected payloads. What the receiver acknowledges tells it from
//! what was only lost or late.

use crate::abi::limits::{HOP_SLACK, JUNK_PER_DIRECTION, STREAM_WINDOW};

/// How a payload is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fate {
    /// It is inspected, and costs budget.
    Counts = 0,
    /// It is ahead of its stream: it is inspected by itself, costs no budget, and tells nothing of the stream's start.
    Ahead = 1,
    /// It is not inspected.
    Junk = 2,
}

/// A segment, as its stream sees it.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sequence number, relative to the first one seen of the direction.
    pub offset: u32,
    /// Bytes of payload.
    pub len: u32,
    /// 1 for a SYN, which takes a sequence number itself (RFC 9293 section 3.4).
    pub syn: u32,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Whether the SYN's hop limit is that of later segments: another host may answer in a server's place.
    pub trusted: bool,
}

/// Bits 0..16: bytes of the stream so far without a gap, from the first sequence number seen, `UNKNOWN` if
/// that is not known or no longer told apart. 16..24: lowest hop limit of these, 0 for unknown. 24..30: payloads that
/// cost no budget. Then `AHEAD` and `ACKNOWLEDGED`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream(u32);

/// A payload came that is not part of the bytes without a gap, but would have added to them.
const AHEAD: u32 = 1 << 30;
/// Segments with a lower hop limit are junk: the receiver has acknowledged one with this, or it is of a SYN, less some.
const ACKNOWLEDGED: u32 = 1 << 31;
const HOPS_SHIFT: u32 = 16;
const SPARED_SHIFT: u32 = 24;
const SPARED_MASK: u32 = 0x3f;

const _: () = assert!(JUNK_PER_DIRECTION == SPARED_MASK + 1);

impl Stream {
    /// The length of a stream whose segments are not judged.
    const UNKNOWN: u32 = 0xffff;

    #[inline(always)]
    const fn end(self) -> u32 {
        self.0 & 0xffff
    }

    #[inline(always)]
    const fn with_end(self, end: u32) -> Self {
        let end = if end > Self::UNKNOWN { Self::UNKNOWN } else { end };
        Self(self.0 & !0xffff | end)
    }

    #[inline(always)]
    const fn hop_limit(self) -> u8 {
        (self.0 >> HOPS_SHIFT) as u8
    }

    #[inline(always)]
    const fn with_hop_limit(self, hop_limit: u8) -> Self {
        Self(self.0 & !(0xff << HOPS_SHIFT) | (hop_limit as u32) << HOPS_SHIFT)
    }

    /// The stream with one payload more that cost no budget; `None` if the direction may have no more of them.
    #[inline(always)]
    #[must_use]
    pub const fn spare(self) -> Option<Self> {
        if self.0 >> SPARED_SHIFT & SPARED_MASK == SPARED_MASK {
            None
        } else {
            Some(Self(self.0 + (1 << SPARED_SHIFT)))
        }
    }

    /// The stream after a segment of its sender, and the fate of the segment's payload.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, segment: Segment) -> (Self, Fate) {
        let end = self.end();
        if end == Self::UNKNOWN {
            return (self, Fate::Counts);
        }
        if segment.syn != 0 {
            return self.after_syn(segment);
        }
        if segment.len == 0 {
            return (self, Fate::Counts);
        }
        let distance = segment.offset.wrapping_sub(end) as i32;
        let window = STREAM_WINDOW as i32;
        if distance > window || distance < -window {
            return (self, Fate::Junk);
        }
        if distance + (segment.len as i32) <= 0 {
            // Bytes in front of the first ones seen are new in a stream that was joined midway.
            return (self, if (segment.offset as i32) < 0 { Fate::Ahead } else { Fate::Junk });
        }
        let hops = self.hop_limit();
        let acknowledged = self.0 & ACKNOWLEDGED != 0;
        if acknowledged && segment.hop_limit < hops {
            return (Self(self.0 | AHEAD), Fate::Junk);
        }
        if distance > 0 {
            return (Self(self.0 | AHEAD), Fate::Ahead);
        }
        let stream = self.with_end((segment.offset.wrapping_add(segment.len)) & 0x7fff_ffff);
        if end <= 1 {
            // The first bytes: what the SYN allowed for ends here.
            return (Self(stream.with_hop_limit(segment.hop_limit).0 & !ACKNOWLEDGED), Fate::Counts);
        }
        let lower = hops == 0 || segment.hop_limit < hops;
        (if lower { stream.with_hop_limit(segment.hop_limit) } else { stream }, Fate::Counts)
    }

    /// A SYN other than the first segment of its direction makes the sequence numbers unknown: one of both is forged,
    /// or the ports are in use again.
    #[inline(always)]
    const fn after_syn(self, segment: Segment) -> (Self, Fate) {
        if segment.offset != 0 {
            return (self.with_end(Self::UNKNOWN), Fate::Counts);
        }
        if self.end() != 0 {
            return (self, if segment.len == 0 { Fate::Counts } else { Fate::Junk });
        }
        let stream = self.with_end(segment.len + 1);
        if !segment.trusted {
            return (stream, Fate::Counts);
        }
        let hops = segment.hop_limit.saturating_sub(HOP_SLACK);
        (Self(stream.with_hop_limit(hops).0 | ACKNOWLEDGED), Fate::Counts)
    }

    /// The stream after its receiver acknowledged all bytes before `offset`, and whether the receiver refused the
    /// payload of the SYN (RFC 7413 section 3); `syn` for an acknowledgement in a SYN-ACK.
    #[inline(always)]
    #[must_use]
    pub const fn acknowledged(self, offset: u32, syn: bool) -> (Self, bool) {
        let end = self.end();
        if end == Self::UNKNOWN {
            return (self, false);
        }
        if syn && offset == 1 && end > 1 {
            return (self.with_end(1), true);
        }
        let distance = offset.wrapping_sub(end) as i32;
        let window = STREAM_WINDOW as i32;
        if distance > window || distance < -window {
            return (self.with_end(Self::UNKNOWN), false);
        }
        if distance > 0 && self.0 & AHEAD != 0 {
            // What seemed to be ahead or junk has arrived.
            let stream = self.with_end(offset & 0x7fff_ffff).with_hop_limit(0);
            return (Self(stream.0 & !(AHEAD | ACKNOWLEDGED)), false);
        }
        let all = distance == 0 && self.hop_limit() != 0;
        (if all { Self(self.0 | ACKNOWLEDGED) } else { self }, false)
    }
}

/// Both streams of a flow: that of the lower endpoint in the low 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams(pub u64);

impl Streams {
    /// The stream of one end (0 lower, 1 higher).
    #[inline(always)]
    #[must_use]
    pub const fn of(self, end: usize) -> Stream {
        Stream((self.0 >> (32 * (end as u32 & 1))) as u32)
    }

    /// Both, with another one of one end.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, end: usize, stream: Stream) -> Self {
        let shift = 32 * (end as u32 & 1);
        Self(self.0 & !(0xffff_ffff << shift) | (stream.0 as u64) << shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Segment = Segment { offset: 0, len: 0, syn: 1, hop_limit: 64, trusted: true };

    fn bytes(offset: u32, len: u32, hop_limit: u8) -> Segment {
        Segment { offset, len, syn: 0, hop_limit, trusted: true }
    }

    /// The fates of segments after an acknowledged SYN.
    fn fates(segments: &[Segment]) -> Vec<Fate> {
        let mut stream = Stream::default().after(SYN).0.acknowledged(1, true).0;
        let mut fate = |segment: &Segment| {
            let (next, fate) = stream.after(*segment);
            stream = next;
            fate
        };
        segments.iter().map(&mut fate).collect()
    }

    #[test]
    fn what_the_receiver_never_takes_is_junk() {
        use Fate::{Ahead, Counts, Junk};
        assert_eq!(fates(&[bytes(0x7f00_0000, 1, 64), bytes(1, 68, 64)]), [Junk, Counts], "outside the window");
        assert_eq!(fates(&[bytes(u32::MAX - (1 << 21), 1, 64)]), [Junk], "far behind");
        assert_eq!(fates(&[bytes(1, 1, 1), bytes(1, 68, 64)]), [Junk, Counts], "dies on its way");
        assert_eq!(fates(&[bytes(1, 1, 60), bytes(1, 68, 64)]), [Counts, Counts], "another path");
        assert_eq!(fates(&[bytes(1, 68, 64), bytes(1, 68, 64), bytes(68, 1, 64)]), [Counts, Junk, Junk], "repeated");
        assert_eq!(fates(&[bytes(1, 68, 64), bytes(40, 68, 64)]), [Counts, Counts], "overlapping");
        let late = [bytes(69, 10, 64), bytes(1, 68, 64), bytes(69, 10, 64), bytes(79, 10, 64)];
        assert_eq!(fates(&late), [Ahead, Counts, Counts, Counts], "reordered");
    }

    #[test]
    fn what_is_acknowledged_was_no_junk() {
        let stream = Stream::default().after(SYN).0.acknowledged(1, true).0;
        let (stream, fate) = stream.after(bytes(1, 100, 20));
        assert_eq!(fate, Fate::Junk);
        let stream = stream.acknowledged(101, false).0;
        assert_eq!(stream.after(bytes(101, 100, 20)).1, Fate::Counts, "it did arrive");
        let acknowledged = Stream::default().after(SYN).0.after(bytes(1, 9, 64)).0.acknowledged(10, false).0;
        assert_eq!(acknowledged.after(bytes(10, 9, 63)).1, Fate::Junk);
        let other = acknowledged.acknowledged(0x4000_0000, false).0;
        assert_eq!(other.after(bytes(0x7f00_0000, 9, 1)).1, Fate::Counts, "the sequence numbers are others");
    }

    #[test]
    fn a_receiver_cannot_acknowledge_what_was_not_sent() {
        let stream = Stream::default().after(SYN).0.acknowledged(1, true).0.acknowledged(1_000, false).0;
        assert_eq!(stream.after(bytes(1, 68, 64)).1, Fate::Counts);
    }

    #[test]
    fn a_refused_payload_of_a_syn_comes_again() {
        let opened = Stream::default().after(Segment { len: 30, ..SYN }).0;
        assert_eq!(opened.acknowledged(31, true), (opened, false));
        let (refused, was_refused) = opened.acknowledged(1, true);
        assert!(was_refused);
        assert_eq!(refused.after(bytes(1, 30, 64)).1, Fate::Counts);
    }

    #[test]
    fn the_last_spared_payload_is_the_64th() {
        let (mut stream, mut spared) = (Stream::default(), 0);
        while let Some(next) = stream.spare() {
            (stream, spared) = (next, spared + 1);
        }
        assert_eq!(spared, JUNK_PER_DIRECTION - 1);
        assert_eq!(stream.end(), 0, "nothing else changes");
    }

    #[test]
    fn directions_are_apart() {
        let (lower, higher) = (Stream(0x8000_0001), Stream(0xffff_fffe));
        let streams = Streams::default().with(0, lower).with(1, higher);
        assert_eq!((streams.of(0), streams.of(1)), (lower, higher));
    }
}
