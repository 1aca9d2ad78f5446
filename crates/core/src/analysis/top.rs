//! The top K subscribers by recent P2P traffic, with hysteresis.
//!
//! The score of a subscriber is its P2P bytes, halved every ten minutes. A subscriber enters with a score among the
//! first `K`. It leaves when its score falls beyond `2 K`, but not within ten minutes of entering while there is room.
//! Without this hysteresis, changing ranks would create most of the series that a server stores. Only the `2 K` highest
//! scores are sorted.

use std::{
    cmp::Ordering,
    collections::HashMap,
    time::{Duration, Instant},
};

use monitor_common::abi::protocol::Protocol;

use crate::{
    policy::{SubscriberIndex, TallyOwner},
    snapshot::{Snapshot, TallyChange},
    subscriber::Pseudonyms,
};

/// Half-life of traffic in a score.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Least time between entering and leaving.
const LEAST_STAY: Duration = Duration::from_secs(600);
/// Weight at which scores are scaled back, far below the range of a 64-bit float.
const RESCALE: f64 = 1e60;

/// One exported subscriber and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRow {
    /// Pseudonym.
    pub subscriber: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Bytes it sent.
    pub bytes_up: u64,
    /// Bytes it received.
    pub bytes_down: u64,
}

/// The order of (score, subscriber): of equal scores, the subscriber seen first comes first.
fn higher_first(left: &(f64, u32), right: &(f64, u32)) -> Ordering {
    right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
}

/// Scores and members.
#[derive(Debug)]
pub struct Top {
    rank: usize,
    /// Score of each subscriber, in units that grow with time: old traffic need not be touched to count less.
    scores: Vec<f64>,
    /// When the unit was 1.
    epoch: Option<Instant>,
    /// Weight of a byte of the current drain.
    unit: f64,
    /// Scores and subscribers that may be among the first.
    leading: Vec<(f64, u32)>,
    /// Pseudonym, and when it entered, of each member.
    members: HashMap<u32, (String, Instant)>,
}

impl Top {
    /// An empty table for rank `rank`; 0 exports nothing.
    #[must_use]
    pub fn new(rank: usize) -> Self {
        Self { rank, scores: Vec::new(), epoch: None, unit: 1.0, leading: Vec::new(), members: HashMap::new() }
    }

    /// Exports another rank; 0 forgets everything.
    pub fn set_rank(&mut self, rank: usize) {
        if rank == 0 {
            *self = Self::new(0);
        }
        self.rank = rank;
    }

    /// Most series that [`Top::rows`] makes: K times protocols times directions.
    #[must_use]
    pub const fn most_series(&self) -> usize {
        self.rank * Protocol::ALL.len() * 2
    }

    /// Begins a drain.
    pub(crate) fn begin(&mut self, snapshot: &Snapshot, subscribers: &SubscriberIndex) {
        if self.rank != 0 {
            self.scores.resize(subscribers.len(), 0.0);
            self.unit = self.weight(snapshot.taken);
        }
    }

