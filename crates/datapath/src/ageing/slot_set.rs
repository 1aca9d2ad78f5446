//! A set of slots: one bit each.

/// See the module.
pub(super) struct SlotSet(Vec<u64>);

impl SlotSet {
    /// An empty set of slots below `slots`.
    pub(super) fn new(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    /// A set of some slots below `slots`.
    pub(super) fn of(members: &[u32], slots: usize) -> Self {
        let mut set = Self::new(slots);
        members.iter().for_each(|slot| set.insert(*slot));
        set
    }

    /// Inserts a slot. Numbers that are no slots are left out.
    pub(super) fn insert(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Whether it has a slot.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }
}
