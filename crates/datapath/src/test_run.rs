//! The loaded program driven frame by frame through the kernel's test runner (`BPF_PROG_TEST_RUN`).
//!
//! For `replay --engine kernel` and tests: nothing is attached, time and wire lengths come from the capture.

use aya::{TestRun as _, TestRunOptions};
use monitor_common::{
    abi::{
        event::KernelEvent,
        outcome::{Outcome, PacketOutcome},
        reason::Reason,
        rule::Rule,
        spoofing::SpoofReason,
    },
    bpf::shared_u64::SharedU64,
    tables::token_bucket::PacketTally,
};

use super::{
    error::ObjectError,
    mapped::MappedArray,
    object::{LoadOptions, LoadedObject},
    view::View,
};

/// Shortest frame the test runner takes: an Ethernet header (net/bpf/test_run.c, `bpf_prog_test_run_xdp`).
const SHORTEST_FRAME: usize = 14;

/// The data path in the kernel, fed by hand.
pub struct TestRunner {
    object: LoadedObject,
    replay: MappedArray<SharedU64>,
    /// Frames too short for the test runner; the program would have skipped them as such.
    short_frames: u64,
}

impl TestRunner {
    /// Loads the object for replay.
    ///
    /// # Errors
    /// As [`LoadedObject::load`].
    pub fn new(options: &LoadOptions) -> Result<Self, ObjectError> {
        let object = LoadedObject::load(&LoadOptions { replaying: true, ..options.clone() })?;
        let replay = MappedArray::new("REPLAY", object.map("REPLAY")?)?;
        Ok(Self { object, replay, short_frames: 0 })
    }

    /// Counts one frame of which `bytes` were captured, at `now_s` seconds.
    ///
    /// # Errors
    /// When the kernel refuses the frame.
    pub fn frame(&mut self, bytes: &[u8], wire_len: usize, now_s: u64) -> Result<Outcome, ObjectError> {
        if bytes.len() < SHORTEST_FRAME {
            self.short_frames += 1;
            self.replay.values()[1].store(PacketOutcome::UNCACHED.0);
            return Ok(Outcome::Skipped(Reason::ShortFrame));
        }
        self.object.view().settings.clock_s.store(now_s);
        let cells = self.replay.values();
        cells[0].store(wire_len.max(bytes.len()) as u64);
        cells[1].store(PacketOutcome::UNCACHED.0);
        let options = TestRunOptions { data_in: Some(bytes), ..TestRunOptions::new() };
        self.object
            .program()?
            .test_run(options)
            .map_err(|source| ObjectError::TestRun { bytes: bytes.len(), source: Box::new(source) })?;
        let outcome: Option<Outcome> = PacketOutcome(self.replay.values()[1].load()).into();
        Ok(outcome.unwrap_or(Outcome::Uncached))
    }

    /// The loaded object, for its other maps.
    pub fn object(&mut self) -> &mut LoadedObject {
        &mut self.object
    }

    /// The tables.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        self.object.view()
    }

    /// Frames skipped, by reason.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn skipped(&self) -> Result<Vec<(Reason, u64)>, ObjectError> {
        let mut skipped = self.object.skipped()?;
        for (reason, frames) in &mut skipped {
            if *reason == Reason::ShortFrame {
                *frames += self.short_frames;
            }
        }
        Ok(skipped)
    }

    /// Events, by kind.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn events(&self) -> Result<Vec<(KernelEvent, u64)>, ObjectError> {
        self.object.events()
    }

    /// How often an event happened.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn event(&self, event: KernelEvent) -> Result<u64, ObjectError> {
        self.object.event(event)
    }

    /// Packets and bytes in the name of a subscriber who is not there, by reason and interface number.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn spoofed(&self) -> Result<Vec<(SpoofReason, Vec<PacketTally>)>, ObjectError> {
        self.object.spoofed()
    }

    /// Packets and bytes that were shed, by interface number.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn shed(&self) -> Result<Vec<PacketTally>, ObjectError> {
        self.object.shed()
    }

    /// The rule that gave a flow its verdict with the latest frame.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        PacketOutcome(self.replay.values()[1].load()).rule()
    }

    /// Whether the flow of the latest frame is charged to a subscriber.
    #[must_use]
    pub fn is_charged(&self) -> bool {
        PacketOutcome(self.replay.values()[1].load()).is_charged()
    }

    /// Flows by the rule that labelled them; rules without flows are left out.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn rule_verdicts(&self) -> Result<Vec<(Rule, u64)>, ObjectError> {
        self.object.rule_verdicts()
    }
}