    /// Whether a subscriber is among the members.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.members.contains_key(&number)
    }

    /// Forgets subscribers, whose numbers others get.
    pub(crate) fn forget(&mut self, numbers: &[u32]) {
        for number in numbers {
            if let Some(score) = self.scores.get_mut(*number as usize) {
                *score = 0.0;
            }
        }
    }

    /// Continues with a part of the changes and their owners.
    pub(crate) fn take(&mut self, changes: &[TallyChange], owners: &[TallyOwner]) {
        if self.rank == 0 {
            return;
        }
        for (change, owner) in changes.iter().zip(owners).filter(|(_, owner)| owner.is_p2p()) {
            if let Some(score) = self.scores.get_mut(owner.subscriber as usize) {
                *score += change.delta.bytes_up.saturating_add(change.delta.bytes_down) as f64 * self.unit;
            }
        }
    }

    /// Gives all members the names of a new key.
    pub(crate) fn rename(&mut self, subscribers: &SubscriberIndex, pseudonyms: &Pseudonyms) {
        for (number, (name, _)) in &mut self.members {
            if let Some(subscriber) = subscribers.subscriber(*number) {
                *name = pseudonyms.of(subscriber);
            }
        }
    }

    /// Ends a drain: members enter and leave.
    pub(crate) fn end(&mut self, snapshot: &Snapshot, subscribers: &SubscriberIndex, pseudonyms: &Pseudonyms) {
        if self.rank == 0 {
            return;
        }
        let leaders = self.leaders();
        let kept: HashMap<u32, usize> = leaders.iter().enumerate().map(|(rank, number)| (*number, rank)).collect();
        self.members.retain(|number, (_, entered)| {
            kept.contains_key(number) || snapshot.taken.saturating_duration_since(*entered) < LEAST_STAY
        });
        for number in leaders.iter().take(self.rank) {
            if let Some(subscriber) = subscribers.subscriber(*number) {
                self.members.entry(*number).or_insert_with(|| (pseudonyms.of(subscriber), snapshot.taken));
            }
        }
        self.crowd_out();
    }

    /// Weight of a byte now.
    fn weight(&mut self, now: Instant) -> f64 {
        let epoch = *self.epoch.get_or_insert(now);
        let weight = (now.saturating_duration_since(epoch).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        if weight < RESCALE {
            return weight;
        }
        self.scores.iter_mut().for_each(|score| *score /= weight);
        self.epoch = Some(now);
        1.0
    }

    /// The `2 K` subscribers with the highest scores, highest first.
    fn leaders(&mut self) -> Vec<u32> {
        let room = self.rank * 2;
        // Collect candidates until there are many times `2 K`, then drop most of them at once. A heap is slow if scores
        // rise with the subscribers' numbers.
        let most = room * 4 + 1024;
        self.leading.clear();
        let mut least = 0.0;
        for (number, score) in self.scores.iter().enumerate() {
            if *score <= least {
                continue;
            }
            self.leading.push((*score, number as u32));
            if self.leading.len() == most {
                let (_, last, _) = self.leading.select_nth_unstable_by(room - 1, higher_first);
                least = last.0;
                self.leading.truncate(room);
            }
        }
        self.leading.sort_unstable_by(higher_first);
        self.leading.iter().take(room).map(|(_, number)| *number).collect()
    }

    /// Removes the lowest members while there are more than `2 K`.
    fn crowd_out(&mut self) {
        let room = self.rank * 2;
        if self.members.len() > room {
            let mut order: Vec<u32> = self.members.keys().copied().collect();
            order.sort_unstable_by(|left, right| self.score(*right).total_cmp(&self.score(*left)));
            for number in &order[room..] {
                self.members.remove(number);
            }
        }
    }

    fn score(&self, number: u32) -> f64 {
        self.scores.get(number as usize).copied().unwrap_or(0.0)
    }

    /// The members' bytes by protocol, highest score first, within [`Top::most_series`].
    #[must_use]
    pub fn rows(&self, snapshot: &Snapshot, subscribers: &SubscriberIndex) -> Vec<TopRow> {
        let mut order: Vec<(&u32, &String)> = self.members.iter().map(|(number, (name, _))| (number, name)).collect();
        order.sort_unstable_by(|(left, _), (right, _)| {
            self.score(**right).total_cmp(&self.score(**left)).then(left.cmp(right))
        });
        let mut rows: Vec<TopRow> = Vec::new();
        for (number, name) in order {
            let begin = rows.len();
            for slot in subscribers.slots(*number) {
                let Some(protocol) = subscribers.owner(slot).p2p_protocol() else { continue };
                let Some(totals) = snapshot.totals.get(slot as usize) else { continue };
                let position = rows[begin..].iter().position(|row| row.protocol == protocol).map(|at| begin + at);
                let position = position.unwrap_or_else(|| {
                    rows.push(TopRow { subscriber: name.clone(), protocol, bytes_up: 0, bytes_down: 0 });
                    rows.len() - 1
                });
                rows[position].bytes_up = rows[position].bytes_up.saturating_add(totals.bytes_up);
                rows[position].bytes_down = rows[position].bytes_down.saturating_add(totals.bytes_down);
            }
            if rows.len() * 2 > self.most_series() {
                rows.truncate(begin);
                break;
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaders_are_those_of_the_highest_scores_in_any_order_of_subscribers() {
        let count = 20_000_u64;
        // Rising, falling, mixed, many equal ones.
        let orders: [fn(u64) -> u64; 4] = [|n| n, |n| 20_000 - n, |n| n * 7919 % 20_011, |n| n * 7919 % 13];
        for (rank, order) in [1, 50, 1000, 20_000].into_iter().flat_map(|rank| orders.map(|order| (rank, order))) {
            let mut top = Top::new(rank);
            top.scores = (0..count).map(|number| order(number) as f64).collect();
            let mut expected: Vec<u32> = (0..count as u32).filter(|number| top.score(*number) > 0.0).collect();
            // Stable: of equal scores, the lower number.
            expected.sort_by(|left, right| top.score(*right).total_cmp(&top.score(*left)));
            expected.truncate(rank * 2);
            assert_eq!(top.leaders(), expected, "rank {rank}");
        }
    }
}
