//! Gets a kernel image from Debian's archive and unpacks it under the target folder. Installs nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, run};
use crate::setup::{apt, is_root};
use crate::workspace::target;

/// An unpacked image.
#[derive(Debug)]
pub(super) struct Image {
    /// The kernel's release, as `uname -r` says it.
    pub(super) release: String,
    /// The bootable file.
    pub(super) kernel: PathBuf,
    /// The module that makes veth pairs, as packed by Debian.
    pub(super) veth: PathBuf,
    /// Where to unpack and log for this image.
    pub(super) folder: PathBuf,
}

/// The newest image of a series, unpacked; from the last time if it still is the newest one.
pub(super) fn unpacked(series: &str, package: &str) -> Result<Image> {
    let image = newest(package)?;
    let folder = target().join("kernels").join(series);
    let content = folder.join(&image);
    if !content.join("boot").is_dir() {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        println!("kernels: fetching {image}");
        // As root, apt would fetch as a user of its own, who may not write here.
        run(apt().args(["-o", "APT::Sandbox::User=root", "download", &image]).current_dir(&folder))?;
        let archive = find(&folder, |name| name.ends_with(".deb")).context("apt-get left no package file")?;
        let partial = folder.join("partial");
        run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&partial))?;
        fs::rename(&partial, &content).context("cannot move the unpacked image")?;
        fs::remove_file(&archive).context("cannot remove the package file")?;
    }
    let kernel = find(&content.join("boot"), |name| name.starts_with("vmlinuz-")).context("the image has no kernel")?;
    let release = kernel
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"))
        .context("the kernel's file has no release in its name")?
        .to_owned();
    let drivers = content.join("lib/modules").join(&release).join("kernel/drivers/net");
    let veth = find(&drivers, |name| name.starts_with("veth.ko")).context("the image has no veth module")?;
    Ok(Image { release, kernel, veth, folder })
}

/// The image that a series' package depends on.
fn newest(package: &str) -> Result<String> {
    if let Some(image) = depended(package) {
        return Ok(image);
    }
    // A fresh machine has no package lists yet.
    if !is_root() {
        bail!("no package {package} in apt's lists. Run: sudo apt-get update");
    }
    run(apt().arg("update"))?;
    depended(package).with_context(|| format!("Debian's archive has no {package}: this needs Debian 12's sources"))
}

fn depended(package: &str) -> Option<String> {
    let text = output(Command::new("apt-cache").args(["depends", "--no-recommends", "--no-suggests", package])).ok()?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(|name| name.trim().to_owned())
        .find(|name| name.starts_with("linux-image-"))
}

fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
}
