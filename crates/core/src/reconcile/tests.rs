//! Each case beside its twin, and what holds of every world.

use proptest::prelude::*;

use super::*;

const OURS: u32 = 7;
const OLD: u32 = 6;
const FOREIGN: u32 = 99;

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn link(name: &str, index: u32, program: Option<u32>) -> Link {
    let mode = if program.is_some() { HookMode::Native } else { HookMode::None };
    Link { name: name.into(), index, hook: Hook { program, mode } }
}

fn pinned(pin: u32, device: Option<u32>, name: &str) -> Pinned {
    Pinned { pin, program: OURS, device, name: Some(name.into()) }
}

fn at(index: u32, mode: HookMode) -> Place {
    Place::At { index, renamed: None, mode }
}

fn native(names: &[Arc<str>], links: &[Link], pinned: &[Pinned]) -> Plan {
    plan(names, links, pinned, XdpMode::Native, Some(OURS))
}

#[test]
fn what_is_as_configured_needs_nothing() {
    let found = native(&names(&["a"]), &[link("a", 3, Some(OURS))], &[pinned(3, Some(3), "a")]);
    assert_eq!(found, Plan { places: vec![at(3, HookMode::Native)], actions: vec![] });
    let found = native(&names(&["a"]), &[link("a", 3, None)], &[]);
    assert_eq!(found.actions, [Action::Attach { index: 3 }]);
}

#[test]
fn an_interface_made_anew_is_attached_again_and_its_old_pin_goes() {
    let gone = Action::Unpin { pin: 3, why: Ended::Gone };
    let found = native(&names(&["a"]), &[link("a", 8, None)], &[pinned(3, None, "a")]);
    assert_eq!(found.actions, [gone.clone(), Action::Attach { index: 8 }]);
    // The index may be that of before.
    let found = native(&names(&["a"]), &[link("a", 3, None)], &[pinned(3, None, "a")]);
    assert_eq!(found.actions, [gone.clone(), Action::Attach { index: 3 }]);
    // Another interface that has the index now is none of ours.
    let found = native(&names(&["a"]), &[link("b", 3, None)], &[pinned(3, None, "a")]);
    assert_eq!(found, Plan { places: vec![Place::Absent], actions: vec![gone] });
}

#[test]
fn an_interface_that_moved_is_let_go_and_attached_again_when_it_is_back() {
    let moved = Action::Unpin { pin: 3, why: Ended::Moved };
    let found = native(&names(&["a"]), &[], &[pinned(3, Some(3), "a")]);
    assert_eq!(found, Plan { places: vec![Place::Absent], actions: vec![moved.clone()] });
    // It came back with another index, before anybody looked.
    let found = native(&names(&["a"]), &[link("a", 9, Some(OURS))], &[pinned(3, Some(9), "a")]);
    assert_eq!(found.actions, [moved.clone(), Action::Attach { index: 9 }]);
    // While it was away, another one got its index.
    let found = native(&names(&["a"]), &[link("a", 3, None)], &[pinned(3, Some(3), "a")]);
    assert_eq!(found.actions, [moved, Action::Attach { index: 3 }]);
}

#[test]
fn of_two_pins_of_a_device_the_one_with_its_index_counts() {
    let (before, present) = (pinned(3, Some(9), "a"), pinned(9, Some(9), "a"));
    for pins in [[before.clone(), present.clone()], [present, before]] {
        let found = native(&names(&["a"]), &[link("a", 9, Some(OURS))], &pins);
        assert_eq!(found.actions, [Action::Unpin { pin: 3, why: Ended::Moved }]);
        assert_eq!(found.places, [at(9, HookMode::Native)]);
    }
}

#[test]
fn a_renamed_interface_counts_on_until_another_one_has_its_name() {
    let renamed = link("new", 3, Some(OURS));
    let found = native(&names(&["a"]), std::slice::from_ref(&renamed), &[pinned(3, Some(3), "a")]);
    let place = Place::At { index: 3, renamed: Some("new".into()), mode: HookMode::Native };
    assert_eq!(found, Plan { places: vec![place], actions: vec![] });
    let links = [renamed.clone(), link("a", 4, None)];
    let found = native(&names(&["a"]), &links, &[pinned(3, Some(3), "a")]);
    let not_configured = Action::Unpin { pin: 3, why: Ended::NotConfigured };
    assert_eq!(found.actions, [not_configured, Action::Attach { index: 4 }]);
    // The configuration follows the rename.
    let found = native(&names(&["new"]), std::slice::from_ref(&renamed), &[pinned(3, Some(3), "a")]);
    assert_eq!(found, Plan { places: vec![at(3, HookMode::Native)], actions: vec![] });
    // Both names are configured: the present one wins.
    let found = native(&names(&["a", "new"]), &[renamed], &[pinned(3, Some(3), "a")]);
    assert_eq!(found.places, [Place::Absent, at(3, HookMode::Native)]);
}

