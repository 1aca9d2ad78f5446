//! Errors of attaching, reading and detaching the program, each with the next step.

use std::{io, path::PathBuf};

use aya::{pin::PinError, programs::ProgramError};
use peertally_core::exit::{Exit, ExitCause};

use crate::{
    error::{ObjectError, is_denied},
    owned::OwnedError,
};

/// See the module documentation.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No interface of that name.
    #[error("there is no interface `{name}`; this machine has: {present}. Nothing was attached")]
    NoInterface {
        /// Requested value.
        name: String,
        /// Names there are.
        present: String,
    },
    /// Two interfaces whose indices are equal in their low 16 bits, or one interface given twice.
    #[error(
        "interfaces `{0}` and `{1}` have equal indexes modulo 65,536, which the program cannot distinguish; name only one"
    )]
    SameIndex(String, String),
    /// The interface's hook cannot be read.
    #[error("cannot query the XDP program of `{name}`: {source}; try again")]
    Hook {
        /// Interface name.
        name: String,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot be asked for links and attachments.
    #[error(
        "cannot read the interfaces and attachments there are: {source}; check the limits of this service (`ulimit -n`)"
    )]
    Links {
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Pins of another network namespace.
    #[error(
        "the pins in {path} are of the network namespace {theirs}, whose interfaces are counted there; this start is in {ours}, and \
         Peertally never takes them over from there. Start it there, or run `peertally detach` (its counters end with it). Two \
         namespaces need a BPF file system each. Nothing was attached"
    )]
    OtherNamespace {
        /// Folder of the pins.
        path: PathBuf,
        /// The namespace that they are of.
        theirs: String,
        /// The present namespace.
        ours: String,
    },
    /// Somebody else's program.
    #[error(
        "`{name}` already runs another XDP program (id {program}{by}, {mode} mode), and Peertally never replaces one that is not \
         its own. Look at it with `bpftool prog show id {program}`; if it may go: {next}. Nothing was attached"
    )]
    Foreign {
        /// Interface name.
        name: String,
        /// Id of the program there.
        program: u32,
        /// Name of the program, in words.
        by: String,
        /// Mode of the program.
        mode: &'static str,
        /// What takes it off.
        next: String,
    },
    /// Another agent of ours holds the tables.
    #[error("another `peertally run`{by} holds {lock}; stop it first, or inspect it with `peertally status`")]
    Running {
        /// The process, in words.
        by: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// A program of ours that another version attached.
    #[error(
        "`{name}` still runs the program of another version of Peertally ({pin}), whose tables this one cannot take over. Run \
         `peertally detach` (its counters end with it) and start again. Nothing was attached"
    )]
    OtherVersion {
        /// Interface name.
        name: String,
        /// Pin of its attachment.
        pin: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("cannot make the lock file {path}: {source}. Peertally needs root, or a writable folder there")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// A folder or a file of the agent cannot be trusted.
    #[error(transparent)]
    Owned(#[from] OwnedError),
    /// The BPF file system cannot be used.
    #[error(
        "cannot keep pins in {path}: {source}. Is a BPF file system mounted there (`mount -t bpf bpf /sys/fs/bpf`)?"
    )]
    PinFolder {
        /// The folder.
        path: PathBuf,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread: {source}; check the limits of this service (`ulimit -u`)")]
    Thread {
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The object or a map.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel refused to attach.
    #[error("cannot attach to `{name}` in {mode} mode: {}. {next}. Nothing was attached", root_cause(.source))]
    Attach {
        /// Interface name.
        name: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// Next step.
        next: &'static str,
        /// Error of the kernel.
        #[source]
        source: Box<ProgramError>,
    },
    /// The link is not one that can be pinned.
    #[error(
        "the kernel gave no link for `{name}` that can be pinned; Linux 6.1 or newer is needed. Nothing was attached"
    )]
    NoLink {
        /// Interface name.
        name: String,
    },
    /// A link could not be pinned.
    #[error("cannot pin the attachment of `{name}` at {path}: {reason}. Nothing was attached")]
    Pin {
        /// Interface name.
        name: String,
        /// Where.
        path: PathBuf,
        /// Error of the kernel.
        reason: String,
    },
    /// The table of stages could not be pinned.
    #[error("cannot pin the stages of the program at {path}: {source}. Nothing was attached")]
    PinStages {
        /// Where.
        path: PathBuf,
        /// Error of the kernel.
        #[source]
        source: PinError,
    },
    /// A pin could not be removed.
    #[error(
        "cannot remove {path}: {source}; a program that is still attached only counts. Try `peertally detach` as root"
    )]
    Remove {
        /// Path that cannot be removed.
        path: PathBuf,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
}

/// The innermost cause, which is the kernel's own word.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl ExitCause for AttachError {
    fn exit(&self) -> Exit {
        let denied = match self {
            Self::Owned(error) => return error.exit(),
            Self::Object(error) => error.is_missing_rights(),
            Self::Lock { source, .. } | Self::PinFolder { source, .. } | Self::Remove { source, .. } => {
                is_denied(source)
            }
            Self::Attach { source, .. } => is_denied(&**source),
            Self::PinStages { source, .. } => is_denied(source),
            _ => false,
        };
        if denied { Exit::Rights } else { Exit::Unavailable }
    }
}
