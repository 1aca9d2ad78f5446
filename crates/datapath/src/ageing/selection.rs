//! Which tallies leave: those that have not moved for the age, or, in a table that is nearly full, those that have not
//! moved for longest.

use monitor_common::abi::limits::UNCLASSIFIED_QUARTERS;

use super::{Ageing, is_active, named_by_flows, slot_set::SlotSet};
use crate::view::View;

/// Part of the table, in percent, beyond which tallies leave before their age: below the part that traffic without a
/// P2P verdict may take, so that it finds room while there are tallies that may leave.
const PRESSED_PERCENT: u64 = 70;
/// Part of the table, in percent, down to which they do.
const RELIEVED_PERCENT: u64 = 65;

const _: () = assert!(PRESSED_PERCENT < UNCLASSIFIED_QUARTERS * 25);
/// Least time without a move of a tally that leaves, in seconds: longer than a flow is active after its last packet.
const LEAST_AGE_S: u64 = 120;
/// A batch has at most one slot of so many, and at least [`LEAST_BATCH`].
const BATCH_PART: usize = 16;
/// Room of a batch in a small table.
const LEAST_BATCH: usize = 64;
/// Longest time between two selections while the table is not pressed, in seconds.
const LONGEST_PAUSE_S: u64 = 60;

/// Classes of ages: eight for each power of two.
const CLASSES: usize = 64 * 8;

/// Class of an age: grows with it.
const fn class(age_s: u64) -> usize {
    if age_s < 8 {
        return age_s as usize;
    }
    let octave = age_s.ilog2();
    (octave as usize - 2) * 8 + (age_s >> (octave - 3)) as usize - 8
}

/// Whether so much of the table is in use that tallies leave before their age.
fn is_pressed(view: &View<'_>) -> bool {
    let capacity = view.tallies.len() as u64;
    (capacity - view.slots_free() as u64) * 100 > capacity * PRESSED_PERCENT
}

impl Ageing {
    /// Seconds without a move after which a slot that is out of use may leave.
    pub(super) fn least_age_s(&self, view: &View<'_>) -> u64 {
        if is_pressed(view) { self.age_s.min(LEAST_AGE_S) } else { self.age_s }
    }

    /// Slots of the next batch.
    pub(super) fn select(&mut self, view: &View<'_>, kept: impl Fn(u32) -> bool) -> Vec<u32> {
        let now_s = view.settings.clock_s.load();
        let capacity = view.tallies.len() as u64;
        let used = capacity - view.slots_free() as u64;
        let pressed = used * 100 > capacity * PRESSED_PERCENT;
        let pause_s = (self.age_s / 64).clamp(1, LONGEST_PAUSE_S);
        if !pressed && self.selected_s.is_some_and(|last| now_s < last + pause_s) {
            return Vec::new();
        }
        self.selected_s = Some(now_s);
        let mut ages = [0_u64; CLASSES];
        // Whatever is younger stays: most tallies are, and their keys need not be read.
        let least_s = self.least_age_s(view);
        for_each_age(view, now_s, least_s, |_, age_s| ages[class(age_s)] += 1);
        if ages.iter().all(|tallies| *tallies == 0) {
            return Vec::new();
        }
        let room = (view.tallies.len() / BATCH_PART).max(LEAST_BATCH) as u64;
        let surplus = if pressed { used - capacity * RELIEVED_PERCENT / 100 } else { 0 };
        // From the oldest class down, until there are enough.
        let (mut least, mut found) = (CLASSES, 0);
        while least > 0 && found < room {
            let next = least - 1;
            let old = next > class(self.age_s);
            if !old && (found >= surplus || next <= class(LEAST_AGE_S)) {
                break;
            }
            found += ages[next];
            least = next;
        }
        // Within the class of the age itself, the age decides.
        let reaches = |age_s: u64| class(age_s) >= least || age_s >= self.age_s;
        let mut chosen = Vec::new();
        for_each_age(view, now_s, least_s, |slot, age_s| {
            if (chosen.len() as u64) < room && reaches(age_s) && !kept(slot) {
                chosen.push(slot);
            }
        });
        if !chosen.is_empty() {
            drop_active(view, now_s, &mut chosen);
        }
        chosen
    }
}

/// Calls `found` with each slot that may leave, and the seconds since its tally moved: at least `least_s`.
fn for_each_age(view: &View<'_>, now_s: u64, least_s: u64, mut found: impl FnMut(u32, u64)) {
    let slots = view.slots_in_use();
    for (slot, (tally, key)) in view.tallies[..slots].iter().zip(view.keys).enumerate().skip(1) {
        let seen_s = tally.last_seen_s.load();
        let age_s = now_s.saturating_sub(seen_s);
        if age_s < least_s || key.words().is_none() || key.is_retiring() {
            continue;
        }
        if seen_s == 0 {
            // It was made, and has counted nothing yet: its age begins now.
            tally.last_seen_s.replace(0, now_s.max(1));
        } else {
            found(slot as u32, age_s);
        }
    }
}

/// Leaves out the slots of active flows, whose counts are not in their tallies yet, and makes their tallies young.
fn drop_active(view: &View<'_>, now_s: u64, chosen: &mut Vec<u32>) {
    let mut active = SlotSet::new(view.tallies.len());
    named_by_flows(view, |set, way, slots| {
        if is_active(view, set, way) {
            active.insert(slots.0);
            active.insert(slots.1);
        }
    });
    chosen.retain(|slot| {
        if active.has(*slot) {
            view.tallies[*slot as usize].last_seen_s.store(now_s);
        }
        !active.has(*slot)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_with_the_age() {
        let mut last = 0;
        for age_s in 0..100_000 {
            assert!(class(age_s) == last || class(age_s) == last + 1, "{age_s}");
            last = class(age_s);
        }
        assert!(class(u64::MAX) < CLASSES);
    }
}
