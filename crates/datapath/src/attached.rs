//! The program attached to its interfaces, its pinned maps, and their draining.
//!
//! Order of a start: checks that touch nothing (a second agent, names, foreign programs, namespaces), then maps and
//! program, then all interfaces or none. From then on, each drain and each message of the kernel about a link compares
//! what is configured with what the kernel has. The program only counts; nothing here changes what happens to a packet.

mod attach;
mod attachments;
pub(crate) mod drain;
mod error;
pub mod inspect;
mod interface_numbers;
mod link_watch;
mod monitored;
mod namespaces;
mod netlink;
mod pins;
mod program_clock;
mod record_watch;
mod records;
mod replaced_sets;
mod table_sets;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya_log::EbpfLogger;
use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::{PENDING_IDLE_SECONDS, WATCH_TALLIES_MAX},
        record::VerdictRecord,
        settings::InspectionDepth,
    },
    tables::token_bucket::PacketTally,
};
use peertally_core::{
    analysis::node::OTHER,
    booked::BookedTotals,
    interface::Interface,
    pool::PoolChange,
    snapshot::{InterfaceCount, RunningProgram, Snapshot, TableUse},
    words::{OnExit, XdpMode},
};

pub use error::AttachError;

use self::{
    link_watch::LinkWatch, monitored::Monitored, netlink::Rtnetlink, pins::Tables, record_watch::RecordWatch,
    replaced_sets::ReplacedSets, table_sets::Fit,
};
use crate::{
    Datapath,
    ageing::{Ageing, RcuGrace, wait_for_packets},
    object::{KernelIndex, LoadOptions, LoadedObject},
    released_flows::{self, ReleasedFlows},
};

/// Messages of the program.
type KernelLog = EbpfLogger<&'static dyn log::Log>;

/// See the module documentation.
pub struct AttachedDatapath {
    object: LoadedObject,
    monitored: Monitored,
    drain: drain::Drain,
    /// Ageing of tallies, and the map from which it removes keys.
    ageing: Option<(Ageing, KernelIndex)>,
    /// The configuration in force.
    options: LoadOptions,
    /// Verdict writes that failed in this process; always 0 unless there is a bug.
    internal_errors: u64,
    kernel_log: Option<KernelLog>,
    replaced: ReplacedSets,
    link_watch: Option<LinkWatch>,
    record_watch: Option<RecordWatch>,
    /// Both live as long as the attachment is used.
    _clock: program_clock::ProgramClock,
    _lock: File,
}

impl AttachedDatapath {
    /// Loads the program, takes over pinned maps if there are any, and attaches.
    ///
    /// # Errors
    /// [`AttachError`]; then nothing new is attached, and nothing is left that was not there before.
    pub fn start(configured: &LoadOptions, interfaces: &[Interface], mode: XdpMode) -> Result<Self, AttachError> {
        let lock = pins::lock()?;
        let folder = pins::prepare()?;
        let older = if pins::tables().map_err(unread)? == Tables::Unused {
            // Nothing was counted in what a killed start has left.
            pins::empty_own()?;
            table_sets::adopt_older(&folder).map_err(unmoved)?
        } else {
            None
        };
        let started = Self::start_in(folder.clone(), configured, interfaces, mode, lock);
        if let (Some(older), true) = (&older, started.is_err()) {
            table_sets::return_older(&folder, older).map_err(unmoved)?;
        }
        started
    }

