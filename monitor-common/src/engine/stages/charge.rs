//! Charge: gives the packet's flow to the subscribers who have taken part in it, compares the content that it names
//! with the watchlist, and sends verdict records.

use super::scratch;
use crate::{
    abi::{
        settings::{InspectionDepth, Settings},
        stage::StageProgram,
    },
    engine::{charge, records, watchlist},
    tables::maps::Maps,
};

/// Ends the way of a packet that may charge a subscriber, names content, or has a verdict that charges somebody.
#[inline(always)]
pub fn charge<M: Maps>(maps: &M, settings: &Settings) -> Option<StageProgram> {
    let scratch = &mut *scratch(maps)?;
    let ctx = &mut scratch.ctx;
    charge::update(maps, settings, ctx);
    if settings.inspection.load() == InspectionDepth::Watchlist as u64 && ctx.inspection.content.is_some() {
        watchlist::compare(maps, settings, ctx);
    }
    records::send(maps, settings, ctx);
    None
}
