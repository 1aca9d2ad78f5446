//! The program attached to its interfaces, its pinned maps, and their draining.
//!
//! Order of a start: checks that touch nothing (names, foreign programs, a second agent), then maps and program, then
//! all interfaces or none. The program only counts; nothing here changes what happens to a packet.

mod attach;
mod drain;
mod error;
mod netlink;
mod pins;
mod program_clock;

use std::{fs::File, path::PathBuf, sync::Arc, time::Instant};

use aya_log::EbpfLogger;
use monitor_common::{
    abi::{event::KernelEvent, limits::PENDING_IDLE_SECONDS, settings::InspectionDepth},
    tables::token_bucket::PacketTally,
};
use peertally_core::{
    analysis::node::OTHER,
    interface::Interface,
    snapshot::{InterfaceCount, Snapshot},
    words::{OnExit, XdpMode},
};

pub use error::AttachError;

use crate::{
    Datapath,
    object::{LoadOptions, LoadedObject, MonitoredInterface},
    released_flows::{self, ReleasedFlows},
};

/// See the module documentation.
pub struct AttachedDatapath {
    object: LoadedObject,
    targets: Vec<MonitoredInterface>,
    drain: drain::Drain,
    /// Names by interface number.
    interfaces: Vec<Arc<str>>,
    /// The configuration in force.
    options: LoadOptions,
    /// Verdict writes that failed in this process; always 0 unless there is a bug.
    internal_errors: u64,
    kernel_log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Both live as long as the attachment is used.
    _clock: program_clock::ProgramClock,
    _lock: File,
}

impl AttachedDatapath {
    /// Loads the program, takes over pinned maps if there are any, and attaches.
    ///
    /// # Errors
    /// [`AttachError`]; then nothing new is attached.
    pub fn start(configured: &LoadOptions, interfaces: &[Interface], mode: XdpMode) -> Result<Self, AttachError> {
        let targets = attach::targets(interfaces)?;
        let lock = pins::lock()?;
        let folder = pins::prepare()?;
        let first = !pins::any();
        let options = LoadOptions { pin_folder: Some(folder), interfaces: targets.clone(), ..configured.clone() };
        let started = Self::start_pinned(&options, targets, mode, lock);
        if started.is_err() && first {
            // Unused pinned tables must not block another start with other sizes.
            if let Err(error) = pins::remove_all() {
                tracing::warn!(%error, "cannot clean up after a failed start");
            }
        }
        started
    }

    fn start_pinned(
        options: &LoadOptions,
        targets: Vec<MonitoredInterface>,
        mode: XdpMode,
        lock: File,
    ) -> Result<Self, AttachError> {
        let mut object = LoadedObject::load(options)?;
        let kernel_log = (options.log_level > 0).then(|| EbpfLogger::init(object.ebpf())).transpose();
        let kernel_log = kernel_log.unwrap_or_else(|error| {
            tracing::warn!(%error, "no log messages from the XDP program");
            None
        });
        attach::attach_all(&mut object, &targets, mode)?;
        // A packet holds no way of the flow table for long. Whoever does so now has died.
        let abandoned = released_flows::release_abandoned(&object.view(), pins::wait_for_packets);
        // Configure only now: a refused start must not change a program that is already counting.
        let change = object.configure(options)?.from_any();
        let released = released_flows::release_flows(&object.view(), &change, pins::wait_for_packets);
        report_released(&ReleasedFlows { abandoned, ..released });
        let interfaces = interface_names(&object, &targets);
        let object_settings = object.map_settings()?;
        Ok(Self {
            object,
            targets,
            drain: drain::Drain::default(),
            interfaces,
            options: options.clone(),
            internal_errors: released.internal_errors,
            kernel_log,
            _clock: program_clock::ProgramClock::start(object_settings)?,
            _lock: lock,
        })
    }
}

/// Says which flows were released.
fn report_released(released: &ReleasedFlows) {
    if released.abandoned > 0 {
        tracing::warn!(flows = released.abandoned, "an earlier agent died while it released flows: released them");
    }
    if !released.is_nothing() {
        tracing::info!(
            ended = released.ended,
            uncharged = released.uncharged,
            busy = released.busy,
            "released the flows of subscribers whose pool changed"
        );
    }
}

/// Names of the interfaces by number; those of earlier runs that are not monitored now keep their number.
fn interface_names(object: &LoadedObject, targets: &[MonitoredInterface]) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for (index, number) in object.interface_numbers() {
        let number = *number as usize;
        if names.len() <= number {
            names.resize(number + 1, Arc::from(OTHER));
        }
        let target = targets.iter().find(|target| target.index as u16 == *index);
        names[number] = target.map_or_else(|| Arc::from(format!("if{index}")), |target| Arc::clone(&target.name));
    }
    names
}

