//! Tables that are nearly full, from drain to drain, for the log, `status` and `/readyz`.
//!
//! Pure: a snapshot in, changes out.

use std::collections::HashSet;

use peertally_core::snapshot::{Snapshot, TableUse};

/// Part in use beyond which a table is nearly full.
pub const NEARLY_FULL: f64 = 0.8;
/// Part in use below which it is so no longer.
const RELIEVED: f64 = 0.75;

/// Whether a full table loses something. An ended flow stays in the flow table until its place is needed, so that
/// table is full on every busy router.
fn can_fill(table: &TableUse) -> bool {
    table.name != "flows" && table.name != "reassembly"
}

/// Tables of a snapshot that are nearly full.
pub fn nearly_full(snapshot: &Snapshot) -> impl Iterator<Item = &TableUse> {
    snapshot.tables.iter().filter(|table| can_fill(table) && table.ratio() > NEARLY_FULL)
}

/// A change that is worth one line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillChange {
    /// The table is nearly full since this drain.
    Begun(TableUse),
    /// The table has room again.
    Ended(TableUse),
}

/// What the log has said.
#[derive(Debug, Default)]
pub struct FillWatch {
    full: HashSet<&'static str>,
}

impl FillWatch {
    /// The changes since the drain before.
    pub fn observe(&mut self, snapshot: &Snapshot) -> Vec<FillChange> {
        let mut changes = Vec::new();
        for table in nearly_full(snapshot) {
            if self.full.insert(table.name) {
                changes.push(FillChange::Begun(*table));
            }
        }
        for table in snapshot.tables.iter().filter(|table| table.ratio() < RELIEVED) {
            if self.full.remove(table.name) {
                changes.push(FillChange::Ended(*table));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use peertally_core::testing::Kernel;

    use super::*;

    fn with(name: &'static str, entries: u64) -> Snapshot {
        let tables = vec![TableUse { name, entries, capacity: 100 }];
        Snapshot { tables, ..Kernel::new().drain_at(Duration::ZERO) }
    }

    #[test]
    fn a_table_at_its_mark_is_named_once_until_it_has_room() {
        let mut watch = FillWatch::default();
        let entries = [80, 81, 80, 76, 90, 75, 74, 79, 81];
        let said: Vec<usize> =
            entries.into_iter().map(|entries| watch.observe(&with("tallies", entries)).len()).collect();
        assert_eq!(said, [0, 1, 0, 0, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn the_flow_table_may_be_full() {
        assert!(FillWatch::default().observe(&with("flows", 100)).is_empty());
        assert_eq!(nearly_full(&with("flows", 100)).count(), 0);
        assert_eq!(nearly_full(&with("pools", 100)).count(), 1);
    }
}
