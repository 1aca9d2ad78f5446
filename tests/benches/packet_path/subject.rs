//! The program under test: the shipped object or another build of it, loaded as the agent loads it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use monitor_common::abi::{
    event::KernelEvent,
    protocol::{PROTOCOL_SLOTS, Protocol},
};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject, MonitoredInterface},
};

use crate::{
    old_maps,
    rows::{Row, RowKind},
};

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
            // Two tallies for each subscriber: unclassified, and one protocol.
            sizes: TableSizes {
                flows: row.table_flows() * 2,
                tallies: row.subscribers * 2 + 1,
                ..TableSizes::default()
            },
            pools,
            // The loopback device, which the test runner's frames come from.
            interfaces: vec![MonitoredInterface { realm: row.realm, ..MonitoredInterface::access(1) }],
            ..LoadOptions::default()
        };
        let Some(path) = build else {
            return LoadedObject::load(&options).map(Self).context("loading the shipped object");
        };
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let bytes = old_maps::with_current_map_names(bytes).with_context(|| format!("reading {}", path.display()))?;
        LoadedObject::load_build(&bytes, &options).map(Self).with_context(|| format!("loading {}", path.display()))
    }

    /// The program's fd.
    pub(crate) fn program(&mut self) -> Result<ProgramFd> {
        Ok(self.0.program()?.fd()?.try_clone()?)
    }

    /// Fails when the row did not measure what it says: packets were refused, lost, or belonged to no subscriber.
    pub(crate) fn check(&self, row: &Row) -> Result<()> {
        let events = self.0.events()?;
        let transit = matches!(row.kind, RowKind::Transit);
        anyhow::ensure!(
            (self.0.event(KernelEvent::Transit)? > 0) == transit,
            "{}: transit packets: {events:?}",
            row.path
        );
        anyhow::ensure!(self.0.event(KernelEvent::InternalError)? == 0, "{}: packets were lost: {events:?}", row.path);
        if let Some(protocol) = row.shows {
            let (flows, wanted) = (self.flows_of(protocol), u64::from(row.flows));
            anyhow::ensure!(flows >= wanted, "{}: {flows} flows of {}: {events:?}", row.path, protocol.label());
        }
        if matches!(row.kind, RowKind::Settled) {
            // A cache that is half full refuses some flows in a thousand: both their sets are full.
            let flows = u64::from(row.flows);
            anyhow::ensure!(
                self.0.event(KernelEvent::FlowNew)? >= flows - flows / 50
                    && self.0.event(KernelEvent::EvictedUnclassified)? <= flows / 50,
                "{}: the cache was too full for a settled state: {events:?}",
                row.path
            );
        }
        Ok(())
    }

    /// Flows with this verdict, of every confidence and direction.
    fn flows_of(&self, protocol: Protocol) -> u64 {
        let node = self.0.view().read(0).node.into_iter().enumerate();
        node.filter(|(index, _)| index % PROTOCOL_SLOTS == protocol as usize).map(|(_, counts)| counts.flows).sum()
    }
}
