//! A set of slots: one bit each.

/// See the module.
#[derive(Default)]
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

    /// Makes room for slots below `slots`.
    pub(super) fn grow(&mut self, slots: usize) {
        let words = slots.div_ceil(64).max(self.0.len());
        self.0.resize(words, 0);
    }

    /// Takes all slots out, in their order.
    pub(super) fn take(&mut self, mut found: impl FnMut(u32)) {
        for (place, word) in self.0.iter_mut().enumerate() {
            let mut left = std::mem::take(word);
            while left != 0 {
                found(place as u32 * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
    }
}
