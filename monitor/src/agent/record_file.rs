//! Files of records: one JSON object per line, chained, bounded in size, readable by their owner only.
//!
//! The last key of each line, `previous`, is the BLAKE3 digest of the line before. A changed or removed line in the
//! middle is detected so. Removal at the end is not: keep copies of the last line elsewhere. The chain goes on through
//! rotated files (`FILE.1` is the newest of them).
//!
//! A line that a crash or a full disk cut off is removed before the next one is written: no record is torn.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use peertally_datapath::owned::{self, OwnedError};

use crate::config::Rotation;

/// `previous` of the very first record.
const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Bytes that are written at once: what fits is kept when the disk fills.
const PIECE_BYTES: usize = 64 * 1024;

/// What became of records to be written.
#[derive(Debug, Default)]
pub struct Appended {
    /// Records on the disk, of those in front.
    pub written: usize,
    /// Old files that were removed for the bound of files.
    pub removed_files: u64,
    /// Why the rest was not written.
    pub error: Option<io::Error>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    rotation: Rotation,
    open: Option<Open>,
    previous: Option<String>,
}

/// Digest of a line, without its end.
#[must_use]
pub fn digest(line: &str) -> String {
    blake3::hash(line.as_bytes()).to_hex().to_string()
}

/// Name of an older file; 1 is the newest.
fn older(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The last line of a file and the length of its whole lines.
fn last_line(file: &mut File) -> io::Result<(Option<String>, u64)> {
    let length = file.metadata()?.len();
    let mut reach = PIECE_BYTES as u64;
    loop {
        let start = length.saturating_sub(reach);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(length - start).read_to_end(&mut tail)?;
        let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else {
            if start == 0 {
                return Ok((None, 0));
            }
            reach *= 2;
            continue;
        };
        let begin = tail[..end].iter().rposition(|byte| *byte == b'\n');
        if begin.is_some() || start == 0 {
            let line = String::from_utf8_lossy(&tail[begin.map_or(0, |begin| begin + 1)..end]).into_owned();
            return Ok((Some(line), start + end as u64 + 1));
        }
        reach *= 2;
    }
}

impl RecordFile {
    /// Opens a file, or makes it, and mends its end.
    ///
    /// # Errors
    /// [`OwnedError`], also if others can write the file.
    pub fn open(path: PathBuf, rotation: Rotation) -> Result<Self, OwnedError> {
        let mut file = Self { path, rotation, open: None, previous: None };
        file.reopen()?;
        Ok(file)
    }

    /// Path of the present file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn reopen(&mut self) -> Result<(), OwnedError> {
        let failed = |action| {
            let path = self.path.clone();
            move |source| OwnedError::Io { action, path, source }
        };
        let mut file = owned::file(&self.path)?;
        let (last, whole) = last_line(&mut file).map_err(failed("read"))?;
        if whole < file.metadata().map_err(failed("read"))?.len() {
            tracing::warn!(file = %self.path.display(), "the last record is incomplete and was removed");
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed("mend"))?;
        }
        file.seek(SeekFrom::Start(whole)).map_err(failed("read"))?;
        let previous = last.map(|line| digest(&line)).or_else(|| self.previous.take());
        self.previous = Some(previous.unwrap_or_else(|| self.end_of_older()));
        self.open = Some(Open { file, length: whole });
        Ok(())
    }

    /// Digest of the last record in the newest older file.
    fn end_of_older(&self) -> String {
        let last = File::open(older(&self.path, 1)).and_then(|mut file| last_line(&mut file));
        last.ok().and_then(|(line, _)| line).map_or_else(|| FIRST.to_owned(), |line| digest(&line))
    }

    /// Whether the open file is still the one at the path, as this process left it.
    fn is_current(&self) -> bool {
        let Some(open) = &self.open else { return false };
        let (Ok(own), Ok(there)) = (open.file.metadata(), fs::symlink_metadata(&self.path)) else { return false };
        identity(&own) == identity(&there) && own.len() == open.length
    }

    /// Makes room for the next file. Returns how many old ones were removed.
    fn rotate(&mut self) -> io::Result<u64> {
        let last = older(&self.path, self.rotation.files);
        let removed = match fs::remove_file(&last) {
            Ok(()) => 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        for number in (0..self.rotation.files).rev() {
            let from = if number == 0 { self.path.clone() } else { older(&self.path, number) };
            match fs::rename(from, older(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.open = None;
        self.reopen().map_err(into_io)?;
        Ok(removed)
    }

    /// Appends records, JSON objects without `previous`, and brings them to the disk. A file that was rotated or
    /// removed by another program is opened anew.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a str>) -> Appended {
        let mut records = records.into_iter().peekable();
        let mut appended = Appended::default();
        while records.peek().is_some() {
            match self.piece(&mut records, &mut appended.removed_files) {
                Ok(written) => appended.written += written,
                Err(error) => {
                    appended.error = Some(error);
                    break;
                }
            }
        }
        appended
    }

    /// Appends as many records as one piece holds: all of them, or none.
    fn piece<'a>(&mut self, records: &mut impl Iterator<Item = &'a str>, removed_files: &mut u64) -> io::Result<usize> {
        if !self.is_current() {
            self.open = None;
            self.reopen().map_err(into_io)?;
        }
        if self.open.as_ref().is_some_and(|open| open.length >= self.rotation.file_bytes) {
            *removed_files += self.rotate()?;
        }
        let (Some(open), Some(previous)) = (&mut self.open, &self.previous) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut previous = previous.clone();
        let mut text = String::new();
        let mut written = 0;
        for record in records {
            let begin = text.len();
            let fields = record.strip_suffix('}').unwrap_or(record);
            text.push_str(fields);
            text.push_str(if fields.ends_with('{') { "\"previous\":\"" } else { ",\"previous\":\"" });
            text.push_str(&previous);
            text.push_str("\"}");
            previous = digest(&text[begin..]);
            text.push('\n');
            written += 1;
            if text.len() >= PIECE_BYTES {
                break;
            }
        }
        match open.file.write_all(text.as_bytes()).and_then(|()| open.file.sync_data()) {
            Ok(()) => {
                open.length += text.len() as u64;
                self.previous = Some(previous);
                Ok(written)
            }
            Err(error) => {
                // No half record stays. If that fails, too, the next opening mends it.
                let restored = open.file.set_len(open.length);
                let restored = restored.and_then(|()| open.file.seek(SeekFrom::Start(open.length)));
                if restored.is_err() {
                    self.open = None;
                }
                Err(error)
            }
        }
    }

    /// Sets space aside for a record that must not fail for the lack of it.
    ///
    /// # Errors
    /// There is no space.
    pub fn reserve(&self, bytes: u64) -> io::Result<()> {
        let Some(open) = &self.open else { return Err(io::ErrorKind::NotFound.into()) };
        let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&open.file, flags, open.length, bytes) {
            // Not every file system can.
            Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn into_io(error: OwnedError) -> io::Error {
    match error {
        OwnedError::Io { source, .. } => source,
        other => io::Error::new(io::ErrorKind::PermissionDenied, other.to_string()),
    }
}

/// A chain that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Records.
    pub records: u64,
    /// Records at the beginning that earlier versions wrote without a chain.
    pub unchained: u64,
    /// Whether the first record is there; else older files were removed.
    pub is_from_the_first: bool,
    /// Digest of the last record.
    pub last: String,
    /// Whether the last line is incomplete, as after a crash: the next record removes it.
    pub is_torn: bool,
}

/// Why a chain does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A line does not follow from the one before.
    #[error(
        "{}:{line}: the chain is broken here: this record or the one before was changed, or one was removed; keep the file as \
         evidence, and move it away to start a new one",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
}

/// Checks the chain of a file and of the older ones beside it, and hands each record on.
///
/// # Errors
/// [`ChainError`] at the first record that does not follow.
pub fn verify(path: &Path, mut each: impl FnMut(&str)) -> Result<Chain, ChainError> {
    let count = (1..).take_while(|number| older(path, *number).exists()).count();
    let files = (1..=count).rev().map(|number| older(path, number)).chain([path.to_owned()]);
    let mut chain = Chain { records: 0, unchained: 0, is_from_the_first: true, last: FIRST.to_owned(), is_torn: false };
    for file in files {
        let text = fs::read_to_string(&file).map_err(|source| ChainError::Read { path: file.clone(), source })?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        chain.is_torn = whole < text.len();
        for (index, line) in text[..whole].lines().enumerate() {
            let broken = || ChainError::Broken { path: file.clone(), line: index + 1 };
            let record: serde_json::Value = serde_json::from_str(line).map_err(|_| broken())?;
            match record["previous"].as_str() {
                None if chain.records == chain.unchained => chain.unchained += 1,
                Some(previous) if previous == chain.last => {}
                Some(_) if chain.records == 0 => chain.is_from_the_first = false,
                _ => return Err(broken()),
            }
            chain.records += 1;
            chain.last = digest(line);
            each(line);
        }
    }
    Ok(chain)
}

#[cfg(test)]
mod tests;
