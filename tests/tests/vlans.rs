//! VLANs of one interface with a role, a realm or prefixes of their own.

use std::{collections::BTreeMap, net::SocketAddr};

use monitor_common::abi::{
    protocol::Protocol,
    spoofing::SpoofReason,
    tally::{Direction, TallyKey},
};
use peertally_core::{
    vlan::{Vlan, VlanIds},
    words::Role,
};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, MonitoredInterface},
    view::{View, node_index_parts},
};
use peertally_tests::{
    both_datapaths::{self, BothDatapaths},
    wire::{Connection, at, ciphertext, flag, tcp_at, udp},
    wrap_both_datapaths,
};

const UNTAGGED: &[u16] = &[];

wrap_both_datapaths!(
    /// Both data paths, with one interface.
    Node
);

/// Realm, address and packets up and down of each P2P tally.
type Charged = Vec<(u32, [u8; 4], u64, u64)>;

impl Node {
    fn new(role: Role, vlans: Vec<Vlan>) -> Self {
        let interfaces = vec![interface(role, vlans)];
        let options = both_datapaths::options(TableSizes { flows: 1024, tallies: 256, peers: 256 });
        Self(BothDatapaths::new("VLANs", &LoadOptions { interfaces, one_way: false, ..options }))
    }

    /// Counts a frame with these tags.
    fn tagged(&mut self, tags: &[u16], frame: &[u8]) {
        self.frame(&tag(tags, frame));
    }

    /// A BitTorrent connection of a subscriber, whose packets have the tags of the access side.
    fn connection(&mut self, access: &[u16], core: &[u16], mine: SocketAddr) -> Connection {
        let (mut connection, [syn, answer]) = Connection::open(mine, outside());
        self.tagged(access, &syn);
        self.tagged(core, &answer);
        for _ in 0..12 {
            self.tagged(access, &connection.says(true, &handshake()));
            self.tagged(core, &connection.says(false, &handshake()));
        }
        connection
    }

    /// P2P traffic of subscribers, on which both paths agree.
    fn charged(&self) -> Charged {
        self.both(|view| {
            let read = view.read(0);
            let rows = view.keys.iter().zip(&read.totals).filter_map(|(key, totals)| {
                let TallyKey { realm, address, protocol, .. } = key.read()?;
                let [.., a, b, c, d] = address;
                let p2p = protocol == Protocol::BitTorrent as u8 && totals.packets_up + totals.packets_down > 0;
                p2p.then_some((realm, [a, b, c, d], totals.packets_up, totals.packets_down))
            });
            let mut rows: Charged = rows.collect();
            rows.sort_unstable();
            rows
        })
    }

    /// Packets by number of the interface and direction.
    fn node(&self) -> BTreeMap<(u32, u32), u64> {
        self.both(|view| {
            let mut found = BTreeMap::new();
            for (index, counts) in view.read(0).node.iter().enumerate().filter(|(_, counts)| counts.packets > 0) {
                let parts = node_index_parts(index);
                *found.entry((parts.interface as u32, parts.direction as u32)).or_default() += counts.packets;
            }
            found
        })
    }

