//! The program under test: the shipped object or another build of it, loaded as the agent loads it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::SHED_BUCKET_NS,
        protocol::{PROTOCOL_SLOTS, Protocol},
    },
    tables::flow_table::FlowState,
};
use peertally_datapath::{
    TableSizes,
    error::ObjectError,
    object::{LoadOptions, LoadedObject, MonitoredInterface},
};
use peertally_tests::packet_paths::PathCounts;

use crate::row::{Row, RowKind};

/// The loaded program.
pub(crate) struct Subject(LoadedObject);

impl Subject {
    /// Loads the shipped object, or another build, with tables for a row: room for twice as many flows as there are, as
    /// the reference has.
    pub(crate) fn load(row: &Row, build: Option<&Path>) -> Result<Self> {
        let mut pools = vec!["2001:db8::/32/56".parse()?];
        if row.pools == 1 {
            pools.push("100.64.0.0/10".parse()?);
        } else {
            // 16.0.0.0, 16.4.0.0, ... as in the generator.
            for pool in 0..row.pools {
                pools.push(format!("{}.{}.0.0/14", 16 + (pool >> 6), (pool << 2) & 0xff).parse()?);
            }
        }
        let options = LoadOptions {
            // Two tallies for each subscriber, unclassified and one protocol, beside the quarter that only verdicts may
            // take.
            sizes: TableSizes {
                flows: row.table_flows() * 2,
                tallies: row.subscribers * 8 / 3 + 2,
                ..TableSizes::default()
            },
            pools,
            // The loopback device, which the test runner's frames come from.
            interfaces: vec![MonitoredInterface { realm: row.realm, ..MonitoredInterface::access(1) }],
            // The packets acknowledge nothing: flows past their first packet are charged all the same, as real ones
            // are.
            one_way: !matches!(row.kind, RowKind::New(_)),
            ..LoadOptions::default()
        };
        let Some(path) = build else {
            return LoadedObject::load(&options).map(Self).context("loading the shipped object");
        };
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        LoadedObject::load_build(&bytes, &options).map(Self).with_context(|| format!("loading {}", path.display()))
    }

    /// The program's fd.
    pub(crate) fn program(&mut self) -> Result<ProgramFd> {
        Ok(self.0.program()?.fd()?.try_clone()?)
    }

    /// Switches shedding on, so that every packet of the slow path is shed, or off.
    pub(crate) fn shed_all(&self, all: bool) {
        // More than a bucket holds.
        let cost = if all { 2 * SHED_BUCKET_NS } else { 0 };
        self.0.view().settings.token_ns.store(cost);
    }

    /// Every event counter by number, then the shed packets and the skipped frames.
    pub(crate) fn counters(&self) -> Result<Vec<u64>> {
        let mut counters: Vec<u64> = self.0.events()?.into_iter().map(|(_, times)| times).collect();
        counters.push(match self.0.shed() {
            Ok(of_interfaces) => of_interfaces.iter().map(|tally| tally.packets).sum(),
            // An older build sheds nothing.
            Err(ObjectError::MapMissing { .. }) => 0,
            Err(error) => return Err(error.into()),
        });
        counters.push(self.0.skipped()?.into_iter().map(|(_, frames)| frames).sum());
        Ok(counters)
    }

    /// Paths of so many packets, all that came since `before`.
    pub(crate) fn paths_since(&self, before: &[u64], packets: u64) -> Result<PathCounts> {
        let now = self.counters()?;
        let since = |index: usize| now[index] - before[index];
        let events = KernelEvent::ALL;
        let times = |event| events.iter().position(|other| *other == event).map_or(0, since);
        Ok(PathCounts::from_events(packets, times, since(events.len()), since(events.len() + 1)))
    }

    /// Forgets every flow, so that rounds find the ways empty. A verdict that waits for a drain is counted before.
    pub(crate) fn empty_flow_table(&self) {
        let _settled = self.0.view().read(0);
        for set in self.0.view().flows {
            for word in set.tags.iter().chain(&set.counters) {
                word.store(0);
            }
            for state in &set.states {
                state.store(FlowState::EMPTY.0);
            }
        }
    }

    /// Fails when packets were lost, or when flows are not in the stage, or have not the verdict, that the row says.
    /// `opened` is the number of flows that the measurements opened.
    pub(crate) fn check(&self, row: &Row, opened: u64) -> Result<()> {
        let events = self.0.events()?;
        for lost in [KernelEvent::InternalError, KernelEvent::TallyRefused, KernelEvent::TallyReserved] {
            ensure!(self.0.event(lost)? == 0, "packets were lost, or there were too few tallies: {events:?}");
        }
        // Settles no flow: none is that old.
        let read = self.0.view().read(u16::MAX);
        let over = read.flows - read.pending.flows;
        match row.kind {
            RowKind::Settled => {
                let flows = u64::from(row.flows);
                ensure!(over >= flows - flows / 50, "the inspection of {over} flows is over: {events:?}");
            }
            RowKind::Inspected { .. } if row.shows.is_none() => {
                ensure!(
                    over <= read.flows / 50,
                    "the inspection of {over} flows of {} is over: {events:?}",
                    read.flows
                );
            }
            RowKind::Inspected { .. } | RowKind::New(_) | RowKind::Transit => {}
        }
        if let Some(protocol) = row.shows {
            let flows = self.flows_of(protocol);
            ensure!(flows >= opened - opened / 50, "{flows} flows of {opened} are {}: {events:?}", protocol.label());
        }
        Ok(())
    }

    /// Flows with this verdict, of every confidence and direction. Ends every inspection.
    fn flows_of(&self, protocol: Protocol) -> u64 {
        let node = self.0.view().read(0).node.into_iter().enumerate();
        node.filter(|(index, _)| index % PROTOCOL_SLOTS == protocol as usize).map(|(_, counts)| counts.flows).sum()
    }
}
