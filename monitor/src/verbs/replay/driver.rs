//! Feeds captures to an engine and gathers the result.

use std::path::Path;

use monitor_common::parse::{headers, packet};
use peertally_capture::{Capture, CaptureError, Item};

use super::{
    capture_clock::CaptureClock,
    engine::{EngineError, ReplayEngine, first_buffer},
    flows::Flows,
    report::ReplayReport,
};

/// A replay in progress.
pub(super) struct Driver {
    engine: Box<dyn ReplayEngine>,
    clock: CaptureClock,
    flows: Option<Flows>,
    one_way: bool,
    unsupported: u64,
    implausible: u64,
    captures: usize,
}

impl Driver {
    /// A replay that counts with `engine`, and keeps flow rows if asked.
    pub(super) fn new(engine: Box<dyn ReplayEngine>, flows: bool, one_way: bool) -> Self {
        Self {
            engine,
            clock: CaptureClock::default(),
            flows: flows.then(Flows::default),
            one_way,
            unsupported: 0,
            implausible: 0,
            captures: 0,
        }
    }

    /// Counts a capture. Damage is handed back, after everything before it was counted.
    pub(super) fn capture(&mut self, path: &Path) -> Result<Option<CaptureError>, EngineError> {
        self.captures += 1;
        match Capture::open(path) {
            Ok(mut capture) => {
                let read = self.packets(&mut capture);
                self.implausible += capture.implausible();
                read
            }
            Err(error) => Ok(Some(error)),
        }
    }

    /// Counts every packet that can be read.
    fn packets(&mut self, capture: &mut Capture) -> Result<Option<CaptureError>, EngineError> {
        self.clock.begin_capture();
        loop {
            let frame = match capture.next_item() {
                Ok(Some(Item::Frame(frame))) => frame,
                Ok(Some(Item::UnsupportedLinkType(_))) => {
                    self.unsupported += 1;
                    continue;
                }
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            let now_s = self.clock.second_of(frame.timestamp_ns);
            let frame = first_buffer(frame);
            let outcome = self.engine.packet(&frame, now_s)?;
            if let Some(flows) = &mut self.flows
                && let Ok(headers) = headers(&packet::Frame::new(frame.bytes, frame.wire_len))
            {
                flows.add(&headers, outcome, self.engine.rule(), self.engine.is_charged());
            }
        }
    }

    /// Ends the replay.
    pub(super) fn finish(self) -> Result<ReplayReport, EngineError> {
        let engine = self.engine.kind().label();
        let totals = self.engine.finish()?;
        let flows = self.flows.map(Flows::into_rows);
        let report = ReplayReport::new(engine, self.captures, &totals, self.unsupported, flows);
        Ok(ReplayReport { one_way: self.one_way, implausible: self.implausible, ..report })
    }
}
