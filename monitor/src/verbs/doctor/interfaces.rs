//! The interfaces: which device to attach to, how, and what the card does to frames before the program.

use monitor_common::abi::limits::MAX_MONITORED_INTERFACES;
use peertally_core::{interface::Interface, reconcile::HookMode, words::XdpMode};
use peertally_datapath::{attached::inspect::Device, offloads};

use super::{
    Finding,
    facts::{Facts, InterfaceFacts},
};
use crate::config::Resolved;

/// Largest MTU that fits one buffer of 4 KiB beside its headroom on every driver.
const ONE_BUFFER: u32 = 3_498;
/// The name of our program.
const PROGRAM: &str = peertally_datapath::object::PROGRAM;

/// Judges the interfaces.
pub(super) fn judge(facts: &Facts, resolved: &Resolved) -> Vec<Finding> {
    if resolved.interfaces.is_empty() {
        return vec![Finding::error(
            "interfaces",
            format!("no interface is configured; this machine has: {}", facts.names.join(", ")),
            "name the interfaces that carry subscribers' traffic in the configuration, or give --interface; `peertally \
             init` writes a first configuration",
        )];
    }
    let mut findings = Vec::new();
    if resolved.interfaces.len() > MAX_MONITORED_INTERFACES {
        findings.push(Finding::error(
            "interfaces",
            format!(
                "{} interfaces are configured, and the program tells {MAX_MONITORED_INTERFACES} apart",
                resolved.interfaces.len()
            ),
            "attach to the parent of VLAN subinterfaces, and name those in its `vlans`",
        ));
    }
    for (configured, found) in resolved.interfaces.iter().zip(&facts.interfaces) {
        let about = one(configured, found, &facts.names, resolved.xdp_mode, facts.node.cpus);
        findings.extend(about.into_iter().map(|finding| finding.on(&found.name)));
    }
    findings
}

fn one(configured: &Interface, found: &InterfaceFacts, names: &[String], mode: XdpMode, cpus: usize) -> Vec<Finding> {
    let Some(Device { link, kind, mtu, up, .. }) = &found.device else {
        return vec![Finding::error(
            "interface",
            format!("there is no such interface; this machine has: {}", names.join(", ")),
            "correct its name in the configuration",
        )];
    };
    let mut findings = vec![device(found, kind)];
    if !up {
        findings.push(Finding::warning(
            "link",
            "it is down, and receives nothing",
            format!("ip link set {} up", found.name),
        ));
    }
    findings.extend(part_of(found));
    findings.push(hook(found, link.hook.program, link.hook.mode));
    if link.hook.program.is_none() {
        findings.extend(native(found, *mtu, mode));
    }
    let generic = link.hook.mode == HookMode::Generic || mode == XdpMode::Generic;
    findings.extend(card(configured, found, generic));
    findings.extend(queues(found, cpus));
    findings
}

/// Whether this is the device to attach to.
fn device(found: &InterfaceFacts, kind: &str) -> Finding {
    let parts = if found.lower.is_empty() { "its parts".to_owned() } else { found.lower.join(", ") };
    match kind {
        "" => {
            let driver = found.driver.as_ref().map_or_else(String::new, |driver| format!(", driver {driver}"));
            Finding::ok("device", format!("a device with frames of its own{driver}"))
        }
        "vlan" => Finding::warning(
            "device",
            "a VLAN of another interface: no card runs a program there natively, and other VLANs are not counted",
            format!("attach to {parts}, and name this VLAN in its `vlans` if its role or realm differs"),
        ),
        "bond" => Finding::note(
            "device",
            format!(
                "a bond of {parts}: native mode is there if the drivers of all of them can, in most modes of a bond"
            ),
        ),
        "bridge" => Finding::warning(
            "device",
            "a bridge: it sees only frames that are for the router itself, and generic mode only",
            format!("attach to its ports: {parts}"),
        ),
        "veth" => Finding::ok("device", "a veth pair's end"),
        kind => Finding::note("device", format!("a virtual interface of kind `{kind}`")),
    }
}

/// Whether frames go to a device above.
fn part_of(found: &InterfaceFacts) -> Option<Finding> {
    let (master, kind) = found.master.as_ref()?;
    match kind.as_str() {
        "bond" => Some(Finding::warning(
            "device",
            format!("a part of the bond `{master}`: traffic that arrives on its other parts is not counted"),
            format!("attach to `{master}`, or name all of its parts"),
        )),
        "bridge" => Some(Finding::note(
            "device",
            format!("a port of the bridge `{master}`: traffic between two ports with a program counts on both"),
        )),
        _ => None,
    }
}

