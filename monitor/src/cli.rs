//! The command line. Contract: `docs/architecture.md#command-line`. Only commands that do their work are here.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

use crate::{
    config::{Interface, Overrides},
    pool::Pool,
    replay::args::{Format, ReplayArgs},
    words::{UnknownWord, XdpMode},
};

/// Counts P2P protocol traffic per subscriber in the kernel; never touches, delays or blocks a packet.
///
/// Exit codes: 0 done, 64 bad usage or configuration, 65 damaged capture, 69 the kernel or an interface cannot do it,
/// 70 a bug, 77 missing rights.
#[derive(Debug, Parser)]
#[command(name = "peertally", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration file and say what it would do. Attaches nothing.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Say what memory a configuration will take, table by table. Loads nothing.
    Plan {
        /// What `run` would be given.
        #[command(flatten)]
        run: RunArgs,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Count the P2P protocol traffic of captures, as the XDP program would have counted it.
    Replay(ReplayArgs),
    /// Attach to the interfaces and count, serve metrics, watch thresholds and call hooks, until SIGTERM.
    Run(RunArgs),
    /// Take the program off every interface and remove its pinned counters. Needs no running agent.
    Detach,
    /// Show what the running agent does.
    Status {
        /// Control socket of the agent.
        #[arg(
            long,
            value_name = "PATH",
            env = "PEERTALLY_CONTROL_SOCKET",
            default_value = "/run/peertally/control.sock"
        )]
        socket: PathBuf,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// Parses one of the words of a setting; `--help` lists them.
fn word<T>(words: &'static [(&'static str, &'static str)]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownWord> + Clone + Send + Sync + 'static,
{
    let listed =
        words.iter().map(|(word, meaning)| PossibleValue::new(*word).help(meaning.trim().trim_end_matches('.')));
    PossibleValuesParser::new(listed).try_map(|word| word.parse())
}

/// The flags of `peertally run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Configuration file. Default: /etc/peertally/peertally.toml if it exists.
    #[arg(long, value_name = "FILE", env = "PEERTALLY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Interface to attach to, and the side it faces (default access). Repeatable; replaces the file's interfaces.
    #[arg(long = "interface", value_name = "NAME[:access|core]", env = "PEERTALLY_INTERFACES", value_delimiter = ',')]
    pub interfaces: Vec<Interface>,
    /// Addresses that are subscribers, and the block each gets (default /32 for IPv4, /56 for IPv6). Repeatable;
    /// replaces the file's pools.
    #[arg(long, value_name = "PREFIX[/ASSIGN]", env = "PEERTALLY_SUBSCRIBERS", value_delimiter = ',')]
    pub subscribers: Vec<Pool>,
    /// How to attach. Default: native.
    #[arg(long, value_name = "MODE", env = "PEERTALLY_XDP_MODE", value_parser = word::<XdpMode>(XdpMode::WORDS))]
    pub xdp_mode: Option<XdpMode>,
    /// Address and port of metrics and health. Default: 127.0.0.1:9847.
    #[arg(long, value_name = "ADDR", env = "PEERTALLY_LISTEN")]
    pub listen: Option<SocketAddr>,
}

impl RunArgs {
    /// What the flags change about the configuration.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            interfaces: self.interfaces.clone(),
            pools: self.subscribers.clone(),
            xdp_mode: self.xdp_mode,
            listen: self.listen,
        }
    }
}
