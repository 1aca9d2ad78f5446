//! The command line of `peertally replay` (`docs/architecture.md#command-line`).

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use peertally_core::pool::Pool;

use crate::{config::values::Prefix, verbs::Format};

/// Count the P2P protocol traffic of captures, as the XDP program would have counted it.
///
/// Captures are read in the order given, as one stream of packets: pcap and pcapng, also compressed with gzip, with
/// Ethernet, raw IP, Linux cooked, loopback, PPP or Cisco HDLC frames. `-` reads standard input.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Addresses that are subscribers, and the block length each gets (default /32 for IPv4, /56 for IPv6). Repeatable.
    /// Without it every address is a subscriber: /32 for IPv4, /64 for IPv6.
    #[arg(long, value_name = "PREFIX[/ASSIGN]")]
    pub subscribers: Vec<Pool>,
    /// Prefix of endpoints between which addresses inside a tunnel count as subscribers' ones. Repeatable. Without it,
    /// only a tunnel's outer addresses do. Without `--subscribers` it changes nothing: every outer address is a
    /// subscriber then.
    #[arg(long, value_name = "PREFIX")]
    pub tunnel_endpoints: Vec<Prefix>,
    /// Which engine counts: the XDP program in the kernel's test runner, or the same source in user space.
    /// Default: `kernel` with the rights to load it, else `host`.
    #[arg(long, value_enum)]
    pub engine: Option<EngineKind>,
    /// List each flow. A table shows the first 50 rows; `--format json` has all.
    #[arg(long)]
    pub flows: bool,
    /// The captures hold one direction of each flow only. Every flow then counts as answered, which is weaker evidence:
    /// anybody can send packets to a subscriber.
    #[arg(long)]
    pub one_way: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Captures to read; `-` is standard input.
    #[arg(required = true, value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
}

/// Engine of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The loaded XDP program, fed by the kernel's test runner. Needs root (`CAP_BPF` and `CAP_NET_ADMIN`).
    Kernel,
    /// The program's source, compiled for user space. Needs no rights.
    Host,
}

impl EngineKind {
    /// The value of the `engine` field.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Host => "host",
        }
    }
}
