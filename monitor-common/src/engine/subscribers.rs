//! Which ends of a packet are subscribers, and the tally slots of their blocks.

use super::account;
use crate::{
    flow::{self, NO_SLOT},
    key::Address,
    protocol::Verdict,
    store::{Settings, Store},
    tally::KeyWords,
    walk::Headers,
};

/// The subscriber blocks of a packet's ends, in the flow's canonical order.
pub(super) struct Ends {
    lower: Address,
    higher: Address,
    /// Block length of the lower endpoint's pool; [`NO_POOL`] when it is no subscriber.
    lower_len: u8,
    higher_len: u8,
}

/// A block length that no pool has: "no subscriber".
const NO_POOL: u8 = u8::MAX;

/// The outermost address of an end that lies in a pool, and its pool's block length.
#[inline(always)]
fn outermost<S: Store>(store: &S, outer: Address, inner: Address, tunnel: bool) -> (Address, u8) {
    if let Some(len) = store.pool(outer) {
        return (outer, len);
    }
    if tunnel && let Some(len) = store.pool(inner) {
        return (inner, len);
    }
    (inner, NO_POOL)
}

/// The subscribers of a packet; `None` when neither end is one.
#[inline(always)]
pub(super) fn locate<S: Store>(store: &S, headers: &Headers) -> Option<Ends> {
    let tunnel = headers.tunnel != 0;
    let (source, source_len) = outermost(store, headers.outer_source, headers.source, tunnel);
    let (destination, destination_len) = outermost(store, headers.outer_destination, headers.destination, tunnel);
    if source_len == NO_POOL && destination_len == NO_POOL {
        return None;
    }
    // The order of the flow key, which is that of the inner addresses.
    let (_, from_lower) = headers.flow_key();
    Some(if from_lower {
        Ends { lower: source, higher: destination, lower_len: source_len, higher_len: destination_len }
    } else {
        Ends { lower: destination, higher: source, lower_len: destination_len, higher_len: source_len }
    })
}

impl Ends {
    /// Which ends are subscribers.
    #[inline(always)]
    pub(super) fn which(&self) -> flow::Ends {
        if self.higher_len == NO_POOL {
            flow::Ends::Lower
        } else if self.lower_len == NO_POOL {
            flow::Ends::Higher
        } else {
            flow::Ends::Both
        }
    }

    /// Slot of the tally of one end's subscriber; [`NO_SLOT`] when that end is none.
    #[inline(always)]
    pub(super) fn slot<S: Store>(&self, store: &S, settings: &Settings, lower: bool, verdict: Verdict) -> u32 {
        let (address, prefix_len) = if lower { (self.lower, self.lower_len) } else { (self.higher, self.higher_len) };
        if prefix_len == NO_POOL {
            return NO_SLOT;
        }
        let key = KeyWords::new(address.block(prefix_len), 0, prefix_len, verdict);
        account::slot_of(store, settings, &key)
    }
}