/// Who holds the hook.
fn hook(found: &InterfaceFacts, program: Option<u32>, mode: HookMode) -> Finding {
    let Some(program) = program else { return Finding::ok("hook", "free") };
    match &found.program {
        Some(name) if name == PROGRAM => {
            Finding::ok("hook", format!("a program of Peertally counts there in {} mode", mode.label()))
        }
        name => {
            let name = name.as_ref().map_or_else(String::new, |name| format!(" `{name}`"));
            Finding::error(
                "hook",
                format!(
                    "another XDP program{name} (id {program}, {} mode) holds it; Peertally never replaces it",
                    mode.label()
                ),
                format!("bpftool prog show id {program}; if it may go: ip link set dev {} xdp off", found.name),
            )
        }
    }
}

/// Whether the wanted mode is there.
fn native(found: &InterfaceFacts, mtu: u32, mode: XdpMode) -> Vec<Finding> {
    let driver = found.driver.as_deref().unwrap_or("its driver");
    let mut findings = Vec::new();
    match (found.xdp, mode) {
        (_, XdpMode::Generic) => {
            findings.push(Finding::note("mode", "generic mode is asked for, which costs more a packet"))
        }
        (Some(xdp), _) if xdp.native => findings.push(Finding::ok("mode", "native mode is there")),
        (Some(_), XdpMode::Native) => findings.push(Finding::error(
            "mode",
            format!("{driver} runs no XDP program natively, and native mode is asked for"),
            "use a card whose driver can, or accept the slower generic mode: xdp_mode = \"generic\"",
        )),
        (Some(_), _) => {
            findings.push(Finding::note("mode", format!("{driver} runs no XDP program natively: generic mode")))
        }
        (None, _) => findings.push(Finding::note(
            "mode",
            "whether native mode is there shows only when the program is attached (Linux 6.3 and newer say it before)",
        )),
    }
    if let Some(xdp) = found.xdp
        && mtu > ONE_BUFFER
        && !xdp.multi_buffer
        && xdp.native
        && mode != XdpMode::Generic
    {
        findings.push(Finding::warning(
            "mtu",
            format!("MTU {mtu}: {driver} hands a program frames of one buffer only, and may refuse to attach"),
            format!("ip link set {} mtu 1500 if no longer frames arrive, or xdp_mode = \"generic\"", found.name),
        ));
    }
    findings
}

/// What the card does to frames before the program.
fn card(configured: &Interface, found: &InterfaceFacts, generic: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let on = |name: &str| found.offloads.contains(name);
    if on("rx-vlan-hw-parse") && !generic {
        let found_text = "the card takes the outer VLAN tag off frames before the program";
        let fix = format!("ethtool -K {} rxvlan off", found.name);
        if configured.vlans.is_empty() {
            let found_text = format!("{found_text}: no VLAN is configured, so only QinQ counts under other reasons");
            findings.push(Finding::note("vlan_offload", found_text));
        } else {
            let found_text = format!("{found_text}, which then cannot tell the configured VLANs apart");
            findings.push(Finding::error("vlan_offload", found_text, fix));
        }
    }
    if generic && offloads::merge(&found.offloads) {
        findings.push(Finding::warning(
            "merging",
            "packets are merged (GRO or LRO) before the program in generic mode: bytes are exact, packets are fewer",
            format!("ethtool -K {} gro off lro off, or native mode", found.name),
        ));
    }
    if !generic && on("rx-lro") {
        findings.push(Finding::warning(
            "lro",
            "large receive offload is on: most drivers refuse a program with it",
            format!("ethtool -K {} lro off", found.name),
        ));
    }
    findings
}

