//! The monitored interfaces: compares what is configured with what the kernel has, and does what is missing. The
//! comparison is [`peertally_core::reconcile`].
//!
//! Number, role, realm and prefixes of an interface are in the tables before the program is attached to it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::Arc,
};

use peertally_core::{
    interface::Interface,
    pool::Pool,
    reconcile::{Action, Ended, HookMode, Link, Pinned, Place, Plan, plan},
    snapshot::{Attachment, AttachmentChange, Reconciled, RunningProgram},
    words::XdpMode,
};

use super::{
    attach, attachments, error::AttachError, interface_numbers::InterfaceNumbers, netlink::Rtnetlink, pins, records,
};
use crate::object::{LoadedObject, MonitoredInterface};

/// See the module documentation.
pub(super) struct Monitored {
    folder: PathBuf,
    configured: Vec<Interface>,
    names: Vec<Arc<str>>,
    pools: Vec<Pool>,
    mode: XdpMode,
    numbers: InterfaceNumbers,
    netlink: Rtnetlink,
    /// The interfaces that the tables hold.
    targets: Vec<MonitoredInterface>,
    attachments: Vec<Attachment>,
    changes: BTreeMap<(Arc<str>, &'static str), u64>,
    /// Last error of each interface.
    errors: HashMap<Arc<str>, String>,
    failed_queries: u64,
    /// Whether the last comparison failed.
    failing: bool,
}

/// Links and attachments of the kernel, and what is to be done.
pub(super) struct Look {
    links: Vec<Link>,
    pinned: Vec<Pinned>,
    plan: Plan,
}

impl Monitored {
    /// Prepares the comparison; touches nothing.
    ///
    /// # Errors
    /// [`AttachError::Links`] when the kernel cannot be asked.
    pub(super) fn new(configured: &[Interface], pools: &[Pool], mode: XdpMode) -> Result<Self, AttachError> {
        let links = |source| AttachError::Links { source };
        Ok(Self {
            folder: pins::folder(),
            configured: configured.to_vec(),
            names: configured.iter().map(|interface| Arc::from(interface.name.as_str())).collect(),
            pools: pools.to_vec(),
            mode,
            numbers: InterfaceNumbers::read(&pins::folder()).map_err(links)?,
            netlink: Rtnetlink::open().map_err(links)?,
            targets: Vec::new(),
            attachments: Vec::new(),
            changes: BTreeMap::new(),
            errors: HashMap::new(),
            failed_queries: 0,
            failing: false,
        })
    }

    /// The interfaces that the tables hold.
    pub(super) fn targets(&self) -> &[MonitoredInterface] {
        &self.targets
    }

    /// Sets what is configured; the next comparison attaches and detaches. Returns what was configured before. Those
    /// that stay have their new roles in [`Self::targets`].
    pub(super) fn configure(&mut self, configured: &[Interface], pools: &[Pool]) -> Vec<Interface> {
        self.names = configured.iter().map(|interface| Arc::from(interface.name.as_str())).collect();
        self.pools = pools.to_vec();
        let targets = self.targets.iter().filter_map(|target| {
            let stays = configured.iter().find(|interface| *interface.name == *target.name)?;
            let Interface { role, realm, prefixes, vlans, .. } = stays.clone();
            Some(MonitoredInterface { role, realm, prefixes, vlans, ..target.clone() })
        });
        self.targets = targets.collect();
        std::mem::replace(&mut self.configured, configured.to_vec())
    }

    /// Names by interface number, for labels.
    pub(super) fn labels(&self) -> Vec<Arc<str>> {
        self.numbers.labels()
    }

    /// Where the program is attached, as the kernel said last.
    pub(super) fn attachments(&self) -> Vec<Attachment> {
        self.attachments.clone()
    }

    /// Looks at the kernel. `program` is the id of the loaded program.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) fn look(&mut self, program: Option<u32>) -> io::Result<Look> {
        let pinned = attachments::pinned()?;
        let mut links: Vec<Link> = Vec::new();
        let mut add = |link: Link| {
            if links.iter().all(|other| other.index != link.index) {
                links.push(link);
            }
        };
        for name in &self.names {
            if let Some(found) = self.netlink.by_name(name)? {
                add(found.link);
            }
        }
        for device in pinned.iter().filter_map(|pinned| pinned.device) {
            if let Some(found) = self.netlink.by_index(device)? {
                add(found.link);
            }
        }
        let plan = plan(&self.names, &links, &pinned, self.mode, program);
        Ok(Look { links, pinned, plan })
    }

