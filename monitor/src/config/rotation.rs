//! Size and number of the files of records.

/// Bounds of a file of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes after which a new file is begun.
    pub file_bytes: u64,
    /// Older files that are kept.
    pub files: usize,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { file_bytes: 64_000_000, files: 16 }
    }
}
