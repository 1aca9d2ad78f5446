//! An agent that is killed while it ends or releases a flow: the next one frees the way, loses nothing that was not in
//! its hands, and books nothing twice.

use std::{
    cell::Cell,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, panic_any, set_hook, take_hook},
    sync::Mutex,
};

use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::{IDLE_SECONDS, WAYS},
        settings::InspectionDepth,
        tally::{NodeTally, Tally},
    },
    engine::{
        end_idle,
        release::{end_flow, uncharge_flow},
    },
    tables::{
        flow_table::{FlowState, Phase},
        maps::CounterMaps,
    },
};
use peertally_datapath::{TableSizes, host::HostDataPath, released_flows::release_abandoned, view::View};
use peertally_tests::{both_datapaths::SEED, wire::Connection};

/// What a killed agent leaves on the stack.
struct Killed;

/// The counters of an agent that is killed at one of its accesses.
struct Mortal<'a> {
    view: View<'a>,
    accesses_left: Cell<u32>,
}

impl Mortal<'_> {
    fn access(&self) {
        match self.accesses_left.get() {
            0 => panic_any(Killed),
            left => self.accesses_left.set(left - 1),
        }
    }
}

impl CounterMaps for Mortal<'_> {
    fn tally(&self, slot: u32) -> Option<&Tally> {
        self.access();
        self.view.tallies.get(slot as usize)
    }

    fn node(&self, index: u32) -> Option<&NodeTally> {
        self.access();
        self.view.node.get(index as usize)
    }

    fn count_event(&self, event: KernelEvent) {
        panic!("{}", event.label());
    }
}

/// What an agent does with a flow.
#[derive(Clone, Copy, Debug)]
enum Step {
    EndIdle,
    End,
    Uncharge,
}

/// A node with one flow that is charged to a subscriber.
struct Node {
    path: HostDataPath,
    connection: Connection,
    packets: u64,
    now_s: u64,
}

impl Node {
    /// With `settled`, the flow is one of BitTorrent, else it is still under inspection.
    fn new(settled: bool) -> Self {
        let sizes = TableSizes { flows: 64, tallies: 64, peers: 64 };
        let pools = ["10.0.0.0/16/32".parse().expect("a pool")];
        let path = HostDataPath::new(&sizes, &pools, SEED, InspectionDepth::Framing);
        path.set_one_way();
        let end = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
        let (connection, opening) = Connection::open(end("10.0.0.7", 50_000), end("192.0.2.7", 6_881));
        let mut node = Self { path, connection, packets: 0, now_s: 1_000 };
        opening.iter().for_each(|frame| node.send(frame));
        let first: &[u8] = if settled { b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0" } else { b"something" };
        node.says(first);
        node.says(&[7; 500]);
        node
    }

    fn send(&mut self, frame: &[u8]) {
        self.packets += 1;
        self.path.frame(frame, frame.len(), self.now_s);
    }

    fn says(&mut self, payload: &[u8]) {
        let frame = self.connection.says(true, payload);
        self.send(&frame);
    }

    fn way(&self) -> (usize, usize) {
        let view = self.path.view();
        let used = |index: usize, way: usize| view.flows[index].states[way].load() != FlowState::EMPTY.0;
        let mut ways = (0..view.flows.len()).flat_map(|index| (0..WAYS).map(move |way| (index, way)));
        ways.find(|(index, way)| used(*index, *way)).expect("a flow")
    }

    /// Does a step, which is killed at an access; whether the step came that far.
    fn kill(&self, step: Step, access: u32) -> bool {
        let view = self.path.view();
        let (index, way) = self.way();
        let maps = Mortal { view, accesses_left: Cell::new(access) };
        let entry = (&view.flows[index], &view.cold[index]);
        let now_s = self.now_s + 2 * u64::from(IDLE_SECONDS);
        let done = catch_unwind(AssertUnwindSafe(|| match step {
            Step::EndIdle => assert!(end_idle(&maps, view.settings, entry, way, now_s, IDLE_SECONDS)),
            Step::End => assert!(end_flow(&maps, view.settings, entry, way, now_s).is_some()),
            Step::Uncharge => assert!(uncharge_flow(&maps, view.settings, entry, way, now_s)),
        }));
        done.is_err_and(|cause| cause.downcast_ref::<Killed>().is_some())
    }

    /// Packets and flows of all tallies and of all interfaces, those of flows in the table included.
    fn counted(&self) -> [(u64, u64); 2] {
        let read = self.path.view().read(15);
        let of_tallies = read.totals.iter().map(|totals| (totals.packets_up + totals.packets_down, totals.flows));
        let of_node = read.node.iter().map(|counts| (counts.packets, counts.flows));
        let sum = |sums: (u64, u64), each: (u64, u64)| (sums.0 + each.0, sums.1 + each.1);
        [of_tallies.fold((0, 0), sum), of_node.fold((0, 0), sum)]
    }

    /// Packets that are in no tally yet.
    fn in_flow(&self) -> u64 {
        let view = self.path.view();
        view.flows.iter().flat_map(|set| &set.counters).map(|counter| counter.load() >> 40).sum()
    }
}

/// Kills at each access of each step, and hands the node and what it was sent to `check` before and after the recovery.
fn at_each_access(settled: bool, step: Step) {
    let mut kills = 0;
    for access in 0.. {
        let node = Node::new(settled);
        if !node.kill(step, access) {
            break;
        }
        kills += 1;
        let context = format!("{step:?}, settled {settled}, killed at access {access}");
        let view = node.path.view();
        let (index, way) = node.way();
        assert_eq!(FlowState(view.flows[index].states[way].load()).phase(), Phase::Locked, "{context}");
        let untouched = node.in_flow() == node.packets;
        assert_eq!(release_abandoned(&view, || {}), 1, "{context}");
        assert_eq!(release_abandoned(&view, || {}), 0, "{context}");
        assert_eq!((view.read(15).flows, node.in_flow()), (0, 0), "{context}: the way is empty");
        for (packets, flows) in node.counted() {
            assert!(packets <= node.packets && flows <= 1, "{context}: {packets} packets and {flows} flows");
            assert!(!untouched || packets == node.packets, "{context}: {packets} of {} packets", node.packets);
        }
    }
    assert!(kills >= 3, "{step:?} has {kills} accesses");
}

/// Panics are expected, and are not shown. Tests of this file run one after another.
fn quietly(test: impl FnOnce()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let shown = take_hook();
    set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<Killed>().is_none() {
            eprintln!("{info}");
        }
    }));
    test();
    set_hook(shown);
}

