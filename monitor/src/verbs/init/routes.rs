//! Routes and VLANs, as `/proc` has them: of the network namespace of this process, and without rights.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use peertally_datapath::attached::inspect::Device;

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Name of the interface.
    pub interface: String,
}

/// All routes over these devices.
pub(super) fn all(devices: &[Device]) -> Vec<Route> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut routes = ipv4(&read("/proc/net/route"));
    routes.extend(ipv6(&read("/proc/net/ipv6_route")));
    routes.retain(|route| devices.iter().any(|device| *device.link.name == *route.interface));
    routes
}

/// VLAN numbers by the names of their interfaces (`/proc/net/vlan/config`, net/8021q/vlanproc.c).
pub(super) fn vlans() -> BTreeMap<String, u16> {
    vlans_of(&fs::read_to_string("/proc/net/vlan/config").unwrap_or_default())
}

fn vlans_of(text: &str) -> BTreeMap<String, u16> {
    let line = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// `/proc/net/route` (net/ipv4/fib_trie.c, `fib_route_seq_show`): addresses are numbers in the machine's byte order.
fn ipv4(text: &str) -> Vec<Route> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |field: usize| {
            let number = u32::from_str_radix(fields.get(field)?, 16).ok()?;
            Some(Ipv4Addr::from(number.to_ne_bytes()))
        };
        let to = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
        Some(Route { to: IpNet::V4(to.trunc()), interface: (*fields.first()?).to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// `/proc/net/ipv6_route` (net/ipv6/route.c, `ipv6_route_native_seq_show`).
fn ipv6(text: &str) -> Vec<Route> {
    /// `RTF_UP` of include/uapi/linux/route.h; `RTF_LOCAL` of include/uapi/linux/ipv6_route.h.
    const UP: u32 = 1;
    const LOCAL: u32 = 0x8000_0000;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, length, .., flags, interface] = fields[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let to = Ipv6Addr::from(u128::from_str_radix(to, 16).ok()?);
        let length = u8::from_str_radix(length, 16).ok()?;
        let counts = flags & UP != 0 && flags & LOCAL == 0 && !to.is_unicast_link_local() && !to.is_multicast();
        let to = Ipv6Net::new(to, length).ok()?.trunc();
        counts.then(|| Route { to: IpNet::V6(to), interface: interface.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(routes: &[Route]) -> Vec<String> {
        routes.iter().map(|route| format!("{} {}", route.to, route.interface)).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ipv4_routes_are_read() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth1\t00004064\t00000000\t0001\t0\t0\t0\t0000C0FF\t0\t0\t0\n";
        assert_eq!(shown(&ipv4(text)), ["0.0.0.0/0 eth0", "192.0.2.0/24 eth0", "100.64.0.0/10 eth1"]);
    }

    #[test]
    fn ipv6_routes_are_read_and_own_addresses_are_none() {
        let zero = "0".repeat(32);
        let line = |to: &str, length: &str, flags: &str| {
            format!("{to} {length} {zero} 00 {zero} 00000100 00000001 00000000 {flags}     eth1\n")
        };
        let text = line("20010db8000000000000000000000000", "20", "00000001")
            + &line("fe800000000000000000000000000000", "40", "00000001")
            + &line("ff000000000000000000000000000000", "08", "00000001")
            + &line("20010db8000000000000000000000001", "80", "80200001")
            + &line(&zero, "00", "00000003");
        assert_eq!(shown(&ipv6(&text)), ["2001:db8::/32 eth1", "::/0 eth1"]);
    }

    #[test]
    fn vlans_are_read() {
        let text =
            "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\neth0.7         | 7  | eth0\n";
        assert_eq!(vlans_of(text), BTreeMap::from([("eth0.7".to_owned(), 7)]));
    }
}
