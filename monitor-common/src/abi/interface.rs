//! Interfaces and VLANs as the maps `INTERFACES` and `VLAN_ENTRIES` hold them.

use super::limits::MAX_INTERFACES;

/// One entry of the map `INTERFACES`, which has an entry for every 16-bit interface index: number in bits 0..5, core
/// flag in bit 5, in bit 6 whether it is the entry of a VLAN, in bit 15 whether VLANs of the interface have entries,
/// set of allowed prefixes in bits 16..32, realm in bits 32..64.
/// The number is stored inverted, so that an empty entry means the last number, which all unknown interfaces share.
/// Bits 8 to 14 are clear: the fast path compares some of them with a flow's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceEntry(pub u64);

/// Entries of the map.
pub const INTERFACE_ENTRIES: u32 = 1 << 16;
const LAST_INTERFACE: u64 = MAX_INTERFACES as u64 - 1;
const CORE: u64 = MAX_INTERFACES as u64;
const OF_VLAN: u64 = CORE << 1;
const HAS_VLANS: u64 = 1 << 15;
const PREFIX_SET_SHIFT: u32 = 16;
const REALM_SHIFT: u32 = 32;

const _: () = assert!(MAX_INTERFACES.is_power_of_two() && OF_VLAN <= 0x80, "number and flags fit a byte");

impl InterfaceEntry {
    /// The entry of an access interface by its number, which is not the last one.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number as u64 & LAST_INTERFACE ^ LAST_INTERFACE)
    }

    /// The entry with the core flag set or cleared.
    #[must_use]
    pub const fn with_core(self, core: bool) -> Self {
        Self(if core { self.0 | CORE } else { self.0 & !CORE })
    }

    /// The entry with the number of another one.
    #[must_use]
    pub const fn with_number_of(self, other: Self) -> Self {
        Self(self.0 & !LAST_INTERFACE | other.0 & LAST_INTERFACE)
    }

    /// Number of the interface; `None` if it has none of its own.
    #[must_use]
    pub const fn number(self) -> Option<u32> {
        let number = self.shared_number();
        if number as u64 == LAST_INTERFACE { None } else { Some(number) }
    }

    /// Number of the interface, or the last one.
    #[inline(always)]
    #[must_use]
    pub const fn shared_number(self) -> u32 {
        (self.0 & LAST_INTERFACE ^ LAST_INTERFACE) as u32
    }

    /// Number and flags: what a flow's state keeps of the entry.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0 as u8
    }

    /// The entry with this [`Self::code`], without its realm.
    #[inline(always)]
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        Self(code as u64)
    }

    /// Whether it is a core interface, on which no subscriber's packet arrives.
    #[inline(always)]
    #[must_use]
    pub const fn is_core(self) -> bool {
        self.0 & CORE != 0
    }

    /// The entry as that of a VLAN.
    #[must_use]
    pub const fn of_vlan(self) -> Self {
        Self(self.0 | OF_VLAN)
    }

    /// Whether it is the entry of a VLAN.
    #[inline(always)]
    #[must_use]
    pub const fn is_of_vlan(self) -> bool {
        self.0 & OF_VLAN != 0
    }

    /// The entry with the mark whether VLANs of the interface have entries of their own set or cleared.
    #[must_use]
    pub const fn with_vlans(self, vlans: bool) -> Self {
        Self(if vlans { self.0 | HAS_VLANS } else { self.0 & !HAS_VLANS })
    }

    /// Whether VLANs of the interface have entries of their own.
    #[inline(always)]
    #[must_use]
    pub const fn has_vlans(self) -> bool {
        self.0 & HAS_VLANS != 0
    }

    /// The entry with the number of a set of allowed prefixes, or 0 for all subscribers' addresses.
    #[must_use]
    pub const fn with_prefix_set(self, set: u16) -> Self {
        Self(self.0 & !(0xffff << PREFIX_SET_SHIFT) | (set as u64) << PREFIX_SET_SHIFT)
    }

    /// Number of the set of prefixes ([`super::spoofing`]) that subscribers' sources must lie in; 0 if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn prefix_set(self) -> u32 {
        (self.0 >> PREFIX_SET_SHIFT) as u32 & 0xffff
    }

    /// The entry without its realm: what the slow path keeps of it.
    #[inline(always)]
    #[must_use]
    pub const fn without_realm(self) -> u32 {
        self.0 as u32
    }

    /// The entry with a realm.
    #[must_use]
    pub const fn with_realm(self, realm: u32) -> Self {
        Self(self.0 as u32 as u64 | (realm as u64) << REALM_SHIFT)
    }

    /// Realm of the interface.
    #[inline(always)]
    #[must_use]
    pub const fn realm(self) -> u32 {
        (self.0 >> REALM_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_keeps_its_number_whatever_its_role() {
        assert_eq!((InterfaceEntry(0).number(), InterfaceEntry(0).shared_number()), (None, MAX_INTERFACES as u32 - 1));
        for number in 0..MAX_INTERFACES as u32 - 1 {
            let entry = InterfaceEntry::new(number);
            assert_eq!((entry.number(), entry.shared_number(), entry.is_core()), (Some(number), number, false));
            let core = entry.with_core(true);
            assert_eq!((core.number(), core.is_core(), core.with_core(false)), (Some(number), true, entry));
            let realm = core.with_realm(u32::MAX);
            assert_eq!((realm.number(), realm.is_core(), realm.realm()), (Some(number), true, u32::MAX));
            assert_eq!((realm.with_realm(0), entry.realm()), (core, 0));
            let allowed = realm.with_prefix_set(u16::MAX);
            assert_eq!((allowed.prefix_set(), realm.prefix_set()), (u32::from(u16::MAX), 0));
            assert_eq!((allowed.code(), allowed.realm(), allowed.with_prefix_set(0)), (realm.code(), u32::MAX, realm));
            let vlan = InterfaceEntry(0).of_vlan().with_vlans(true).with_number_of(core);
            assert_eq!((vlan.number(), vlan.is_of_vlan(), vlan.has_vlans()), (Some(number), true, true));
            assert_eq!((vlan.is_core(), vlan.prefix_set(), vlan.with_vlans(false).has_vlans()), (false, 0, false));
            assert!(!core.is_of_vlan() && !core.has_vlans() && vlan.code() != entry.code());
        }
        assert_eq!(InterfaceEntry(0).with_core(true).number(), None, "the last number is shared");
    }
}
