//! Runs a program as a hook: no shell, an empty environment, JSON on standard input, bounded time and output.
//!
//! The program may ignore its input, close its pipes, write without end, hang, or leave children running. None of this
//! affects the agent. The program runs in its own process group, which is killed when the program ends. A program that
//! moves itself into another session leaves that group and is not killed.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use peertally_core::words::SubscriberForm;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use crate::deliver::{
    failure::{Failure, FailureReason, IO, TIMEOUT},
    kind::{Deliver, HookKind, HookTarget, KindTable, Message, ReportProblem, ShortForm},
};

/// The program could not be started.
pub const SPAWN: FailureReason = FailureReason::retried("spawn", "the program could not be started");
/// The program reported a failure.
pub const EXIT_STATUS: FailureReason =
    FailureReason::retried("exit_status", "the program ended with a status other than 0");
/// A signal ended the program.
pub const SIGNAL: FailureReason = FailureReason::retried("signal", "a signal ended the program");

/// The kind `exec`. A program on this node handles the node's addresses anyway, so it gets them by default.
pub static KIND: HookKind = HookKind {
    name: "exec",
    keys: &["command"],
    delivers: "a program gets the event on standard input",
    subscriber: SubscriberForm::Both,
    retries: 0,
    reasons: &[SPAWN, EXIT_STATUS, SIGNAL, TIMEOUT, IO],
};

/// Runs a program for each event.
///
/// The program gets the event as JSON on standard input, no shell, and an empty environment but for `PATH`,
/// `PEERTALLY_EVENT_ID`, `PEERTALLY_EVENT_KIND` and `PEERTALLY_POLICY`. At `timeout` its process group is killed. Short
/// form: the command.
#[derive(Clone, Debug, serde::Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecTable {
    /// Absolute path of the program, then its arguments.
    #[cfg_attr(test, schemars(example = ["/usr/local/bin/tell-abuse-desk", "--quiet"]))]
    command: Vec<String>,
}

impl ShortForm for ExecTable {
    const SHORT_FORM: Option<&'static str> = Some("list of strings");

    fn from_list(command: Vec<String>) -> Option<Self> {
        Some(Self { command })
    }
}

impl KindTable for ExecTable {
    fn check(&self, report: &mut ReportProblem<'_>) -> Option<Arc<dyn HookTarget>> {
        let Some((program, arguments)) = self.command.split_first() else {
            report("command", "the command is empty; write [\"/path/to/program\", \"argument\"]".to_owned());
            return None;
        };
        let program = PathBuf::from(program);
        if !program.is_absolute() {
            // The text may be a URL with a secret, in the place of a program.
            report("command", "the program is not an absolute path; start it with `/`".to_owned());
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            report("command", "an argument cannot hold a NUL byte".to_owned());
        }
        Some(Arc::new(Program { program, arguments: arguments.to_vec() }))
    }
}

/// A program with its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
}

impl HookTarget for Program {
    fn describe(&self) -> String {
        format!("exec {}", self.program.display())
    }

    fn open(&self) -> Result<Box<dyn Deliver>, String> {
        Ok(Box::new(self.clone()))
    }
}

impl Deliver for Program {
    fn attempt<'a>(&'a self, message: Message<'a>, limit: Duration) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let environment = [
                ("PEERTALLY_EVENT_ID", message.id),
                ("PEERTALLY_EVENT_KIND", message.kind),
                ("PEERTALLY_POLICY", message.policy),
            ];
            run(&self.program, &self.arguments, &environment, message.body, limit).await
        })
    }
}

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
            // Fails if the group has ended already (ESRCH), which is the aim.
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
    let mut child =
        command.spawn().map_err(|error| Failure::new(SPAWN, format!("cannot start {}: {error}", program.display())))?;
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
        let detail =
            format!("no end within {}; {}", humantime::format_duration(limit), output_text(&kept_out, &kept_err));
        return Err(Failure::new(TIMEOUT, detail));
    };
    if !pipes_done {
        let _left_open = timeout(OUTPUT_GRACE, &mut pipes).await;
    }
    drop(group);
    let output = output_text(&kept_out, &kept_err);
    let status = status.map_err(|error| Failure::new(IO, format!("cannot wait for it: {error}")))?;
    check_status(status, output)
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

fn check_status(status: ExitStatus, output: String) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => {
            tracing::debug!(output, "hook program ended");
            Ok(())
        }
        (Some(code), _) => Err(Failure::new(EXIT_STATUS, format!("exit status {code}; {output}"))),
        (None, signal) => Err(Failure::new(SIGNAL, format!("signal {}; {output}", signal.unwrap_or_default()))),
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
fn output_text(out: &Mutex<Vec<u8>>, err: &Mutex<Vec<u8>>) -> String {
    let text = |kept: &Mutex<Vec<u8>>| {
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim_end().escape_debug().to_string()
    };
    format!("stdout: \"{}\", stderr: \"{}\"", text(out), text(err))
}