    /// Starts with the pins that are in the folder.
    fn start_in(
        folder: PathBuf,
        configured: &LoadOptions,
        interfaces: &[Interface],
        mode: XdpMode,
        lock: File,
    ) -> Result<Self, AttachError> {
        let tables = pins::tables().map_err(unread)?;
        let namespace = namespaces::network().map_err(unread)?;
        if let Tables::Complete(Some(theirs)) = &tables {
            refuse_other_namespace(theirs, &namespace)?;
        }
        if tables != Tables::Unused {
            table_sets::recover(&folder).map_err(unmoved)?;
        }
        // Interfaces are written when their numbers are known.
        let options = LoadOptions { pin_folder: Some(folder), interfaces: Vec::new(), ..configured.clone() };
        let checked = Monitored::new(interfaces, &configured.pools, mode).and_then(|mut monitored| {
            let look = monitored.look(None).map_err(unread)?;
            monitored.check(&look).map(|()| monitored)
        });
        let started = checked.and_then(|monitored| {
            say_if_pins_are_private();
            Self::start_pinned(&options, monitored, &namespace, lock)
        });
        if started.is_err() && tables == Tables::Unused {
            // Unused pinned tables must not block another start with other sizes.
            if let Err(error) = pins::remove_own() {
                tracing::warn!(%error, "cannot clean up after a failed start");
            }
        }
        started
    }

    /// Loads the program with the tables in a folder, and attaches it everywhere.
    fn attach(
        options: &LoadOptions,
        set: &Path,
        monitored: &mut Monitored,
        namespace: &str,
    ) -> Result<(LoadedObject, Option<KernelLog>), AttachError> {
        let options = LoadOptions { pin_folder: Some(set.to_owned()), ..options.clone() };
        let mut object = LoadedObject::load(&options)?;
        let kernel_log = (options.log_level > 0).then(|| EbpfLogger::init(object.ebpf())).transpose();
        let kernel_log = kernel_log.unwrap_or_else(|error| {
            tracing::warn!(%error, "no log messages from the XDP program");
            None
        });
        records::set_complete(set, namespace)
            .map_err(|source| AttachError::PinFolder { path: set.to_owned(), source })?;
        monitored.start(&mut object)?;
        Ok((object, kernel_log))
    }

    fn start_pinned(
        options: &LoadOptions,
        mut monitored: Monitored,
        namespace: &str,
        lock: File,
    ) -> Result<Self, AttachError> {
        let folder = pins::folder();
        let fit = table_sets::fit(&folder, &options.sizes).map_err(unread)?;
        let set = match &fit {
            Fit::Fits => folder.clone(),
            Fit::Replace(reason) => {
                tracing::warn!(reason, "the tables in {} are replaced; their totals go on", folder.display());
                table_sets::make_next(&folder).map_err(unmoved)?
            }
        };
        let attached = Self::attach(options, &set, &mut monitored, namespace);
        let (mut object, kernel_log) = match attached {
            Ok(attached) if fit == Fit::Fits => attached,
            Ok(attached) => {
                table_sets::replace(&folder).map_err(unmoved)?;
                attached
            }
            Err(error) => {
                replaced_sets::give_up(&folder, &set);
                return Err(error);
            }
        };
        let replaced = ReplacedSets::end(&folder)?;
        // A packet holds no way of the flow table for long. Whoever does so now has died.
        let abandoned = released_flows::release_abandoned(&object.view(), wait_for_packets);
        // Configure only now: a refused start must not change a program that is already counting.
        let options = LoadOptions { interfaces: monitored.targets().to_vec(), ..options.clone() };
        let change = object.configure(&options)?.from_any();
        let released = released_flows::release_flows(&object.view(), &change, wait_for_packets);
        report_released(&ReleasedFlows { abandoned, ..released });
        let object_settings = object.map_settings()?;
        Ok(Self {
            object,
            monitored,
            drain: drain::Drain::default(),
            options,
            ageing: None,
            internal_errors: released.internal_errors,
            kernel_log,
            replaced,
            link_watch: None,
            record_watch: None,
            _clock: program_clock::ProgramClock::start(object_settings)?,
            _lock: lock,
        })
    }
}

impl AttachedDatapath {
    /// Takes flows away from subscribers whose pool changed.
    fn release(&mut self, change: &PoolChange) -> ReleasedFlows {
        let released = released_flows::release_flows(&self.object.view(), change, wait_for_packets);
        self.internal_errors += released.internal_errors;
        report_released(&released);
        released
    }
}

fn unread(source: io::Error) -> AttachError {
    AttachError::Links { source }
}

