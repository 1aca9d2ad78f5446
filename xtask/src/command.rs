//! Running other programs: shows the command, keeps the reason when it fails.
//! Never goes through a shell, so no argument needs quoting.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use peertally_lab::without_package;

use crate::workspace::root;

/// The command as a person would type it, without its environment.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains([' ', '"', '$', '*', ';', '&', '(']) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    }));
    words.join(" ")
}

/// The cargo that runs this program, in the repository. This package's variables are removed, so that nothing is built
/// twice (see [`without_package`]).
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    without_package(&mut command);
    command
}

/// Runs a command with its output on the terminal.
///
/// # Errors
/// When it cannot be started or does not end with status 0.
pub fn run(command: &mut Command) -> Result<()> {
    println!("  $ {}", shown(command));
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command quietly and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not end with status 0; the message then has its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}\n{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first executable file of that name on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let executable = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    // cargo install's folder is not always on the path of a service or a CI job.
    folders.push(cargo_home().join("bin"));
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(program)).find(|path| executable(path))
}

/// `CARGO_HOME`, or `.cargo` in the home folder.
pub fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cargo"))
}

/// Runs a command for at most `limit`, hands every line of its standard output to `line`, and prints it.
///
/// # Errors
/// When it cannot be started, does not end with status 0, or is still running at the limit; then it and all its
/// descendants are killed.
pub fn stream(command: &mut Command, limit: Duration, mut line: impl FnMut(&str)) -> Result<()> {
    stream_some(command, limit, |text| {
        line(text);
        true
    })
}

/// Works as [`stream`], and prints only the lines for which `line` returns true.
///
/// # Errors
/// As [`stream`].
pub fn stream_some(command: &mut Command, limit: Duration, mut line: impl FnMut(&str) -> bool) -> Result<()> {
    println!("  $ {}", shown(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let lines = lines_of(child.stdout.take().context("standard output was piped")?);
    let end = Instant::now() + limit;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                if line(&text) {
                    println!("{text}");
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                kill_tree(child.id());
                let _status = child.wait().context("cannot wait for a killed process")?;
                bail!("`{}` was still running after {} s and was killed", shown(command), limit.as_secs());
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Lines of a failed command that its error shows.
const KEPT_LINES: usize = 30;

/// Runs a command without showing its output. Calls `event` with each line of its standard error, and with the time
/// since the start about every `interval`.
///
/// # Errors
/// When it cannot be started or does not end with status 0; the message then has the last lines of its standard error.
pub fn watch(command: &mut Command, interval: Duration, mut event: impl FnMut(Result<&str, Duration>)) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let lines = lines_of(child.stderr.take().context("standard error was piped")?);
    let start = Instant::now();
    let mut next = start + interval;
    let mut last = VecDeque::new();
    loop {
        match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                event(Ok(&text));
                last.push_back(text);
                if last.len() > KEPT_LINES {
                    last.pop_front();
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                event(Err(start.elapsed()));
                next = Instant::now() + interval;
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}\n{}", shown(command), Vec::from(last).join("\n"));
    }
    Ok(())
}

/// The lines of a pipe, read by a thread until the pipe ends.
fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    lines
}

/// Kills a process that this program started, with all its descendants. Reads the parents from `/proc/PID/stat`
/// (proc(5)).
fn kill_tree(root: u32) {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The command name is in brackets and may hold spaces and brackets itself.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            parents.push((process, parent));
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    let killed = Command::new("kill").arg("-KILL").args(tree.iter().map(u32::to_string)).status();
    if let Err(error) = killed {
        eprintln!("cannot run kill: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_hands_on_lines_and_status() {
        let mut seen = Vec::new();
        stream(Command::new("printf").arg("a\\nb\\n"), Duration::from_secs(20), |line| seen.push(line.to_owned()))
            .expect("printf works");
        assert_eq!(seen, ["a", "b"]);
        let error = stream(&mut Command::new("false"), Duration::from_secs(20), |_| {}).expect_err("status 1");
        assert!(error.to_string().contains("exit status: 1"), "{error}");
    }

    #[test]
    fn watch_reports_lines_and_time_and_keeps_the_reason() {
        let (mut lines, mut ticks) = (Vec::new(), 0);
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&2; sleep 0.5; echo two >&2; exit 3"]);
        let error = watch(&mut command, Duration::from_millis(100), |event| match event {
            Ok(line) => lines.push(line.to_owned()),
            Err(_) => ticks += 1,
        })
        .expect_err("status 3");
        assert_eq!(lines, ["one", "two"]);
        assert!(ticks >= 1, "{ticks}");
        assert!(error.to_string().ends_with("exit status: 3\none\ntwo"), "{error}");
    }

    #[test]
    fn stream_kills_a_tree_at_its_limit() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60"]);
        let error = stream(&mut command, Duration::from_millis(200), |_| {}).expect_err("killed");
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
