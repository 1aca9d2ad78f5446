//! One boot: packs the guest's file system, runs the emulator with a limit, reads the report from the console.
//!
//! The console output of the probe and the init script is the protocol: `INSTRUCTIONS PROGRAM COUNT` lines, one
//! `KERNEL RELEASE: ok, ..` line, and `PROBE ENDED STATUS`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::baseline::Counts;
use super::image::Image;
use crate::command::{find, output};

/// How long a boot with all tests may take. TCG needs some ten seconds; a loaded machine several times that.
const LIMIT: Duration = Duration::from_secs(400);

/// Memory of the guest. The probe's tables are small.
const MEMORY: &str = "1024M";

/// Runs as the guest's first process.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox insmod /veth.ko
/bin/busybox ip link set lo up
/bin/busybox ip link add name pt0 type veth
/bin/busybox ip addr add 10.0.0.1/24 broadcast 10.0.0.255 dev pt0
for name in pt0 veth0; do /bin/busybox ip link set $name up; done
/probe --attach pt0,veth0 --address 10.0.0.1
echo PROBE ENDED $?
/bin/busybox poweroff -f
";

/// Report of a guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GuestReport {
    /// The success line.
    pub(super) line: String,
    /// Verified instructions by program.
    pub(super) instructions: Counts,
}

/// Boots the image with the probe and returns its report.
pub(super) fn boot(series: &str, image: &Image, probe: &Path) -> Result<GuestReport> {
    println!("kernels: booting {} under emulation, at most {} s", image.release, LIMIT.as_secs());
    let archive = pack(image, probe)?;
    let console = image.folder.join("console.log");
    let log = fs::File::create(&console).with_context(|| format!("cannot create {}", console.display()))?;
    let started = Instant::now();
    let mut emulator = Command::new("qemu-system-x86_64");
    emulator
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&archive)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off random.trust_cpu=on"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the console log")?)
        .stderr(log);
    let mut child = emulator.spawn().context("cannot start qemu-system-x86_64")?;
    let ended = loop {
        if let Some(status) = child.try_wait().context("cannot wait for the emulator")? {
            break Some(status);
        }
        if started.elapsed() > LIMIT {
            child.kill().context("cannot kill the emulator")?;
            child.wait().context("cannot wait for the emulator")?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let report = match ended {
        None => Err(anyhow::anyhow!("still running after {} s", LIMIT.as_secs())),
        Some(status) if !status.success() => Err(anyhow::anyhow!("the emulator failed: {status}")),
        Some(_) => read(series, &text),
    };
    match report {
        Ok(report) => {
            println!("kernels: {} in {:.0} s", report.line, started.elapsed().as_secs_f32());
            Ok(report)
        }
        Err(error) => {
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(60)..] {
                println!("  {series} | {line}");
            }
            Err(error.context(format!("whole console in {}", console.display())))
        }
    }
}

/// Reads the console; anything but a whole, successful report is an error.
fn read(series: &str, console: &str) -> Result<GuestReport> {
    let mut report = GuestReport::default();
    let mut status = None;
    for line in console.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["INSTRUCTIONS", program, count] => {
                let count = count.parse().with_context(|| format!("unreadable count in `{line}`"))?;
                report.instructions.insert((*program).to_owned(), count);
            }
            // The firmware may leave escape sequences before the first words, never before this line.
            ["KERNEL", release, "ok,", ..] if release.starts_with(&format!("{series}.")) => {
                line.clone_into(&mut report.line)
            }
            ["PROBE", "ENDED", code] => status = Some((*code).to_owned()),
            _ => {}
        }
    }
    match status.as_deref() {
        Some("0") if !report.line.is_empty() => Ok(report),
        Some("0") => bail!("the probe ended without its success line"),
        Some(code) => bail!("the probe failed with status {code}"),
        None => bail!("the guest stopped before the probe ended"),
    }
}

/// Packs the guest's file system as an uncompressed cpio archive (kernel:
/// `Documentation/filesystems/ramfs-rootfs-initramfs`).
fn pack(image: &Image, probe: &Path) -> Result<PathBuf> {
    let tree = image.folder.join("guest");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(tree.join(folder)).with_context(|| format!("cannot create {folder} for the guest"))?;
    }
    let busybox = find("busybox").context("no busybox on the path")?;
    copy(&busybox, &tree.join("bin/busybox"))?;
    fs::write(tree.join("init"), INIT).context("cannot write the guest's init")?;
    output(Command::new("chmod").arg("0755").arg(tree.join("init")))?;
    unpack_module(&image.veth, &tree.join("veth.ko"))?;
    copy_program(probe, &tree)?;
    let archive = image.folder.join("guest.cpio");
    let file = fs::File::create(&archive).with_context(|| format!("cannot create {}", archive.display()))?;
    let mut names = output(Command::new("find").arg(".").current_dir(&tree))?;
    names.truncate(names.trim_end().len());
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(&tree)
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio")?;
    cpio.stdin.take().context("standard input was piped")?.write_all(names.as_bytes()).context("cannot feed cpio")?;
    let status = cpio.wait().context("cannot wait for cpio")?;
    if !status.success() {
        bail!("cpio failed: {status}");
    }
    Ok(archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Debian packs 6.1's modules plainly and 6.12's with xz.
fn unpack_module(module: &Path, to: &Path) -> Result<()> {
    if module.extension().is_some_and(|extension| extension == "xz") {
        let file = fs::File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
        let status = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .arg(module)
            .stdout(file)
            .status()
            .context("cannot start xz")?;
        if !status.success() {
            bail!("xz failed on {}: {status}", module.display());
        }
        return Ok(());
    }
    copy(module, to)
}

/// Copies a program as `/probe` with the shared libraries that `ldd` lists, without its debug sections.
fn copy_program(program: &Path, tree: &Path) -> Result<()> {
    let copied = tree.join("probe");
    match find("strip") {
        Some(strip) => drop(output(Command::new(strip).arg("-o").arg(&copied).arg(program))?),
        None => copy(program, &copied)?,
    }
    let libraries = output(Command::new("ldd").arg(program))?;
    for library in libraries.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))) {
        let inside = tree.join(library.trim_start_matches('/'));
        if let Some(folder) = inside.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        copy(Path::new(library), &inside)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_report_is_a_success() {
        let good = "noise\nINSTRUCTIONS peertally 1234\r\nKERNEL 6.1.0-1-cloud-amd64: ok, 3 packets, 1234 verified instructions\nPROBE ENDED 0\n";
        let report = read("6.1", good).expect("whole report");
        assert_eq!(report.instructions["peertally"], 1234);
        assert!(report.line.starts_with("KERNEL 6.1.0-1"));
        for bad in [
            "",
            "KERNEL 6.1.0: ok, 3 packets",
            "PROBE ENDED 0",
            "KERNEL 6.1.0: ok, 3 packets\nPROBE ENDED 1",
            "KERNEL 6.12.0: ok, 3 packets\nPROBE ENDED 0",
        ] {
            assert!(read("6.1", bad).is_err(), "{bad}");
        }
    }
}
