//! One clock for a stream of captures: seconds that never run backwards.
//!
//! Captures may overlap in time or be given in any order. If a capture starts before the previous one ended, its time
//! continues from that end. Within a capture, a packet older than the one before counts as simultaneous.

/// The clock of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CaptureClock {
    now_ns: u64,
    shift_ns: u64,
    /// The next packet is the first of its capture.
    first: bool,
}

impl CaptureClock {
    /// A capture begins.
    pub(super) fn begin_capture(&mut self) {
        self.first = true;
        self.shift_ns = 0;
    }

    /// The time in seconds of a packet with this timestamp.
    pub(super) fn second_of(&mut self, timestamp_ns: u64) -> u64 {
        if std::mem::take(&mut self.first) {
            self.shift_ns = self.now_ns.saturating_sub(timestamp_ns);
        }
        self.now_ns = self.now_ns.max(timestamp_ns.saturating_add(self.shift_ns));
        self.now_ns / 1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards() {
        const S: u64 = 1_000_000_000;
        let mut clock = CaptureClock::default();
        clock.begin_capture();
        assert_eq!([100, 99, 101, 200].map(|second| clock.second_of(second * S)), [100, 100, 101, 200]);
        clock.begin_capture();
        assert_eq!([50, 49, 60].map(|second| clock.second_of(second * S)), [200, 200, 210], "an earlier capture");
        clock.begin_capture();
        assert_eq!([300, u64::MAX / S].map(|second| clock.second_of(second * S)), [300, u64::MAX / S]);
        clock.begin_capture();
        clock.second_of(0);
        assert_eq!(clock.second_of(u64::MAX), u64::MAX / S, "saturates");
    }
}
