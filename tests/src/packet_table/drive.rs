//! Runs frames through an engine and reports the changes of each in its tables.
//!
//! Reads the tables, not the engine's reports, so that the shipped program is tested as it runs in production.

use anyhow::{Context as _, Result, bail};
use aya::{TestRun as _, TestRunOptions};
use monitor_common::{
    abi::{
        reason::Reason,
        tally::{Direction, NODE_ENTRIES_PER_INTERFACE},
    },
    tables::flow_table::{FlowState, unpack},
};
use peertally_datapath::{host::HostDataPath, object::LoadedObject, test_run::TestRunner, view::View};

/// `XDP_PASS` of `enum xdp_action` in the kernel's `include/uapi/linux/bpf.h`.
pub const XDP_PASS: u32 = 2;

/// Something that counts frames.
pub trait Engine {
    /// Description, for messages.
    fn name(&self) -> &'static str;
    /// Counts a frame.
    ///
    /// # Errors
    /// When the kernel refuses the frame, or its verdict is not to pass it.
    fn frame(&mut self, frame: &[u8]) -> Result<()>;
    /// The tables.
    fn view(&self) -> View<'_>;
    /// Frames skipped so far, by reason.
    ///
    /// # Errors
    /// When the table cannot be read.
    fn skipped(&self) -> Result<Vec<(Reason, u64)>>;
}

impl Engine for HostDataPath {
    fn name(&self) -> &'static str {
        "host"
    }

    fn frame(&mut self, frame: &[u8]) -> Result<()> {
        HostDataPath::frame(self, frame, frame.len(), 1);
        Ok(())
    }

    fn view(&self) -> View<'_> {
        HostDataPath::view(self)
    }

    fn skipped(&self) -> Result<Vec<(Reason, u64)>> {
        Ok(Reason::ALL.iter().map(|reason| (*reason, HostDataPath::skipped(self, *reason))).collect())
    }
}

impl Engine for TestRunner {
    fn name(&self) -> &'static str {
        "kernel, replaying"
    }

    fn frame(&mut self, frame: &[u8]) -> Result<()> {
        TestRunner::frame(self, frame, frame.len(), 1)?;
        Ok(())
    }

    fn view(&self) -> View<'_> {
        TestRunner::view(self)
    }

    fn skipped(&self) -> Result<Vec<(Reason, u64)>> {
        Ok(TestRunner::skipped(self)?)
    }
}

/// The program as it is attached in production, run by the kernel's test runner.
impl Engine for LoadedObject {
    fn name(&self) -> &'static str {
        "kernel, as attached"
    }

    fn frame(&mut self, frame: &[u8]) -> Result<()> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = self.program()?.test_run(options).context("the kernel's test runner refuses the frame")?;
        if result.return_value != XDP_PASS {
            bail!("the verdict is {}, not XDP_PASS", result.return_value);
        }
        if result.data_size_out as usize != frame.len() {
            bail!("the frame left with {} bytes, it came with {}", result.data_size_out, frame.len());
        }
        Ok(())
    }

    fn view(&self) -> View<'_> {
        LoadedObject::view(self)
    }

    fn skipped(&self) -> Result<Vec<(Reason, u64)>> {
        Ok(LoadedObject::skipped(self)?)
    }
}

/// Changes of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Counted under a reason.
    Skipped(Reason),
    /// Counted in a flow.
    Flow {
        /// The flow's tag: a hash of its whole key.
        tag: u64,
        /// Direction as the pools define it.
        direction: Direction,
        /// Protocol number of the flow after this frame.
        protocol: u8,
        /// IP bytes that were added.
        bytes: u64,
    },
    /// Counted as transit.
    Transit {
        /// IP bytes that were added.
        bytes: u64,
    },
}

/// Every counter that a frame may change.
struct Counters {
    skipped: Vec<(Reason, u64)>,
    /// Packets and bytes by set, way and direction.
    flows: Vec<(u64, u64)>,
    /// Packets and bytes counted at node level, transit apart.
    node: Vec<(u64, u64)>,
}

impl Counters {
    fn read(engine: &impl Engine) -> Result<Self> {
        let view = engine.view();
        let flows = view.flows.iter().flat_map(|set| set.counters.iter().map(|cell| unpack(cell.load()))).collect();
        let node = view.node.iter().map(|tally| (tally.packets.load(), tally.bytes.load())).collect();
        Ok(Self { skipped: engine.skipped()?, flows, node })
    }
}

/// Runs a frame and returns the changed counters.
///
/// # Errors
/// When the engine fails, or the frame changed anything but exactly one counter by one packet.
pub fn observe(engine: &mut impl Engine, frame: &[u8]) -> Result<Observed> {
    let before = Counters::read(engine)?;
    engine.frame(frame)?;
    let after = Counters::read(engine)?;
    let mut found = Vec::new();
    for ((reason, was), (_, is)) in before.skipped.iter().zip(&after.skipped) {
        if is != was {
            found.push((is - was, Observed::Skipped(*reason)));
        }
    }
    for (index, (was, is)) in before.flows.iter().zip(&after.flows).enumerate() {
        if is != was {
            // A new flow may take a way whose counters were flushed before.
            let (packets, bytes) = if is.0 > was.0 { (is.0 - was.0, is.1 - was.1) } else { *is };
            found.push((packets, flow(&engine.view(), index, bytes)?));
        }
    }
    for (index, (was, is)) in before.node.iter().zip(&after.node).enumerate() {
        if is != was && is_transit(index) {
            found.push((is.0 - was.0, Observed::Transit { bytes: is.1 - was.1 }));
        }
    }
    match found.as_slice() {
        [(1, observed)] => Ok(observed.clone()),
        _ => bail!("one frame changed {found:?}, not one counter by one packet"),
    }
}

/// Whether an index of the node table counts transit: see [`monitor_common::abi::tally::node_index`].
fn is_transit(index: usize) -> bool {
    let per_direction = NODE_ENTRIES_PER_INTERFACE / Direction::ALL.len();
    index % NODE_ENTRIES_PER_INTERFACE / per_direction == Direction::Transit as usize
}

fn flow(view: &View<'_>, counter: usize, bytes: u64) -> Result<Observed> {
    let ways = view.flows.first().context("no flow sets")?.tags.len();
    let (set, counter) = (&view.flows[counter / (2 * ways)], counter % (2 * ways));
    let (way, from_lower) = (counter / 2, counter % 2 == 0);
    let state = FlowState(set.states[way].load());
    let direction = state.ends().direction(from_lower);
    Ok(Observed::Flow { tag: set.tags[way].load(), direction, protocol: state.protocol_number(), bytes })
}