    fn both<T: PartialEq + std::fmt::Debug>(&self, read: impl Fn(&View<'_>) -> T) -> T {
        let found = read(&self.host.view());
        if let Some(kernel) = &self.kernel {
            assert_eq!(read(&kernel.view()), found, "kernel and host");
        }
        found
    }
}

fn interface(role: Role, vlans: Vec<Vlan>) -> MonitoredInterface {
    MonitoredInterface { role, vlans, ..MonitoredInterface::access(1) }
}

/// VLANs of a role, realm 0 and all pools.
fn vlan(outer: std::ops::RangeInclusive<u16>, role: Role) -> Vlan {
    Vlan { outer: VlanIds(outer), inner: None, role, realm: 0, prefixes: Vec::new() }
}

/// A frame with these tags, the outer one first: their 16 bits of tag control information.
fn tag(tags: &[u16], frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let mut tagged = addresses.to_vec();
    for (number, control) in tags.iter().enumerate() {
        let outer = number == 0 && tags.len() > 1;
        tagged.extend(if outer { [0x88, 0xa8] } else { [0x81, 0x00] });
        tagged.extend(control.to_be_bytes());
    }
    tagged.extend(rest);
    tagged
}

fn subscriber() -> SocketAddr {
    at("10.0.0.1:50000")
}

fn outside() -> SocketAddr {
    at("192.0.2.7:6881")
}

fn handshake() -> Vec<u8> {
    [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[0xab; 20], b"-TR4000-0123456789ab"].concat()
}

#[test]
fn a_one_armed_router_has_roles_by_vlan() {
    for (role, vlans, access, core) in [
        (Role::Access, vec![vlan(100..=100, Role::Access), vlan(200..=200, Role::Core)], &[100][..], &[200][..]),
        (Role::Access, vec![vlan(4094..=4094, Role::Core)], UNTAGGED, &[4094]),
        (Role::Core, vec![vlan(1..=199, Role::Access)], &[199], UNTAGGED),
        (Role::Core, vec![vlan(100..=100, Role::Access)], &[0x2064, 7], &[101, 100]),
    ] {
        let mut node = Node::new(role, vlans);
        let connection = node.connection(access, core, subscriber());
        assert_eq!(node.charged(), [(0, [10, 0, 0, 1], 13, 13)], "{access:?} {core:?}");
        let (up, down) = (Direction::Up as u32, Direction::Down as u32);
        assert_eq!(node.node(), [((0, up), 13), ((0, down), 13)].into(), "one number for the interface");
        // In the name of the subscriber from the core side: into the settled flow, and into a new one.
        node.tagged(core, &connection.repeats(true, 0, &ciphertext(1_400, 3)));
        node.tagged(core, &tcp_at(at("10.0.0.2:50000"), outside(), flag::PUSH, (1, 1), &handshake()));
        assert_eq!(node.charged(), [(0, [10, 0, 0, 1], 13, 13)], "{access:?} {core:?}");
        assert_eq!(node.spoofed(SpoofReason::Spoofed), 2, "{access:?} {core:?}");
    }
}

#[test]
fn equal_addresses_of_two_realms_are_told_apart_by_vlan() {
    let of = |realm: u32| {
        let (first, inner) = (100 * realm as u16, Some(VlanIds(5..=9)));
        [
            Vlan { realm, ..vlan(first..=first + 9, Role::Access) },
            Vlan { realm, inner, ..vlan(first + 10..=first + 19, Role::Core) },
        ]
    };
    let mut node = Node::new(Role::Access, [of(1), of(2)].concat());
    node.connection(&[100], &[110, 5], subscriber());
    node.connection(&[200, 77], &[219, 9], subscriber());
    let mine = [10, 0, 0, 1];
    assert_eq!(node.charged(), [(1, mine, 13, 13), (2, mine, 13, 13)]);
    // No inner VLAN, and another one: the frames are those of the interface, in realm 0.
    node.connection(&[99], &[110], subscriber());
    node.connection(&[0], &[110, 4], at("10.0.0.3:50000"));
    let others = [(0, mine, 13, 13), (0, [10, 0, 0, 3], 13, 13)];
    assert_eq!(node.charged(), [&others[..], &[(1, mine, 13, 13), (2, mine, 13, 13)]].concat());
}

#[test]
fn a_neighbours_vlan_charges_nobody() {
    let of = |outer: u16, prefix: &str| {
        let prefixes = vec![prefix.parse().expect("a prefix")];
        Vlan { prefixes, ..vlan(outer..=outer, Role::Access) }
    };
    let vlans = vec![of(101, "10.0.0.0/24"), of(102, "10.0.1.0/24"), vlan(200..=200, Role::Core)];
    let mut node = Node::new(Role::Access, vlans);
    let connection = node.connection(&[101], &[200], subscriber());
    let charged = node.charged();
    assert_eq!(charged, [(0, [10, 0, 0, 1], 13, 13)]);
    for _ in 0..20 {
        node.tagged(&[102], &connection.repeats(true, 0, &ciphertext(1_400, 3)));
    }
    node.tagged(&[102], &udp(at("10.0.0.9:6881"), outside(), b"payload"));
    assert_eq!((node.charged(), node.spoofed(SpoofReason::Spoofed)), (charged.clone(), 21));
    // The subscriber goes on, and the neighbour has flows of its own.
    node.tagged(&[101], &connection.repeats(true, 0, &ciphertext(1_400, 3)));
    node.connection(&[102], &[200], at("10.0.1.1:50000"));
    assert_eq!(node.charged(), [(0, [10, 0, 0, 1], 14, 13), (0, [10, 0, 1, 1], 13, 13)]);
    assert_eq!(node.spoofed(SpoofReason::Spoofed), 21);
}

#[test]
fn other_vlans_at_the_next_start_replace_the_former_ones() {
    let inner = Vlan { realm: 7, inner: Some(VlanIds(1..=4094)), ..vlan(100..=199, Role::Access) };
    let mut node = Node::new(Role::Access, vec![inner, Vlan { realm: 8, ..vlan(1..=99, Role::Access) }]);
    let mut realm_of = |tags: &[u16], vlans: Option<Vec<Vlan>>, port: u16| {
        if let Some(vlans) = vlans {
            node.set_interface(interface(Role::Access, vlans));
        }
        node.connection(tags, tags, SocketAddr::new(subscriber().ip(), port));
        node.charged().iter().map(|row| (row.0, row.2)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(realm_of(&[150, 3], None, 50_001), [(7, 13)].into());
    assert_eq!(realm_of(&[50, 3], None, 50_002), [(7, 13), (8, 13)].into());
    let vlans = vec![Vlan { realm: 9, ..vlan(150..=150, Role::Access) }];
    assert_eq!(realm_of(&[150, 3], Some(vlans), 50_003), [(7, 13), (8, 13), (9, 13)].into());
    assert_eq!(realm_of(&[50, 3], None, 50_004), [(0, 13), (7, 13), (8, 13), (9, 13)].into());
    assert_eq!(realm_of(&[150, 3], Some(Vec::new()), 50_005), [(0, 26), (7, 13), (8, 13), (9, 13)].into());
}
