//! Processes of the lab: each with a log file, ended by its own id, never by name.

use std::{
    env,
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::wait::wait_for_some;

/// A running program. A drop kills it and its children.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `directory/name.log`, in a process group of its own: Ctrl-C reaches the
    /// lab's owner only, who ends it in order.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(name: &str, directory: &Path, command: &mut Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Exit status, if the process ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look at {}", self.name))
    }

    /// Fails with the log if the process ended.
    ///
    /// # Errors
    /// The process ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.status()? {
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.log()),
            None => Ok(()),
        }
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// The process takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let name = format!("end of {}", self.name);
        wait_for_some(&name, timeout, Duration::from_millis(20), || self.status())
    }

    /// Asks the process to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// The process takes longer than `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// Kills the process (SIGKILL).
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group exists as long as the leader is not waited for, so its number cannot belong to somebody else.
        if matches!(self.child.try_wait(), Ok(None))
            && let Ok(pid) = self.pid()
        {
            // An error means that it ended meanwhile: what was wanted.
            kill_process_group(pid, Signal::KILL).ok();
            self.child.wait().ok();
        }
    }
}

/// Runs a command to its end and gives its output, whatever its exit status.
///
/// # Errors
/// The command cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))
}

/// Runs a command to its end.
///
/// # Errors
/// The command cannot be started or fails; the message holds its output.
pub fn run(command: &mut Command) -> Result<()> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(());
    }
    let how = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {signal:?}"),
    };
    bail!("{command:?}: {how}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// Removes cargo's variables about this process's package. A cargo that it starts then sees the environment of the
/// outer one. Otherwise a build script that reads such a variable (ring's) runs again, and its dependents are built
/// anew.
pub fn without_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
}
