//! The staged tree: every file of the package at its place below `/`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{licences, linked::Crate};
use crate::{command::output, workspace::root};

/// Files of the repository: source, place.
const FILES: &[(&str, &str)] = &[
    ("packaging/systemd/peertally.service", "usr/lib/systemd/system/peertally.service"),
    ("packaging/systemd/peertally-pins.service", "usr/lib/systemd/system/peertally-pins.service"),
    ("packaging/sysusers.d/peertally.conf", "usr/lib/sysusers.d/peertally.conf"),
    ("packaging/peertally.toml", "etc/peertally/peertally.toml"),
    ("packaging/prometheus/peertally-alerts.yml", "usr/share/peertally/prometheus/peertally-alerts.yml"),
    ("packaging/prometheus/peertally-recording.yml", "usr/share/peertally/prometheus/peertally-recording.yml"),
    ("packaging/deb/copyright", "usr/share/doc/peertally/copyright"),
    ("monitor/peertally.example.toml", "usr/share/doc/peertally/examples/peertally.toml"),
    ("CHANGELOG.md", "usr/share/doc/peertally/CHANGELOG.md"),
    ("README.md", "usr/share/doc/peertally/README.md"),
    ("LICENSE-MIT", "usr/share/doc/peertally/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/peertally/LICENSE-APACHE"),
];

/// Pages for readers of the package.
const PAGES: [&str; 6] =
    ["architecture.md", "configuration.md", "detection.md", "hooks.md", "metrics.md", "performance.md"];

/// Completions: name that clap gives, place.
const COMPLETIONS: [(&str, &str); 3] = [
    ("peertally.bash", "usr/share/bash-completion/completions/peertally"),
    ("_peertally", "usr/share/zsh/vendor-completions/_peertally"),
    ("peertally.fish", "usr/share/fish/vendor_completions.d/peertally.fish"),
];

/// Makes the tree in `staged`.
pub(super) fn stage(binary: &Path, generator: &Path, linked: &[Crate], staged: &Path) -> Result<()> {
    let place = |name: &str| -> Result<PathBuf> {
        let path = staged.join(name);
        let folder = path.parent().context("a place below the tree")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(path)
    };
    copy(binary, &place("usr/bin/peertally")?, 0o755)?;
    for (from, to) in FILES {
        copy(&root().join(from), &place(to)?, 0o644)?;
    }
    for page in PAGES {
        copy(&root().join("docs").join(page), &place(&format!("usr/share/doc/peertally/docs/{page}"))?, 0o644)?;
    }
    let third = place("usr/share/doc/peertally/LICENCES-OF-DEPENDENCIES")?;
    fs::write(&third, licences::texts(linked)?).with_context(|| format!("cannot write {}", third.display()))?;

    let made = tempfile::tempdir()?;
    output(Command::new(generator).arg("generate").arg(made.path()))?;
    for (from, to) in COMPLETIONS {
        copy(&made.path().join("completions").join(from), &place(to)?, 0o644)?;
    }
    let mut pages: Vec<_> = fs::read_dir(made.path().join("man"))?.collect::<Result<_, _>>()?;
    pages.sort_by_key(fs::DirEntry::file_name);
    let mut compressed = Vec::new();
    for page in pages {
        let name = page.file_name();
        let to = place(&format!("usr/share/man/man1/{}", name.to_string_lossy()))?;
        copy(&page.path(), &to, 0o644)?;
        compressed.push(to);
    }
    // Without the time, so that the same page gives the same bytes.
    output(Command::new("gzip").args(["--best", "--no-name"]).args(compressed))?;
    close(staged)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Sets the rights of folders, which the umask of the caller decided.
fn close(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            close(&path)?;
        }
    }
    Ok(())
}
