//! Attaches the program to one interface, swaps it into an attachment there is, and takes attachments off.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::FdLink,
    xdp::{XdpLink, XdpLinkId},
};
use aya_obj::programs::xdp::XdpAttachType;
use peertally_core::{reconcile::HookMode, words::XdpMode};

use super::{attachments::pinned_link, error::AttachError, netlink::Rtnetlink, pins, records};
use crate::object::{LoadedObject, MonitoredInterface, PROGRAM};

/// Longest wait until the kernel has let a detached program go: it does so some milliseconds after the pin is gone.
const RELEASE: Duration = Duration::from_secs(5);
/// Time between two looks at a hook.
const RELEASE_LOOK: Duration = Duration::from_millis(1);

/// Removes the pin of an attachment, which takes the program off, and its record.
///
/// # Errors
/// [`AttachError::Remove`].
pub(super) fn unpin(pin: u32) -> Result<(), AttachError> {
    for path in [pins::link(pin), pins::folder().join(pins::attached(pin))] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(AttachError::Remove { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Attaches to an interface without a program, and pins the attachment.
///
/// # Errors
/// [`AttachError`]; then the interface has no program of ours.
pub(super) fn attach(
    program: &mut Xdp,
    netlink: &mut Rtnetlink,
    target: &MonitoredInterface,
    mode: XdpMode,
) -> Result<(), AttachError> {
    let name = || target.name.to_string();
    // A pin whose interface is gone, or whose program was detached by hand.
    unpin(target.index)?;
    wait_for_free_hook(netlink, target)?;
    let path = pins::link(target.index);
    let pin_error = |reason: String| AttachError::Pin { name: name(), path: path.clone(), reason };
    records::write(&pins::folder(), &pins::attached(target.index), &target.name)
        .map_err(|error| pin_error(error.to_string()))?;
    let id = attach_in_mode(program, target, mode)?;
    let link = program.take_link(id).map_err(|_| AttachError::NoLink { name: name() })?;
    let link: FdLink = link.try_into().map_err(|_| AttachError::NoLink { name: name() })?;
    let _kept_by_its_pin = link.pin(&path).map_err(|error| pin_error(error.to_string()))?;
    Ok(())
}

/// Detaches from an interface, and attaches in the mode that was asked for. If that is refused, the program is attached
/// in the mode of before. Returns the frames that the interface received meanwhile: they passed uncounted.
///
/// # Errors
/// [`AttachError`].
pub(super) fn reattach(
    program: &mut Xdp,
    netlink: &mut Rtnetlink,
    target: &MonitoredInterface,
    mode: XdpMode,
    from: HookMode,
) -> Result<u64, AttachError> {
    let received = |netlink: &mut Rtnetlink| netlink.by_index(target.index).ok().flatten().map(|found| found.received);
    let before = received(netlink);
    unpin(target.index)?;
    if let Err(error) = attach(program, netlink, target, mode) {
        let old = if from == HookMode::Generic { XdpMode::Generic } else { XdpMode::Native };
        if let Err(error) = attach(program, netlink, target, old) {
            tracing::error!(interface = &*target.name, %error, "cannot attach in the mode of before either");
        }
        return Err(error);
    }
    let after = received(netlink);
    Ok(before.zip(after).map_or(0, |(before, after)| after.saturating_sub(before)))
}

/// Swaps the program into the attachment of an interface. The change is atomic: each packet is counted by the old
/// program or by the new one.
///
/// # Errors
/// [`AttachError`].
pub(super) fn swap(program: &mut Xdp, target: &MonitoredInterface) -> Result<(), AttachError> {
    let name = || target.name.to_string();
    let failed = |source| AttachError::Attach {
        name: name(),
        mode: "the present",
        next: "Run `peertally detach` and start again",
        source: Box::new(source),
    };
    let hook = |source| AttachError::Hook { name: name(), source };
    let (link, _) =
        pinned_link(&pins::link(target.index)).map_err(hook)?.ok_or(AttachError::NoLink { name: name() })?;
    let link = XdpLink::try_from(link).map_err(|_| AttachError::NoLink { name: name() })?;
    let id = program.attach_to_link(link).map_err(failed)?;
    let _kept_by_its_pin = program.take_link(id).map_err(failed)?;
    Ok(())
}

/// Swaps a program of before into a pinned attachment, if that holds the present one.
///
/// # Errors
/// [`AttachError`].
pub(super) fn swap_back(pin: u32, present: u32, before: u32) -> Result<(), AttachError> {
    let path = pins::link(pin);
    let hook = |source| AttachError::Hook { name: path.display().to_string(), source };
    let Some((link, _)) = pinned_link(&path).map_err(hook)?.filter(|(_, program)| *program == present) else {
        return Ok(());
    };
    let failed = |source| AttachError::Attach {
        name: path.display().to_string(),
        mode: "the present",
        next: "Run `peertally detach` and start again",
        source: Box::new(source),
    };
    let gone = || AttachError::NoLink { name: path.display().to_string() };
    let info = aya::programs::loaded_programs().filter_map(Result::ok).find(|info| info.id() == before);
    let program = Xdp::from_program_info(info.ok_or_else(gone)?, PROGRAM.into(), XdpAttachType::Interface);
    let mut program = program.map_err(failed)?;
    let id = program.attach_to_link(XdpLink::try_from(link).map_err(|_| gone())?).map_err(failed)?;
    let _kept_by_its_pin = program.take_link(id).map_err(failed)?;
    Ok(())
}

/// Waits until the hook of an interface has no program.
fn wait_for_free_hook(netlink: &mut Rtnetlink, target: &MonitoredInterface) -> Result<(), AttachError> {
    let begun = Instant::now();
    let error = |source| AttachError::Hook { name: target.name.to_string(), source };
    while let Some(found) = netlink.by_index(target.index).map_err(error)?
        && found.link.hook.program.is_some()
        && begun.elapsed() < RELEASE
    {
        std::thread::sleep(RELEASE_LOOK);
    }
    Ok(())
}

fn attach_in_mode(program: &mut Xdp, target: &MonitoredInterface, mode: XdpMode) -> Result<XdpLinkId, AttachError> {
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

/// Pins the table of stages of the loaded program.
///
/// # Errors
/// [`AttachError::PinStages`].
pub(super) fn pin_stages(object: &mut LoadedObject) -> Result<(), AttachError> {
    let pin = pins::stages(object.program_id()?);
    object.pin_stages(&pin).map_err(|source| AttachError::PinStages { path: pin, source })
}

/// Removes the stages of programs that no pinned link holds.
pub(super) fn remove_stages_of_others() {
    // A program whose link cannot be read may still need its stages: then none are removed. What is left is removed by
    // the next start.
    if let Err(error) = attached_programs().and_then(|programs| pins::remove_stages_of_others(&programs)) {
        tracing::warn!(%error, "cannot remove the stages of programs that are no longer attached");
    }
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
pub(super) fn attached_programs() -> io::Result<Vec<u32>> {
    let unreadable =
        |pin: &Path, error| io::Error::other(format!("cannot read the link pinned at {}: {error}", pin.display()));
    let mut programs = Vec::new();
    for (_, pin) in pins::links()? {
        programs.extend(pinned_link(&pin).map_err(|error| unreadable(&pin, error))?.map(|(_, program)| program));
    }
    Ok(programs)
}
