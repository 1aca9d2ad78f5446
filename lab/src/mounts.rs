//! The router's mounts: `/sys` shows its interfaces, `/sys/fs/bpf` and `/run` are empty and its own.
//!
//! An agent inside sees what it would on a real router, and neither meets nor disturbs an agent of this machine. The
//! mounts exist as long as the process that holds them: when it ends, pins vanish and with them what they kept
//! attached.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::netns::Namespace;

/// Ends when standard input does, which is when the owner ends.
const SCRIPT: &str =
    "mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /run && echo ready && read -r _";

/// The process that holds a mount namespace.
#[derive(Debug)]
pub(super) struct Mounts(Child);

impl Mounts {
    pub(super) fn new(router: &Namespace) -> Result<Self> {
        let mut child = router
            .command("unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start the holder of the router's mounts")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the router's own /sys and BPF file system cannot be mounted");
        Ok(Self(child))
    }

    /// A command inside the router's network and mounts; it keeps the process id.
    pub(super) fn command(&self, router: &Namespace, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", router.path().display()));
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.0.id())).arg(program);
        command
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}