#[test]
fn an_interface_taken_out_of_the_configuration_is_let_go() {
    let links = [link("a", 3, Some(OURS)), link("b", 4, Some(OURS))];
    let pins = [pinned(3, Some(3), "a"), pinned(4, Some(4), "b")];
    let found = native(&names(&["a"]), &links, &pins);
    assert_eq!(found.actions, [Action::Unpin { pin: 4, why: Ended::NotConfigured }]);
    assert_eq!(native(&names(&["a", "b"]), &links, &pins).actions, []);
}

#[test]
fn a_foreign_program_is_left_alone() {
    let found = native(&names(&["a"]), &[link("a", 3, Some(FOREIGN))], &[pinned(3, None, "a")]);
    let hook = Hook { program: Some(FOREIGN), mode: HookMode::Native };
    assert_eq!(found.places, [Place::Foreign { index: 3, hook }]);
    assert_eq!(found.actions, [Action::Unpin { pin: 3, why: Ended::Gone }]);
}

#[test]
fn the_mode_asked_for_is_made_and_an_older_program_is_swapped() {
    let mut links = [link("a", 3, Some(OURS))];
    links[0].hook.mode = HookMode::Generic;
    let pins = [pinned(3, Some(3), "a")];
    for (wanted, present, expected) in [
        (XdpMode::Native, HookMode::Generic, vec![Action::Reattach { index: 3, from: HookMode::Generic }]),
        (XdpMode::Generic, HookMode::Native, vec![Action::Reattach { index: 3, from: HookMode::Native }]),
        (XdpMode::Auto, HookMode::Generic, vec![]),
        (XdpMode::Native, HookMode::Native, vec![]),
        (XdpMode::Generic, HookMode::Generic, vec![]),
    ] {
        links[0].hook.mode = present;
        assert_eq!(plan(&names(&["a"]), &links, &pins, wanted, Some(OURS)).actions, expected, "{wanted:?} {present:?}");
    }
    let old = [Pinned { program: OLD, ..pinned(3, Some(3), "a") }];
    let found = native(&names(&["a", "b"]), &[link("a", 3, Some(OLD)), link("b", 4, None)], &old);
    assert_eq!(found.actions, [Action::Attach { index: 4 }, Action::Swap { index: 3 }], "swaps come last");
}

#[test]
fn indices_that_are_equal_in_16_bits_are_never_one_interface() {
    let links = [link("a", 3, None), link("b", 3 + 65_536, None), link("c", 4, None)];
    let found = native(&names(&["a", "b", "c"]), &links, &[]);
    assert_eq!(found.places[1], Place::SameIndex { other: "a".into() });
    assert_eq!(found.actions, [Action::Attach { index: 3 }, Action::Attach { index: 4 }]);
    // The one that is attached stays so, in whatever order they are configured.
    let links = [link("a", 3 + 65_536, None), link("b", 3, Some(OURS))];
    let found = native(&names(&["a", "b"]), &links, &[pinned(3, Some(3), "b")]);
    assert_eq!(found.places, [Place::SameIndex { other: "b".into() }, at(3, HookMode::Native)]);
    assert_eq!(found.actions, []);
}