/// Whether all CPUs receive.
fn queues(found: &InterfaceFacts, cpus: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A virtual interface hands frames on where they are sent.
    if found.driver.is_none() {
        return findings;
    }
    if found.queues > 0 && found.queues < cpus.min(8) {
        findings.push(Finding::note(
            "queues",
            format!(
                "{} receive queues for {cpus} CPUs: `ethtool -l {}` says how many it can have",
                found.queues, found.name
            ),
        ));
    }
    if found.queues > 1 && found.interrupt_cpus.len() == 1 {
        let cpu = found.interrupt_cpus.iter().next().map_or("", |cpu| cpu);
        findings.push(Finding::warning(
            "interrupts",
            format!("all interrupts run on CPU {cpu}: that one receives everything"),
            "start irqbalance, or spread /proc/irq/*/smp_affinity_list over the CPUs",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peertally_core::reconcile::{Hook, Link};
    use peertally_datapath::xdp_features::XdpFeatures;

    use super::*;
    use crate::{
        config::{Overrides, parse},
        verbs::doctor::Severity,
    };

    fn configured(text: &str) -> Resolved {
        parse("p.toml".as_ref(), text, &Overrides::default()).expect("valid")
    }

    fn link(hook: Hook) -> Device {
        Device { mtu: 1500, ..Device::of(Link { name: Arc::from("eth0"), index: 2, hook }) }
    }

    fn device() -> InterfaceFacts {
        InterfaceFacts {
            name: "eth0".into(),
            device: Some(link(Hook::default())),
            xdp: Some(XdpFeatures { native: true, multi_buffer: false }),
            driver: Some("ixgbe".into()),
            queues: 8,
            interrupt_cpus: ["0", "1"].map(ToOwned::to_owned).into(),
            ..Default::default()
        }
    }

    /// Checks and severities of what is worse than a note, for one interface.
    fn judged(found: InterfaceFacts, vlans: &str, mode: XdpMode) -> Vec<(&'static str, Severity)> {
        let resolved = configured(&format!("[[interfaces]]\nname = \"eth0\"\n{vlans}"));
        let findings = one(&resolved.interfaces[0], &found, &[], mode, 2);
        let worse = findings.iter().filter(|finding| finding.severity > Severity::Note);
        worse.map(|finding| (finding.check, finding.severity)).collect()
    }

    fn plain(found: InterfaceFacts) -> Vec<(&'static str, Severity)> {
        judged(found, "", XdpMode::Native)
    }

    #[test]
    fn a_good_card_has_no_finding() {
        assert_eq!(plain(device()), []);
    }

    #[test]
    fn each_trap_of_a_device_is_named() {
        let of_kind = |kind: &str| InterfaceFacts {
            device: Some(Device { kind: kind.into(), ..link(Hook::default()) }),
            lower: vec!["eth9".to_owned()],
            ..device()
        };
        let part_of = |kind: &str| InterfaceFacts { master: Some(("above0".into(), kind.into())), ..device() };
        let warned = |check| vec![(check, Severity::Warning)];
        assert_eq!(plain(InterfaceFacts { device: None, ..device() }), [("interface", Severity::Error)]);
        let down = Device { up: false, ..link(Hook::default()) };
        assert_eq!(plain(InterfaceFacts { device: Some(down), ..device() }), warned("link"));
        assert_eq!(plain(of_kind("vlan")), warned("device"));
        assert_eq!(plain(of_kind("bridge")), warned("device"));
        assert_eq!(plain(of_kind("bond")), []);
        assert_eq!(plain(of_kind("veth")), []);
        assert_eq!(plain(part_of("bond")), warned("device"));
        assert_eq!(plain(part_of("bridge")), []);
    }

    #[test]
    fn the_mode_that_is_asked_for_must_be_there() {
        let without = || InterfaceFacts { xdp: Some(XdpFeatures { native: false, multi_buffer: false }), ..device() };
        assert_eq!(plain(without()), [("mode", Severity::Error)]);
        assert_eq!(judged(without(), "", XdpMode::Auto), []);
        assert_eq!(judged(without(), "", XdpMode::Generic), []);
        assert_eq!(plain(InterfaceFacts { xdp: None, ..device() }), []);
    }

    #[test]
    fn large_frames_need_several_buffers() {
        let jumbo = |multi_buffer| InterfaceFacts {
            device: Some(Device { mtu: 9000, ..link(Hook::default()) }),
            xdp: Some(XdpFeatures { native: true, multi_buffer }),
            ..device()
        };
        assert_eq!(plain(jumbo(false)), [("mtu", Severity::Warning)]);
        assert_eq!(plain(jumbo(true)), []);
        assert_eq!(judged(jumbo(false), "", XdpMode::Generic), []);
    }

    #[test]
    fn a_foreign_program_is_an_error_and_ours_is_not() {
        let held = |name: &str| InterfaceFacts {
            device: Some(link(Hook { program: Some(7), mode: HookMode::Native })),
            program: Some(name.to_owned()),
            ..device()
        };
        assert_eq!(plain(held("xdp_dispatcher")), [("hook", Severity::Error)]);
        assert_eq!(plain(held(PROGRAM)), []);
    }

    #[test]
    fn offloads_that_change_what_is_counted_are_named() {
        let with = |names: &[&str]| InterfaceFacts {
            offloads: names.iter().map(|name| (*name).to_owned()).collect(),
            ..device()
        };
        let vlans = "vlans = [{ outer = 5, role = \"core\" }]";
        assert_eq!(judged(with(&["rx-vlan-hw-parse"]), vlans, XdpMode::Native), [("vlan_offload", Severity::Error)]);
        assert_eq!(judged(with(&["rx-vlan-hw-parse"]), vlans, XdpMode::Generic), []);
        assert_eq!(plain(with(&["rx-vlan-hw-parse"])), []);
        assert_eq!(judged(with(&["rx-gro"]), "", XdpMode::Generic), [("merging", Severity::Warning)]);
        assert_eq!(plain(with(&["rx-gro"])), []);
        assert_eq!(plain(with(&["rx-lro"])), [("lro", Severity::Warning)]);
    }

    #[test]
    fn one_cpu_for_all_queues_is_a_warning() {
        let pinned = InterfaceFacts { interrupt_cpus: ["0".to_owned()].into(), ..device() };
        assert_eq!(plain(pinned), [("interrupts", Severity::Warning)]);
    }
}
