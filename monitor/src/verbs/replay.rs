//! `peertally replay`: counts captures with the code that counts live traffic.
//!
//! Reads nothing but the captures, and changes nothing on the machine: the kernel engine loads the program without
//! attaching it to an interface.

pub mod args;
mod capture_clock;
mod driver;
pub mod engine;
mod flows;
mod host;
mod kernel;
pub mod report;
mod text_table;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use args::{EngineKind, ReplayArgs};
use driver::Driver;
use engine::{EngineError, EngineOptions, ReplayEngine};
use peertally_capture::{CaptureError, MAX_PLAUSIBLE_BYTES};
use peertally_core::{
    exit::{Exit, ExitCause},
    pool::Pool,
};
use report::ReplayReport;

use crate::verbs::Format;

/// An engine with empty tables.
///
/// # Errors
/// The kernel cannot run the program, or the rights to load it are missing.
pub fn open(kind: EngineKind, options: &EngineOptions) -> Result<Box<dyn ReplayEngine>, EngineError> {
    match kind {
        EngineKind::Kernel => kernel::open(options),
        EngineKind::Host => Ok(host::open(options)),
    }
}

/// Why a replay gave no result at all.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A capture cannot be opened.
    #[error("cannot open {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// Requested value.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Standard input was named twice.
    #[error("standard input (`-`) can be read only once")]
    StandardInputTwice,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
}

impl ExitCause for ReplayError {
    fn exit(&self) -> Exit {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Rights,
            Self::Open { .. } | Self::StandardInputTwice => Exit::Usage,
            Self::Engine(error) => error.exit(),
            Self::Output(_) => Exit::Unavailable,
        }
    }
}

/// Runs the subcommand and reports what happened as an exit code.
#[must_use]
pub fn main(args: &ReplayArgs) -> ExitCode {
    match run(args, &mut BufWriter::new(io::stdout().lock())) {
        Ok((damaged, implausible)) => {
            if implausible > 0 {
                eprintln!(
                    "peertally replay: warning: {implausible} packets claim more than {MAX_PLAUSIBLE_BYTES} bytes on the wire, which no \
                     machine sends; they are counted as they claim, if their headers state no length"
                );
            }
            for (path, error) in &damaged {
                eprintln!("peertally replay: {}: {error}", path.display());
            }
            if damaged.is_empty() { Exit::Ok } else { Exit::Data }
        }
        // The reader of a pipe had enough.
        Err(ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            eprintln!("peertally replay: {error}");
            error.exit()
        }
    }
    .into()
}

/// Replays the captures and prints the result; returns the captures that could not be read to their end, and how many
/// packets claim an implausible length. If no capture could be read at all, no table is printed.
fn run(args: &ReplayArgs, out: &mut impl Write) -> Result<(Vec<(PathBuf, CaptureError)>, u64), ReplayError> {
    let (report, damaged) = collect(args)?;
    let read_nothing = report.packets == 0 && report.skipped.is_empty() && damaged.len() == report.captures;
    if args.format == Format::Json || !read_nothing {
        print(&report, args.format, out).map_err(ReplayError::Output)?;
    }
    Ok((damaged, report.implausible))
}

/// Replays the captures; returns the result, and the captures that could not be read to their end.
///
/// # Errors
/// When a capture cannot be opened, or the engine fails.
pub fn collect(args: &ReplayArgs) -> Result<(ReplayReport, Vec<(PathBuf, CaptureError)>), ReplayError> {
    check_captures(&args.captures)?;
    let mut driver = Driver::new(open_engine(args)?, args.flows, args.one_way);
    let mut damaged = Vec::new();
    for path in &args.captures {
        if let Some(error) = driver.capture(path)? {
            damaged.push((path.clone(), error));
        }
    }
    Ok((driver.finish()?, damaged))
}

/// Finds mistyped names before anything is counted.
fn check_captures(captures: &[PathBuf]) -> Result<(), ReplayError> {
    let is_standard_input = |path: &Path| path.as_os_str() == OsStr::new("-");
    if captures.iter().filter(|path| is_standard_input(path)).count() > 1 {
        return Err(ReplayError::StandardInputTwice);
    }
    for path in captures.iter().filter(|path| !is_standard_input(path)) {
        // Only regular files are opened for the test: a named pipe can be opened once.
        let tested = fs::metadata(path).and_then(|metadata| match metadata.file_type() {
            kind if kind.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            kind if kind.is_file() => File::open(path).map(drop),
            _ => Ok(()),
        });
        tested.map_err(|source| ReplayError::Open { path: path.clone(), source })?;
    }
    Ok(())
}

/// The requested engine; by default the kernel's, unless the rights to load it are missing.
fn open_engine(args: &ReplayArgs) -> Result<Box<dyn ReplayEngine>, EngineError> {
    let pools = if args.subscribers.is_empty() { every_address() } else { args.subscribers.clone() };
    let tunnel_endpoints = args.tunnel_endpoints.iter().map(|prefix| prefix.0).collect();
    let options = EngineOptions { pools, tunnel_endpoints, one_way: args.one_way };
    match args.engine {
        Some(kind) => open(kind, &options),
        None => match open(EngineKind::Kernel, &options) {
            Err(EngineError::Rights(_)) => open(EngineKind::Host, &options),
            other => other,
        },
    }
}

/// Pools of a replay without `--subscribers`: every address is a subscriber.
#[must_use]
pub fn every_address() -> Vec<Pool> {
    ["0.0.0.0/0/32", "::/0/64"].iter().filter_map(|pool| pool.parse().ok()).collect()
}

fn print(report: &ReplayReport, format: Format, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Table => text_table::write(report, out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, report)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