fn unmoved(source: io::Error) -> AttachError {
    AttachError::PinFolder { path: pins::folder(), source }
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

fn say_if_pins_are_private() {
    if namespaces::pins_are_private() {
        tracing::warn!(
            "the BPF file system at {} is this mount namespace's own, as after `ip netns exec`: the program and its counters end \
             with the last process of that namespace. To keep them, enter the network namespace with \
             `nsenter --net=/run/netns/NAME`",
            pins::BPF_FILE_SYSTEM
        );
    }
}

/// Refuses pins of another network namespace, if one of their attachments has its device still. Without any, nothing
/// counts into the tables: they are taken over.
fn refuse_other_namespace(theirs: &str, ours: &str) -> Result<(), AttachError> {
    if theirs == ours {
        return Ok(());
    }
    let pinned = attachments::pinned().map_err(|source| AttachError::Links { source })?;
    if pinned.iter().any(|pinned| pinned.device.is_some()) {
        let (theirs, ours) = (namespaces::describe_network(theirs), namespaces::describe_network(ours));
        return Err(AttachError::OtherNamespace { path: pins::folder(), theirs, ours });
    }
    tracing::warn!(
        theirs,
        "the interfaces of the network namespace that was counted are gone: its counters go on here"
    );
    Ok(())
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
        self.reconcile();
        let interfaces = self.monitored.labels();
        self.object.view().settings.clock_s.store(program_clock::now_s());
        if let Some((ageing, index)) = &mut self.ageing
            && self.replaced.book(ageing, &self.object.view())
        {
            let freed = ageing.before_read(&self.object.view(), index);
            self.drain.note_freed(&freed);
        }
        let view = self.object.view();
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
        let shed = interface_counts(&self.object.shed()?, &interfaces);
        let spoofed = self.object.spoofed()?.into_iter();
        let spoofed = spoofed.map(|(reason, tallies)| (reason, interface_counts(&tallies, &interfaces))).collect();
        let watching = view.settings.inspection.load() == InspectionDepth::Watchlist as u64;
        let watchlist = if watching { self.object.watchlist_tallies()? } else { Vec::new() };
        let context = drain::DrainContext { interfaces: &interfaces, pools: self.options.pools.len() as u64 };
        let mut snapshot =
            self.drain.snapshot(&view, read, begun, &context, self.ageing.as_mut().map(|(ageing, _)| ageing));
        snapshot.skipped = skipped;
        snapshot.events = events;
        snapshot.rules = rules;
        snapshot.shed = shed;
        snapshot.spoofed = spoofed;
        snapshot.watchlist = watchlist;
        if watching {
            let entries = snapshot.watchlist.len() as u64;
            let capacity = u64::from(WATCH_TALLIES_MAX);
            snapshot.tables.push(TableUse { name: "watch_tallies", entries, capacity });
            snapshot.hits = self.object.watchlist_hits();
        }
        if let Some(ageing) = &mut self.ageing {
            let (ageing, index) = ageing;
            ageing.after_read(&self.object.view(), index, |slot| self.drain.keeps(slot));
        }
        snapshot.attachments = self.monitored.attachments();
        snapshot.reconciled = self.monitored.reconciled(self.object.program_id()?);
        attach::keep_stages(&mut self.object);
        snapshot.drain_duration = begun.elapsed();
        if let Some(log) = &mut self.kernel_log {
            log.flush();
        }
        Ok(snapshot)
    }

    fn apply(&mut self, configured: &LoadOptions, interfaces: &[Interface]) -> Result<ReleasedFlows, AttachError> {
        let before = self.monitored.configure(interfaces, &configured.pools);
        let pin_folder = self.options.pin_folder.clone();
        let options = LoadOptions { pin_folder, interfaces: self.monitored.targets().to_vec(), ..configured.clone() };
        let change = match self.object.configure(&options) {
            Ok(change) => change,
            Err(error) => {
                self.monitored.configure(&before, &self.options.pools);
                match self.object.configure(&self.options) {
                    // Packets may have charged flows by the new pools meanwhile.
                    Ok(back) => {
                        self.release(&back.from_any());
                    }
                    Err(undo) => {
                        tracing::error!(%undo, "cannot write the configuration before back; restart the agent");
                    }
                }
                return Err(error.into());
            }
        };
        self.options = options;
        let released = if change.is_empty() { ReleasedFlows::default() } else { self.release(&change) };
        self.reconcile();
        Ok(released)
    }

    fn reconcile(&mut self) {
        if let Some(watch) = &self.link_watch {
            watch.looked();
        }
        self.monitored.reconcile(&mut self.object);
    }

    fn wake_by(&mut self, wake: Box<dyn Fn() + Send>) {
        match LinkWatch::start(wake) {
            Ok(watch) => self.link_watch = Some(watch),
            Err(error) => {
                tracing::error!(%error, "cannot watch links: an interface made anew waits for the next drain");
            }
        }
    }

    fn take_records(&mut self) -> Vec<VerdictRecord> {
        if let Some(watch) = &self.record_watch {
            watch.taken();
        }
        self.object.take_records()
    }

    fn wake_for_records(&mut self, wake: Box<dyn Fn() + Send>) {
        let watch = self
            .object
            .record_descriptor()
            .and_then(|ring| ring.map(|ring| RecordWatch::start(ring, wake)).transpose());
        match watch {
            Ok(watch) => self.record_watch = watch,
            Err(error) => tracing::error!(%error, "cannot watch the buffer of verdict records: each drain reads it"),
        }
    }

    fn age_tallies(&mut self, age: Duration, books: Box<dyn BookedTotals>) -> Result<(), AttachError> {
        let grace = RcuGrace::start().map_err(|source| AttachError::Thread { source })?;
        self.ageing = Some((Ageing::new(age, books, Box::new(grace)), self.object.slot_index()?));
        Ok(())
    }

    fn set_tally_age(&mut self, age: Duration) {
        if let Some((ageing, _)) = &mut self.ageing {
            ageing.set_age(age);
        }
    }

    fn finish(mut self, on_exit: OnExit) -> Result<(), AttachError> {
        match on_exit {
            OnExit::Leave => {
                attach::keep_stages(&mut self.object);
                if namespaces::pins_are_private() {
                    tracing::warn!(
                        "the pins are in a BPF file system of this mount namespace alone: the program is detached, and its counters \
                         end, with the last process of that namespace"
                    );
                } else {
                    tracing::info!("the program stays attached and keeps counting; `peertally detach` detaches it");
                }
            }
            OnExit::Detach => {
                pins::remove_all()?;
                tracing::info!("detached");
            }
        }
        Ok(())
    }
}

/// What [`detach`] did.
///
/// No agent starts as long as it lives.
#[derive(Debug)]
pub struct Detached {
    /// Pins that were removed.
    pub removed: Vec<PathBuf>,
    /// Programs of Peertally that still run on interfaces of this network namespace: their pins are not in the BPF file
    /// system seen here.
    pub left: Vec<RunningProgram>,
    _lock: File,
}

/// Detaches the program from every interface and removes its pinned maps.
///
/// # Errors
/// [`AttachError::Running`] beside a running agent, [`AttachError::Remove`].
pub fn detach() -> Result<Detached, AttachError> {
    let lock = pins::lock()?;
    // Asked before: the kernel takes a program off some milliseconds after its pin is gone.
    let mut left = running().map_err(|source| AttachError::Links { source })?;
    left.retain(|each| !each.is_pinned());
    Ok(Detached { removed: pins::remove_all()?, left, _lock: lock })
}

/// Programs of Peertally on interfaces of this network namespace, whoever attached them. Needs no running agent.
///
/// # Errors
/// The kernel cannot be asked.
pub fn running() -> io::Result<Vec<RunningProgram>> {
    attachments::running(&mut Rtnetlink::open()?, &[], &[])
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
