//! The command line. Contract: `docs/architecture.md#command-line`. Only commands that do their work are here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{DEFAULT_CONTROL_SOCKET, RunArgs},
    verbs::{
        Format, doctor::DoctorArgs, events::args::EventsArgs, init::InitArgs, plan::args::PlanArgs,
        policies::PoliciesCommand, records::args::RecordsArgs, replay::args::ReplayArgs,
    },
};

/// Counts P2P protocol traffic per subscriber in the kernel; never touches, delays or blocks a packet.
///
/// Exit codes: 0 done, 64 bad usage or configuration, 65 damaged capture or records, 69 the kernel or an
/// interface cannot do it, 70 a bug, 77 missing rights.
#[derive(Debug, Parser)]
#[command(name = "peertally", version)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration file and print a summary. Attaches nothing.
    CheckConfig {
        /// Configuration file. Default: /etc/peertally/peertally.toml if it exists.
        #[arg(value_name = "FILE", env = "PEERTALLY_CONFIG")]
        file: Option<PathBuf>,
    },
    /// Print the memory that a configuration will take, table by table; with a load, also the tables and cores for it.
    /// Loads nothing.
    Plan(PlanArgs),
    /// Look at what keeps this machine from counting, or makes it count less, with the fix for each. Changes nothing.
    ///
    /// Exit codes: 0 clean, 1 a warning, 2 an error.
    Doctor(DoctorArgs),
    /// Write a first configuration from the interfaces, VLANs and routes of this machine.
    Init(InitArgs),
    /// Count the P2P protocol traffic of captures, as the XDP program would have counted it.
    Replay(ReplayArgs),
    /// Attach to the interfaces and count, serve metrics, watch thresholds and call hooks, until SIGTERM.
    Run(RunArgs),
    /// Detach the program from every interface and remove its pinned counters. Needs no running agent.
    Detach {
        /// Also remove what the agent keeps in `state_dir`: its store, its files of records, and its pseudonym key.
        #[arg(long)]
        purge: bool,
        /// Configuration file, whose `state_dir` has the audit file. Default: /etc/peertally/peertally.toml if it
        /// exists.
        #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Have the running agent read its configuration again: all of it is applied, or nothing.
    Reload {
        /// Only check, and show what would change.
        #[arg(long)]
        check: bool,
        /// The running agent.
        #[command(flatten)]
        agent: RunningAgent,
    },
    /// Check the records of the audit file and of watchlist hits.
    Audit {
        /// What to do.
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// List the events in the store, newest first, or decide about one. A running agent carries decisions out.
    Events(EventsArgs),
    /// Find the flows that a notice may be about: those of one subscriber or address, around a time, from a port. Works
    /// with and without a running agent.
    Records(RecordsArgs),
    /// Test policies with what the store has of the past.
    Policies {
        /// What to do.
        #[command(subcommand)]
        command: PoliciesCommand,
    },
    /// Name the subscriber of a pseudonym, under the present key or an older one. Needs a running agent, and root.
    Resolve {
        /// The pseudonym, from a metric, a log line or an event.
        #[arg(value_name = "PSEUDONYM")]
        pseudonym: String,
        /// Configuration file of the agent. Default: /etc/peertally/peertally.toml if it exists.
        #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Show the state of the running agent.
    Status(RunningAgent),
    /// Write manual pages and shell completions, for packagers.
    #[command(hide = true)]
    Generate {
        /// Folder to write to.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// A running agent that is asked, and the form of the answer.
#[derive(Clone, Debug, Args)]
pub struct RunningAgent {
    /// Control socket of the agent.
    #[arg(long, value_name = "PATH", env = "PEERTALLY_CONTROL_SOCKET", default_value = DEFAULT_CONTROL_SOCKET)]
    pub socket: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// What `audit` does.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no record was changed or removed, older files included. Removal at the end shows only by the last
    /// digest.
    Verify {
        /// Files of records. Default: those in `state_dir`.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Configuration file with the `state_dir`. Default: /etc/peertally/peertally.toml if it exists.
        #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG")]
        config: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::CommandFactory as _;

    use super::*;
    use crate::verbs::generate::generate;

    #[test]
    fn each_verb_has_a_page_and_each_shell_knows_it() {
        let folder = tempfile::tempdir().expect("a folder");
        generate(&Cli::command(), folder.path()).expect("written");
        let read = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap_or_else(|_| panic!("{path}"));
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            assert!(read(&format!("man/peertally-{name}.1")).contains(".TH"), "{name}");
            for completion in ["peertally.bash", "_peertally", "peertally.fish"] {
                assert!(read(&format!("completions/{completion}")).contains(name), "{completion}: {name}");
            }
        }
        assert!(!read("man/peertally.1").contains("generate"), "a hidden verb is shown");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = generate(&Cli::command(), Path::new("/dev/null/pages")).expect_err("no folder");
        assert!(error.to_string().contains("/dev/null/pages"), "{error}");
    }
}
