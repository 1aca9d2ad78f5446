//! Runs a program as a hook: no shell, an empty environment, JSON on standard input, bounded time and output.
//!
//! The program may ignore its input, close its pipes, write without end, hang, or leave children behind: none of it
//! reaches the agent. It runs in a process group of its own that ends with it. (A program that moves itself into another
//! session leaves that group and is then its own master.)

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::{Failure, FailureReason};

/// Bytes kept of each of standard output and standard error; the rest is read and thrown away.
const KEPT_OUTPUT: usize = 4096;
/// Time between asking a process group to end and ending it.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// Time for the last output after the program ended; a child that keeps the pipe open ends there.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);
/// Where a program finds other programs: the environment is empty otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process group that is killed when this value goes, even if the task is aborted.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // The group may be gone already (ESRCH), which is what was wanted.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs `program` once and waits for it.
///
/// # Errors
/// [`Failure`] unless the program ended with status 0 in time.
pub async fn run(
    program: &Path,
    arguments: &[String],
    environment: &[(&str, &str)],
    input: &[u8],
    limit: Duration,
) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).envs(environment.iter().copied()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| Failure::new(FailureReason::Spawn, format!("cannot start {}: {error}", program.display())))?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (kept_out, kept_err) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program need not read its input: a closed pipe is no failure.
            let _closed = stdin.write_all(input).await;
        }
    };
    let pipes = async { tokio::join!(feed, keep(stdout, &kept_out), keep(stderr, &kept_err)) };
    tokio::pin!(pipes);
    let mut pipes_done = false;
    let ended = timeout(limit, async {
        loop {
            tokio::select! {
                status = child.wait() => return status,
                _ = &mut pipes, if !pipes_done => pipes_done = true,
            }
        }
    })
    .await;
    let Ok(status) = ended else {
        end(&group, &mut child).await;
        let detail = format!("no end within {}; {}", humantime::format_duration(limit), shown(&kept_out, &kept_err));
        return Err(Failure::new(FailureReason::Timeout, detail));
    };
    if !pipes_done {
        let _left_open = timeout(OUTPUT_GRACE, &mut pipes).await;
    }
    drop(group);
    let output = shown(&kept_out, &kept_err);
    let status = status.map_err(|error| Failure::new(FailureReason::Io, format!("cannot wait for it: {error}")))?;
    judge(status, output)
}

/// Asks the group to end, then makes it.
async fn end(group: &Group, child: &mut Child) {
    group.signal(Signal::TERM);
    if timeout(TERM_GRACE, child.wait()).await.is_err() {
        group.signal(Signal::KILL);
        // SIGKILL cannot be ignored; a process stuck in the kernel is reaped by tokio later.
        let _reaped = timeout(TERM_GRACE, child.wait()).await;
    }
}

fn judge(status: ExitStatus, output: String) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => {
            tracing::debug!(output, "hook program ended");
            Ok(())
        }
        (Some(code), _) => Err(Failure::new(FailureReason::ExitStatus, format!("exit status {code}; {output}"))),
        (None, signal) => {
            Err(Failure::new(FailureReason::Signal, format!("signal {}; {output}", signal.unwrap_or_default())))
        }
    }
}

/// Reads to the end and keeps the first [`KEPT_OUTPUT`] bytes.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, kept: &Mutex<Vec<u8>>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT_OUTPUT - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}

/// The kept output for a log line, control characters escaped.
fn shown(out: &Mutex<Vec<u8>>, err: &Mutex<Vec<u8>>) -> String {
    let text = |kept: &Mutex<Vec<u8>>| {
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim_end().escape_debug().to_string()
    };
    format!("stdout: \"{}\", stderr: \"{}\"", text(out), text(err))
}
