//! Tables that others took the place of: their flows end, what they have counted is booked, and they are removed.

use std::path::{Path, PathBuf};

use super::{error::AttachError, program_clock, records, table_sets};
use crate::{
    ageing::{Ageing, wait_for_packets},
    mapped_tables::MappedTables,
    replaced,
    view::View,
};

/// The replaced tables that are not booked yet, with their folders.
#[derive(Default)]
pub(super) struct ReplacedSets(Vec<(PathBuf, MappedTables)>);

impl ReplacedSets {
    /// Ends the flows of replaced tables, after every packet that was counted into them. The program was swapped.
    ///
    /// # Errors
    /// [`AttachError`]; the next start tries again.
    pub(super) fn end(folder: &Path) -> Result<Self, AttachError> {
        let mut sets = Vec::new();
        for set in table_sets::replaced(folder).map_err(|source| AttachError::Links { source })? {
            let tables = MappedTables::pinned(&set)?;
            sets.push((set, tables));
        }
        if !sets.is_empty() {
            wait_for_packets();
        }
        for (_, tables) in &sets {
            let flows = replaced::end_flows(&tables.view(), program_clock::now_s());
            tracing::info!(flows = flows.ended, "the flows of the replaced tables ended: they are looked at anew");
            if flows.stuck > 0 {
                tracing::error!(
                    flows = flows.stuck,
                    "a bug: flows of the replaced tables are in the middle of a change"
                );
            }
        }
        Ok(Self(sets))
    }

    /// Books what the tables have counted for those of `present`, and removes them; `false` as long as that fails.
    /// Until then the books stay closed, and no row that may have something in them is shown.
    pub(super) fn book(&mut self, ageing: &mut Ageing, present: &View<'_>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let totals: Vec<_> = self.0.iter().map(|(_, tables)| replaced::totals(&tables.view())).collect();
        let tallies: usize = totals.iter().map(|each| each.tallies.len() + each.leaving.len()).sum();
        if let Err(error) = ageing.carry(present, totals) {
            tracing::warn!(%error, "what the replaced tables have counted is not shown until this works");
            return false;
        }
        tracing::info!(tallies, "the totals of the replaced tables are booked");
        for (set, _) in self.0.drain(..) {
            if let Err(error) = table_sets::remove(&set) {
                tracing::warn!(%error, set = %set.display(), "cannot remove the replaced tables; the next start tries again");
            }
        }
        true
    }
}

/// Removes tables that were to take the place of others, unless the program counted into them for a moment: then the
/// next start books that.
pub(super) fn give_up(folder: &Path, set: &Path) {
    if set == folder {
        return;
    }
    let unused = MappedTables::pinned(set).is_ok_and(|tables| replaced::is_unused(&tables.view()));
    let forgotten = if unused { records::clear_complete(set) } else { Ok(()) };
    if let Err(error) = forgotten.and_then(|()| table_sets::give_next_up(folder)) {
        tracing::warn!(%error, "cannot clean up after a failed start; the next one does");
    }
}
