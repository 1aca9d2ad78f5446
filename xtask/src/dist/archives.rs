//! The archives of a staged tree: a Debian package (deb(5)), a tarball, and their checksums.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{ARCHITECTURE, commit_time};
use crate::{command::run, workspace::root};

/// Scripts of the package.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Folder of the control files in a staged tree.
const CONTROL: &str = "DEBIAN";

/// Makes the tarball of a staged tree.
pub(super) fn tarball(staged: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    let tarball = folder.join(format!("peertally-{version}-x86_64-linux-gnu.tar.gz"));
    run(Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"])
        .arg(format!("--mtime=@{}", commit_time()?))
        .arg(format!("--exclude=./{CONTROL}"))
        .arg(format!("--transform=s,^\\.,peertally-{version},"))
        .args(["--use-compress-program=gzip --no-name --best", "--create", "--file"])
        .arg(&tarball)
        .arg("--directory")
        .arg(staged)
        .arg("."))?;
    Ok(tarball)
}

/// Makes the Debian package of a staged tree, to which it adds the control files. `glibc` is the oldest that it runs
/// with.
pub(super) fn deb(staged: &Path, version: &str, glibc: &str, folder: &Path) -> Result<PathBuf> {
    let control = staged.join(CONTROL);
    fs::create_dir_all(&control)?;
    let template = fs::read_to_string(root().join("packaging/deb/control.in")).context("cannot read control.in")?;
    let text = template
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", ARCHITECTURE)
        .replace("@SIZE@", &size(staged)?.div_ceil(1024).to_string())
        .replace("@GLIBC@", glibc);
    fs::write(control.join("control"), text)?;
    fs::write(control.join("conffiles"), "/etc/peertally/peertally.toml\n")?;
    for script in SCRIPTS {
        let to = control.join(script);
        fs::copy(root().join("packaging/deb").join(script), &to).with_context(|| format!("cannot copy {script}"))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    let deb = folder.join(format!("peertally_{version}_{ARCHITECTURE}.deb"));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Zxz", "--build"]).arg(staged).arg(&deb).env("SOURCE_DATE_EPOCH", commit_time()?);
    run(&mut pack)?;
    Ok(deb)
}

/// Bytes of all files.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

/// Writes `SHA256SUMS`, for `sha256sum --check`.
pub(super) fn checksums(folder: &Path, files: &[&Path]) -> Result<()> {
    let mut text = String::new();
    for file in files {
        let digest = Sha256::digest(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
        let name = file.file_name().context("a file has a name")?.to_string_lossy();
        text += &format!("{}  {name}\n", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    let path = folder.join("SHA256SUMS");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
