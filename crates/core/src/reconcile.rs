//! What is to be done so that the program runs on the configured interfaces, and on no other: a comparison of names
//! that are configured, links that the kernel has, and pinned attachments.
//!
//! An attachment knows its device whatever happens to names and indices: that, and neither of them, is the identity of
//! an interface. Nothing is asked and nothing is done here.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::words::XdpMode;

/// A link of the kernel: an interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: Arc<str>,
    /// Its index.
    pub index: u32,
    /// Program on its XDP hook.
    pub hook: Hook,
}

/// The XDP hook of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// Id of the program, if one is attached.
    pub program: Option<u32>,
    /// Mode of the program.
    pub mode: HookMode,
}

/// Mode in which a hook runs its program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookMode {
    /// No program.
    #[default]
    None,
    /// In the driver.
    Native,
    /// On the socket buffer.
    Generic,
    /// On the device.
    Offload,
    /// Programs of several modes.
    Multiple,
}

impl HookMode {
    /// The word of metrics and messages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
            Self::Multiple => "multiple",
        }
    }

    /// Whether a program in this mode is what was asked for.
    const fn serves(self, wanted: XdpMode) -> bool {
        match wanted {
            XdpMode::Native => !matches!(self, Self::Generic),
            XdpMode::Generic => !matches!(self, Self::Native),
            XdpMode::Auto => true,
        }
    }
}

/// A pinned attachment of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Index in the name of the pin: that of the interface when it was attached.
    pub pin: u32,
    /// Id of the program that the attachment holds.
    pub program: u32,
    /// Present index of its device, in whatever network namespace; `None` after the device was removed, or the program
    /// was detached by hand.
    pub device: Option<u32>,
    /// Name under which the interface was counted.
    pub name: Option<Arc<str>>,
}

/// Why an attachment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    /// Its device was removed, or its program was detached by hand.
    Gone,
    /// Its device is in another network namespace now, or came back from one.
    Moved,
    /// The configuration does not name its interface.
    NotConfigured,
}

/// One step. Steps are done in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove this pin, which detaches what it still holds.
    Unpin {
        /// Index in the name of the pin.
        pin: u32,
        /// Why.
        why: Ended,
    },
    /// Attach to an interface without a program.
    Attach {
        /// Index of the interface.
        index: u32,
    },
    /// Detach, and attach in the mode that was asked for.
    Reattach {
        /// Index of the interface.
        index: u32,
        /// Present mode.
        from: HookMode,
    },
    /// Put the present program into an attachment that holds another one of ours.
    Swap {
        /// Index of the interface.
        index: u32,
    },
}

/// Where a configured interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The link with this index is counted under the configured name, or is about to be.
    At {
        /// Index of the link.
        index: u32,
        /// Its present name, if that is another one.
        renamed: Option<Arc<str>>,
        /// Present mode of our program there.
        mode: HookMode,
    },
    /// There is no such interface.
    Absent,
    /// Somebody else's program is on its hook.
    Foreign {
        /// Index of the link.
        index: u32,
        /// The hook.
        hook: Hook,
    },
    /// The program cannot tell its index from that of another configured interface.
    SameIndex {
        /// Name of the other one.
        other: Arc<str>,
    },
}

/// Result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One place for each configured interface, in their order.
    pub places: Vec<Place>,
    /// What to do.
    pub actions: Vec<Action>,
}

/// Compares the configured `names` with the kernel's `links` and the `pinned` attachments. `links` holds at least the
/// links with these names, and those with the indices of devices of attachments. `program` is the id of the present
/// program, `None` before it is loaded: then nothing is to be swapped.
#[must_use]
pub fn plan(names: &[Arc<str>], links: &[Link], pinned: &[Pinned], mode: XdpMode, program: Option<u32>) -> Plan {
    let mut plan = Plan::default();
    let mut later = Vec::new();
    let mut kept: Vec<u32> = Vec::new();
    let found: Vec<Option<&Link>> = names.iter().map(|name| link_of(name, names, links, pinned)).collect();
    // A start that was killed may leave a second pin of one attachment: the one with the right name counts.
    // A device may have a second pin, of an index that it had before: the one with its present index counts.
    let own = |link: &Link| {
        let held = pinned.iter().filter(|pinned| holds(pinned, link));
        held.max_by_key(|pinned| pinned.pin == link.index)
    };
    // An interface that is attached keeps its index from one that comes later.
    let (mut order, rest): (Vec<usize>, Vec<usize>) =
        (0..names.len()).partition(|place| found[*place].is_some_and(|link| own(link).is_some()));
    order.extend(rest);
    let first_with = |index: u32| {
        let same = |place: &&usize| found[**place].is_some_and(|link| link.index as u16 == index as u16);
        order.iter().find(same).copied()
    };
    for (place, (name, link)) in names.iter().zip(&found).enumerate() {
        let Some(link) = link else {
            plan.places.push(Place::Absent);
            continue;
        };
        // The program knows an interface by the low 16 bits of its index.
        if let Some(other) = first_with(link.index).filter(|other| *other != place) {
            plan.places.push(Place::SameIndex { other: Arc::clone(&names[other]) });
            continue;
        }
        let own = own(link);
        if link.hook.program.is_some() && own.is_none() {
            plan.places.push(Place::Foreign { index: link.index, hook: link.hook });
            continue;
        }
        let renamed = (link.name != *name).then(|| Arc::clone(&link.name));
        plan.places.push(Place::At { index: link.index, renamed, mode: link.hook.mode });
        match own {
            // Its pin has the name of an index that the interface had in another life.
            Some(own) if own.pin != link.index => later.push(Action::Attach { index: link.index }),
            Some(own) if !link.hook.mode.serves(mode) => {
                kept.push(own.pin);
                later.push(Action::Reattach { index: link.index, from: link.hook.mode });
            }
            Some(own) => {
                kept.push(own.pin);
                if program.is_some_and(|program| program != own.program) {
                    later.push(Action::Swap { index: link.index });
                }
            }
            None => later.push(Action::Attach { index: link.index }),
        }
    }
    for each in pinned.iter().filter(|each| !kept.contains(&each.pin)) {
        plan.actions.push(Action::Unpin { pin: each.pin, why: ended(each, links) });
    }
    // Swaps come last: if an attachment fails, programs that count are not changed.
    later.sort_by_key(|action| matches!(action, Action::Swap { .. }));
    plan.actions.extend(later);
    plan
}

/// The link that is counted under a configured name: the one with that name, else the one that was attached under it
/// and has another name now, which is not configured.
fn link_of<'a>(name: &Arc<str>, names: &[Arc<str>], links: &'a [Link], pinned: &[Pinned]) -> Option<&'a Link> {
    links.iter().find(|link| link.name == *name).or_else(|| {
        let known = pinned.iter().filter(|pinned| pinned.name.as_ref() == Some(name));
        let mut renamed = known.filter_map(|pinned| links.iter().find(|link| holds(pinned, link)));
        renamed.find(|link| !names.contains(&link.name))
    })
}

/// Whether an attachment holds the program of this link.
fn holds(pinned: &Pinned, link: &Link) -> bool {
    pinned.device == Some(link.index) && link.hook.program == Some(pinned.program)
}

/// Why an attachment that no configured interface needs ends.
fn ended(pinned: &Pinned, links: &[Link]) -> Ended {
    match pinned.device {
        None => Ended::Gone,
        Some(device) if device == pinned.pin && links.iter().any(|link| holds(pinned, link)) => Ended::NotConfigured,
        Some(_) => Ended::Moved,
    }
}
