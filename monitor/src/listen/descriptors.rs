//! Descriptors of the process: how many connections may be open, so that the core never lacks one.
//!
//! The core is what must go on whoever connects: netlink, files, and the hooks. The metrics port gets what the core
//! leaves.

use peertally_core::exit::{Exit, ExitCause};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the core without its hooks: some 80 maps, programs and links, files, netlink, runtime, and as many
/// again while a reload opens new ones beside the old.
const CORE: u64 = 192;
/// Descriptors of one delivery: three pipes with both ends and a process descriptor, or a socket and a name lookup.
const EACH_DELIVERY: u64 = 8;
/// Connections of the control socket, apart from those of the metrics port.
pub const CONTROL_CONNECTIONS: usize = 16;
/// Most connections of the metrics port: a scraper uses one at a time.
const MAX_METRICS_CONNECTIONS: u64 = 256;
/// Fewest connections of the metrics port that are of use.
const MIN_METRICS_CONNECTIONS: u64 = 8;

/// The limit of open files is too low.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process may open {limit} files and needs at least {needed}; set `LimitNOFILE={needed}` in its unit, or `ulimit -Hn {needed}` \
     in its shell"
)]
pub struct DescriptorError {
    limit: u64,
    needed: u64,
}

impl ExitCause for DescriptorError {
    fn exit(&self) -> Exit {
        Exit::Unavailable
    }
}

/// Raises the limit of open files as far as this process may, and returns it.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    // Without more, the agent shares out what it has.
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

/// Connections that the metrics port may have open under a limit of open files, beside `deliveries` at a time.
///
/// # Errors
/// [`DescriptorError`] if too few are left.
pub fn metrics_connections(limit: u64, deliveries: usize) -> Result<usize, DescriptorError> {
    let core = CORE + EACH_DELIVERY * deliveries as u64 + CONTROL_CONNECTIONS as u64;
    let left = limit.saturating_sub(core);
    if left < MIN_METRICS_CONNECTIONS {
        return Err(DescriptorError { limit, needed: core + MIN_METRICS_CONNECTIONS });
    }
    Ok(left.min(MAX_METRICS_CONNECTIONS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_is_served_first() {
        assert_eq!(metrics_connections(1024, 4).expect("enough"), 256);
        assert_eq!(metrics_connections(300, 4).expect("enough"), 300 - 192 - 32 - 16);
        assert_eq!(metrics_connections(u64::MAX, 64).expect("enough"), 256);
        let error = metrics_connections(1024, 128).expect_err("too few");
        assert!(error.to_string().contains("LimitNOFILE=1240"), "{error}");
        assert!(metrics_connections(1240, 128).is_ok(), "what the message asks for is enough");
    }
}
