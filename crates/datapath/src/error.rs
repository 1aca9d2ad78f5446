//! Errors of the object and its maps, each with the next step.

use std::{error::Error, io, iter};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Errors of the object and its maps.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The kernel refused the object or one of its maps.
    #[error("cannot load the XDP program: {source}. {}", LOAD_NEXT_STEP)]
    Load {
        /// Error of the loader.
        #[source]
        source: EbpfError,
    },
    /// The verifier refused a program.
    #[error("the kernel's verifier refused the XDP program {name}: {source}")]
    Verifier {
        /// Program name.
        name: &'static str,
        /// Error of the verifier.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel tells nothing of a loaded program, or gives no descriptor for it.
    #[error("cannot use the loaded XDP program {name}: {source}")]
    Program {
        /// Program name.
        name: &'static str,
        /// Error of the kernel.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel does not tell how many instructions the verifier processed.
    #[error("the kernel does not tell how many instructions its verifier processed; Linux 5.16 and newer do")]
    NoInstructionCount,
    /// The object has no such program.
    #[error("the object holds no XDP program named {name}; rebuild it with `cargo xtask build-ebpf`")]
    ProgramMissing {
        /// Program name.
        name: &'static str,
    },
    /// The object has no such map.
    #[error("the object holds no map {name} of the expected type; rebuild it with `cargo xtask build-ebpf`")]
    MapMissing {
        /// Map name.
        name: &'static str,
    },
    /// A map has another shape than this build expects.
    #[error(
        "map {name} has {found}, which this version does not expect; run `peertally detach` (its counters end with it) and start again"
    )]
    MapShape {
        /// Map name.
        name: &'static str,
        /// The difference.
        found: String,
    },
    /// A map operation failed.
    #[error("map {name}: {source}")]
    Map {
        /// Map name.
        name: &'static str,
        /// Error of the kernel.
        #[source]
        source: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map {name} into memory: {source}")]
    Mapping {
        /// Map name.
        name: &'static str,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// No random numbers for the hash seed.
    #[error("cannot get random numbers for the flow hash: {0}")]
    Random(getrandom::Error),
    /// The test runner failed.
    #[error("the kernel's test runner refused a frame of {bytes} bytes: {source}")]
    TestRun {
        /// Length of the frame.
        bytes: usize,
        /// Error of the kernel.
        #[source]
        source: Box<ProgramError>,
    },
}

impl ObjectError {
    /// Whether missing rights are the cause.
    #[must_use]
    pub fn is_missing_rights(&self) -> bool {
        is_denied(self)
    }
}

/// Whether an error, or one of its causes, is the system's refusal for missing rights.
pub(crate) fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let refuses = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    iter::successors(Some(error), |&error| error.source())
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(refuses))
}

/// Next step after a refused object.
const LOAD_NEXT_STEP: &str = "Peertally needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON), Linux 6.1 or newer with its BPF JIT compiler on \
     (sysctl net.core.bpf_jit_enable=1), and room for its tables";
