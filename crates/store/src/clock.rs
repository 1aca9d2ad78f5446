//! Times that are kept: by the clock that runs since the boot, which no correction of the time moves, and by the wall
//! clock for the time after a reboot.

use std::{fs, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Identifies the boot (<https://docs.kernel.org/admin-guide/sysctl/kernel.html>, `random`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The clocks of this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    boot: Arc<str>,
}

/// A point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Boot that `boot_ms` belongs to.
    pub boot: Arc<str>,
    /// Milliseconds since that boot, time asleep included.
    pub boot_ms: i64,
    /// Milliseconds since 1970 by the wall clock.
    pub wall_ms: i64,
}

fn milliseconds(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

impl Clock {
    /// The clocks of this boot. Without the kernel's identifier of the boot, kept times count by the wall clock.
    #[must_use]
    pub fn of_this_boot() -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self { boot: boot.trim().into() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment {
            boot: Arc::clone(&self.boot),
            boot_ms: milliseconds(ClockId::Boottime),
            wall_ms: milliseconds(ClockId::Realtime),
        }
    }
}

impl Moment {
    /// A moment that is later by some time.
    #[must_use]
    pub fn after(&self, time: Duration) -> Self {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self {
            boot: Arc::clone(&self.boot),
            boot_ms: self.boot_ms.saturating_add(ms),
            wall_ms: self.wall_ms.saturating_add(ms),
        }
    }

    /// A moment that is earlier by some time.
    #[must_use]
    pub fn before(&self, time: Duration) -> Self {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self {
            boot: Arc::clone(&self.boot),
            boot_ms: self.boot_ms.saturating_sub(ms),
            wall_ms: self.wall_ms.saturating_sub(ms),
        }
    }

    /// Milliseconds from an earlier moment to this one; negative if that one is later.
    #[must_use]
    pub fn ms_since(&self, earlier: &Self) -> i64 {
        if self.boot == earlier.boot && !self.boot.is_empty() {
            self.boot_ms.saturating_sub(earlier.boot_ms)
        } else {
            self.wall_ms.saturating_sub(earlier.wall_ms)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, boot_ms: i64, wall_ms: i64) -> Moment {
        Moment { boot: boot.into(), boot_ms, wall_ms }
    }

    #[test]
    fn a_corrected_wall_clock_moves_nothing_within_a_boot() {
        let (before, after) = (moment("a", 1_000, 50_000), moment("a", 2_000, 3_650_000));
        assert_eq!(after.ms_since(&before), 1_000);
        assert_eq!(moment("b", 7, 51_000).ms_since(&before), 1_000);
        assert_eq!(moment("", 9, 51_000).ms_since(&moment("", 1, 50_000)), 1_000);
        assert_eq!(before.after(Duration::from_secs(3)), moment("a", 4_000, 53_000));
    }

    #[test]
    fn the_kernel_names_the_boot() {
        let clock = Clock::of_this_boot();
        let (first, second) = (clock.now(), clock.now());
        assert_eq!(first.boot.len(), 36, "a UUID");
        assert!(second.ms_since(&first) >= 0);
    }
}