/// What was counted apart on each interface. Numbers without a name of their own share [`OTHER`], if one of them has
/// something.
fn interface_counts(shed: &[PacketTally], interfaces: &[Arc<str>]) -> Vec<InterfaceCount> {
    let mut rows = Vec::new();
    let mut other = PacketTally::default();
    for (number, tally) in shed.iter().enumerate() {
        match interfaces.get(number).filter(|name| ***name != *OTHER) {
            Some(name) => {
                rows.push(InterfaceCount { interface: Arc::clone(name), packets: tally.packets, bytes: tally.bytes });
            }
            None => {
                other = PacketTally { packets: other.packets + tally.packets, bytes: other.bytes + tally.bytes };
            }
        }
    }
    if other != PacketTally::default() {
        rows.push(InterfaceCount { interface: Arc::from(OTHER), packets: other.packets, bytes: other.bytes });
    }
    rows
}

impl Datapath for AttachedDatapath {
    type Error = AttachError;

    fn drain(&mut self) -> Result<Snapshot, AttachError> {
        let begun = Instant::now();
        let view = self.object.view();
        view.settings.clock_s.store(program_clock::now_s());
        let mut read = self.drain.memory();
        view.read_into(PENDING_IDLE_SECONDS, &mut read, Some(&mut self.drain.remotes));
        self.internal_errors += read.internal_errors;
        // Calls that can fail come before the drain state advances, so that the next drain reports what this one could
        // not.
        let skipped = self.object.skipped()?;
        let in_this_process = |event| if event == KernelEvent::InternalError { self.internal_errors } else { 0 };
        let events = self.object.events()?;
        let events = events.into_iter().map(|(event, count)| (event.label(), count + in_this_process(event))).collect();
        let rules = self.object.rule_verdicts()?;
        let shed = interface_counts(&self.object.shed()?, &self.interfaces);
        let spoofed = self.object.spoofed()?.into_iter();
        let spoofed = spoofed.map(|(reason, tallies)| (reason, interface_counts(&tallies, &self.interfaces))).collect();
        let watching = view.settings.inspection.load() == InspectionDepth::Watchlist as u64;
        let watchlist = if watching { self.object.watchlist_tallies()? } else { Vec::new() };
        let context = drain::DrainContext { interfaces: &self.interfaces, pools: self.options.pools.len() as u64 };
        let mut snapshot = self.drain.snapshot(&view, read, begun, &context);
        snapshot.skipped = skipped;
        snapshot.events = events;
        snapshot.rules = rules;
        snapshot.shed = shed;
        snapshot.spoofed = spoofed;
        snapshot.watchlist = watchlist;
        if watching {
            snapshot.hits = self.object.watchlist_hits();
        }
        snapshot.attachments = attach::attachments(&self.targets);
        attach::keep_stages(&mut self.object);
        snapshot.drain_duration = begun.elapsed();
        if let Some(log) = &mut self.kernel_log {
            log.flush();
        }
        Ok(snapshot)
    }

    fn apply(&mut self, configured: &LoadOptions, interfaces: &[Interface]) -> Result<ReleasedFlows, AttachError> {
        let mut targets = Vec::new();
        for Interface { name, role, realm, prefixes, vlans } in interfaces.iter().cloned() {
            let Some(target) = self.targets.iter().find(|target| *target.name == *name) else { continue };
            targets.push(MonitoredInterface { role, realm, prefixes, vlans, ..target.clone() });
        }
        let pin_folder = self.options.pin_folder.clone();
        let options = LoadOptions { pin_folder, interfaces: targets.clone(), ..configured.clone() };
        let change = match self.object.configure(&options) {
            Ok(change) => change,
            Err(error) => {
                if let Err(undo) = self.object.configure(&self.options) {
                    tracing::error!(%undo, "cannot write the configuration before back; restart the agent");
                }
                return Err(error.into());
            }
        };
        (self.targets, self.options) = (targets, options);
        let mut released = ReleasedFlows::default();
        if !change.is_empty() {
            released = released_flows::release_flows(&self.object.view(), &change, pins::wait_for_packets);
            self.internal_errors += released.internal_errors;
            report_released(&released);
        }
        Ok(released)
    }

    fn finish(mut self, on_exit: OnExit) -> Result<(), AttachError> {
        match on_exit {
            OnExit::Leave => {
                attach::keep_stages(&mut self.object);
                tracing::info!("the program stays attached and keeps counting; `peertally detach` detaches it")
            }
            OnExit::Detach => {
                detach()?;
                tracing::info!("detached");
            }
        }
        Ok(())
    }
}

/// Detaches the program from every interface and removes its pinned maps; returns the removed pins. Needs no running
/// agent.
///
/// # Errors
/// [`AttachError::Remove`].
pub fn detach() -> Result<Vec<PathBuf>, AttachError> {
    pins::remove_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_has_a_row_and_the_others_share_one() {
        let names: Vec<Arc<str>> = ["access0", OTHER, "core0"].map(Arc::from).to_vec();
        let tally = |packets| PacketTally { packets, bytes: packets * 100 };
        let row = |name: &str, packets| InterfaceCount { interface: Arc::from(name), packets, bytes: packets * 100 };
        assert_eq!(
            interface_counts(&[tally(5), tally(0), tally(0), tally(0)], &names),
            [row("access0", 5), row("core0", 0)]
        );
        let all = [row("access0", 1), row("core0", 4), row(OTHER, 10)];
        assert_eq!(interface_counts(&[tally(1), tally(2), tally(4), tally(8)], &names), all);
    }
}
