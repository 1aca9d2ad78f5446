//! A file, its torrent, and the clients' reports of its transfer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Lab,
    process::{output, run},
    web::random,
};

/// A file and the torrent that describes it.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Name of the file.
    pub file: String,
    /// Folder that holds the file alone: a seeder's download folder.
    pub seed: PathBuf,
    /// The `.torrent` file.
    pub torrent: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Makes a file `name.iso` of random bytes and a torrent with the tracker `announce` (a URL).
///
/// # Errors
/// `transmission-create`'s.
pub fn make_torrent(lab: &Lab, name: &str, bytes: usize, announce: &str) -> Result<Transfer> {
    let transfer = make_file(lab, name, bytes)?;
    let file = transfer.seed.join(&transfer.file);
    run(Command::new("transmission-create").arg("-o").arg(&transfer.torrent).args(["-t", announce]).arg(file))?;
    Ok(transfer)
}

/// Makes a file of random bytes, for a network without torrents or a torrent that is yet to be made.
///
/// # Errors
/// The file system's.
pub fn make_file(lab: &Lab, name: &str, bytes: usize) -> Result<Transfer> {
    let seed = lab.subdirectory(&format!("{name}-seed"))?;
    let file = format!("{name}.iso");
    fs::write(seed.join(&file), random(bytes)?)?;
    Ok(Transfer { file, seed, torrent: lab.directory().join(format!("{name}.torrent")), bytes: bytes as u64 })
}

impl Transfer {
    /// Info hash in upper-case hexadecimal.
    ///
    /// # Errors
    /// `transmission-show`'s.
    pub fn info_hash(&self) -> Result<String> {
        let shown = output(Command::new("transmission-show").arg(&self.torrent))?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let hash = text.lines().find_map(|line| line.trim().strip_prefix("Hash:")).context("a Hash: line")?;
        Ok(hash.trim().to_ascii_uppercase())
    }

    /// Whether `directory` holds the whole file.
    ///
    /// # Errors
    /// The file system's.
    pub fn arrived(&self, directory: &Path) -> Result<bool> {
        let copy = directory.join(&self.file);
        if fs::metadata(&copy).map_or(0, |metadata| metadata.len()) != self.bytes {
            return Ok(false);
        }
        Ok(fs::read(copy)? == fs::read(self.seed.join(&self.file))?)
    }
}

/// Payload bytes that a client reports as transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}
