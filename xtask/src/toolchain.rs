//! Finds a compiler, a linker and a strip tool for the BPF target, and refuses pairs that do not fit.
//!
//! Order: `PEERTALLY_BPF_RUSTC` (a rustc with a BPF `core`), Debian's `/usr/bin/rustc` with `libstd-rust-web-dev-bpf`
//! (prebuilt `core`, no nightly), a nightly of rustup with `rust-src` (`-Zbuild-std=core`).
//! bpf-linker reads the compiler's LLVM bitcode: its LLVM must not be older (`docs/architecture.md#toolchain`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{find, output};

/// The BPF target: little endian, what x86-64 and arm64 routers run.
pub const TARGET: &str = "bpfel-unknown-none";

/// Names a rustc for the BPF target, in place of the search.
pub const RUSTC_VARIABLE: &str = "PEERTALLY_BPF_RUSTC";

/// Names a bpf-linker to use in place of the one on the path.
pub const LINKER_VARIABLE: &str = "PEERTALLY_BPF_LINKER";

/// Where the compiler came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RustcSource {
    /// Named by [`RUSTC_VARIABLE`].
    Named,
    /// Debian's `rustc-web` with a prebuilt `core`.
    Debian,
    /// rustup's nightly; `core` is built from `rust-src`.
    Nightly,
}

/// A compiler, linker and strip tool that fit together.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Where the compiler came from.
    pub source: RustcSource,
    /// The compiler.
    pub rustc: PathBuf,
    /// `rustc --version`.
    pub rustc_version: String,
    /// The compiler's sysroot.
    pub sysroot: PathBuf,
    /// The compiler's LLVM, such as `22.1.8`.
    pub llvm: String,
    /// `core` has to be built from source.
    pub build_std: bool,
    /// The linker.
    pub linker: PathBuf,
    /// `bpf-linker --version`.
    pub linker_version: String,
    /// Removes debug sections and keeps BTF.
    pub strip: PathBuf,
    /// The strip tool's LLVM version.
    pub strip_version: String,
}

impl Toolchain {
    /// Looks for a toolchain.
    ///
    /// # Errors
    /// No toolchain is found, or compiler and linker do not fit. The error names the packages to install.
    pub fn find() -> Result<Self> {
        let (source, rustc) = find_rustc()?;
        let verbose = output(Command::new(&rustc).arg("-vV"))?;
        let field =
            |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        let llvm = field("LLVM version:").context("rustc does not say its LLVM version")?;
        let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"]))?.trim());
        let build_std = !has_core(&sysroot);
        let linker = find_linker()?;
        let linker_version = output(Command::new(&linker).arg("--version"))?.trim().to_owned();
        check_linker(&linker, &llvm)?;
        let strip = find_strip(&sysroot, &llvm)?;
        let strip_version = output(Command::new(&strip).arg("--version"))?
            .lines()
            .find_map(|line| line.split("LLVM version").nth(1))
            .map_or_else(|| "unknown".to_owned(), |version| version.trim().to_owned());
        let rustc_version = verbose.lines().next().unwrap_or_default().to_owned();
        Ok(Self {
            source,
            rustc,
            rustc_version,
            sysroot,
            llvm,
            build_std,
            linker,
            linker_version,
            strip,
            strip_version,
        })
    }
}

/// Whether a toolchain can be found without installing anything.
pub fn available() -> bool {
    Toolchain::find().is_ok()
}

fn has_core(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn find_rustc() -> Result<(RustcSource, PathBuf)> {
    if let Some(named) = std::env::var_os(RUSTC_VARIABLE) {
        return Ok((RustcSource::Named, PathBuf::from(named)));
    }
    let debian = PathBuf::from("/usr/bin/rustc");
    if debian.is_file() && has_core(Path::new("/usr")) {
        return Ok((RustcSource::Debian, debian));
    }
    if let Ok(path) = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"])) {
        let rustc = PathBuf::from(path.trim());
        let sysroot = rustc.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Ok((RustcSource::Nightly, rustc));
        }
    }
    bail!(
        "no compiler for {TARGET}: neither {RUSTC_VARIABLE}, nor Debian's rustc-web with libstd-rust-web-dev-bpf, nor a \
         nightly with rust-src. Run `cargo xtask setup --with ebpf`"
    )
}

fn find_linker() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(LINKER_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    find("bpf-linker").context("no bpf-linker on the path. Run `cargo xtask setup --with ebpf`")
}

/// Compares the linker's LLVM with the compiler's. A linker with LLVM linked in statically does not tell its version.
fn check_linker(linker: &Path, rustc_llvm: &str) -> Result<()> {
    let libraries = output(Command::new("ldd").arg(linker)).unwrap_or_default();
    let Some(linker_major) = linker_llvm(&libraries) else {
        println!("  note: {} has LLVM built in, so its version is not checked", linker.display());
        return Ok(());
    };
    let rustc_major = major(rustc_llvm).with_context(|| format!("unreadable LLVM version `{rustc_llvm}`"))?;
    if linker_major < rustc_major {
        bail!(
            "{} uses LLVM {linker_major}, older than the compiler's LLVM {rustc_llvm}: it cannot read the compiler's bitcode. \
             Run `cargo xtask setup --with ebpf`",
            linker.display()
        );
    }
    Ok(())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.trim().parse().ok()
}

/// The major version in ldd's `libLLVM.so.22.1 => ..` or `libLLVM-19.so.1 => ..`.
fn linker_llvm(libraries: &str) -> Option<u32> {
    let name = libraries.lines().map(str::trim).find(|line| line.starts_with("libLLVM"))?;
    let digits = name.find(|letter: char| letter.is_ascii_digit())?;
    name[digits..].split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

fn find_strip(sysroot: &Path, llvm: &str) -> Result<PathBuf> {
    let major = major(llvm).unwrap_or(0);
    let beside = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-strip"));
    if beside.is_file() {
        return Ok(beside);
    }
    // rustup's llvm-tools component.
    let bundled = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/llvm-strip");
    if bundled.is_file() {
        return Ok(bundled);
    }
    find(&format!("llvm-strip-{major}"))
        .or_else(|| find("llvm-strip"))
        .context("no llvm-strip. Run `cargo xtask setup --with ebpf`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_of_a_linker() {
        assert_eq!(linker_llvm("\tlibc.so.6 => x\n\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x0)"), Some(22));
        assert_eq!(linker_llvm("libLLVM-19.so.1 => y"), Some(19));
        assert_eq!(linker_llvm("libLLVM-19-rust-1.85.so => y"), Some(19));
        assert_eq!(linker_llvm("libc.so.6 => x"), None);
    }
}