    /// Refuses a start on interfaces that cannot be monitored. One that was monitored before may be absent: it is
    /// waited for.
    ///
    /// # Errors
    /// [`AttachError`] with the interface's name.
    pub(super) fn check(&mut self, look: &Look) -> Result<(), AttachError> {
        for (name, place) in self.names.iter().zip(&look.plan.places) {
            let name = name.to_string();
            match place {
                Place::At { .. } => {}
                Place::Absent if self.numbers.of(&name).is_some() => {}
                Place::Absent => {
                    let links = self.netlink.all().map_err(|source| AttachError::Links { source })?;
                    let mut present: Vec<&str> = links.iter().map(|link| &*link.name).collect();
                    present.sort_unstable();
                    return Err(AttachError::NoInterface { name, present: present.join(", ") });
                }
                Place::SameIndex { other } => return Err(AttachError::SameIndex(other.to_string(), name)),
                Place::Foreign { index, hook } => return Err(foreign(name, *index, hook.program, hook.mode)),
            }
        }
        Ok(())
    }

    /// Attaches everywhere for the first time in this process. On an error, what this call attached is taken off again,
    /// and the tables of interfaces are as they were.
    ///
    /// # Errors
    /// [`AttachError`].
    pub(super) fn start(&mut self, object: &mut LoadedObject) -> Result<(), AttachError> {
        let hook = |source| AttachError::Links { source };
        let look = self.look(Some(object.program_id()?)).map_err(hook)?;
        self.check(&look)?;
        self.adopt_numbers(object, &look).map_err(hook)?;
        let before = object.save_interfaces()?;
        let mut fresh = Vec::new();
        let attached = self.place(object, &look).and_then(|()| {
            attach::pin_stages(object)?;
            // Attachments of interfaces that are not configured go last: a start that fails leaves them.
            let unpins = |action: &&Action| !matches!(action, Action::Unpin { why: Ended::NotConfigured, .. });
            for action in look.plan.actions.iter().filter(unpins) {
                if let Action::Attach { index } = action {
                    fresh.push(*index);
                }
                self.act(object, action, &look)?;
            }
            Ok(())
        });
        if let Err(error) = attached {
            for index in fresh {
                if let Err(error) = attach::unpin(index) {
                    tracing::error!(%error, "cannot undo an attachment; run `peertally detach`");
                }
            }
            let present = object.program_id()?;
            for Pinned { pin, program, .. } in &look.pinned {
                if let Err(error) = attach::swap_back(*pin, present, *program) {
                    tracing::error!(%error, "the program of before cannot take its place again: the present one counts on");
                }
            }
            object.restore_interfaces(&before)?;
            attach::remove_stages_of_others();
            return Err(error);
        }
        for action in &look.plan.actions {
            if matches!(action, Action::Unpin { why: Ended::NotConfigured, .. }) {
                self.act(object, action, &look)?;
            }
        }
        object.forget_interfaces_except(&self.targets);
        attach::remove_stages_of_others();
        let look = self.look(None).map_err(hook)?;
        self.publish(&look);
        Ok(())
    }

