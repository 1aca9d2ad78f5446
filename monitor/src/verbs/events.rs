//! `peertally events`: lists the events in the store, and takes a person's decisions about them. A running agent
//! carries decisions out itself, asked over its control socket; without one they are written to the store.

pub mod args;
mod show;

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use peertally_core::exit::{Exit, ExitCause};
use peertally_store::{
    Store, StoreError,
    events::{self, Decision, EventRow, EventState, Refusal},
    rusqlite,
    store::open_reader,
    writer::Unobserved,
};

use self::args::{EventsArgs, EventsCommand};
use super::{Format, run::store_exit};
use crate::{
    config::{self, ConfigError, Overrides},
    deliver::book::{DecisionError, EventBook},
};

/// Longest wait for the agent's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why events cannot be listed or decided about.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The configuration, which names the folder and the socket.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be read.
    #[error("cannot read the events in the store: {0}; check the file in `state_dir`")]
    Read(#[from] rusqlite::Error),
    /// The decision does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent refused, or its answer was no answer.
    #[error("the agent did not carry this out: {0}")]
    Agent(String),
    /// The agent refused a decision that does not fit.
    #[error("{0}")]
    AgentRefused(String),
    /// The agent does not answer.
    #[error("cannot ask the agent on {}: {source}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl ExitCause for EventsError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Store(error) => store_exit(error),
            Self::Refused(_) | Self::AgentRefused(_) => Exit::Usage,
            Self::NoAnswer { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            Self::Read(_) | Self::Agent(_) | Self::NoAnswer { .. } => Exit::Unavailable,
        }
    }
}

/// Lists events, or carries out a decision; returns the text to print.
///
/// # Errors
/// [`EventsError`].
pub fn main(args: &EventsArgs) -> Result<String, EventsError> {
    let resolved = config::load(args.config.as_deref(), &Overrides::default())?;
    match &args.command {
        None => {
            let only = args.held.then_some(EventState::Held);
            let listed = list(&resolved.state_dir, only, args.limit)?;
            Ok(match args.format {
                Format::Table => show::table(&listed),
                Format::Json => show::json(&listed),
            })
        }
        Some(command) => {
            let (decision, id) = match command {
                EventsCommand::Release { id } => (Decision::Release, id),
                EventsCommand::Discard { id } => (Decision::Discard, id),
                EventsCommand::Redeliver { id } => (Decision::Redeliver, id),
            };
            let hooks = resolved.hooks.iter().map(|hook| hook.name.to_string()).collect();
            decide(&resolved.state_dir, &resolved.control_socket, hooks, id, decision)?;
            Ok(format!("{id}: {}\n", show::done(decision)))
        }
    }
}

fn list(folder: &Path, only: Option<EventState>, limit: u32) -> Result<Vec<EventRow>, EventsError> {
    match open_reader(folder) {
        Ok(connection) => Ok(events::list(&connection, only, limit)?),
        Err(error) => Err(error.into()),
    }
}

/// Who decides: the user behind `sudo`, or this process's.
fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    let behind = std::env::var("SUDO_USER").ok().filter(|name| {
        !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    });
    behind.unwrap_or_else(|| format!("uid-{uid}"))
}

/// Asks the agent, or decides without one: then `hooks` are those that are configured.
pub(super) fn decide(
    folder: &Path,
    socket: &Path,
    hooks: Vec<String>,
    id: &str,
    decision: Decision,
) -> Result<(), EventsError> {
    // An identifier that is none would be a path of its own in the request.
    if uuid::Uuid::try_parse(id).is_err() {
        return Err(Refusal::Unknown(id.to_owned()).into());
    }
    let failed = |source| EventsError::NoAnswer { path: socket.to_owned(), source };
    match UnixStream::connect(socket) {
        Ok(stream) => ask(stream, id, decision).map_err(failed)?,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            let book = EventBook::new(Store::open(folder, Unobserved)?)?;
            book.know_hooks(hooks);
            book.decide(id, decision, &user()).map(|_| ()).map_err(|error| match error {
                DecisionError::Refused(refusal) => refusal.into(),
                DecisionError::Store(error) => error.into(),
            })
        }
        Err(error) => Err(failed(error)),
    }
}

/// One request in HTTP/1.0, whose answer ends with the connection (RFC 1945 section 7.2.2).
fn ask(mut stream: UnixStream, id: &str, decision: Decision) -> io::Result<Result<(), EventsError>> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let (decision, user) = (decision.label(), user());
    let request =
        format!("POST /events/{id}/{decision}?user={user} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let body = body.trim_end().to_owned();
    Ok(match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("404" | "409") => Err(EventsError::AgentRefused(body)),
        _ => Err(EventsError::Agent(body)),
    })
}