#[test]
fn a_kill_at_any_access_books_nothing_twice_and_loses_nothing_that_was_not_in_hand() {
    quietly(|| {
        for step in [Step::EndIdle, Step::End, Step::Uncharge] {
            at_each_access(true, step);
            at_each_access(false, step);
        }
    });
}

#[test]
fn a_kill_between_the_booking_and_the_unlock_books_nothing_twice() {
    for settled in [true, false] {
        let node = Node::new(settled);
        let view = node.path.view();
        let (index, way) = node.way();
        let word = &view.flows[index].states[way];
        let (state, slots) = (FlowState(word.load()), view.cold[index].flows[way].slots.load());
        // The way as it is before its last word is written.
        assert!(node.path.view().read(15).flows == 1);
        assert!(
            end_flow(
                &Mortal { view, accesses_left: Cell::new(100) },
                view.settings,
                (&view.flows[index], &view.cold[index]),
                way,
                node.now_s
            )
            .is_some()
        );
        view.cold[index].flows[way].slots.store(slots);
        word.store(state.locked().counted().0);
        let before = node.counted();
        assert_eq!(release_abandoned(&view, || {}), 1);
        assert_eq!(node.counted(), before);
        assert_eq!(before.map(|(packets, _)| packets), [node.packets; 2]);
    }
}

#[test]
fn the_lock_that_a_cpu_held_is_freed_too() {
    let node = Node::new(true);
    let view = node.path.view();
    let (index, way) = node.way();
    view.flows[index].states[way].store(FlowState::LOCKED.0);
    assert_eq!(release_abandoned(&view, || {}), 1);
    assert_eq!(view.read(15).flows, 0);
}

#[test]
fn after_a_kill_the_next_packet_opens_a_flow() {
    quietly(|| {
        let mut node = Node::new(false);
        assert!(node.kill(Step::End, 0));
        assert_eq!(release_abandoned(&node.path.view(), || {}), 1);
        let before = node.counted();
        assert_eq!(before.map(|(packets, _)| packets), [node.packets; 2]);
        node.says(&[7; 100]);
        assert_eq!(node.path.view().read(15).flows, 1);
        assert_eq!(node.counted(), before, "it is inspected, and in no tally yet");
    });
}
