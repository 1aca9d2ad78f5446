//! Waits between attempts: exponential with jitter, so that many nodes do not come back at once.

use std::time::Duration;

/// Longest wait between two attempts, whatever the other side asks for.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// Wait after attempt number `attempt` (0 is the first) failed. `random` is in `0.0..1.0`.
pub(super) fn delay(first: Duration, attempt: u32, asked: Option<Duration>, random: f64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(LONGEST);
    let jittered = doubled.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
    jittered.max(asked.unwrap_or_default()).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_the_longest_and_honours_the_server() {
        let second = Duration::from_secs(1);
        assert_eq!(delay(second, 0, None, 1.0), second);
        assert_eq!(delay(second, 3, None, 1.0), second * 8);
        assert_eq!(delay(second, 40, None, 1.0), LONGEST);
        assert_eq!(delay(second, 0, None, 0.0), second / 2);
        assert_eq!(delay(second, 0, Some(second * 30), 1.0), second * 30);
        assert_eq!(delay(second, 0, Some(second * 3_000), 1.0), LONGEST);
    }

    proptest! {
        #[test]
        fn stays_between_half_and_whole(ms in 1_u64..100_000, attempt in 0_u32..100, random in 0.0..1.0) {
            let whole = delay(Duration::from_millis(ms), attempt, None, 1.0);
            let some = delay(Duration::from_millis(ms), attempt, None, random);
            prop_assert!(some <= whole && some * 2 + Duration::from_micros(1) >= whole);
            prop_assert!(whole <= LONGEST);
        }
    }
}
