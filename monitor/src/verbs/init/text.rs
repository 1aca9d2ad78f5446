//! The text of the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use ipnet::IpNet;
use peertally_core::{
    pool::{DEFAULT_ASSIGN_IPV4, DEFAULT_ASSIGN_IPV6},
    words::Role,
};
use peertally_datapath::attached::inspect::Device;

use super::{Route, by_index};

/// Most pools that are written: a routing table of the internet is no list of pools.
const MOST_POOLS: usize = 64;

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Found {
    /// Interfaces.
    pub devices: Vec<Device>,
    /// Routes.
    pub routes: Vec<Route>,
    /// VLAN numbers by interface.
    pub vlans: BTreeMap<String, u16>,
}

impl Found {
    /// Whether the default route leads over the interface.
    fn is_core(&self, name: &str) -> bool {
        self.routes.iter().any(|route| route.interface == name && route.to.prefix_len() == 0)
    }

    fn role(&self, name: &str) -> Role {
        if self.is_core(name) { Role::Core } else { Role::Access }
    }

    /// The device to attach to in place of this one: the parent of a VLAN, the bond of a part. `None` for devices that
    /// carry no frames of subscribers of their own.
    fn attach_to<'a>(&'a self, device: &'a Device) -> Option<&'a Device> {
        if device.kind == "vlan" {
            return self.attach_to(by_index(&self.devices, device.parent?)?);
        }
        let master = device.master.and_then(|master| by_index(&self.devices, master));
        if let Some(bond) = master.filter(|master| master.kind == "bond") {
            return Some(bond);
        }
        let attachable = ["", "bond", "veth", "macvlan"].contains(&&*device.kind) && &*device.link.name != "lo";
        attachable.then_some(device)
    }

    /// Interfaces to attach to, each with the roles of its VLANs. Those that are down are left out.
    fn interfaces(&self) -> BTreeMap<&str, BTreeMap<u16, Role>> {
        let mut interfaces: BTreeMap<&str, BTreeMap<u16, Role>> = BTreeMap::new();
        for device in self.devices.iter().filter(|device| device.up) {
            let Some(target) = self.attach_to(device) else { continue };
            let vlans = interfaces.entry(&target.link.name).or_default();
            if let Some(vlan) = self.vlans.get(&*device.link.name) {
                vlans.insert(*vlan, self.role(&device.link.name));
            }
        }
        interfaces
    }

    /// Prefixes that are routed to the access side.
    fn pools(&self, core: &BTreeSet<&str>) -> BTreeSet<IpNet> {
        let to_access = |route: &&Route| route.to.prefix_len() > 0 && !core.contains(&*route.interface);
        let known = |route: &&Route| {
            let device = self.devices.iter().find(|device| *device.link.name == *route.interface);
            device.is_some_and(|device| self.attach_to(device).is_some())
        };
        let routes = self.routes.iter().filter(to_access).filter(known);
        IpNet::aggregate(&routes.map(|route| route.to).collect::<Vec<_>>()).into_iter().collect()
    }
}

