//! Checks the policies of a configuration.

use std::collections::HashSet;

use monitor_common::abi::protocol::{Confidence, Protocol, ProtocolClass};
use peertally_core::{
    policy::{Policy, ProtocolSet},
    words::{Metric, PolicyDirection},
};

use super::Checker;
use crate::config::{
    messages::closest,
    raw::{Raw, RawPolicy},
    values::show_duration,
};

pub(super) fn resolve(raw: &Raw, check: &mut Checker<'_>) -> Vec<Policy> {
    let mut seen = HashSet::new();
    raw.policies.iter().enumerate().map(|(index, policy)| one(index, policy, raw, &mut seen, check)).collect()
}

fn one(index: usize, typed: &RawPolicy, raw: &Raw, seen: &mut HashSet<String>, check: &mut Checker<'_>) -> Policy {
    let at = |key: &str| format!("policies[{index}].{key}");
    let name = check.name(&at("name"), &typed.name, seen);
    let window = check.ranged(&at("window"), &typed.window);
    if window < raw.drain_interval.0 {
        let interval = show_duration(raw.drain_interval.0);
        check.problem(
            &at("window"),
            format!("a window cannot be shorter than drain_interval ({interval}); use a longer window, or a shorter drain_interval"),
        );
    }
    if typed.threshold.in_bytes && typed.metric != Metric::Bytes {
        check.problem(
            &at("threshold"),
            format!("the policy counts {}, not bytes; write a plain number", typed.metric.label()),
        );
    }
    if typed.metric == Metric::Flows && typed.direction != PolicyDirection::Both {
        check.problem(&at("direction"), "flows have no direction; omit the key, or measure bytes or packets");
    }
    let hooks = typed
        .hooks
        .iter()
        .enumerate()
        .filter_map(|(hook, name)| {
            let found = raw.hooks.iter().position(|each| each.name == *name);
            if found.is_none() {
                let known = raw.hooks.iter().map(|each| each.name.as_str());
                let hint = closest(name, known)
                    .map_or("add a [[hooks]] entry".to_owned(), |near| format!("did you mean `{near}`?"));
                check.problem(&at(&format!("hooks[{hook}]")), format!("there is no hook `{name}`; {hint}"));
            }
            found
        })
        .collect();
    Policy {
        name,
        protocols: protocols(index, typed, check),
        min_confidence: confidence(index, typed, check),
        metric: typed.metric,
        direction: typed.direction,
        threshold: check.ranged(&at("threshold"), &typed.threshold),
        window,
        cool_down: check.ranged(&at("cool_down"), &typed.cool_down),
        allow: raw.allow.iter().chain(&typed.allow).map(|prefix| prefix.0).collect(),
        hooks,
    }
}

/// Protocols of the classes, and protocols that are named.
fn protocols(index: usize, typed: &RawPolicy, check: &mut Checker<'_>) -> ProtocolSet {
    let mut set = ProtocolSet::EMPTY;
    let reported = check.problems.len();
    for (position, name) in typed.classes.iter().flatten().enumerate() {
        match ProtocolClass::ALL.iter().copied().find(|class| class.label() == name) {
            Some(class) => set.insert_class(class),
            None => {
                let hint = hint(name, &ProtocolClass::ALL.iter().map(|class| class.label()).collect::<Vec<_>>());
                check.problem(
                    &format!("policies[{index}].classes[{position}]"),
                    format!("there is no class `{name}`; {hint}"),
                );
            }
        }
    }
    for (position, name) in typed.protocols.iter().enumerate() {
        let path = format!("policies[{index}].protocols[{position}]");
        let known = Protocol::ALL.iter().copied().find(|protocol| protocol.label() == name);
        match known {
            Some(protocol) if protocol.class().is_none() => {
                check.problem(&path, format!("`{name}` is not a P2P protocol; a policy cannot act on it"));
            }
            Some(protocol) => set.insert(protocol),
            None => {
                let classified = Protocol::ALL.iter().filter(|protocol| protocol.class().is_some());
                let hint = hint(name, &classified.map(|protocol| protocol.label()).collect::<Vec<_>>());
                check.problem(&path, format!("there is no protocol `{name}`; {hint}"));
            }
        }
    }
    match &typed.classes {
        None if typed.protocols.is_empty() => ProtocolSet::default_policy(),
        Some(classes) if classes.is_empty() && typed.protocols.is_empty() => {
            check.problem(
                &format!("policies[{index}].classes"),
                "the policy covers no protocol; name a class or a protocol",
            );
            set
        }
        // A name with a problem adds nothing to the set: its own report is enough.
        Some(classes) if set.iter().next().is_none() && check.problems.len() == reported => {
            let names: Vec<String> = classes.iter().map(|name| format!("`{name}`")).collect();
            let word = if names.len() == 1 { "class" } else { "classes" };
            check.problem(
                &format!("policies[{index}].classes"),
                format!(
                    "no protocol of this version has {word} {}; the policy would never fire: add another class or a protocol",
                    names.join(", ")
                ),
            );
            set
        }
        _ => set,
    }
}

/// The name that was probably meant, or every known name.
fn hint(name: &str, known: &[&'static str]) -> String {
    closest(name, known.iter().copied())
        .map_or_else(|| format!("known: {}", known.join(", ")), |near| format!("did you mean `{near}`?"))
}

fn confidence(index: usize, typed: &RawPolicy, check: &mut Checker<'_>) -> Confidence {
    let tiers = || Confidence::ALL.iter().copied().filter(|tier| *tier != Confidence::None);
    tiers().find(|tier| tier.label() == typed.min_confidence).unwrap_or_else(|| {
        let known: Vec<&str> = tiers().map(Confidence::label).collect();
        let message = format!("`{}` is not a confidence; use one of {}", typed.min_confidence, known.join(", "));
        check.problem(&format!("policies[{index}].min_confidence"), message);
        Confidence::Signature
    })
}
