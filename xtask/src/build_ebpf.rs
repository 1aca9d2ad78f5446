//! `cargo xtask build-ebpf`: the only builder of the BPF object. Writes the object and its provenance, or compares.
//!
//! Two builds in different folders give equal bytes: paths are replaced by names, and debug sections are removed (BTF
//! stays). Nothing of the caller's Rust environment reaches the build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo_home, run as run_command};
use crate::provenance::{OBJECTS, Object, Provenance, sha256, source_hash, stale};
use crate::setup::{self, Need};
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::{members, root, target};

/// Arguments of `build-ebpf`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Rebuild from nothing in a folder of its own and compare with the committed object; change no file
    #[arg(long)]
    pub check: bool,
    /// Build even when the sources have not changed
    #[arg(long, conflicts_with = "check")]
    pub force: bool,
    /// Build the benchmark objects instead, which are not shipped: into the target folder only
    #[arg(long, conflicts_with_all = ["check", "force"])]
    pub bench: bool,
}

/// The binary target of the benchmark object, with the generator and the reference program.
const BENCH: &str = "bench";

/// The feature of `monitor-ebpf` that makes the shipped program know the first protocols only.
const FIRST_PROTOCOLS: &str = "first-protocols";

/// Where `--bench` leaves the benchmark object.
pub fn bench_object() -> PathBuf {
    stripped(&target().join("ebpf"), BENCH)
}

/// Where `--bench` leaves the shipped program that knows the first protocols only.
pub fn first_protocols_object() -> PathBuf {
    stripped(&target().join("ebpf"), FIRST_PROTOCOLS)
}

fn stripped(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.stripped"))
}

/// Builds, or with `--check` compares.
///
/// # Errors
/// When no toolchain is found, a build fails, or a comparison finds a difference.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        return check();
    }
    if arguments.bench {
        setup::ensure(&[Need::Ebpf])?;
        let (toolchain, folder) = (Toolchain::find()?, target().join("ebpf"));
        link(&toolchain, BENCH, None, root(), &folder)?;
        let [shipped] = OBJECTS else { bail!("more than one object is shipped: which one knows protocols?") };
        link(&toolchain, shipped.bin, Some(FIRST_PROTOCOLS), root(), &folder)?;
        return Ok(());
    }
    let mut wanted = Vec::new();
    for object in OBJECTS {
        match stale(object)? {
            Some(reason) => {
                println!("build-ebpf: {reason}");
                wanted.push(object);
            }
            None if arguments.force => wanted.push(object),
            None => println!("build-ebpf: {} is up to date", object.path),
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    setup::ensure(&[Need::Ebpf])?;
    let toolchain = Toolchain::find()?;
    let source = source_hash()?;
    for object in wanted {
        let folder = target().join("ebpf");
        let (bytes, provenance) = build(&toolchain, object, root(), &folder, &source)?;
        let path = object.file();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        replace(&path, &bytes)?;
        let record = serde_json::to_string_pretty(&provenance)? + "\n";
        replace(&object.provenance(), record.as_bytes())?;
        println!("build-ebpf: wrote {} ({} bytes, sha256 {})", object.path, bytes.len(), provenance.sha256);
    }
    if source != source_hash()? {
        bail!("a source changed during the build: run `cargo xtask build-ebpf` again");
    }
    Ok(())
}

/// Writes a temporary file and renames it, so that no reader sees half an object.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot rename to {}", path.display()))
}

/// Rebuilds a copy of the sources in another folder, with another target folder, and compares bytes and provenance.
fn check() -> Result<()> {
    setup::ensure(&[Need::Ebpf])?;
    let toolchain = Toolchain::find()?;
    let source = source_hash()?;
    let elsewhere = tempfile::tempdir().context("cannot create a temporary folder")?;
    let copy = elsewhere.path().join("sources");
    copy_workspace(&copy)?;
    for object in OBJECTS {
        if let Some(reason) = stale(object)? {
            bail!("{reason}: run `cargo xtask build-ebpf` and commit the result");
        }
        let committed = Provenance::read(object)?;
        let (_, rebuilt) = build(&toolchain, object, &copy, &elsewhere.path().join("target"), &source)?;
        if rebuilt != committed {
            bail!(
                "{} is not what these sources and tools give.\ncommitted: {committed:#?}\nrebuilt: {rebuilt:#?}\n\
                 Run `cargo xtask build-ebpf --force` with Debian's toolchain and commit the result",
                object.path
            );
        }
        println!("build-ebpf --check: {} rebuilt elsewhere, byte for byte the same", object.path);
    }
    Ok(())
}