    /// Compares, and does what is missing. What fails is tried again with the next call.
    pub(super) fn reconcile(&mut self, object: &mut LoadedObject) {
        match self.try_reconcile(object) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::warn!("the kernel answers again: attachments are compared with the configuration");
                }
            }
            Err(error) => {
                self.failed_queries += 1;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(
                        %error,
                        "cannot ask the kernel where the program is attached; what is shown of it is the last answer"
                    );
                }
            }
        }
    }

    fn try_reconcile(&mut self, object: &mut LoadedObject) -> io::Result<()> {
        let program = object.program_id().map_err(io::Error::other)?;
        let look = self.look(Some(program))?;
        // Pins go first: the tables may then forget what they held.
        let (unpins, others): (Vec<&Action>, Vec<&Action>) =
            look.plan.actions.iter().partition(|action| matches!(action, Action::Unpin { .. }));
        for action in unpins {
            self.try_act(object, action, &look);
        }
        if self.wanted_targets(&look) != self.targets {
            self.place(object, &look).map_err(io::Error::other)?;
            object.forget_interfaces_except(&self.targets);
        }
        if !others.is_empty() {
            attach::keep_stages(object);
        }
        for action in &others {
            self.try_act(object, action, &look);
        }
        let look = if look.plan.actions.is_empty() { look } else { self.look(Some(program))? };
        self.publish(&look);
        Ok(())
    }

    /// Writes the interfaces that are there into the tables, each with the number of its name.
    fn place(&mut self, object: &mut LoadedObject, look: &Look) -> Result<(), AttachError> {
        let records = |source| AttachError::Links { source };
        let used = |number| Ok(object.counted_under(number));
        for name in self.numbers.assign(&self.folder, &self.names, used).map_err(records)? {
            tracing::warn!(
                interface = &*name,
                "all numbers of interfaces have counts of other names: it counts as `other`; `peertally detach` starts anew"
            );
        }
        let targets = self.wanted_targets(look);
        let numbered = targets.iter().filter_map(|target| Some((target.index as u16, self.numbers.of(&target.name)?)));
        object.set_interface_numbers(numbered.collect());
        object.write_interfaces(&targets, &self.pools)?;
        for target in &targets {
            // The pin of a renamed or swapped interface tells under which name it counts.
            if pins::link(target.index).exists() {
                records::write(&self.folder, &pins::attached(target.index), &target.name).map_err(records)?;
            }
        }
        self.targets = targets;
        Ok(())
    }

    fn wanted_targets(&self, look: &Look) -> Vec<MonitoredInterface> {
        let places = self.configured.iter().zip(&self.names).zip(&look.plan.places);
        let target = |((interface, name), place): ((&Interface, &Arc<str>), &Place)| {
            let Place::At { index, .. } = place else { return None };
            let Interface { role, realm, prefixes, vlans, .. } = interface.clone();
            Some(MonitoredInterface { name: Arc::clone(name), index: *index, role, realm, prefixes, vlans })
        };
        places.filter_map(target).collect()
    }

    /// Numbers without a record are those of a build that made none.
    fn adopt_numbers(&mut self, object: &LoadedObject, look: &Look) -> io::Result<()> {
        let targets = self.wanted_targets(look);
        for (index, number) in object.interface_numbers() {
            if self.numbers.name(*number).is_none() {
                let target = targets.iter().find(|target| target.index as u16 == *index);
                let name = target.map_or_else(|| Arc::from(format!("if{index}")), |target| Arc::clone(&target.name));
                self.numbers.adopt(&self.folder, *number, name)?;
            }
        }
        Ok(())
    }

    fn try_act(&mut self, object: &mut LoadedObject, action: &Action, look: &Look) {
        let name = self.name_of(action, look);
        match self.act(object, action, look) {
            Ok(()) => {
                self.errors.remove(&name);
            }
            Err(error) => {
                *self.changes.entry((Arc::clone(&name), "refused")).or_default() += 1;
                let error = error.to_string();
                if self.errors.get(&name) != Some(&error) {
                    tracing::error!(interface = &*name, error, "tried again with each drain and each change of a link");
                    self.errors.insert(name, error);
                }
            }
        }
    }

    /// Does one step.
    fn act(&mut self, object: &mut LoadedObject, action: &Action, look: &Look) -> Result<(), AttachError> {
        let name = self.name_of(action, look);
        let mode = self.mode;
        let target = |index: u32| {
            let found = self.targets.iter().find(|target| target.index == index);
            found.cloned().ok_or_else(|| AttachError::NoLink { name: name.to_string() })
        };
        let change = match action {
            Action::Unpin { pin, why } => {
                attach::unpin(*pin)?;
                let (change, what) = match why {
                    Ended::Gone => ("gone", "the interface was removed, or its program was taken off"),
                    Ended::Moved => ("moved", "the interface is in another network namespace: detached there"),
                    Ended::NotConfigured => ("not_configured", "the interface is not configured any more: detached"),
                };
                tracing::warn!(interface = &*name, index = *pin, "{what}");
                change
            }
            Action::Attach { index } => {
                attach::attach(object.program()?, &mut self.netlink, &target(*index)?, mode)?;
                tracing::info!(interface = &*name, index = *index, "attached");
                "attached"
            }
            Action::Reattach { index, from } => {
                let target = target(*index)?;
                let missed = attach::reattach(object.program()?, &mut self.netlink, &target, mode, *from)?;
                tracing::warn!(
                    interface = &*name,
                    from = from.label(),
                    to = mode.label(),
                    missed,
                    "attached in the mode that is configured; `missed` frames passed uncounted meanwhile"
                );
                "mode_changed"
            }
            Action::Swap { index } => {
                attach::swap(object.program()?, &target(*index)?)?;
                "swapped"
            }
        };
        *self.changes.entry((name, change)).or_default() += 1;
        Ok(())
    }

    /// Name under which the interface of a step is counted.
    fn name_of(&self, action: &Action, look: &Look) -> Arc<str> {
        let index = match action {
            Action::Unpin { pin, .. } => {
                let known = look.pinned.iter().find(|pinned| pinned.pin == *pin).and_then(|pinned| pinned.name.clone());
                return known.unwrap_or_else(|| Arc::from(format!("if{pin}")));
            }
            Action::Attach { index } | Action::Reattach { index, .. } | Action::Swap { index } => *index,
        };
        let at = |place: &Place| matches!(place, Place::At { index: other, .. } if *other == index);
        let configured = look.plan.places.iter().position(at).map(|position| Arc::clone(&self.names[position]));
        configured.unwrap_or_else(|| Arc::from(format!("if{index}")))
    }

    /// Keeps where the program is attached, and says what changed.
    fn publish(&mut self, look: &Look) {
        let rows = self.configured.iter().zip(&self.names).zip(&look.plan.places);
        let rows: Vec<Attachment> = rows
            .map(|((interface, name), place)| {
                let (mode, detail) = self.describe(name, place, look);
                let detail = detail.map(Arc::from);
                Attachment { interface: Arc::clone(name), role: interface.role.label(), mode: mode.label(), detail }
            })
            .collect();
        for row in &rows {
            let before = self.attachments.iter().find(|before| before.interface == row.interface);
            let changed = before.map_or(row.detail.is_some(), |before| before.detail != row.detail);
            match (&row.detail, row.is_on()) {
                (Some(detail), false) if changed => {
                    tracing::error!(interface = &*row.interface, "the program is not attached: {detail}");
                }
                (Some(detail), true) if changed => tracing::warn!(interface = &*row.interface, "{detail}"),
                (None, true) if changed => tracing::warn!(interface = &*row.interface, "the program is attached again"),
                _ => {}
            }
        }
        self.attachments = rows;
    }

    fn describe(&self, name: &Arc<str>, place: &Place, look: &Look) -> (HookMode, Option<String>) {
        match place {
            Place::At { mode: HookMode::None, .. } => {
                let error = self.errors.get(name).cloned();
                (HookMode::None, Some(error.unwrap_or_else(|| "it is about to be attached".to_owned())))
            }
            Place::At { mode, renamed, .. } => {
                let renamed = renamed.as_ref().map(|other| {
                    format!("its name is now `{other}`; it counts on as `{name}` until another interface has that name")
                });
                (*mode, renamed.or_else(|| self.errors.get(name).cloned()))
            }
            Place::Absent => {
                let present =
                    "there is no such interface in this network namespace; it is attached as soon as there is";
                (HookMode::None, Some(present.to_owned()))
            }
            Place::SameIndex { other } => {
                (HookMode::None, Some(AttachError::SameIndex(other.to_string(), name.to_string()).to_string()))
            }
            Place::Foreign { index, hook } => {
                debug_assert!(look.links.iter().any(|link| link.index == *index), "a link that was looked at");
                (HookMode::None, Some(foreign(name.to_string(), *index, hook.program, hook.mode).to_string()))
            }
        }
    }

    /// What comparing has led to so far.
    pub(super) fn reconciled(&mut self, program: u32) -> Reconciled {
        let changes = self.changes.iter().map(|((interface, change), count)| AttachmentChange {
            interface: Arc::clone(interface),
            change,
            count: *count,
        });
        let changes = changes.collect();
        let others = self.others(program).unwrap_or_else(|error| {
            self.failed_queries += 1;
            tracing::debug!(%error, "cannot list the programs of other versions");
            Vec::new()
        });
        Reconciled { changes, failed_queries: self.failed_queries, others }
    }

    fn others(&mut self, program: u32) -> io::Result<Vec<RunningProgram>> {
        let known: Vec<u32> = self.targets.iter().map(|target| target.index).collect();
        attachments::running(&mut self.netlink, &known, &[program])
    }
}

/// The refusal of an interface whose hook has a program that is not this version's.
fn foreign(name: String, index: u32, program: Option<u32>, mode: HookMode) -> AttachError {
    if let Some(pin) = pins::links_of_other_versions(index).pop() {
        return AttachError::OtherVersion { name, pin };
    }
    let program = program.unwrap_or_default();
    let by = attachments::program_name(program).map(|name| format!(", `{name}`")).unwrap_or_default();
    let next = match attachments::link_of_program(program) {
        Some(link) => format!("the link with id {link} holds it: `bpftool link detach id {link}`"),
        None if mode == HookMode::Generic => format!("`ip link set dev {name} xdpgeneric off`"),
        None => format!("`ip link set dev {name} xdp off`"),
    };
    AttachError::Foreign { name, program, by, mode: mode.label(), next }
}
