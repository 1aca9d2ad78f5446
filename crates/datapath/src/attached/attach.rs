//! Attaches to all interfaces or none, and never replaces a foreign program.

use std::{fs, io, path::Path, sync::Arc};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use peertally_core::{interface::Interface, snapshot::Attachment, words::XdpMode};

use super::{
    error::AttachError,
    netlink::{self, XdpHook},
    pins,
};
use crate::object::{LoadedObject, MonitoredInterface};

/// Resolves names to interfaces, and refuses those that cannot be attached to; changes nothing.
pub(super) fn targets(interfaces: &[Interface]) -> Result<Vec<MonitoredInterface>, AttachError> {
    let mut targets: Vec<MonitoredInterface> = Vec::new();
    for interface in interfaces {
        let index = fs::read_to_string(Path::new("/sys/class/net").join(&interface.name).join("ifindex"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| AttachError::NoInterface { name: interface.name.clone(), present: present() })?;
        if let Some(other) = targets.iter().find(|other| other.index as u16 == index as u16) {
            return Err(AttachError::SameIndex(other.name.to_string(), interface.name.clone()));
        }
        let Interface { name, role, realm, prefixes, vlans } = interface.clone();
        let target = MonitoredInterface { name: name.into(), index, role, realm, prefixes, vlans };
        own_or_free(&target)?;
        targets.push(target);
    }
    Ok(targets)
}

/// Names of the interfaces there are.
fn present() -> String {
    let mut names: Vec<_> = fs::read_dir("/sys/class/net")
        .map(|entries| {
            entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    names.sort();
    names.join(", ")
}

/// The pinned link of an interface, if it still holds a program there.
fn own_link(target: &MonitoredInterface, hook: XdpHook) -> Option<FdLink> {
    let program = hook.program?;
    let (link, pinned) = pinned_link(&pins::link(target.index))?;
    (pinned == program).then_some(link)
}

/// The link at a pin, and the id of its program.
fn pinned_link(pin: &Path) -> Option<(FdLink, u32)> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    let program = link.info().ok()?.program_id();
    Some((link, program))
}

/// The link of an interface that holds a program of ours, `None` for a free interface. Refuses any other program.
fn own_or_free(target: &MonitoredInterface) -> Result<Option<FdLink>, AttachError> {
    let hook = netlink::xdp_hook(target.index)
        .map_err(|source| AttachError::Hook { name: target.name.to_string(), source })?;
    let Some(program) = hook.program else { return Ok(None) };
    if let Some(link) = own_link(target, hook) {
        return Ok(Some(link));
    }
    if let Some(pin) = pins::links_of_other_versions(target.index).pop() {
        return Err(AttachError::OtherVersion { name: target.name.to_string(), pin });
    }
    let by = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == program)
        .and_then(|info| info.name_as_str().map(|name| format!(", `{name}`")))
        .unwrap_or_default();
    Err(AttachError::Foreign { name: target.name.to_string(), program, by, mode: hook.mode })
}

/// Attaches to all targets; on a failure those attached by this call are detached again. Then removes the stages of
/// programs that no pinned link holds.
pub(super) fn attach_all(
    object: &mut LoadedObject,
    targets: &[MonitoredInterface],
    mode: XdpMode,
) -> Result<(), AttachError> {
    let pin = pins::stages(object.program_id()?);
    object.pin_stages(&pin).map_err(|source| AttachError::PinStages { path: pin, source })?;
    let attached = attach_each(object.program()?, targets, mode);
    // A program whose link cannot be read may still need its stages: then none are removed. What is left is removed by
    // the next start.
    if let Err(error) = attached_programs().and_then(|programs| pins::remove_stages_of_others(&programs)) {
        tracing::warn!(%error, "cannot remove the stages of programs that are no longer attached");
    }
    attached
}

/// Pins the table of stages again if its pin was removed while a pinned link holds the program.
pub(super) fn keep_stages(object: &mut LoadedObject) {
    let Ok(id) = object.program_id() else { return };
    let pin = pins::stages(id);
    if pin.exists() || !attached_programs().is_ok_and(|programs| programs.contains(&id)) {
        return;
    }
    match object.pin_stages(&pin) {
        Ok(()) => tracing::warn!(pin = %pin.display(), "the pin of the program's stages was gone: pinned again"),
        Err(error) => {
            tracing::error!(%error, "the pin of the program's stages is gone: new flows end uncounted with this process")
        }
    }
}

/// Ids of the programs that pinned links hold.
fn attached_programs() -> io::Result<Vec<u32>> {
    let unreadable = |pin: &Path| io::Error::other(format!("cannot read the link pinned at {}", pin.display()));
    pins::links()?.iter().map(|pin| Ok(pinned_link(pin).ok_or_else(|| unreadable(pin))?.1)).collect()
}

fn attach_each(program: &mut Xdp, targets: &[MonitoredInterface], mode: XdpMode) -> Result<(), AttachError> {
    let mut fresh = Vec::new();
    for target in targets {
        match attach(program, target, mode) {
            Ok(None) => {}
            Ok(Some(link)) => fresh.push(link),
            Err(error) => {
                for link in fresh {
                    let link: PinnedLink = link;
                    if let Err(source) = link.unpin() {
                        tracing::error!(%source, "cannot undo an attachment; run `peertally detach`");
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Attaches to one target; returns the pinned link if it is new, `None` if the program was swapped into an existing
/// link.
fn attach(program: &mut Xdp, target: &MonitoredInterface, mode: XdpMode) -> Result<Option<PinnedLink>, AttachError> {
    let own = own_or_free(target)?;
    let name = || target.name.to_string();
    let path = pins::link(target.index);
    if let Some(link) = own {
        let failed = |source| AttachError::Attach {
            name: name(),
            mode: "the present",
            next: "Run `peertally detach` and start again",
            source: Box::new(source),
        };
        let link = XdpLink::try_from(link).map_err(|_| AttachError::NoLink { name: name() })?;
        // A link update is atomic: each packet is counted by the old program or by the new one.
        let id = program.attach_to_link(link).map_err(failed)?;
        let _kept_by_its_pin = program.take_link(id).map_err(failed)?;
        return Ok(None);
    }
    if path.exists() {
        // A pin whose interface is gone, or whose program was detached by hand.
        fs::remove_file(&path).map_err(|source| AttachError::Remove { path: path.clone(), source })?;
    }
    let id = attach_in_mode(program, target, mode)?;
    let link = program.take_link(id).map_err(|_| AttachError::NoLink { name: name() })?;
    let link: FdLink = link.try_into().map_err(|_| AttachError::NoLink { name: name() })?;
    let pinned = link.pin(&path).map_err(|error| AttachError::Pin {
        name: name(),
        path: path.clone(),
        reason: error.to_string(),
    })?;
    Ok(Some(pinned))
}

fn attach_in_mode(
    program: &mut Xdp,
    target: &MonitoredInterface,
    mode: XdpMode,
) -> Result<aya::programs::xdp::XdpLinkId, AttachError> {
    let error = |mode, next, source: ProgramError| AttachError::Attach {
        name: target.name.to_string(),
        mode,
        next,
        source: Box::new(source),
    };
    let attach_generic = |program: &mut Xdp| {
        let next = "Generic XDP works on any interface; check that it is up and that you have the rights";
        program.attach_to_if_index(target.index, AyaMode::Skb).map_err(|source| error("generic", next, source))
    };
    match mode {
        XdpMode::Native => program.attach_to_if_index(target.index, AyaMode::Driver).map_err(|source| {
            let next = "If its driver has no native XDP, ask for --xdp-mode generic (slower), or auto; VLAN interfaces have none: \
                        attach to their parent";
            error("native", next, source)
        }),
        XdpMode::Generic => attach_generic(program),
        XdpMode::Auto => match program.attach_to_if_index(target.index, AyaMode::Driver) {
            Ok(id) => Ok(id),
            Err(refused) => {
                tracing::warn!(interface = &*target.name, %refused, "no native XDP: attaching in generic mode");
                attach_generic(program)
            }
        },
    }
}

/// Present attachments of the program, read from the kernel.
pub(super) fn attachments(targets: &[MonitoredInterface]) -> Vec<Attachment> {
    targets
        .iter()
        .map(|target| {
            let mode = match netlink::xdp_hook(target.index) {
                Ok(hook) if own_link(target, hook).is_some() => hook.mode,
                _ => "none",
            };
            Attachment { interface: Arc::clone(&target.name), role: target.role.label(), mode }
        })
        .collect()
}
