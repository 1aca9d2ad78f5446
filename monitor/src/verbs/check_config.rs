//! `peertally check-config`: reads a configuration as `run` does, and prints its effect.

use std::{fmt::Write, path::Path};

use ipnet::IpNet;
use peertally_core::{
    interface::Interface,
    pool::Pool,
    words::{Evidence, Role},
};

use crate::config::{self, ConfigError, Overrides, Resolved, messages::escape_invisible, values::show_duration};

/// A configuration that is valid.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Effect, for people.
    pub summary: String,
    /// What is worth a second look.
    pub warnings: Vec<String>,
}

/// Checks `file`, or the file that `run` would read.
///
/// # Errors
/// [`ConfigError`] with every problem found.
pub fn check(file: Option<&Path>) -> Result<Checked, ConfigError> {
    let resolved = config::load(file, &Overrides::default())?;
    Ok(Checked { summary: summary(&resolved), warnings: resolved.warnings() })
}

/// Summary of a configuration, for people.
#[must_use]
pub fn summary(resolved: &Resolved) -> String {
    let mut out = match &resolved.source {
        Some(file) => format!("{}: valid\n", file.display()),
        None => format!("no configuration file ({} does not exist): the defaults\n", config::DEFAULT_PATH),
    };
    let mut line = |name: &str, value: String| {
        let _infallible = writeln!(out, "  {name:<12} {}", escape_invisible(&value));
    };
    let interfaces: Vec<String> = resolved.interfaces.iter().map(interface).collect();
    line("interfaces", or_none(&interfaces, "none here: give --interface to `run`"));
    line("attach", resolved.xdp_mode.label().to_owned());
    line("subscribers", or_none(&resolved.datapath.pools.iter().map(pool).collect::<Vec<_>>(), "none"));
    let endpoints: Vec<String> = resolved.datapath.tunnel_endpoints.iter().map(ToString::to_string).collect();
    line("tunnels", or_none(&endpoints, "no endpoints named: addresses inside tunnels are charged to nobody"));
    line("inspection", resolved.datapath.inspection.label().to_owned());
    line(
        "evidence",
        match resolved.evidence() {
            Evidence::Answered => "answered: a subscriber is charged with answered flows".to_owned(),
            Evidence::OneWay => "one_way: every flow counts as answered, which is weaker evidence".to_owned(),
        },
    );
    if let Some(file) = &resolved.watchlist_file {
        line("watchlist", format!("{} entries of {}", resolved.datapath.watchlist.count(), file.display()));
    }
    let sizes = resolved.datapath.sizes;
    line("capacity", format!("{} flows, {} tallies, {} peers", sizes.flows, sizes.tallies, sizes.peers));
    if let Some(rule) = resolved.datapath.heuristic {
        line("heuristic", format!("from {} endpoints within {} s", rule.endpoints, rule.window_s));
    }
    line(
        "shedding",
        resolved.datapath.shedding.map_or_else(
            || "off".to_owned(),
            |shedding| format!("beyond {} packets/s of the slow path, each CPU", shedding.packets_per_second),
        ),
    );
    line("drain", format!("every {}", show_duration(resolved.drain_interval)));
    line("listen", format!("http://{}/metrics", resolved.listen));
    for policy in &resolved.policies {
        let protocols: Vec<&str> = policy.protocols.iter().map(|protocol| protocol.label()).collect();
        let hooks: Vec<&str> = policy.hooks.iter().map(|hook| &*resolved.hooks[*hook].name).collect();
        let allow = if policy.allow.is_empty() { String::new() } else { format!(", {} allowed", policy.allow.len()) };
        line(
            "policy",
            format!(
                "{}: {} {} of {} at {} or better within {}, then silent for {}{allow} -> {}",
                policy.name,
                policy.threshold,
                policy.metric.label(),
                protocols.join(" + "),
                policy.min_confidence.label(),
                show_duration(policy.window),
                show_duration(policy.cool_down),
                if hooks.is_empty() { "counted and logged only".to_owned() } else { hooks.join(", ") },
            ),
        );
    }
    for (index, hook) in resolved.hooks.iter().enumerate() {
        let used = resolved.policies.iter().any(|policy| policy.hooks.contains(&index));
        let unused = if used { "" } else { " (no policy calls it)" };
        line(
            "hook",
            format!("{}: {}, subscriber as {}{unused}", hook.name, hook.target.describe(), hook.subscriber.label()),
        );
    }
    out
}

fn interface(interface: &Interface) -> String {
    let entry = |role: Role, realm: u32, prefixes: &[IpNet]| {
        let realm = if realm == 0 { String::new() } else { format!(", realm {realm}") };
        let prefixes: String = prefixes.iter().map(|prefix| format!(", {prefix}")).collect();
        format!("({}{realm}{prefixes})", role.label())
    };
    let Interface { name, role, realm, prefixes, vlans } = interface;
    let vlans = vlans.iter().map(|vlan| format!(", {name}.{vlan} {}", entry(vlan.role, vlan.realm, &vlan.prefixes)));
    format!("{name} {}{}", entry(*role, *realm, prefixes), vlans.collect::<String>())
}

fn pool(pool: &Pool) -> String {
    let shared = if pool.shared { ", shared" } else { "" };
    format!("{}/{} in blocks of /{}{shared}", pool.address, pool.prefix_len, pool.assign_len)
}

fn or_none(items: &[String], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}
