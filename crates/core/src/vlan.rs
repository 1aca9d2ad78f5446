//! VLANs of an interface with a role, a realm or prefixes of their own, and the cells of the map `VLANS` for them.

use std::{collections::HashMap, fmt, ops::RangeInclusive};

use ipnet::IpNet;
use monitor_common::{
    abi::limits::{FIRST_INNER_TABLE, VLAN_IDS},
    tables::vlan_table::{entry_cell, inner_cell},
};

use crate::words::Role;

/// Numbers of VLANs, from 1 to 4094.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VlanIds(pub RangeInclusive<u16>);

impl VlanIds {
    /// Whether two ranges have a number in common.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.0.start() <= other.0.end() && other.0.start() <= self.0.end()
    }
}

impl fmt::Display for VlanIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// VLANs of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// VLAN of the outer tag, or of the only one.
    pub outer: VlanIds,
    /// VLAN of the inner tag; `None` for any inner tag, and for frames without one.
    pub inner: Option<VlanIds>,
    /// Which side they face.
    pub role: Role,
    /// Number of their realm.
    pub realm: u32,
    /// Prefixes of the subscribers behind them; empty for all pools.
    pub prefixes: Vec<IpNet>,
}

impl Vlan {
    /// Whether a frame may belong to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let inner = match (&self.inner, &other.inner) {
            (Some(inner), Some(others)) => inner.overlap(others),
            _ => true,
        };
        inner && self.outer.overlap(&other.outer)
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Some(inner) => write!(f, "{}.{inner}", self.outer),
            None => write!(f, "{}", self.outer),
        }
    }
}

/// Cells of a table of VLANs, by number.
pub type VlanCells = Vec<u16>;

/// The tables of VLANs of all interfaces. Their entries are numbered from 1 on, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanTables {
    /// For each interface the cells of its outer VLANs; none without VLANs.
    pub outer: Vec<VlanCells>,
    /// Tables of inner VLANs. Outer VLANs with the same inner ones share a table.
    pub inner: Vec<VlanCells>,
}

impl VlanTables {
    /// The tables for the VLANs of each interface, no two of which overlap.
    #[must_use]
    pub fn new<'a>(interfaces: impl IntoIterator<Item = &'a [Vlan]>) -> Self {
        let mut tables = Self::default();
        let mut known: HashMap<VlanCells, u16> = HashMap::new();
        let mut entries = 0;
        for vlans in interfaces {
            let mut outer = vec![0; if vlans.is_empty() { 0 } else { VLAN_IDS }];
            let mut inside: HashMap<u16, VlanCells> = HashMap::new();
            for vlan in vlans {
                entries += 1;
                for id in vlan.outer.0.clone() {
                    match &vlan.inner {
                        None => outer[usize::from(id)] = entry_cell(entries),
                        Some(inner) => {
                            let cells = inside.entry(id).or_insert_with(|| vec![0; VLAN_IDS]);
                            inner.0.clone().for_each(|id| cells[usize::from(id)] = entry_cell(entries));
                        }
                    }
                }
            }
            let mut inside: Vec<_> = inside.into_iter().collect();
            inside.sort_by_key(|(id, _)| *id);
            for (id, cells) in inside {
                let next = FIRST_INNER_TABLE as u16 + known.len() as u16;
                let table = *known.entry(cells.clone()).or_insert_with(|| {
                    tables.inner.push(cells);
                    next
                });
                outer[usize::from(id)] = inner_cell(table);
            }
            tables.outer.push(outer);
        }
        tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(outer: RangeInclusive<u16>, inner: Option<RangeInclusive<u16>>) -> Vlan {
        let (outer, inner) = (VlanIds(outer), inner.map(VlanIds));
        Vlan { outer, inner, role: Role::Access, realm: 0, prefixes: Vec::new() }
    }

    #[test]
    fn outer_vlans_with_equal_inner_ones_share_a_table() {
        let first = [vlan(100..=199, Some(1..=10)), vlan(300..=300, None), vlan(100..=199, Some(20..=20))];
        let second = [vlan(100..=101, Some(1..=10))];
        let tables = VlanTables::new([&first[..], &[], &second]);
        assert_eq!(tables.inner.len(), 2);
        let first_inner = FIRST_INNER_TABLE as u16;
        assert_eq!(tables.outer[0][300], entry_cell(2));
        assert!(tables.outer[0][100..200].iter().all(|cell| *cell == inner_cell(first_inner)));
        assert_eq!((tables.outer[0][99], tables.outer[0][200]), (0, 0));
        assert_eq!((tables.inner[0][0], tables.inner[0][1], tables.inner[0][11]), (0, entry_cell(1), 0));
        assert_eq!(tables.inner[0][20], entry_cell(3));
        assert!(tables.outer[1].is_empty());
        assert_eq!(tables.outer[2][101], inner_cell(first_inner + 1));
        assert_eq!(tables.inner[1][10], entry_cell(4));
    }

    #[test]
    fn overlap_is_a_frame_of_both() {
        let all = vlan(1..=4094, None);
        for (a, b, overlaps) in [
            (vlan(1..=9, None), vlan(9..=20, Some(7..=7)), true),
            (vlan(1..=9, None), vlan(10..=20, None), false),
            (vlan(5..=5, Some(1..=4)), vlan(5..=5, Some(5..=9)), false),
            (vlan(5..=5, Some(1..=5)), vlan(1..=6, Some(5..=9)), true),
        ] {
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (overlaps, overlaps), "{a} {b}");
            assert!(a.overlaps(&all));
        }
    }
}