/// Copies the sources that cargo needs to build the BPF crate.
fn copy_workspace(to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(root().join(file), to.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    for member in members()? {
        let mut copy = Command::new("cp");
        copy.args(["-r", "--parents", &member]).arg(to).current_dir(root());
        crate::command::output(&mut copy)?;
    }
    Ok(())
}

/// Builds one object to be shipped, with its provenance.
fn build(
    toolchain: &Toolchain,
    object: &Object,
    workspace: &Path,
    target: &Path,
    source: &str,
) -> Result<(Vec<u8>, Provenance)> {
    let (bytes, recorded) = link(toolchain, object.bin, None, workspace, target)?;
    let name = Path::new(object.path).file_name().and_then(|name| name.to_str()).unwrap_or(object.bin);
    let provenance = Provenance {
        object: name.to_owned(),
        sha256: sha256(&bytes),
        bytes: bytes.len() as u64,
        source_sha256: source.to_owned(),
        compiler: toolchain.rustc_version.clone(),
        compiler_llvm: toolchain.llvm.clone(),
        linker: toolchain.linker_version.clone(),
        strip_llvm: toolchain.strip_version.clone(),
        flags: recorded,
    };
    Ok((bytes, provenance))
}

/// Builds one binary target from the workspace at `workspace` with `target` as cargo's target folder: the stripped
/// object, which also stays in that folder under the feature's or the binary's name, and the flags to record.
fn link(
    toolchain: &Toolchain,
    bin: &str,
    feature: Option<&str>,
    workspace: &Path,
    target: &Path,
) -> Result<(Vec<u8>, Vec<String>)> {
    let (flags, recorded) = flags(toolchain, workspace, target)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clean_environment(&mut cargo);
    cargo
        .current_dir(workspace)
        .args(["build", "--locked", "--profile", "ebpf", "--target", TARGET])
        .args(["--package", "monitor-ebpf", "--bin", bin])
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTC", &toolchain.rustc)
        // The BPF target and its intrinsics need unstable features; the compiler is pinned by the provenance record.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    if toolchain.build_std {
        cargo.args(["-Z", "build-std=core"]);
    }
    if let Some(feature) = feature {
        cargo.args(["--features", feature]);
    }
    println!("build-ebpf: {bin} with {}, {}", toolchain.rustc_version, toolchain.linker_version);
    run_command(&mut cargo)?;
    let linked = target.join(TARGET).join("ebpf").join(bin);
    let stripped = stripped(target, feature.unwrap_or(bin));
    run_command(Command::new(&toolchain.strip).arg("-g").arg(&linked).arg("-o").arg(&stripped))?;
    let bytes = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    refuse_panics(&bytes, &linked)?;
    Ok((bytes, recorded))
}

/// A panic has nowhere to go in the kernel, and the verifier refuses its endless loop without saying where it came
/// from.
fn refuse_panics(object: &[u8], linked: &Path) -> Result<()> {
    let text = String::from_utf8_lossy(object);
    let symbols: Vec<&str> =
        text.split('\0').filter(|name| name.starts_with("_RN") && name.contains("9panicking")).collect();
    if symbols.is_empty() {
        return Ok(());
    }
    bail!(
        "the object can panic ({}): find the calls into .text.unlikely with `llvm-objdump -drl {}`",
        symbols.join(", "),
        linked.display()
    )
}

/// Compiler flags: as passed, and as recorded (without paths of this machine).
fn flags(toolchain: &Toolchain, workspace: &Path, target: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let mut flags: Vec<String> = [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        // Atomics with a result, 32-bit jumps: Linux 5.12, older than the oldest supported kernel.
        "-Ctarget-cpu=v3",
        // The kernel allows unaligned loads where the processor does (x86-64, arm64); byte-wise loads cost the hot
        // path.
        "-Ctarget-feature=+allows-misaligned-mem-access",
        "-Clink-arg=--btf",
        // Merged stores may straddle an eight-byte boundary of the stack, which the verifier refuses.
        "-Clink-arg=--llvm-args=-combiner-store-merging=false",
    ]
    .map(str::to_owned)
    .into();
    let mut recorded = flags.clone();
    flags.push(format!("-Clinker={}", toolchain.linker.display()));
    // rustc uses the last prefix that fits, so the general ones come first. A registry's folder name depends on the
    // registry in use, hence one entry for each.
    let mut prefixes: Vec<(PathBuf, &str)> = vec![
        (cargo_home(), "/cargo"),
        (toolchain.sysroot.join("lib/rustlib/src/rust"), "/rustc"),
        (workspace.to_path_buf(), "/peertally"),
        (target.to_path_buf(), "/target"),
    ];
    if let Ok(registries) = fs::read_dir(cargo_home().join("registry/src")) {
        let mut folders: Vec<PathBuf> = registries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.sort();
        prefixes.extend(folders.into_iter().map(|folder| (folder, "/registry")));
    }
    for (path, name) in prefixes {
        let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        flags.push(format!("--remap-path-prefix={path}={name}"));
        let entry = format!("--remap-path-prefix=..={name}");
        if !recorded.contains(&entry) {
            recorded.push(entry);
        }
    }
    Ok((flags, recorded))
}

/// Variables that say where packages come from and how many jobs may run; none of them changes the object.
const KEPT: [&str; 6] =
    ["CARGO_HOME", "CARGO_BUILD_JOBS", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];

/// Variables without a common prefix that change a build.
const RUST: [&str; 3] = ["RUSTC", "RUSTFLAGS", "RUSTDOCFLAGS"];

/// Removes variables of an outer cargo or the caller's shell that would change the build.
fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let rust = name.starts_with("CARGO") || name.starts_with("RUSTC_") || RUST.contains(&name);
        let kept = KEPT.iter().any(|kept| name.starts_with(kept));
        if rust && !kept {
            command.env_remove(name);
        }
    }
}
