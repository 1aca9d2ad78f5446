//! Sets of byte values, one bit each: one lookup in place of a comparison per value.

/// A set of byte values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    /// No byte.
    pub(super) const EMPTY: Self = Self([0; 4]);

    /// These bytes.
    pub(super) const fn of(bytes: &[u8]) -> Self {
        let (mut set, mut index) = (Self::EMPTY, 0);
        while index < bytes.len() {
            set = set.with(bytes[index]);
            index += 1;
        }
        set
    }

    /// The bytes of ranges; both ends are included.
    pub(super) const fn of_ranges(ranges: &[(u8, u8)]) -> Self {
        let (mut set, mut index) = (Self::EMPTY, 0);
        while index < ranges.len() {
            let (mut byte, last) = ranges[index];
            while byte <= last {
                set = set.with(byte);
                byte += 1;
            }
            index += 1;
        }
        set
    }

    /// This set and one byte more.
    pub(super) const fn with(mut self, byte: u8) -> Self {
        self.0[(byte >> 6) as usize] |= 1 << (byte & 63);
        self
    }

    /// Bytes that are in either set.
    pub(super) const fn union(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        Self([a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]])
    }

    /// Whether a byte is in the set.
    #[inline(always)]
    pub(super) const fn contains(&self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] >> (byte & 63) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSet;

    #[test]
    fn a_set_contains_its_bytes_and_no_others() {
        let set = ByteSet::of(b"\x00a\xff").union(ByteSet::of_ranges(&[(0x10, 0x12), (0x40, 0x40)]));
        for byte in 0..=255u8 {
            assert_eq!(set.contains(byte), matches!(byte, 0 | b'a' | 0xff | 0x10..=0x12 | 0x40), "{byte:#x}");
        }
    }
}
