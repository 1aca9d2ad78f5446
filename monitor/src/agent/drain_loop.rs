//! The drain loop: reads the tables at a steady pace, publishes the result, and hands events to the hooks.
//!
//! One thread owns the datapath, so that no map is read on the reactor.

use std::{
    io,
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use peertally_core::{analysis::Analysis, exit::ExitCause, words::OnExit};
use peertally_datapath::{Datapath, ReleasedFlows, offloads};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    AgentState, Heartbeat,
    consequences::Consequences,
    heartbeat,
    history_keeper::HistoryKeeper,
    hit_log::HitLog,
    pseudonym_key::KeyRotation,
    shedding::{SheddingChange, SheddingWatch},
    table_fill::{FillChange, FillWatch},
    verdict_records::VerdictRecords,
};
use crate::{config::Resolved, deliver::HookStats};

/// State of the drain thread.
pub struct DrainLoop {
    /// Policies and rows for metrics.
    pub analysis: Analysis,
    /// State that each drain updates.
    pub state: Arc<AgentState>,
    /// What becomes of policies that fired.
    pub consequences: Consequences,
    /// Commits what the policies measure.
    pub history: HistoryKeeper,
    /// Beats once a drain.
    pub heartbeat: Arc<Heartbeat>,
    /// Time between drains.
    pub interval: Duration,
    /// Whether the attached program stays at the end.
    pub on_exit: OnExit,
    /// File of watchlist hits; only in the inspection depth `watchlist`.
    pub hit_log: Option<HitLog>,
    /// Verdict records on their way to the store; `None` if there are none.
    pub verdict_records: Option<VerdictRecords>,
    /// Replaces the pseudonym key when its time is over, if ever.
    pub key_rotation: Option<KeyRotation>,
}

/// Another configuration for a running drain loop. Whatever can be checked before was checked.
#[derive(Debug)]
pub struct Reconfigure {
    /// What is to be in force.
    pub after: Arc<Resolved>,
    /// Counts of the hooks, in their order.
    pub hooks: Vec<Arc<HookStats>>,
    /// Gets the flows that were released, or why everything stays as it is.
    pub reply: oneshot::Sender<Result<ReleasedFlows, String>>,
}

/// Clock of the times of watchlist hits, in nanoseconds (`bpf_ktime_get_ns`).
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Shortest time between two looks at the interfaces: a router that makes many at once sends a message for each.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What ends the wait for the next drain.
#[derive(Debug)]
pub enum Wake {
    /// Drain once more, and end.
    End,
    /// Interfaces changed.
    Links,
    /// The buffer of verdict records is half full.
    Records,
    /// Another configuration.
    Reconfigure(Reconfigure),
}

/// Ends the drain loop when dropped.
#[derive(Debug)]
pub struct EndOfDrains(pub mpsc::Sender<Wake>);

impl Drop for EndOfDrains {
    fn drop(&mut self) {
        // Nobody receives it if the loop has ended.
        let _ended = self.0.send(Wake::End);
    }
}

/// What the log has said.
#[derive(Default)]
struct Reported {
    /// Whether shedding goes on.
    shedding: SheddingWatch,
    /// Tables that were reported as nearly full.
    fill: FillWatch,
}

fn report_shedding(change: Option<SheddingChange>) {
    match change {
        Some(SheddingChange::Begun(shed)) => tracing::warn!(
            packets = shed.packets,
            inspections = shed.inspections,
            "more new flows than the bound of the slow path: shed packets count at node level only, under no subscriber"
        ),
        Some(SheddingChange::Ended(shed)) => {
            tracing::warn!(packets = shed.packets, inspections = shed.inspections, "shedding has ended");
        }
        None => {}
    }
}

fn report_fill(changes: &[FillChange]) {
    for change in changes {
        match change {
            FillChange::Begun(table) => tracing::warn!(
                table = table.name,
                entries = table.entries,
                capacity = table.capacity,
                "more than 80 % of a table is in use: what finds it full is counted, but not apart; `peertally plan` \
                 has what a larger `[capacity]` takes"
            ),
            FillChange::Ended(table) => {
                tracing::warn!(table = table.name, entries = table.entries, "a table has room again");
            }
        }
    }
}

/// Result of a drain thread: success, or an error of the data path.
pub type DrainEnd = Result<(), Box<dyn ExitCause>>;

