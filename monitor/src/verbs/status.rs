//! `peertally status`: queries a running agent over its control socket.
//!
//! The socket speaks HTTP (`GET /status`, `GET /subscribers`, `POST /reload`), so `curl --unix-socket` can ask too.

mod show;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use peertally_core::{
    exit::{Exit, ExitCause},
    snapshot::RunningProgram,
};
use peertally_datapath::attached;

pub use show::{json, show};

use crate::export::status::Status;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no status was received.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No agent answers.
    #[error("no agent listens on {}: {source}; start one with `peertally run`, or name its socket with --socket PATH{}", path.display(), if source.kind() == io::ErrorKind::PermissionDenied { " (this socket needs root)" } else { "" })]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error(
        "the agent on {} has not answered within {} s; a reload may go on, and its log has the outcome: try again, or look at \
         `/livez`",
        path.display(),
        limit.as_secs()
    )]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// Longest wait.
        limit: Duration,
    },
    /// The agent cannot do this now.
    #[error("the agent did not carry this out (HTTP {status}): {reason}")]
    Refused {
        /// Status of its answer.
        status: u16,
        /// What it says.
        reason: String,
    },
    /// The process that answers is not an agent.
    #[error("unexpected answer from {}; is it the agent's control socket?", .0.display())]
    UnexpectedAnswer(PathBuf),
}

impl ExitCause for StatusError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoAnswer { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            Self::NoAnswer { .. } | Self::TimedOut { .. } | Self::Refused { .. } | Self::UnexpectedAnswer(_) => {
                Exit::Unavailable
            }
        }
    }
}

/// Reads the status of the agent from its control socket.
///
/// # Errors
/// [`StatusError`].
pub fn query(path: &Path) -> Result<Status, StatusError> {
    let body = request(path, "GET", "/status", ANSWER_TIMEOUT)?;
    serde_json::from_str(&body).map_err(|_| StatusError::UnexpectedAnswer(path.to_owned()))
}

/// Asks the agent at a control socket for a resource; returns the body of the answer.
///
/// # Errors
/// [`StatusError`].
pub(super) fn request(path: &Path, method: &str, resource: &str, timeout: Duration) -> Result<String, StatusError> {
    let answer = exchange(path, method, resource, timeout).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            StatusError::TimedOut { path: path.to_owned(), limit: timeout }
        }
        _ => StatusError::NoAnswer { path: path.to_owned(), source },
    })?;
    let unexpected = || StatusError::UnexpectedAnswer(path.to_owned());
    let text = String::from_utf8(answer).map_err(|_| unexpected())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(unexpected)?;
    match head.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(200) => Ok(body.to_owned()),
        Some(status) if status >= 500 => Err(StatusError::Refused { status, reason: body.trim_end().to_owned() }),
        _ => Err(unexpected()),
    }
}

/// What the kernel says where no agent answers: the interfaces on which a program of Peertally counts on, if it may be
/// asked.
#[must_use]
pub fn without_agent() -> String {
    let running = attached::running().unwrap_or_default();
    let line = |program: &RunningProgram| {
        let RunningProgram { interface, mode, pins, .. } = program;
        format!("attached     {interface} ({mode}, pins {pins}): a program of Peertally counts on there\n")
    };
    running.iter().map(line).collect()
}

/// One request in HTTP/1.0, whose answer ends with the connection (RFC 1945 section 7.2.2).
fn exchange(path: &Path, method: &str, resource: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "{method} {resource} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What `status` says of an agent that answers so; without an answer, the agent takes the request and is silent.
    fn asked(answer: Option<&'static str>) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut request = [0; 1024];
            let _bytes = stream.read(&mut request).expect("a request");
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).expect("answered"),
                None => drop(ended.recv()),
            }
        });
        let said = request(&socket, "POST", "/reload", Duration::from_millis(100)).map_err(|error| error.to_string());
        drop(end);
        agent.join().expect("no panic");
        said.unwrap_or_else(|error| error)
    }

    #[test]
    fn what_the_agent_answers_is_said_and_silence_is_told_from_absence() {
        assert_eq!(asked(Some("HTTP/1.0 200 OK\r\n\r\nbody")), "body");
        let refused = asked(Some("HTTP/1.0 503 Service Unavailable\r\n\r\nthe agent is ending\n"));
        assert!(refused.contains("503") && refused.ends_with("the agent is ending"), "{refused}");
        assert!(asked(Some("HTTP/1.0 404 Not Found\r\n\r\n")).contains("unexpected answer"));
        let silent = asked(None);
        assert!(silent.contains("has not answered") && !silent.contains("start one"), "{silent}");
    }
}