/// A small world: few names and indices, so that they meet.
fn worlds() -> impl Strategy<Value = (Vec<Arc<str>>, Vec<Link>, Vec<Pinned>)> {
    let name = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let index = || prop::sample::select(vec![3_u32, 4, 5, 3 + 65_536]);
    let program = || prop::sample::select(vec![None, Some(OURS), Some(OLD), Some(FOREIGN)]);
    let mode = || prop::sample::select(vec![HookMode::Native, HookMode::Generic]);
    let links = prop::collection::vec((name(), index(), program(), mode()), 0..5);
    let pins = prop::collection::vec(
        (index(), prop::option::of(index()), prop::sample::select(vec![OURS, OLD]), prop::option::of(name())),
        0..5,
    );
    (prop::collection::btree_set(name(), 0..4), links, pins).prop_map(|(wanted, links, pins)| {
        let mut kernel: Vec<Link> = Vec::new();
        for (name, index, program, mode) in links {
            if kernel.iter().all(|link| *link.name != *name && link.index != index) {
                let mode = if program.is_some() { mode } else { HookMode::None };
                kernel.push(Link { name: name.into(), index, hook: Hook { program, mode } });
            }
        }
        let mut pinned: Vec<Pinned> = Vec::new();
        for (pin, device, program, name) in pins {
            // A hook has one attachment.
            let free = device.is_none() || pinned.iter().all(|other| other.device != device);
            if free && pinned.iter().all(|other| other.pin != pin) {
                pinned.push(Pinned { pin, program, device, name: name.map(Arc::from) });
            }
        }
        (wanted.into_iter().map(Arc::from).collect(), kernel, pinned)
    })
}

/// The world after the actions.
fn act(
    plan: &Plan,
    mut links: Vec<Link>,
    mut pinned: Vec<Pinned>,
    names: &[Arc<str>],
    mode: XdpMode,
) -> (Vec<Link>, Vec<Pinned>) {
    let made = if mode == XdpMode::Generic { HookMode::Generic } else { HookMode::Native };
    let name_of = |index: u32| {
        let at = |place: &Place| matches!(place, Place::At { index: other, .. } if *other == index);
        plan.places.iter().position(at).map(|position| Arc::clone(&names[position]))
    };
    for action in &plan.actions {
        match action {
            Action::Unpin { pin, .. } => {
                let place = pinned.iter().position(|each| each.pin == *pin).expect("a pin there is");
                let gone = pinned.remove(place);
                for link in links.iter_mut().filter(|link| holds(&gone, link)) {
                    link.hook = Hook::default();
                }
            }
            Action::Attach { index } | Action::Reattach { index, .. } => {
                pinned.retain(|each| each.pin != *index);
                pinned.push(Pinned { pin: *index, program: OURS, device: Some(*index), name: name_of(*index) });
                let link = links.iter_mut().find(|link| link.index == *index).expect("a link there is");
                link.hook = Hook { program: Some(OURS), mode: made };
            }
            Action::Swap { index } => {
                pinned.iter_mut().filter(|each| each.pin == *index).for_each(|each| each.program = OURS);
                links.iter_mut().filter(|each| each.index == *index).for_each(|each| each.hook.program = Some(OURS));
            }
        }
    }
    (links, pinned)
}

proptest! {
    #[test]
    fn one_round_is_enough_and_no_foreign_program_is_touched(
        (names, links, pinned) in worlds(),
        mode in prop::sample::select(vec![XdpMode::Native, XdpMode::Generic, XdpMode::Auto]),
    ) {
        let first = plan(&names, &links, &pinned, mode, Some(OURS));
        prop_assert_eq!(first.places.len(), names.len());
        let (after, pins) = act(&first, links.clone(), pinned.clone(), &names, mode);
        for (before, after) in links.iter().zip(&after) {
            let ours = pinned.iter().any(|each| holds(each, before));
            if before.hook.program.is_some() && !ours {
                prop_assert_eq!(before, after, "a program that is not ours");
            }
        }
        let second = plan(&names, &after, &pins, mode, Some(OURS));
        prop_assert_eq!(&second.actions, &vec![], "from {:?} by {:?}", (&links, &pinned), &first);
        // Our program runs on configured interfaces only, under one name each.
        for each in &pins {
            let counted = second.places.iter().filter(|place| matches!(place, Place::At { index, .. } if *index == each.pin));
            prop_assert_eq!(counted.count(), 1);
        }
        // Each configured interface that is there, free and can be told apart has the program.
        for (name, place) in names.iter().zip(&second.places) {
            if let Place::At { index, .. } = place {
                let link = after.iter().find(|link| link.index == *index).expect("a link");
                prop_assert_eq!(link.hook.program, Some(OURS));
            } else if *place == Place::Absent {
                prop_assert!(after.iter().all(|link| link.name != *name));
            }
        }
    }
}