/// The configuration, with comments.
pub(super) fn configuration(found: &Found) -> String {
    let mut out = String::from(
        "# Peertally's configuration, from the interfaces and routes of this machine. Check each role and each pool: what\n\
         # is written here decides who is counted. `peertally check-config FILE` names mistakes, `peertally doctor\n\
         # --config FILE` what else keeps this machine from counting. docs/configuration.md has all keys.\n\n",
    );
    let interfaces = found.interfaces();
    let mut line = |text: String| {
        let _infallible = writeln!(out, "{text}");
    };
    if interfaces.is_empty() {
        line(
            "# No interface was found that could carry subscribers' traffic. Name them, as `ip link` shows them:"
                .into(),
        );
        line("#[[interfaces]]\n#name = \"eth0\"\n#role = \"access\"\n".into());
    }
    for (name, vlans) in &interfaces {
        // The role of most VLANs, or of untagged frames.
        let core = vlans.values().filter(|role| **role == Role::Core).count();
        let role = if found.is_core(name) || core * 2 > vlans.len() { Role::Core } else { Role::Access };
        line(match role {
            Role::Core => "# The default route leads over it.".into(),
            Role::Access => "# Subscribers are behind it, unless it is of management: then remove it.".into(),
        });
        line(format!("[[interfaces]]\nname = {name:?}\nrole = \"{}\"", role.label()));
        for (vlan, other) in vlans.iter().filter(|(_, other)| **other != role) {
            line(format!("\n[[interfaces.vlans]]\nouter = {vlan}\nrole = \"{}\"", other.label()));
        }
        line(String::new());
    }
    let core: BTreeSet<&str> =
        found.devices.iter().map(|device| &*device.link.name).filter(|name| found.is_core(name)).collect();
    let pools = found.pools(&core);
    if pools.is_empty() || pools.len() > MOST_POOLS {
        line(format!(
            "# {} Without pools, the private ranges of RFC 1918, the shared range of\n# RFC 6598 and fd00::/8 are \
             subscribers. Name your own:",
            if pools.is_empty() { "No route leads to subscribers." } else { "Too many routes to guess pools from." }
        ));
        line("#[[subscribers.pools]]\n#prefix = \"100.64.0.0/10\"\n".into());
    } else {
        line(
            "# What is routed to the access side. `assign` is the length of the block that one subscriber gets.".into(),
        );
        for pool in pools {
            let usual = if pool.addr().is_ipv4() { DEFAULT_ASSIGN_IPV4 } else { DEFAULT_ASSIGN_IPV6 };
            // A prefix longer than a block of that kind is one subscriber's, or a link of hosts.
            let assign = if pool.addr().is_ipv6() && pool.prefix_len() > usual {
                128.min(pool.prefix_len().max(64))
            } else {
                usual
            };
            line(format!("[[subscribers.pools]]\nprefix = \"{pool}\"\nassign = {assign}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use peertally_core::reconcile::{Hook, Link};

    use super::*;
    use crate::config::{Overrides, Resolved, parse};

    fn device(name: &str, index: u32, kind: &str) -> Device {
        let link = Link { name: Arc::from(name), index, hook: Hook::default() };
        Device { kind: kind.into(), ..Device::of(link) }
    }

    fn route(to: &str, interface: &str) -> Route {
        Route { to: to.parse().expect("a prefix"), interface: interface.into() }
    }

    fn resolved(found: &Found) -> Resolved {
        let text = configuration(found);
        parse(Path::new("p.toml"), &text, &Overrides::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn interfaces(resolved: &Resolved) -> Vec<String> {
        resolved.interfaces.iter().map(|each| format!("{} {}", each.name, each.role.label())).collect()
    }

    #[test]
    fn the_default_route_makes_the_core_and_what_is_routed_behind_are_pools() {
        let found = Found {
            devices: vec![device("lo", 1, ""), device("eth0", 2, ""), device("eth1", 3, "")],
            routes: vec![
                route("0.0.0.0/0", "eth0"),
                route("192.0.2.0/24", "eth0"),
                route("100.64.0.0/16", "eth1"),
                route("2001:db8::/32", "eth1"),
                route("2001:db8:ffff::/64", "eth1"),
            ],
            vlans: BTreeMap::new(),
        };
        let resolved = resolved(&found);
        assert_eq!(interfaces(&resolved), ["eth0 core", "eth1 access"]);
        let pools: Vec<String> = resolved
            .datapath
            .pools
            .iter()
            .map(|pool| format!("{}/{}/{}", pool.address, pool.prefix_len, pool.assign_len))
            .collect();
        assert_eq!(pools, ["100.64.0.0/16/32", "2001:db8::/32/56"]);
    }

    #[test]
    fn vlans_and_parts_of_bonds_are_attached_where_their_frames_are() {
        let found = Found {
            devices: vec![
                device("bond0", 5, "bond"),
                Device { master: Some(5), ..device("eth0", 2, "") },
                Device { master: Some(5), ..device("eth1", 3, "") },
                Device { parent: Some(5), ..device("bond0.100", 6, "vlan") },
                Device { parent: Some(5), ..device("bond0.200", 7, "vlan") },
                device("br0", 8, "bridge"),
                device("wg0", 9, "wireguard"),
                Device { up: false, ..device("eth9", 10, "") },
            ],
            routes: vec![route("0.0.0.0/0", "bond0.100"), route("10.0.0.0/8", "bond0.200")],
            vlans: BTreeMap::from([("bond0.100".into(), 100), ("bond0.200".into(), 200)]),
        };
        let resolved = resolved(&found);
        assert_eq!(interfaces(&resolved), ["bond0 access"]);
        let vlans: Vec<String> =
            resolved.interfaces[0].vlans.iter().map(|vlan| format!("{vlan} {}", vlan.role.label())).collect();
        assert_eq!(vlans, ["100 core"]);
    }

    #[test]
    fn a_machine_without_interfaces_or_with_the_internets_routes_gives_a_valid_file() {
        let empty = Found { devices: vec![device("lo", 1, "")], routes: Vec::new(), vlans: BTreeMap::new() };
        assert!(resolved(&empty).interfaces.is_empty());
        let many = (0..200).map(|n| route(&format!("10.{n}.0.0/24"), "eth1")).collect();
        let many = Found { devices: vec![device("eth1", 2, "")], routes: many, vlans: BTreeMap::new() };
        assert_eq!(interfaces(&resolved(&many)), ["eth1 access"]);
        assert!(configuration(&many).contains("Too many routes"));
    }

    #[test]
    fn names_cannot_break_out_of_their_strings() {
        let odd = Found { devices: vec![device("a\"\n[x]", 2, "")], routes: Vec::new(), vlans: BTreeMap::new() };
        assert!(configuration(&odd).contains(r#"name = "a\"\n[x]""#));
    }
}
