//! The flags of `peertally run` and their environment variables.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use peertally_core::{
    interface::Interface,
    pool::Pool,
    words::{UnknownWord, XdpMode},
};

use super::Overrides;

/// Parses one of the words of a setting; `--help` lists them.
fn word<T>(words: &'static [(&'static str, &'static str)]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownWord> + Clone + Send + Sync + 'static,
{
    let listed =
        words.iter().map(|(word, meaning)| PossibleValue::new(*word).help(meaning.trim().trim_end_matches('.')));
    PossibleValuesParser::new(listed).try_map(|word| word.parse())
}

/// Parses the value of `--listen`.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT; write for example 127.0.0.1:9847"))
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
    #[arg(long, value_name = "ADDR", env = "PEERTALLY_LISTEN", value_parser = listen_address)]
    pub listen: Option<SocketAddr>,
}

impl RunArgs {
    /// Overrides of the configuration by the flags.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            interfaces: self.interfaces.clone(),
            pools: self.subscribers.clone(),
            xdp_mode: self.xdp_mode,
            listen: self.listen,
            host_name: None,
        }
    }
}
