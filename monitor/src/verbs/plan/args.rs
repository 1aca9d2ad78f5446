//! The flags of `peertally plan`.

use clap::Args;
use peertally_core::pool::Pool;

use super::sizing::Load;
use crate::{config::RunArgs, verbs::Format};

/// The flags of `peertally plan`.
#[derive(Args, Clone, Debug)]
// The hidden options change no memory. A number of subscribers is easily taken for the value of `--subscribers`.
#[command(
    mut_arg("listen", |option| option.hide(true)),
    mut_arg("xdp_mode", |option| option.hide(true)),
    mut_arg("subscribers", |option| option.value_parser(pool))
)]
pub struct PlanArgs {
    /// The options of `run`.
    #[command(flatten)]
    pub run: RunArgs,
    /// Packets a second of all interfaces together, new flows included. Adds the cores that they take.
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub packets_per_second: Option<u64>,
    /// New flows a second. Adds `capacity.flows`, the time until the flow table turns over, and cores.
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub new_flows_per_second: Option<u64>,
    /// Number of subscribers: blocks of the pools that ever send or receive. Adds `capacity.tallies` and
    /// `capacity.peers`.
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub subscriber_count: Option<u64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

impl PlanArgs {
    /// The load that the box must carry.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            packets_per_second: self.packets_per_second,
            new_flows_per_second: self.new_flows_per_second,
            subscribers: self.subscriber_count,
        }
    }
}

/// Largest count of a load. A box of any size carries less, and the columns of the output have room for it.
const MOST: u64 = 10_000_000_000;

/// Parses a count of the load.
fn count(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number <= MOST);
    number.ok_or_else(|| format!("`{text}` is not a whole number up to {MOST}; write digits only, as in 350000"))
}

/// Parses a pool.
fn pool(text: &str) -> Result<Pool, String> {
    if text.parse::<u64>().is_ok() {
        return Err(format!(
            "`{text}` is not PREFIX[/ASSIGN]; for a number of subscribers use --subscriber-count {text}"
        ));
    }
    text.parse().map_err(|error: <Pool as std::str::FromStr>::Err| error.to_string())
}
