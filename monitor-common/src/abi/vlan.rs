//! VLANs of a frame as one number: 0 without a tag, else that of the only VLAN, or those of the outer and the inner
//! one.

use super::limits::VLAN_IDS;

/// Bits of a VLAN's number (IEEE 802.1Q).
const ID_BITS: u32 = 12;
const ID_MASK: u32 = VLAN_IDS as u32 - 1;

const _: () = assert!(VLAN_IDS == 1 << ID_BITS);

/// The VLANs of a frame after one more tag with these 16 bits of tag control information.
///
/// A tag with the VLAN 0 only has a priority (IEEE 802.1Q, "priority-tagged"): it is no VLAN.
#[inline(always)]
#[must_use]
pub const fn with_tag(vlans: u32, control: u16) -> u32 {
    let id = control as u32 & ID_MASK;
    if id == 0 { vlans } else { vlans << ID_BITS | id }
}

/// The outer VLAN, or the only one, and the inner VLAN or 0.
#[inline(always)]
#[must_use]
pub const fn outer_and_inner(vlans: u32) -> (u32, u32) {
    if vlans <= ID_MASK { (vlans, 0) } else { (vlans >> ID_BITS, vlans & ID_MASK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_priority_alone_are_no_vlan() {
        let of = |controls: &[u16]| outer_and_inner(controls.iter().fold(0, |vlans, tag| with_tag(vlans, *tag)));
        assert_eq!(of(&[0xe000]), (0, 0));
        assert_eq!(of(&[0x2064, 0]), (100, 0));
        assert_eq!(of(&[0, 0x6064]), (100, 0));
        assert_eq!(of(&[7, 0xf064]), (7, 100));
        assert_eq!(of(&[0x0fff, 0xffff]), (4095, 4095));
    }
}