impl DrainLoop {
    /// Starts the drain thread. The thread ends when the first value is dropped; the receiver gets the result, or
    /// nothing after a panic.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn<D: Datapath>(self, mut datapath: D) -> io::Result<(EndOfDrains, oneshot::Receiver<DrainEnd>)> {
        let (sender, receiver) = oneshot::channel();
        let (waker, wakes) = mpsc::channel();
        let end = EndOfDrains(waker.clone());
        let records = waker.clone();
        datapath.wake_by(Box::new(move || {
            // Nobody receives it if the loop has ended.
            let _ended = waker.send(Wake::Links);
        }));
        if self.verdict_records.is_some() {
            datapath.wake_for_records(Box::new(move || {
                // As above.
                let _ended = records.send(Wake::Records);
            }));
        }
        std::thread::Builder::new().name("drain".to_owned()).spawn(move || {
            let ended = self.run(datapath, &wakes).map_err(|error| Box::new(error) as Box<dyn ExitCause>);
            // Nobody waits if the agent is ending by a panic of its own.
            let _gone = sender.send(ended);
        })?;
        Ok((end, receiver))
    }

    /// Drains until the end comes, once more after that, and then leaves or detaches.
    fn run<D: Datapath>(mut self, mut datapath: D, wakes: &mpsc::Receiver<Wake>) -> Result<(), D::Error> {
        let mut next = Instant::now();
        let mut ending = false;
        let mut reported = Reported::default();
        loop {
            self.heartbeat.beat();
            self.once(&mut datapath, &mut reported);
            if ending {
                if let Some(log) = &mut self.hit_log {
                    log.finish(SystemTime::now());
                }
                if let Some(records) = &mut self.verdict_records {
                    records.finish(SystemTime::now());
                }
                self.consequences.flush();
                self.history.finish(&mut self.analysis);
                return datapath.finish(self.on_exit);
            }
            next += self.interval;
            let now = Instant::now();
            if next < now {
                tracing::warn!(behind = ?(now - next), "a drain takes longer than drain_interval; increase it");
                next = now + self.interval;
            }
            ending = self.wait(&mut datapath, wakes, &mut next);
        }
    }

    /// Takes verdict records from the data path.
    fn take_records<D: Datapath>(&mut self, datapath: &mut D) {
        if let Some(records) = &mut self.verdict_records {
            let taken = datapath.take_records();
            records.take(&taken, SystemTime::now(), monotonic_ns() / 1_000_000_000);
        }
    }

    fn rotate_key(&mut self) {
        let Some(rotated) = self.key_rotation.as_mut().and_then(|rotation| rotation.rotate_if_due(Instant::now()))
        else {
            return;
        };
        self.state.count_key_rotation(rotated.is_err());
        // Also after a failure: the key may be new and an old one could not be removed.
        self.analysis.rename_subscribers();
        if let Some(rotation) = &self.key_rotation {
            self.state.set_pseudonym_key(rotation.key_id());
        }
        match rotated {
            Ok(()) => tracing::warn!(
                key = self.state.pseudonym_key(),
                "a new pseudonym key: every subscriber has a new pseudonym; `peertally resolve` knows the old ones, too"
            ),
            Err(error) => tracing::error!(%error, "cannot replace the pseudonym key; will retry"),
        }
    }

    /// Waits until the time of the next drain, and looks at the interfaces when they changed; `true` if the end has
    /// come.
    fn wait<D: Datapath>(&mut self, datapath: &mut D, wakes: &mpsc::Receiver<Wake>, next: &mut Instant) -> bool {
        // A drain, which looks at them too, was just now.
        let mut looked = Instant::now();
        let mut changed = false;
        loop {
            let until = if changed { (*next).min(looked + BETWEEN_LOOKS) } else { *next };
            match wakes.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Wake::Links) => changed = true,
                Ok(Wake::Records) => self.take_records(datapath),
                Ok(Wake::Reconfigure(reconfigure)) => {
                    self.reconfigure(datapath, reconfigure);
                    *next = (*next).min(Instant::now() + self.interval);
                }
                Ok(Wake::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(mpsc::RecvTimeoutError::Timeout) if until >= *next => return false,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    datapath.reconcile();
                    (looked, changed) = (Instant::now(), false);
                }
            }
        }
    }

    /// Applies another configuration, or leaves everything as it is.
    fn reconfigure<D: Datapath>(&mut self, datapath: &mut D, reconfigure: Reconfigure) {
        let Reconfigure { after, hooks, reply } = reconfigure;
        let applied = datapath.apply(&after.datapath, &after.interfaces).map_err(|error| error.to_string());
        if applied.is_ok() {
            self.analysis.reconfigure(after.analysis_options());
            self.state.set_hooks(hooks.clone());
            self.consequences.set_hooks(hooks);
            // A policy that was taken out before has its cool-downs in the store.
            if let Err(error) = self.consequences.restore(&mut self.analysis) {
                tracing::error!(%error, "cannot read the cool-downs of policies that are back; they may fire again");
            }
            datapath.set_tally_age(after.age_of_tallies());
            self.interval = after.drain_interval;
            self.heartbeat.set_limit(heartbeat::limit(after.drain_interval));
            if let Some(log) = &mut self.hit_log {
                log.set_list(Arc::clone(&after.datapath.watchlist), after.datapath.pools.clone());
            }
        }
        // Nobody waits if the agent is ending.
        let _gone = reply.send(applied);
    }

    fn once<D: Datapath>(&mut self, datapath: &mut D, reported: &mut Reported) {
        self.take_records(datapath);
        let snapshot = match datapath.drain() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::error!(%error, "a drain failed; the next one will have the counts");
                return self.state.drain_failed(error.to_string());
            }
        };
        self.rotate_key();
        for interface in self.state.set_merging(offloads::merging(&snapshot.attachments)) {
            tracing::warn!(
                interface = &*interface,
                "generic mode counts merged packets here: the interface merges what it receives (GRO or LRO) before the program \
                 sees it; use native mode, or `ethtool -K {interface} gro off lro off`"
            );
        }
        if let Some(log) = &mut self.hit_log {
            log.append(&snapshot.hits, SystemTime::now(), monotonic_ns());
        }
        let (shed, change) = reported.shedding.observe(&snapshot);
        report_shedding(change);
        report_fill(&reported.fill.observe(&snapshot));
        self.state.set_shed(shed);
        self.consequences.settle(&mut self.analysis);
        let begun = Instant::now();
        let (mut published, events) = self.analysis.take(snapshot, Uuid::now_v7);
        published.evaluation = begun.elapsed();
        self.state.publish(published);
        for event in &events {
            tracing::info!(
                event = %event.id,
                policy = &*event.policy.name,
                subscriber = event.pseudonym,
                value = event.firing.value,
                evidence = event.source.evidence.label(),
                kind = event.kind.label(),
                "P2P protocol traffic reached the threshold of a policy, or fell below it again"
            );
        }
        self.consequences.take(events);
        // Never before the events that its counters led to: an agent that is killed in between would make none.
        if !self.consequences.has_waiting() {
            self.history.commit(&mut self.analysis);
        }
    }
}
