//! The operator's list of content hashes: hashes of notices already received.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use monitor_common::abi::watch::ContentHash;

/// Maximum number of entries; 32 bytes each in the kernel.
pub const MAX_ENTRIES: usize = 1 << 20;

/// A list of content hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watchlist {
    /// The content, by entry number.
    pub entries: Vec<ContentHash>,
    /// Line of each entry in the file; 0 for an entry that was taken off the list.
    pub lines: Vec<u32>,
    /// BLAKE3 of the file, in hexadecimal.
    pub digest: String,
}

/// Errors of a list's text.
#[derive(Debug, thiserror::Error)]
pub enum WatchlistError {
    /// A line is no hash.
    #[error(
        "{}:{line}: not a content hash; write 40 hexadecimal digits (BitTorrent info hash or SHA-1; of a v2 torrent the first 40), \
         32 (eDonkey's MD4), or 32 or 39 characters of base 32 (Gnutella, Direct Connect)",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u32,
    },
    /// Too many entries.
    #[error("{}: {entries} entries exceed the maximum of {MAX_ENTRIES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Number of entries.
        entries: usize,
    },
}

impl Watchlist {
    /// A list of this content, each on a line of its own.
    #[must_use]
    pub fn of(entries: Vec<ContentHash>) -> Self {
        let lines = (1..).zip(&entries).map(|(line, _)| line).collect();
        Self { entries, lines, digest: String::new() }
    }

    /// Reads a list from text: a hash a line; `#` starts a comment, empty lines are left out. A hash that occurs twice
    /// counts once. `path` is where the text came from, for messages.
    ///
    /// # Errors
    /// [`WatchlistError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, WatchlistError> {
        let mut list = Self { digest: blake3::hash(text.as_bytes()).to_hex().to_string(), ..Self::default() };
        let mut known = HashSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let hash = line.split('#').next().unwrap_or_default().trim();
            if hash.is_empty() {
                continue;
            }
            let bytes = bytes(hash).ok_or_else(|| WatchlistError::Line { path: path.to_owned(), line: number })?;
            let entry = ContentHash::from_bytes(&bytes);
            if known.insert(entry) {
                list.entries.push(entry);
                list.lines.push(number);
            }
        }
        if list.entries.len() > MAX_ENTRIES {
            return Err(WatchlistError::TooLong { path: path.to_owned(), entries: list.entries.len() });
        }
        Ok(list)
    }

    /// The list with the entry numbers of the list before, which flows may name: content of both keeps its number, and
    /// the number of content that was taken off is not used again.
    #[must_use]
    pub fn numbered_after(&self, before: &Self) -> Self {
        let lines: HashMap<ContentHash, u32> =
            self.entries.iter().copied().zip(self.lines.iter().copied()).filter(|(_, line)| *line != 0).collect();
        let known: HashSet<&ContentHash> = before.entries.iter().collect();
        let added = self.entries.iter().filter(|entry| lines.contains_key(entry) && !known.contains(entry));
        let entries: Vec<ContentHash> = before.entries.iter().chain(added).copied().collect();
        let lines = entries.iter().map(|entry| lines.get(entry).copied().unwrap_or(0)).collect();
        Self { entries, lines, digest: self.digest.clone() }
    }

    /// Content on the list, with its number.
    pub fn in_force(&self) -> impl Iterator<Item = (u32, &ContentHash)> {
        let numbered = (0..).zip(self.entries.iter().zip(&self.lines));
        numbered.filter(|(_, (_, line))| **line != 0).map(|(number, (entry, _))| (number, entry))
    }

    /// Entries on the list.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lines.iter().filter(|line| **line != 0).count()
    }
}

/// The first bytes of a hash, at most 20, as people write it; `None` for anything else, and for all zeros.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes = match text.len() {
        32 | 40 if hexadecimal => digits(text, 16, 4),
        32 | 39 => digits(text, 32, 5),
        _ => None,
    }?;
    let bytes = bytes.get(..bytes.len().min(20))?.to_vec();
    bytes.iter().any(|byte| *byte != 0).then_some(bytes)
}

/// Bytes of digits of `bits` bits each.
fn digits(text: &str, base: u32, bits: u32) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut width) = (Vec::with_capacity(20), 0u32, 0);
    for character in text.chars() {
        let value = if base == 16 {
            character.to_digit(16)?
        } else {
            // RFC 4648 section 6: A to Z, 2 to 7.
            match character.to_ascii_uppercase() {
                letter @ 'A'..='Z' => letter as u32 - 'A' as u32,
                number @ '2'..='7' => number as u32 - '2' as u32 + 26,
                _ => return None,
            }
        };
        held = (held << bits | value) & 0xffff;
        width += bits;
        if width >= 8 {
            width -= 8;
            bytes.push((held >> width) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Watchlist, WatchlistError> {
        Watchlist::parse(text, Path::new("list"))
    }

    #[test]
    fn hashes_of_every_form_are_read() {
        let list = read(
            "# notices of November\n0123456789abcdef0123456789ABCDEF01234567\n\n  0123456789abcdef0123456789abcdef  # ed2k\n\
             AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQT\naaaqeayeaudaocajbifqydiob4ibceqtAAAAAAA\n",
        )
        .expect("a list");
        let first = [
            1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1, 0x23, 0x45,
            0x67,
        ];
        let counting: Vec<u8> = (0..20).collect();
        let expected = [&first[..], &first[..16], &counting].map(ContentHash::from_bytes);
        assert_eq!(list.entries, expected);
        assert_eq!(list.lines, [2, 4, 5], "the tree root of line 6 begins like line 5");
    }

    #[test]
    fn lines_that_are_no_hash_are_reported() {
        for line in [
            "0123",
            "0123456789abcdef0123456789abcdef0123456",
            "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQ1",
            "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTAAAAAA1",
            "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQéAAAAAA",
            &"0".repeat(40),
        ] {
            let error = read(&format!("# x\n{line}\n")).expect_err("refused");
            assert!(error.to_string().starts_with("list:2: not a content hash"), "{error}");
        }
    }
}
