//! The ceiling of events: more than so many of one policy in an interval are for a person to look at. A detector that
//! is wrong, or deceived, then accuses a few subscribers, not thousands.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// How many events each policy may make in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CeilingRule {
    /// Events of one policy.
    pub events: usize,
    /// Length of the interval.
    pub interval: Duration,
}

/// Times of the events that passed lately.
#[derive(Debug)]
pub struct Ceiling {
    rule: CeilingRule,
    passed: HashMap<String, VecDeque<Instant>>,
}

impl Ceiling {
    /// A ceiling that nothing has passed.
    #[must_use]
    pub fn new(rule: CeilingRule) -> Self {
        Self { rule, passed: HashMap::new() }
    }

    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> CeilingRule {
        self.rule
    }

    /// Changes the rule; what passed counts on.
    pub const fn set_rule(&mut self, rule: CeilingRule) {
        self.rule = rule;
    }

    /// Notes an event that passed before a restart.
    pub fn restore(&mut self, policy: &str, at: Instant) {
        self.passed.entry(policy.to_owned()).or_default().push_back(at);
    }

    /// Whether an event of a policy may pass now. One that may is counted.
    pub fn pass(&mut self, policy: &str, now: Instant) -> bool {
        let Self { rule, passed } = self;
        let times = passed.entry(policy.to_owned()).or_default();
        while times.front().is_some_and(|at| now.saturating_duration_since(*at) >= rule.interval) {
            times.pop_front();
        }
        let passes = times.len() < rule.events;
        if passes {
            times.push_back(now);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Kernel;

    #[test]
    fn each_policy_passes_so_many_events_in_each_interval() {
        let start = Kernel::new().drain_at(Duration::ZERO).taken;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let rule = CeilingRule { events: 2, interval: Duration::from_secs(60) };
        let mut ceiling = Ceiling::new(rule);
        ceiling.restore("a", at(0));
        assert!(ceiling.pass("a", at(10)));
        assert!(!ceiling.pass("a", at(20)));
        assert!(ceiling.pass("b", at(20)), "another policy");
        assert!(!ceiling.pass("a", at(59)));
        assert!(ceiling.pass("a", at(60)), "the first one is an interval old");
        assert!(!ceiling.pass("a", at(69)), "what was refused does not count, and what passed does");
        assert!(ceiling.pass("a", at(70)));
    }
}
